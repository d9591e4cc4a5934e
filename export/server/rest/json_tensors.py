"""JSON values to the inputs of a request: tensors for predict, tf.Examples for the others.

Which value fits which dtype, and the wording of the errors, are TensorFlow Serving's. A list is
first read as a whole, fast; if anything about it is unusual it is read again value by value, which
finds what is wrong with which value.
"""

import base64
import itertools
import math
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import grpc
import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import input_pb2

from export.server.api.inference import wrong_shapes
from export.server.api.tensors import dtype_name
from export.server.rest.json_reading import printable, text_bytes
from export.server.rest.json_writing import echo
from export.server.status import ServingError, invalid

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
_FEATURES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_INT64_END, _UINT64_END = 2**63, 2**64
_AT_ONCE = 2**16  # values converted before another thread may get its turn


def signature_name(body: object) -> str:
    """The signature that a body asks for; empty for the default one."""
    if not isinstance(body, dict):
        raise _format_error(body, "Is not object")
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise _format_error(
            body, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return printable(name)


def fill_tensors(
    body: Mapping[str, object],
    inputs: Mapping[str, meta_graph_pb2.TensorInfo],
    signature: str,
    tensors: MutableMapping[str, tensor_pb2.TensorProto],
) -> bool:
    """Fills the inputs of a PredictRequest, from `instances` (rows) or `inputs` (columns).

    `inputs` are those of the signature, whose name is for messages. Returns whether the body is in
    row format: the answer goes out in the same format. Raises ServingError, INVALID_ARGUMENT, or
    UNIMPLEMENTED for a dtype that JSON cannot fill.
    """
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    dtypes = {name: inputs[name].dtype for name in sorted(inputs)}
    if "instances" in body and "inputs" in body:
        raise _format_error(
            body,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if "instances" in body:
        rows = body["instances"]
        if not isinstance(rows, list):
            raise _format_error(body, "Excepting 'instances' to be an list/array")
        if not rows:
            raise _format_error(body, "No values in 'instances' array")
    elif "inputs" not in body:
        raise invalid("Missing 'inputs' or 'instances' key")
    try:
        if "instances" in body:
            _fill_rows(body["instances"], dtypes, tensors)
        else:
            _fill_columns(body["inputs"], dtypes, tensors)
    except ServingError as error:
        wrong = wrong_shapes(inputs, _sent_shapes(body, dtypes))
        if not wrong:
            raise
        raise invalid(f"{wrong}: {error.message}") from error
    return "instances" in body


def _sent_shapes(body: Mapping[str, object], names: Mapping[str, int]) -> dict[str, list[int]]:
    """Input -> shape of what was sent for it; of rows, that of the first one."""
    rows = body.get("instances")
    sent, outer = (body["inputs"], []) if rows is None else (rows[0], [len(rows)])
    columns = sent if _is_named(sent) else dict.fromkeys(names, sent) if len(names) == 1 else {}
    return {name: [*outer, *_dense_shape(value)] for name, value in columns.items()}


def fill_examples(body: Mapping[str, object], request_input: input_pb2.Input) -> None:
    """Fills the input of a ClassificationRequest or a RegressionRequest.

    A feature is what its JSON values are: an int64 list from integers and booleans, a float list
    from decimals, a bytes list from strings and base64. So `1` and `1.0` are not the same.
    """
    if "context" in body:
        _fill_example(body["context"], request_input.example_list_with_context.context)
        chosen = request_input.example_list_with_context
    else:
        chosen = request_input.example_list
    if "examples" not in body:
        # So for regress, too: the text is TensorFlow Serving's.
        raise _format_error(
            body, "When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(body["examples"], list):
        raise _format_error(body, "Expecting 'examples' value to be an list/array")
    if not body["examples"]:
        raise _format_error(body, "'examples' value is an empty array")
    for example in body["examples"]:
        _fill_example(example, chosen.examples.add())


def _format_error(value: object, problem: str) -> ServingError:
    return invalid(f"JSON Value: {echo(value)} {problem}")


def _fill_rows(rows: list, dtypes: Mapping[str, int], tensors) -> None:
    named = _is_named(rows[0])
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if not named:
        columns = {next(iter(dtypes)): rows}
    elif all(_is_named(row) and row.keys() == dtypes.keys() for row in rows):
        columns = {name: [row[name] for row in rows] for name in dtypes}
    else:
        columns = {}
    read = {name: _dense_tensor(column, dtypes[name]) for name, column in columns.items()}
    if not read or None in read.values():
        read = _read_row_by_row(rows, named, dtypes)
    for name, (shape, values) in read.items():
        _write_tensor(tensors[name], dtypes[name], shape, values)


def _read_row_by_row(rows: list, named: bool, dtypes: Mapping[str, int]) -> dict[str, tuple]:
    shapes: dict[str, list[int]] = {}
    values: dict[str, list] = {}

    def add(item: object, name: str) -> None:
        if name not in dtypes:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape, found = _exact_tensor(item, dtypes[name])
        wanted = shapes.setdefault(name, shape)
        if len(found) != math.prod(wanted):
            raise invalid(f"Expecting tensor size: {math.prod(wanted)} but got: {len(found)}")
        if shape != wanted:
            raise invalid(f"Expecting shape {_shown(wanted)} but got: {_shown(shape)}")
        values.setdefault(name, []).extend(found)

    for place, row in enumerate(rows):
        where = f"Failed to process element: {place}"
        if named and not _is_named(row):
            raise invalid(f"Expecting object but got list at item {place} of input list")
        if not named and _is_named(row):
            raise invalid(f"Expecting value/list but got object at item {place} of input list")
        for name, value in row.items() if named else ((next(iter(dtypes)), row),):
            key_shown = f" key: {printable(name)}" if named else ""
            try:
                add(value, name)
            except ServingError as error:
                raise invalid(f"{where}{key_shown} of 'instances' list. Error: {error}") from error
        if named and row.keys() != dtypes.keys():
            raise invalid(
                f"{where} of 'instances' list. JSON object: {echo(row)} keys must be equal to: "
                f"{','.join(dtypes)}"
            )
    return {name: ([len(rows), *shapes[name]], values[name]) for name in shapes}


def _fill_columns(columns: object, dtypes: Mapping[str, int], tensors) -> None:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = {next(iter(dtypes)): columns}
    for name, dtype in dtypes.items():
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        item = columns[name]
        shape, values = _dense_tensor(item, dtype) or _exact_tensor(item, dtype)
        _write_tensor(tensors[name], dtype, shape, values)


def _is_named(element: object) -> bool:
    return isinstance(element, dict) and not _is_base64(element)


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


# --- nested lists to tensors


def _dense_tensor(item: object, dtype: int) -> tuple[list[int], object] | None:
    """Shape and values of a nested list, when all about it is as it should be; else None."""
    shape, values = _dense_shape(item), item if isinstance(item, list) else [item]
    for size in shape[1:]:
        flat: list = []
        for part in _parts(values):
            if {*map(type, part)} != {list} or {*map(len, part)} != {size}:
                return None
            flat.extend(itertools.chain.from_iterable(part))
        values = flat
    if dtype in _NUMBERS:
        array = _dense_numbers(values, dtype)
        return None if array is None else (shape, array)
    kinds = {kind for part in _parts(values) for kind in {*map(type, part)}}
    if dtype == types_pb2.DT_STRING and kinds <= {str}:
        return shape, [text_bytes(value) for value in values]
    return (shape, values) if dtype == types_pb2.DT_BOOL and kinds <= {bool} else None


def _dense_numbers(values: list, dtype: int) -> np.ndarray | None:
    stored, fits = _NUMBERS[dtype]
    decimal = dtype in _FLOATS
    array = np.empty(len(values), stored)
    filled = 0
    for part in _parts(values):
        kinds = {*map(type, part)}
        if not kinds <= ({int, float} if decimal else {int}):
            return None
        try:
            wide = np.array(part, np.float64 if decimal else fits)
        except OverflowError:
            return None
        if decimal:
            limit = _largest_int(fits) if int in kinds else np.finfo(fits).max
            if np.abs(wide[np.isfinite(wide)]).max(initial=0) > limit:
                return None
        array[filled : filled + len(part)] = wide
        filled += len(part)
    return array


def _parts(values: list) -> Iterator[list]:
    return (values[begin : begin + _AT_ONCE] for begin in range(0, len(values), _AT_ONCE))


def _exact_tensor(item: object, dtype: int) -> tuple[list[int], list]:
    """As `_dense_tensor`, with TensorFlow Serving's error for what is wrong first."""
    shape, values = _dense_shape(item), []
    _collect(item, 0, shape, dtype, values)
    return shape, values


def _write_tensor(tensor: tensor_pb2.TensorProto, dtype: int, shape: list[int], values) -> None:
    tensor.dtype = dtype
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == types_pb2.DT_STRING:
        tensor.string_val.extend(values)
    elif dtype == types_pb2.DT_BOOL:
        tensor.bool_val.extend(values)
    else:
        if isinstance(values, list):
            stored, fits = _NUMBERS[dtype]
            values = np.array(values, np.float64 if dtype in _FLOATS else fits).astype(stored)
        tensor.tensor_content = values.tobytes()


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
    if isinstance(value, dict):
        if dtype == types_pb2.DT_STRING:
            return _base64_bytes(value)
    elif dtype in _FLOATS:
        if type(value) in (int, float):
            return _checked_decimal(value, _NUMBERS[dtype][1])
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
        f"JSON Value: {echo(value)} Type: {_json_type(value)} is not of expected type: "
        f"{dtype_name(dtype)}"
    )


def _json_type(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    return {dict: "Object", list: "Array", str: "String"}.get(type(value), "Number")


def _checked_decimal(value: int | float, dtype: type) -> float:
    """A JSON number as a float that can stand for it; an integer must have one of its own."""
    exact_int = isinstance(value, int) and -_INT64_END <= value < _UINT64_END
    limit = _largest_int(dtype) if exact_int else float(np.finfo(dtype).max)
    if limit < abs(value) and value not in (math.inf, -math.inf):
        name = "float" if dtype is np.float32 else "double"
        raise invalid(
            f"Cannot convert JSON value: {echo(value)} to {name} without loss of precision."
        )
    return float(value)


def _largest_int(dtype: type) -> int:
    """Up to here every integer has a float of its own."""
    return 2 ** (np.finfo(dtype).nmant + 1) - 1


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _base64_bytes(value: dict) -> bytes:
    """The bytes that `{"b64": "..."}` stands for.

    Blanks are passed over, and padding may be left out but not be wrong.
    """
    if not _is_base64(value):
        raise invalid(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    parts = _BASE64.fullmatch(value["b64"].translate(_BLANKS))
    over = len(parts[1]) % 4 if parts else 1
    if over == 1 or len(parts[2]) not in (0, -over % 4):
        raise invalid("Unable to base64 decode")
    return base64.b64decode(parts[1] + "=" * (-over % 4))


# --- objects to tf.Examples


def _fill_example(value: object, example: example_pb2.Example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_json_type(value)}")
    example.SetInParent()  # an empty context is a context
    for key, content in value.items():
        name = printable(key)
        feature = example.features.feature[name]
        for element in content if isinstance(content, list) else [content]:
            _add(element, name, feature)


def _add(value: object, name: str, feature: feature_pb2.Feature) -> None:
    if isinstance(value, bool):
        _values(feature, "int64_list", name).append(int(value))
    elif isinstance(value, str):
        _values(feature, "bytes_list", name).append(text_bytes(value))
    elif _is_base64(value):
        _values(feature, "bytes_list", name).append(_base64_bytes(value))
    elif value is None or isinstance(value, (list, dict)):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_json_type(value)}")
    elif isinstance(value, int) and -_INT64_END <= value < _UINT64_END:
        values = _values(feature, "int64_list", name)
        if value >= _INT64_END:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        values.append(value)
    else:
        _values(feature, "float_list", name).append(_checked_decimal(value, np.float32))


def _values(feature: feature_pb2.Feature, kind: str, name: str):
    """The values of a feature, once it is of the kind that the next value needs."""
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: {_FEATURES[present]}"
        )
    return getattr(feature, kind).value
