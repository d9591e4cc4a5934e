"""Nested JSON lists to tensors: TensorFlow Serving's rules for which value fits which dtype."""

import base64
import itertools
import math
import re
from collections.abc import Sequence

import grpc
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2

from export.server.inference import invalid
from export.server.json_reading import Members, text_bytes
from export.server.json_writing import echo
from export.server.status import ServingError
from export.server.tensors import dtype_name

# The dtypes of numbers that JSON can fill: numpy's dtype, and the one whose range is allowed.
_NUMBERS: dict[int, tuple[type, type]] = {
    types_pb2.DT_FLOAT: (np.float32, np.float32),
    types_pb2.DT_DOUBLE: (np.float64, np.float64),
    types_pb2.DT_INT8: (np.int8, np.int32),  # what fits 32 bits but not 8 is cut, as there
    types_pb2.DT_INT16: (np.int16, np.int32),
    types_pb2.DT_INT32: (np.int32, np.int32),
    types_pb2.DT_INT64: (np.int64, np.int64),
    types_pb2.DT_UINT8: (np.uint8, np.int32),
    types_pb2.DT_UINT32: (np.uint32, np.uint32),
    types_pb2.DT_UINT64: (np.uint64, np.uint64),
}
_FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)([=.]*)")
_BLANKS = str.maketrans("", "", " \t\n\v\f\r")


def dense_tensor(item: object, dtype: int) -> tuple[list[int], object] | None:
    """Shape and values of a nested list, when all about it is as it should be; else None."""
    shape, values = _dense_shape(item), [item]
    for size in shape:
        if any(type(value) is not list or len(value) != size for value in values):
            return None
        values = list(itertools.chain.from_iterable(values))
    kinds = set(map(type, values))
    if dtype == types_pb2.DT_STRING and kinds <= {str}:
        return shape, list(map(text_bytes, values))
    if dtype == types_pb2.DT_BOOL and kinds <= {bool}:
        return shape, values
    if dtype not in _NUMBERS or not kinds <= ({int, float} if dtype in _FLOATS else {int}):
        return None
    stored, fits = _NUMBERS[dtype]
    try:
        array = np.array(values, np.float64 if dtype in _FLOATS else fits)
    except OverflowError:
        return None
    if dtype in _FLOATS:
        finite = np.abs(array[np.isfinite(array)])
        limit = _largest_int(fits) if int in kinds else np.finfo(fits).max
        if finite.size and finite.max() > limit:
            return None
    return shape, array.astype(stored)


def exact_tensor(item: object, dtype: int) -> tuple[list[int], list]:
    """As `dense_tensor`, with TensorFlow Serving's error for what is wrong first."""
    shape, values = _dense_shape(item), []
    _collect(item, 0, shape, dtype, values)
    return shape, values


def write_tensor(tensor: tensor_pb2.TensorProto, dtype: int, shape: list[int], values) -> None:
    """Fills an empty TensorProto with what `dense_tensor` or `exact_tensor` read.

    Values beyond the shape are cut: an object that names an input twice brings them.
    """
    count = math.prod(shape)
    tensor.dtype = dtype
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == types_pb2.DT_STRING:
        tensor.string_val.extend(values[:count])
    elif dtype == types_pb2.DT_BOOL:
        tensor.bool_val.extend(values[:count])
    else:
        if isinstance(values, list):
            values = _cast(values, dtype)
        tensor.tensor_content = values[:count].tobytes()


def is_base64(value: object) -> bool:
    """Whether a value is `{"b64": "..."}`, the form of a binary string.

    Example:
        >>> is_base64(Members([("b64", "YWJj")]))
        True
    """
    return (
        isinstance(value, Members)
        and len(value) == 1
        and value[0][0] == "b64"
        and isinstance(value[0][1], str)
    )


def base64_bytes(value: Members) -> bytes:
    """The bytes that `{"b64": "..."}` stands for.

    Blanks are passed over, and padding may be left out but not be wrong.

    Raises:
        ServingError: the value has another form, or its string is not base64.
    """
    if not is_base64(value):
        raise invalid(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    parts = _BASE64.fullmatch(value[0][1].translate(_BLANKS))
    over = len(parts[1]) % 4 if parts else 1
    if over == 1 or len(parts[2]) not in (0, -over % 4):
        raise invalid("Unable to base64 decode")
    return base64.b64decode(parts[1] + "=" * (-over % 4))


def json_type(value: object) -> str:
    """The kind of a JSON value, as messages call it.

    Example:
        >>> json_type(1.5)
        'Number'
    """
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    kinds = {Members: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def checked_decimal(value: int | float, dtype: type) -> float:
    """A JSON number as a float that can stand for it.

    Raises:
        ServingError: the number is an integer of too many digits, or out of range.
    """
    exact_int = isinstance(value, int) and -(2**63) <= value < 2**64  # a larger one is a decimal
    limit = _largest_int(dtype) if exact_int else float(np.finfo(dtype).max)
    if math.isfinite(value) and abs(value) > limit:
        name = "float" if dtype is np.float32 else "double"
        raise invalid(
            f"Cannot convert JSON value: {echo(value)} to {name} without loss of precision."
        )
    return float(value)


def _cast(values: list, dtype: int) -> np.ndarray:
    stored, fits = _NUMBERS[dtype]
    wide = np.array(values, np.float64 if dtype in _FLOATS else fits)
    with np.errstate(over="ignore"):
        return wide.astype(stored)


def _largest_int(dtype: type) -> int:
    """Up to here every integer has a float of its own."""
    return 2 ** (np.finfo(dtype).nmant + 1) - 1


def _dense_shape(item: object) -> list[int]:
    shape = []
    while isinstance(item, list):
        shape.append(len(item))
        item = item[0] if item else None
    return shape


def _collect(item: object, level: int, shape: Sequence[int], dtype: int, values: list) -> None:
    if not isinstance(item, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {echo(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        values.append(_checked(item, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(item) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for element in item:
        _collect(element, level + 1, shape, dtype, values)


def _checked(value: object, dtype: int) -> object:
    if isinstance(value, Members):
        if dtype == types_pb2.DT_STRING:
            return base64_bytes(value)
    elif dtype in _FLOATS:
        if type(value) in (int, float):
            return checked_decimal(value, _NUMBERS[dtype][1])
    elif dtype in _NUMBERS:
        bounds = np.iinfo(_NUMBERS[dtype][1])
        if type(value) is int and bounds.min <= value <= bounds.max:
            return value
    elif dtype == types_pb2.DT_STRING:
        if isinstance(value, str):
            return text_bytes(value)
    elif dtype == types_pb2.DT_BOOL:
        if isinstance(value, bool):
            return value
    else:
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {echo(value)} to type: {dtype_name(dtype)}",
        )
    raise invalid(
        f"JSON Value: {echo(value)} Type: {json_type(value)} is not of expected type: "
        f"{dtype_name(dtype)}"
    )
