"""Tensors as bytes: the form that `--enable_serialization_as_tensor_content` asks for."""

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2


def encode_content(array: np.ndarray, proto: tensor_pb2.TensorProto) -> None:
    """Writes an array into an empty TensorProto, as `tensor_content`.

    Numbers are their bytes in memory, strings their lengths as varints and then their bytes.

    Raises:
        TypeError: numpy's dtype has no counterpart in TensorFlow.

    Example:
        >>> proto = tensor_pb2.TensorProto()
        >>> encode_content(np.array([b"aa"], object), proto)
        >>> proto.tensor_content
        b'\\x02aa'
    """
    proto.dtype = tf.as_dtype(array.dtype).as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if array.dtype == object:
        strings = array.ravel().tolist()
        proto.tensor_content = b"".join([*(_varint(len(s)) for s in strings), *strings])
    else:
        proto.tensor_content = array.tobytes()


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
