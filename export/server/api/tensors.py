"""TensorProto to numpy and back, with the leniency of TensorFlow's C++ reader."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

# A tensor may name a large shape and bring one value to fill it. So much memory, and no more, may
# be claimed beyond what the message brings: the graph and the answer take it several times over.
_MAX_FILLED_BYTES = 2**28
_WRITTEN_AT_ONCE = 2**16  # numbers that are Python's at one time, each of which takes 32 bytes
_MAX_RANK = 64  # numpy's limit

# The typed field of a TensorProto that holds the values of a dtype, and its numpy dtype.
_FIELDS: dict[int, tuple[str, type]] = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT8: ("int_val", np.int8),
    types_pb2.DT_INT16: ("int_val", np.int16),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_UINT8: ("int_val", np.uint8),
    types_pb2.DT_UINT16: ("int_val", np.uint16),
    types_pb2.DT_UINT32: ("uint32_val", np.uint32),
    types_pb2.DT_UINT64: ("uint64_val", np.uint64),
    types_pb2.DT_BOOL: ("bool_val", np.bool_),
    types_pb2.DT_STRING: ("string_val", np.object_),
}
# Those of which all bits are values; of a bool's bytes TensorFlow takes 0 and 1 alone.
_ANY_BITS = {dtype for _, dtype in _FIELDS.values()} - {np.bool_, np.object_}
# Read through TensorFlow, and written as the bits, or the real and imaginary part, of each value.
_PARTS: dict[int, tuple[str, type]] = {
    types_pb2.DT_HALF: ("half_val", np.uint16),
    types_pb2.DT_BFLOAT16: ("half_val", np.uint16),
    types_pb2.DT_COMPLEX64: ("scomplex_val", np.float32),
    types_pb2.DT_COMPLEX128: ("dcomplex_val", np.float64),
}
_FIRST_REFERENCE = types_pb2.DT_FLOAT_REF


def decode_tensor(proto: tensor_pb2.TensorProto) -> np.ndarray | None:
    """Reads a tensor.

    Partly filled tensors are accepted: missing values repeat the last one (zero when there is
    none) and values beyond the shape are dropped. A missing or unknown shape is a scalar. Integers
    that the dtype cannot hold wrap around.

    Args:
        proto: TensorProto. Strings become an array of `bytes` objects.

    Returns:
        The array; None for a resource or a variant, which have a dtype but no numpy value.

    Raises:
        ValueError: the dtype is not one, the shape is negative or too large, or
            `tensor_content` has another length than shape and dtype demand, or is no value of it.

    Example:
        >>> decode_tensor(tf.make_tensor_proto([1, 2]))
        array([1, 2], dtype=int32)
    """
    if proto.dtype in (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT):
        return None
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if any(size < 0 for size in shape) or len(shape) > _MAX_RANK:
        raise ValueError(f"shape {shape} cannot be read")
    count = math.prod(shape)
    field, dtype = _FIELDS.get(proto.dtype, ("", np.object_))
    # The two usual forms are read here, some 20 us faster than the general way below.
    if field and not proto.tensor_shape.unknown_rank:
        size = np.dtype(dtype).itemsize
        if proto.tensor_content:
            if dtype in _ANY_BITS and len(proto.tensor_content) == count * size:
                return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
        elif len(values := getattr(proto, field)) == count:
            if field == "int_val":  # what does not fit wraps around, where numpy would raise
                return np.array(values, np.int32).astype(dtype).reshape(shape)
            return np.array(values, dtype).reshape(shape)
    return _decode_any(proto, count)


def _decode_any(proto: tensor_pb2.TensorProto, count: int) -> np.ndarray:
    if proto.dtype not in types_pb2.DataType.values() or not 0 < proto.dtype < _FIRST_REFERENCE:
        raise ValueError(f"{proto.dtype} is not the dtype of a tensor")
    # A string takes 24 bytes in TensorFlow however short it is; no number takes more.
    if count * 24 > _MAX_FILLED_BYTES + 24 * proto.ByteSize():
        raise ValueError(f"a shape of {count} elements needs more memory than a message may claim")
    try:
        parsed = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
        # Inside, too: numpy has no arrays of some shapes that TensorFlow has, as [0, 2**62].
        array = parsed.numpy()
    except tf.errors.OpError as error:
        raise ValueError(error.message) from error
    return np.asarray(array, dtype=object if parsed.dtype == tf.string else None)


def encode_tensor(array: np.ndarray, proto: tensor_pb2.TensorProto) -> None:
    """Writes an array into an empty TensorProto, in the typed field of its dtype.

    Raises:
        TypeError: numpy's dtype has no counterpart in TensorFlow.
    """
    proto.dtype = tf.as_dtype(array.dtype).as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if proto.dtype in _FIELDS:
        field, _ = _FIELDS[proto.dtype]
        _write(array.ravel(), getattr(proto, field))
    elif proto.dtype in _PARTS:
        field, part = _PARTS[proto.dtype]
        # reshape first: a scalar has no axis whose items a view could split.
        _write(array.reshape(-1).view(part), getattr(proto, field))
    else:  # float8, int4, quantized: rare enough to be left to TensorFlow, as tensor_content
        proto.CopyFrom(tf.make_tensor_proto(array))


def _write(values: np.ndarray, field) -> None:
    for start in range(0, len(values), _WRITTEN_AT_ONCE):
        field.extend(values[start : start + _WRITTEN_AT_ONCE].tolist())


def dtype_name(dtype: int) -> str:
    """The name TensorFlow's messages give a DataType: `float`, `int64`, `string`."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
