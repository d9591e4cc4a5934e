"""JSON values to the inputs of a request: tensors for predict, tf.Examples for the others."""

import base64
import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, MutableMapping

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

# Which value fits which dtype, and the wording of the errors, are TensorFlow Serving's.
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
    """Fills the inputs of a PredictRequest; whether from `instances`: the answer has rows, too."""
    in_rows = "instances" in body
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if in_rows and "inputs" in body:
        raise _format_error(
            body,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if not in_rows and "inputs" not in body:
        raise invalid("Missing 'inputs' or 'instances' key")
    sent = body["instances" if in_rows else "inputs"]
    if in_rows and not isinstance(sent, list):
        raise _format_error(body, "Excepting 'instances' to be an list/array")
    if in_rows and not sent:
        raise _format_error(body, "No values in 'instances' array")
    dtypes = {name: inputs[name].dtype for name in sorted(inputs)}
    try:
        read = (_read_rows if in_rows else _read_columns)(sent, dtypes)
    except ServingError as error:
        # Says first which input has another shape than is declared; of rows, the first one counts.
        one, outer = (sent[0], [len(sent)]) if in_rows else (sent, [])
        named = one if _is_named(one) else dict.fromkeys(dtypes, one) if len(dtypes) == 1 else {}
        wrong = wrong_shapes(inputs, {name: [*outer, *_shape(v)] for name, v in named.items()})
        if not wrong:
            raise
        raise invalid(f"{wrong}: {error.message}") from error
    for name, (shape, values) in read.items():
        tensor = tensors[name]
        tensor.dtype = dtypes[name]
        tensor.tensor_shape.SetInParent()
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        if isinstance(values, bytes):
            tensor.tensor_content = values
        else:
            field = tensor.string_val if tensor.dtype == types_pb2.DT_STRING else tensor.bool_val
            field.extend(values)
    return in_rows


def _format_error(value: object, problem: str) -> ServingError:
    return invalid(f"JSON Value: {echo(value)} {problem}")


def _read_rows(rows: list, dtypes: Mapping[str, int]) -> dict[str, tuple]:
    named, first = _is_named(rows[0]), next(iter(dtypes))
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    try:
        if not named:
            return {first: _tensor(rows, dtypes[first])}
        if all(_is_named(row) and row.keys() == dtypes.keys() for row in rows):
            return {n: _tensor([row[n] for row in rows], dtype) for n, dtype in dtypes.items()}
    except ServingError:  # the row that is at fault is named below
        pass
    shapes: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        where = f"Failed to process element: {place}"
        if _is_named(row) != named:
            kinds = ("object", "list") if named else ("value/list", "object")
            raise invalid("Expecting {} but got {} at item {} of input list".format(*kinds, place))
        for name, value in row.items() if named else ((first, row),):
            try:
                if name not in dtypes:
                    raise invalid(f"JSON object: does not have named input: {name}")
                shape, _ = _tensor(value, dtypes[name])
                wanted = shapes.setdefault(name, shape)
                if math.prod(shape) != math.prod(wanted):
                    raise invalid(
                        f"Expecting tensor size: {math.prod(wanted)} but got: {math.prod(shape)}"
                    )
                if shape != wanted:
                    got = [f"[{','.join(map(str, one))}]" for one in (wanted, shape)]
                    raise invalid("Expecting shape {} but got: {}".format(*got))
            except ServingError as error:
                key = f" key: {printable(name)}" if named else ""
                raise invalid(f"{where}{key} of 'instances' list. Error: {error}") from error
        if named and row.keys() != dtypes.keys():
            raise invalid(
                f"{where} of 'instances' list. JSON object: {echo(row)} keys must be equal to: "
                f"{','.join(dtypes)}"
            )
    raise AssertionError("rows that are right one by one are right together")


def _read_columns(columns: object, dtypes: Mapping[str, int]) -> dict[str, tuple]:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        columns = dict.fromkeys(dtypes, columns)
    read = {}
    for name, dtype in dtypes.items():
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        read[name] = _tensor(columns[name], dtype)
    return read


def _is_named(element: object) -> bool:
    return isinstance(element, dict) and not _is_base64(element)


def _shape(item: object) -> list[int]:
    """The shape that a nested list has by its first elements."""
    shape = []
    while isinstance(item, list):
        shape.append(len(item))
        item = item[0] if item else None
    return shape


def _parts(values: list) -> Iterator[list]:
    return (values[begin : begin + _AT_ONCE] for begin in range(0, len(values), _AT_ONCE))


def _tensor(item: object, dtype: int) -> tuple[list[int], bytes | list]:
    """Shape and values of a nested list: the content of numbers, a list of strings and booleans."""
    shape, values = _shape(item), [item]
    for level, size in enumerate(shape):
        flat: list = []
        for part in _parts(values):
            if {*map(type, part)} != {list}:
                odd = next(value for value in part if not isinstance(value, list))
                raise invalid(
                    f"JSON Value: {echo(odd)} found at incorrect level: {level + 1} in the JSON "
                    f"DOM. Expected at level: {len(shape)}"
                )
            if odd := {*map(len, part)} - {size}:
                raise invalid(
                    f"Encountered list at unexpected size: {odd.pop()} at level: {level} expected "
                    f"size: {size}"
                )
            flat.extend(itertools.chain.from_iterable(part))
        values = flat
    if dtype in _NUMBERS:
        return shape, b"".join(_numbers(part, dtype, len(shape)) for part in _parts(values))
    return shape, [_checked(value, dtype, len(shape)) for value in values]


def _numbers(values: list, dtype: int, level: int) -> bytes:
    stored, fits = _NUMBERS[dtype]
    kinds, array = {*map(type, values)}, None
    wide = np.float64 if dtype in _FLOATS else fits
    with contextlib.suppress(OverflowError):
        if kinds <= ({int, float} if dtype in _FLOATS else {int}):
            array = np.array(values, wide)
    if array is not None and dtype in _FLOATS:
        limit = _largest_int(fits) if int in kinds else np.finfo(fits).max
        if np.abs(array[np.isfinite(array)]).max(initial=0) > limit:
            array = None
    if array is None:
        array = np.array([_checked(value, dtype, level) for value in values], wide)
    return array.astype(stored).tobytes()


def _checked(value: object, dtype: int, level: int) -> object:
    """The value as the dtype holds it."""
    kind = type(value)
    if kind is list:
        raise invalid(f"Encountered list at unexpected level: {level} expected < {level}")
    if dtype == types_pb2.DT_STRING and kind is dict:
        return _base64_bytes(value)
    if dtype == types_pb2.DT_STRING and kind is str:
        return text_bytes(value)
    if dtype == types_pb2.DT_BOOL and kind is bool:
        return value
    if dtype in _FLOATS and kind in (int, float):
        return _checked_decimal(value, _NUMBERS[dtype][1])
    if dtype in _NUMBERS and dtype not in _FLOATS and kind is int:
        bounds = np.iinfo(_NUMBERS[dtype][1])
        if bounds.min <= value <= bounds.max:
            return value
    if kind is not dict and dtype not in (types_pb2.DT_STRING, types_pb2.DT_BOOL, *_NUMBERS):
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
    """The bytes of `{"b64": "..."}`: blanks are passed over, padding may lack but not be wrong."""
    if not _is_base64(value):
        raise invalid(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    parts = _BASE64.fullmatch(value["b64"].translate(_BLANKS))
    over = len(parts[1]) % 4 if parts else 1
    if over == 1 or len(parts[2]) not in (0, -over % 4):
        raise invalid("Unable to base64 decode")
    return base64.b64decode(parts[1] + "=" * (-over % 4))


def fill_examples(body: Mapping[str, object], request_input: input_pb2.Input) -> None:
    """Fills the input of a Classification- or RegressionRequest; `1` and `1.0` are not the same."""
    chosen = request_input.example_list
    if "context" in body:
        chosen = request_input.example_list_with_context
        _fill_example(body["context"], chosen.context)
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
        kind, value = "int64_list", int(value)
    elif isinstance(value, str):
        kind, value = "bytes_list", text_bytes(value)
    elif _is_base64(value):
        kind, value = "bytes_list", _base64_bytes(value)
    elif value is None or isinstance(value, (list, dict)):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_json_type(value)}")
    elif isinstance(value, int) and -_INT64_END <= value < _UINT64_END:
        kind = "int64_list"
    else:
        kind, value = "float_list", _checked_decimal(value, np.float32)
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: {_FEATURES[present]}"
        )
    if kind == "int64_list" and value >= _INT64_END:
        raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    getattr(feature, kind).value.append(value)
