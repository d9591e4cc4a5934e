"""Answers as JSON, laid out as TensorFlow Serving does; strings may hold bytes, not UTF-8."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from export.server.api.tensors import decode_tensor, dtype_name
from export.server.status import invalid

# TensorFlow Serving repeats a request of any size in an error. Nested objects take indentation, so
# that a small request could ask for gigabytes; no honest reader goes on after this.
_MAX_ECHO = 1 << 16
_MAX_FLOAT = 3.4028234e38
_AT_ONCE = 2**14  # numbers written before another thread may get its turn
_INDENT = "    "
_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_ESCAPED = {code: f"\\u{code:04X}" for code in range(32)} | _ESCAPES
_NEEDS_ESCAPE = re.compile('[\x00-\x1f"\\\\]')
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def quoted(text: str) -> str:
    """A JSON string, escaped no more than TensorFlow Serving does, in capital letters."""
    return f'"{text.translate(_ESCAPED) if _NEEDS_ESCAPE.search(text) else text}"'


def decimals(values: np.ndarray) -> list[str]:
    """Numbers, (N,), as JSON: six digits when they say it all, else what the type may need."""
    full, texts = "%.9g " if values.dtype == np.float32 else "%.17g ", []
    for begin in range(0, len(values), _AT_ONCE):
        part = values[begin : begin + _AT_ONCE]
        numbers = part.tolist()
        # One format for all, and one look back at all: a third of the time of a loop.
        text = "%.6g " * len(numbers) % tuple(numbers)
        written = text.split()
        same = np.fromstring(text, np.float64, sep=" ").astype(values.dtype) == part
        longer = np.flatnonzero(~same).tolist()
        digits = full * len(longer) % tuple(numbers[place] for place in longer)
        for place, number in zip(longer, digits.split(), strict=True):
            written[place] = number
        for place in np.flatnonzero(~np.isfinite(part) | (part == np.rint(part))).tolist():
            number = written[place]
            whole = number if "e" in number else number + ".0"
            written[place] = _NOT_FINITE.get(number, whole)
        texts += written
    return texts


def _pieces(
    value: object, level: int, one_line: bool, leaf: Callable[[object], str] | None = None
) -> Iterator[str]:
    """The JSON of nested dicts and lists; without `leaf` all else is JSON already."""
    inner, outer = "\n" + _INDENT * (level + 1), "\n" + _INDENT * level
    if isinstance(value, dict):
        separator = "{" + inner
        for name, member in value.items():
            yield f"{separator}{quoted(name)}: "
            yield from _pieces(member, level + 1, one_line, leaf)
            separator = "," + inner
        yield outer + "}" if value else "{}"
    elif not isinstance(value, list):
        yield value if leaf is None else leaf(value)
    elif not value:
        yield "[]"
    else:
        begin, end = ("[", "]") if one_line else ("[" + inner, outer + "]")
        between = ", " if one_line else "," + inner
        if leaf is None and isinstance(value[0], str):
            yield begin + between.join(value) + end
            return
        for element in value:
            yield begin
            yield from _pieces(element, level + 1, one_line, leaf)
            begin = between
        yield end


def echo(value: object) -> str:
    """What `read_json` read, as TensorFlow Serving repeats it in an error; cut at 64 KiB."""
    if isinstance(value, float):
        single = -_MAX_FLOAT <= value <= _MAX_FLOAT
        return decimals(np.array([value], np.float32 if single else np.float64))[0]
    pieces, size = [], 0
    for piece in _pieces(value, 0, True, lambda v: quoted(v) if type(v) is str else json.dumps(v)):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_ECHO:
            return "".join(pieces)[:_MAX_ECHO] + "...TRUNCATED"
    return "".join(pieces)


def _answer(name: str, text: str) -> str:
    return f'{{\n{_INDENT}"{name}": {text}\n}}'


def error_json(message: str) -> str:
    """The body of an answer that is an error."""
    return _answer("error", quoted(message))


def predictions_json(outputs: Mapping[str, tensor_pb2.TensorProto]) -> str:
    """The answer in row format: one element a row, an object when there are several outputs."""
    columns, count = {}, None
    for name in sorted(outputs):
        shape = outputs[name].tensor_shape.dim
        if not shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        count = shape[0].size if count is None else count
        if shape[0].size != count:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {shape[0].size} "
                f"expecting: {count}"
            )
        columns[name] = _nested(name, outputs[name])
    if not count:
        return _answer("predictions", "[]")
    if len(columns) == 1:
        text = "".join(_pieces(next(iter(columns.values())), 1, True))
        return _answer("predictions", f"{text[:-1]}\n{_INDENT}]")
    between = f"\n{_INDENT * 2}"
    rows = (dict(zip(columns, row)) for row in zip(*columns.values()))
    text = f",{between}".join("".join(_pieces(row, 2, True)) for row in rows)
    return _answer("predictions", f"[{between}{text}\n{_INDENT}]")


def outputs_json(outputs: Mapping[str, tensor_pb2.TensorProto]) -> str:
    """The answer in columnar format: each output whole."""
    columns = {name: _nested(name, outputs[name]) for name in sorted(outputs)}
    shown = columns if len(columns) > 1 else next(iter(columns.values()))
    return _answer("outputs", "".join(_pieces(shown, 1, False)))


def _nested(name: str, tensor: tensor_pb2.TensorProto) -> object:
    """The JSON of every value, in lists as nested as the tensor."""
    array = decode_tensor(tensor)
    values = array.ravel()
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
    return np.array(nested, object).reshape(array.shape).tolist()


def results_json(result: Message) -> str:
    """The answer of classify, [label, score] pairs of each example, and of regress, numbers."""
    field, rows = next(iter(result.ListFields()), (None, ()))
    if field is None:
        raise invalid(f"Cannot convert empty {result.DESCRIPTOR.name}s to JSON")
    if field.name == "regressions":
        return _answer("results", f"[{', '.join(decimals(np.float32([r.value for r in rows])))}]")
    texts = []
    for row in rows:
        scores = decimals(np.float32([one.score for one in row.classes]))
        pairs = zip(row.classes, scores, strict=True)
        texts.append(f"[{', '.join(f'[{quoted(one.label)}, {score}]' for one, score in pairs)}]")
    return _answer("results", f"[{', '.join(texts)}\n{_INDENT}]")


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
