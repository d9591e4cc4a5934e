"""Tensors of requests and answers: `export.tensors`, and TensorFlow for dtypes that numpy lacks."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from export import tensors

# A string takes 24 bytes in TensorFlow however short it is; no number takes more. So many of them,
# and no more, may be claimed beyond what a message brings: the graph takes their memory again.
_MAX_FILLED = 2**28 // 24


def decode_tensor(proto: tensor_pb2.TensorProto) -> np.ndarray | None:
    """Reads a tensor as TensorFlow does in C++; None for a resource or a variant."""
    if proto.dtype in tensors.DTYPES:
        return tensors.decode_tensor(proto, _MAX_FILLED)
    if proto.dtype in (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT):
        return None
    known = proto.dtype in types_pb2.DataType.values()
    if not known or not 0 < proto.dtype < types_pb2.DT_FLOAT_REF:
        raise ValueError(f"{proto.dtype} is not the dtype of a tensor")
    count = math.prod(dim.size for dim in proto.tensor_shape.dim)
    if count > _MAX_FILLED + proto.ByteSize():
        raise ValueError(f"a shape of {count} elements needs more memory than a message may claim")
    try:
        # With numpy(), too: numpy has no arrays of some shapes that TensorFlow has, as [0, 2**62].
        return tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    except tf.errors.OpError as error:
        raise ValueError(error.message) from error


def encode_tensor(
    array: np.ndarray, proto: tensor_pb2.TensorProto, as_content: bool = False
) -> None:
    """Writes an array into an empty TensorProto: the field of its dtype, or `tensor_content`."""
    try:
        tensors.encode_tensor(array, proto, as_content)
    except ValueError:  # float8, int4, quantized
        proto.CopyFrom(tf.make_tensor_proto(array))


def dtype_name(dtype: int) -> str:
    """The name TensorFlow's messages give a DataType: `float`, `int64`, `string`."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
