"""TensorProto to numpy and back, without TensorFlow; as lenient as TensorFlow's reader in C++."""

import itertools
import math

import ml_dtypes
import numpy as np
from google.protobuf import message
from google.protobuf.internal import decoder, encoder

# By the numbers of TensorFlow's enum DataType: numpy's dtype, and the field of a TensorProto that
# has the values one by one. `tensor_content` is in the order of this machine's bytes: TensorFlow
# knows no other either.
_FIELDS: dict[int, tuple[type, str]] = {
    1: (np.float32, "float_val"),
    2: (np.float64, "double_val"),
    3: (np.int32, "int_val"),
    4: (np.uint8, "int_val"),
    5: (np.int16, "int_val"),
    6: (np.int8, "int_val"),
    7: (np.object_, "string_val"),
    8: (np.complex64, "scomplex_val"),
    9: (np.int64, "int64_val"),
    10: (np.bool_, "bool_val"),
    14: (ml_dtypes.bfloat16, "half_val"),
    17: (np.uint16, "int_val"),
    18: (np.complex128, "dcomplex_val"),
    19: (np.float16, "half_val"),
    22: (np.uint32, "uint32_val"),
    23: (np.uint64, "uint64_val"),
}
# What the items of a field are, where a value is not one of them: its bits, or one of its parts.
_ITEMS: dict[str, type] = {
    "half_val": np.uint16,
    "scomplex_val": np.float32,
    "dcomplex_val": np.float64,
}
# DataType -> numpy dtype, of all that can be read and written here; strings are object arrays.
DTYPES = {number: np.dtype(dtype) for number, (dtype, _) in _FIELDS.items()}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_MAX_RANK = 64  # numpy's limit
_WRITTEN_AT_ONCE = 2**16  # as Python numbers, each of which takes 32 bytes
# A tensor may name a large shape and bring one value to fill it with. No message is longer than
# 2 GiB, so nothing honest is lost by not filling up more elements than this.
_MAX_FILLED = 2**28


def decode_tensor(proto: message.Message, max_filled: int = _MAX_FILLED) -> np.ndarray:
    """A TensorProto's array, maybe a read-only view of it; ValueError where it cannot be read."""
    dtype = DTYPES.get(proto.dtype)
    if dtype is None:
        raise ValueError(f"dtype {proto.dtype} cannot be read")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    count = math.prod(shape)
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} cannot be read")
    if not count and max(shape) > max_filled:  # a sum over the axis of 0 elements has as many
        raise ValueError(f"shape {shape} needs more memory than a message may claim")
    content = proto.tensor_content if count else b""
    if content and dtype.kind != "O":
        if len(content) != count * dtype.itemsize:
            raise ValueError(
                f"tensor_content has {len(content)} bytes, where {dtype.name} of shape "
                f"{shape} has {count * dtype.itemsize}"
            )
        if dtype.kind == "b" and max(content) > 1:
            raise ValueError("tensor_content has bytes that are no bool")
        return np.frombuffer(content, dtype).reshape(shape)
    field = _FIELDS[proto.dtype][1]
    if dtype.kind == "O":
        strings = _split_strings(content, count) if content else proto.string_val[:count]
        values = np.array(strings, dtype=object)
    else:
        item = _ITEMS.get(field, dtype)
        # Of the 32 bits on the wire the lowest ones count, whatever the others are.
        wire = np.int32 if field in ("int_val", "half_val") else item
        values = np.array(getattr(proto, field), wire).astype(item, copy=False)
        if dtype.kind == "c":
            values = values[: len(values) // 2 * 2]
        values = values.view(dtype)[:count]
    if len(values) < count:  # the last one is repeated, zero where there is none
        if count - len(values) > max_filled:
            raise ValueError(f"shape {shape} needs more memory than a message may claim")
        missing = b"" if dtype.kind == "O" else 0
        last = values[-1] if len(values) else missing
        values = np.concatenate([values, np.full(count - len(values), last, dtype)])
    return values.reshape(shape)


def encode_tensor(array: np.ndarray, proto: message.Message, as_content: bool = False) -> None:
    """Writes an array into an empty TensorProto; ValueError for a dtype not in `DTYPES`."""
    array = np.asarray(array, array.dtype.newbyteorder("="))
    number = _NUMBERS.get(array.dtype)
    if number is None:
        raise ValueError(f"a tensor cannot hold {array.dtype.name}")
    proto.dtype = number
    proto.tensor_shape.SetInParent()  # a scalar has a shape, too
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if not as_content:
        field = _FIELDS[number][1]
        items = array.reshape(-1)
        if field in _ITEMS:
            items = items.view(_ITEMS[field])
        for start in range(0, len(items), _WRITTEN_AT_ONCE):
            getattr(proto, field).extend(items[start : start + _WRITTEN_AT_ONCE].tolist())
    elif array.dtype.kind == "O":
        strings = array.reshape(-1).tolist()
        lengths = map(encoder._VarintBytes, map(len, strings))
        proto.tensor_content = b"".join([*lengths, *strings])
    else:
        proto.tensor_content = array.tobytes()


def as_array(value: object) -> np.ndarray:
    """What a user gives for a tensor, as an array for `encode_tensor`; ValueError if it is none."""
    leaf = value
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    # numpy's own choice would make all strings as long as the longest, and b"a\0" to b"a".
    array = np.array(value, object) if isinstance(leaf, str | bytes) else np.asarray(value)
    if array.dtype.kind in "SU" and not isinstance(value, np.ndarray | np.generic):
        array = np.array(value, dtype=object)  # else 1 beside "a" were "1"
    if array.dtype.kind in "OSTU":
        strings = np.empty(array.size, object)
        strings[:] = [_to_bytes(element) for element in array.astype(object).ravel().tolist()]
        return strings.reshape(array.shape)
    if isinstance(value, int | float | list | tuple):  # as TensorFlow has it
        if array.dtype == np.float64 and not isinstance(value, np.generic):
            return array.astype(np.float32)
        if array.dtype == np.int64 and (array == array.astype(np.int32)).all():
            return array.astype(np.int32)
    return array


def _to_bytes(element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, list | tuple):
        raise ValueError("lists of unequal lengths make no tensor")
    raise ValueError(f"a tensor cannot hold {element!r}: {type(element).__name__}")


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Strings from `tensor_content`: all lengths as varints, then all bytes."""
    lengths, position = [], 0
    try:
        for _ in range(count):
            length, position = decoder._DecodeVarint(content, position)
            lengths.append(length)
    except (IndexError, message.DecodeError):
        raise ValueError(f"tensor_content ends within the lengths of {count} strings") from None
    if len(content) - position != sum(lengths):
        raise ValueError(
            f"tensor_content has {len(content) - position} bytes for strings of {sum(lengths)}"
        )
    places = itertools.accumulate(lengths, initial=position)
    return [content[begin:end] for begin, end in itertools.pairwise(places)]
