"""Answers as JSON, byte for byte as TensorFlow Serving writes them.

Four blanks a level, with some arrays on one line. Strings hold the bytes of the model as they are,
UTF-8 or not. Status and metadata are messages in protobuf's own JSON.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    regression_pb2,
)

from export.server.api.tensors import decode_tensor, dtype_name
from export.server.status import invalid

# TensorFlow Serving repeats a request of any size in an error. Nested objects take indentation, so
# that a small request could ask for gigabytes; no honest reader goes on after this.
_MAX_ECHO = 1 << 16
_MAX_FLOAT = 3.4028234e38
_AT_ONCE = 2**14  # numbers written before another thread may get its turn
_INDENT = "    "
_SHORT_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_ESCAPED = {code: _SHORT_ESCAPES.get(code, f"\\u{code:04X}") for code in [*range(32), 34, 92]}
_NEEDS_ESCAPE = re.compile('[\x00-\x1f"\\\\]')


def quoted(text: str) -> str:
    """A JSON string, escaped no more than RapidJSON does."""
    if _NEEDS_ESCAPE.search(text):
        text = text.translate(_ESCAPED)
    return f'"{text}"'


def decimals(values: np.ndarray) -> list[str]:
    """Numbers, (N,) float32 or float64, as JSON: six digits when they say it all, else as many as
    the type may need.

    >>> decimals(np.float32([2, 0.1, 1 / 3, 1e20]))
    ['2.0', '0.1', '0.333333343', '1e+20']
    """
    texts: list[str] = []
    for begin in range(0, len(values), _AT_ONCE):
        texts += _decimals(values[begin : begin + _AT_ONCE])
    return texts


def _decimals(values: np.ndarray) -> list[str]:
    full = "%.9g\n" if values.dtype == np.float32 else "%.17g\n"
    numbers = values.tolist()
    # One format for all, and one look back at all: a third of the time of a loop.
    text = "%.6g\n" * len(numbers) % tuple(numbers)
    texts = text.split("\n")[:-1]
    back = np.fromstring(text, np.float64, sep="\n").astype(values.dtype)
    finite = np.isfinite(values)
    short = np.flatnonzero((back != values) & finite).tolist()
    longer = full * len(short) % tuple(numbers[place] for place in short)
    for place, digits in zip(short, longer.split("\n"), strict=False):
        texts[place] = digits
    for place in np.flatnonzero(finite & (values == np.rint(values))).tolist():
        if "." not in texts[place] and "e" not in texts[place]:
            texts[place] += ".0"
    for place in np.flatnonzero(~finite).tolist():
        number = numbers[place]
        texts[place] = "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"
    return texts


def _pieces(
    value: object, level: int, one_line: bool, leaf: Callable[[object], str] | None = None
) -> Iterator[str]:
    """The JSON of nested dicts and lists, whose arrays are on one line or one element a line.

    Without `leaf` all else is JSON already.
    """
    inner, outer = "\n" + _INDENT * (level + 1), "\n" + _INDENT * level
    if isinstance(value, dict):
        separator = "{" + inner
        for name, member in value.items():
            yield f"{separator}{quoted(name)}: "
            yield from _pieces(member, level + 1, one_line, leaf)
            separator = "," + inner
        yield outer + "}" if value else "{}"
    elif isinstance(value, list):
        begin, between, end = (
            ("[", ", ", "]") if one_line else ("[" + inner, "," + inner, outer + "]")
        )
        if not value:
            yield "[]"
        elif leaf is None and isinstance(value[0], str):
            yield begin + between.join(value) + end
        else:
            for element in value:
                yield begin
                yield from _pieces(element, level + 1, one_line, leaf)
                begin = between
            yield end
    else:
        yield value if leaf is None else leaf(value)


def echo(value: object) -> str:
    """What `read_json` read, as TensorFlow Serving repeats it in an error.

    What is longer than 64 KiB ends with `...TRUNCATED`, which is ours.
    """
    if isinstance(value, float):
        single = -_MAX_FLOAT <= value <= _MAX_FLOAT
        return decimals(np.array([value], np.float32 if single else np.float64))[0]
    pieces, size = [], 0
    for piece in _pieces(value, 0, True, _echoed):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_ECHO:
            return "".join(pieces)[:_MAX_ECHO] + "...TRUNCATED"
    return "".join(pieces)


def _echoed(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    text = json.dumps(value)
    if not isinstance(value, float):
        return text
    # The fewest digits that name a double, with an exponent for less than 1e-6 or from 1e21 on.
    if "e" in text and 1e-6 <= abs(value) < 1e21:
        text = format(Decimal(text), "f")
        return text if "." in text else text + ".0"
    return re.sub(r"e\+?(-?)0*", r"e\1", text)


def error_json(message: str) -> str:
    """The body of an answer that is an error."""
    return _answer("error", quoted(message))


def predictions_json(outputs: Mapping[str, tensor_pb2.TensorProto]) -> str:
    """The answer in row format: one element a row, an object when there are several outputs.

    Raises ServingError when an output is a scalar, or has another number of rows or a dtype that
    JSON lacks.
    """
    count = -1
    for name in sorted(outputs):
        shape = outputs[name].tensor_shape.dim
        if not shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count >= 0 and shape[0].size != count:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {shape[0].size} "
                f"expecting: {count}"
            )
        count = shape[0].size
    columns = {name: _nested(name, outputs[name]) for name in sorted(outputs)}
    if not count:
        return _answer("predictions", "[]")
    if len(columns) == 1:
        (rows,) = columns.values()
        text = "".join(_pieces(rows, 1, True))
        return _answer("predictions", text[:-1] + f"\n{_INDENT}]")
    names = list(columns)
    rows = [dict(zip(names, row)) for row in zip(*columns.values())]
    between = f",\n{_INDENT * 2}"
    text = between.join("".join(_pieces(row, 2, True)) for row in rows)
    return _answer("predictions", f"[\n{_INDENT * 2}{text}\n{_INDENT}]")


def outputs_json(outputs: Mapping[str, tensor_pb2.TensorProto]) -> str:
    """The answer in columnar format: each output whole; raises as `predictions_json` does."""
    columns = {name: _nested(name, outputs[name]) for name in sorted(outputs)}
    if len(columns) == 1:
        (columns,) = columns.values()
    return _answer("outputs", "".join(_pieces(columns, 1, False)))


def _answer(name: str, text: str) -> str:
    return f'{{\n{_INDENT}"{name}": {text}\n}}'


def _nested(name: str, tensor: tensor_pb2.TensorProto) -> object:
    """The JSON of every value, in lists as nested as the tensor."""
    values = decode_tensor(tensor).ravel()
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype in (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE):
        nested = decimals(values)
    elif tensor.dtype == types_pb2.DT_BOOL:
        nested = ["true" if value else "false" for value in values.tolist()]
    elif tensor.dtype == types_pb2.DT_STRING and name.endswith("_bytes"):
        nested = [{"b64": f'"{base64.b64encode(value).decode()}"'} for value in values]
    elif tensor.dtype == types_pb2.DT_STRING:
        nested = [quoted(value.decode("utf-8", "surrogateescape")) for value in values]
    elif values.dtype.kind in "iu" and tensor.dtype != types_pb2.DT_UINT16:
        nested = list(map(str, values.tolist()))
    else:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(tensor.dtype)}")
    for axis in range(len(shape) - 1, 0, -1):
        count, size = int(np.prod(shape[:axis])), shape[axis]
        nested = [nested[i * size : (i + 1) * size] for i in range(count)]
    return nested if shape else nested[0]


def classes_json(result: classification_pb2.ClassificationResult) -> str:
    """The answer of classify: for each example its [label, score] pairs."""
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for row in result.classifications:
        scores = decimals(np.array([one.score for one in row.classes], np.float32))
        pairs = zip(row.classes, scores, strict=True)
        rows.append(f"[{', '.join(f'[{quoted(one.label)}, {score}]' for one, score in pairs)}]")
    return _answer("results", f"[{', '.join(rows)}\n{_INDENT}]")


def numbers_json(result: regression_pb2.RegressionResult) -> str:
    """The answer of regress: a number for each example."""
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    numbers = decimals(np.array([one.value for one in result.regressions], np.float32))
    return _answer("results", f"[{', '.join(numbers)}]")


def metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """The answer to a question about signatures, put together as TensorFlow Serving does."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return (
        f'{{\n"model_spec":{proto_json(response.model_spec)},\n'
        f'"metadata": {{"signature_def": {proto_json(signatures)}}}\n}}\n'
    )


def proto_json(message: Message) -> str:
    """A message in protobuf's own JSON: the answer to a question about versions."""
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    text = json.dumps(_plain(fields), indent=1, ensure_ascii=False)
    # Only strings hold these; protobuf's C++ printer escapes them, against browsers that guess.
    return text.replace("<", "\\u003c").replace(">", "\\u003e") + "\n"


def _plain(value: object) -> object:
    """Whole decimals without a point, as protobuf's C++ printer writes them."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(element) for element in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value
