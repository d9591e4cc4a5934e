"""Answers as JSON, byte for byte as TensorFlow Serving writes them.

Four blanks a level, with some arrays on one line. Strings hold the bytes of the model as they are,
UTF-8 or not. Status and metadata are messages in protobuf's own JSON.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import numpy as np
from google.protobuf import json_format
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
)

from export.server.api.inference import invalid
from export.server.api.tensors import decode_tensor, dtype_name

# TensorFlow Serving repeats a request of any size in an error. Nested objects take indentation, so
# that a small request could ask for gigabytes; no honest reader goes on after this.
_MAX_ECHO = 1 << 16
_MAX_FLOAT = 3.4028234e38
_AT_ONCE = 2**14  # numbers written before another thread may get its turn
_INDENT = "    "
_SHORT_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_ESCAPED = {code: _SHORT_ESCAPES.get(code, f"\\u{code:04X}") for code in [*range(32), 34, 92]}
_NEEDS_ESCAPE = re.compile('[\x00-\x1f"\\\\]')
_INTEGERS = (
    types_pb2.DT_INT8,
    types_pb2.DT_INT16,
    types_pb2.DT_INT32,
    types_pb2.DT_INT64,
    types_pb2.DT_UINT8,
    types_pb2.DT_UINT32,
    types_pb2.DT_UINT64,
)


def quoted(text: str) -> str:
    """A JSON string, escaped no more than RapidJSON does.

    Example:
        >>> quoted('say "ü"')
        '"say \\\\"ü\\\\""'
    """
    if _NEEDS_ESCAPE.search(text):
        text = text.translate(_ESCAPED)
    return f'"{text}"'


def decimals(values: np.ndarray) -> list[str]:
    """Numbers as JSON: six digits when they say it all, else as many as the type may need.

    Args:
        values: [N], float32 or float64.

    Example:
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


def echo(value: object) -> str:
    """What `read_json` read, as TensorFlow Serving repeats it in an error.

    What is longer than 64 KiB ends with `...TRUNCATED`, which is ours.
    """
    if isinstance(value, float):
        single = -_MAX_FLOAT <= value <= _MAX_FLOAT
        return decimals(np.array([value], np.float32 if single else np.float64))[0]
    pieces, size = [], 0
    for piece in _echoed(value, 0):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_ECHO:
            return "".join(pieces)[:_MAX_ECHO] + "...TRUNCATED"
    return "".join(pieces)


def _echoed(value: object, level: int) -> Iterator[str]:
    if isinstance(value, str):
        yield quoted(value)
    elif isinstance(value, float):
        yield _shortest(value)
    elif isinstance(value, dict):
        yield "{"
        for number, (name, member) in enumerate(value.items()):
            yield f"{',' if number else ''}\n{_INDENT * (level + 1)}{quoted(name)}: "
            yield from _echoed(member, level + 1)
        yield f"\n{_INDENT * level}}}" if value else "}"
    elif isinstance(value, list):
        yield "["
        for number, element in enumerate(value):
            if number:
                yield ", "
            yield from _echoed(element, level + 1)
        yield "]"
    else:
        yield json.dumps(value)  # null, true, false or an integer


def _shortest(number: float) -> str:
    """The fewest digits that name a double, with an exponent for less than 1e-6 or from 1e21 on."""
    text = json.dumps(number)
    if "e" in text and 1e-6 <= abs(number) < 1e21:
        text = format(Decimal(text), "f")
        return text if "." in text else text + ".0"
    return re.sub(r"e\+?(-?)0*", r"e\1", text)


def error_json(message: str) -> str:
    """The body of an answer that is an error."""
    return f'{{\n{_INDENT}"error": {quoted(message)}\n}}'


def predictions_json(outputs: Mapping[str, tensor_pb2.TensorProto]) -> str:
    """The answer in row format: one element a row, an object when there are several outputs.

    Raises:
        ServingError: an output is a scalar, has another number of rows or a dtype JSON lacks.
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
    # A level each for the answer, the list and, with several outputs, the row's object.
    level = 3 if len(outputs) > 1 else 2
    columns = {
        name: _rows(_texts(name, outputs[name], level), _shape(outputs[name]), level)
        for name in sorted(outputs)
    }
    if not count:
        rows = "[]"
    elif len(columns) == 1:
        rows = f"[{', '.join(*columns.values())}\n{_INDENT}]"
    else:
        keys = [f"{_INDENT * 3}{quoted(name)}: " for name in columns]
        objects = [
            ",\n".join(key + text for key, text in zip(keys, texts, strict=True))
            for texts in zip(*columns.values(), strict=True)
        ]
        between = f"\n{_INDENT * 2}}},\n{_INDENT * 2}{{\n"
        rows = f"[\n{_INDENT * 2}{{\n{between.join(objects)}\n{_INDENT * 2}}}\n{_INDENT}]"
    return f'{{\n{_INDENT}"predictions": {rows}\n}}'


def outputs_json(outputs: Mapping[str, tensor_pb2.TensorProto]) -> str:
    """The answer in columnar format: each output whole; raises as `predictions_json` does."""
    level = 2 if len(outputs) > 1 else 1
    texts = {name: _spread(name, outputs[name], level) for name in sorted(outputs)}
    if len(texts) == 1:
        (body,) = texts.values()
    else:
        members = [f"{_INDENT * 2}{quoted(name)}: {text}" for name, text in texts.items()]
        body = "{\n" + ",\n".join(members) + f"\n{_INDENT}}}"
    return f'{{\n{_INDENT}"outputs": {body}\n}}'


def _shape(tensor: tensor_pb2.TensorProto) -> list[int]:
    return [dim.size for dim in tensor.tensor_shape.dim]


def _texts(name: str, tensor: tensor_pb2.TensorProto, level: int) -> list[str]:
    """The JSON of every value, in row-major order; `level` is that of a value within an object."""
    values = decode_tensor(tensor).ravel()
    if tensor.dtype in (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE):
        return decimals(values)
    if tensor.dtype in _INTEGERS:
        return list(map(str, values.tolist()))
    if tensor.dtype == types_pb2.DT_BOOL:
        return ["true" if value else "false" for value in values.tolist()]
    if tensor.dtype == types_pb2.DT_STRING and name.endswith("_bytes"):
        depth = level + max(0, len(tensor.tensor_shape.dim) - 1)
        inner, outer = _INDENT * (depth + 1), _INDENT * depth
        return [
            f'{{\n{inner}"b64": "{base64.b64encode(value).decode()}"\n{outer}}}' for value in values
        ]
    if tensor.dtype == types_pb2.DT_STRING:
        return [quoted(value.decode("utf-8", "surrogateescape")) for value in values]
    raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(tensor.dtype)}")


def _rows(texts: Sequence[str], shape: Sequence[int], level: int) -> Sequence[str]:
    """One text a row, whose lists stay on one line."""
    for axis in range(len(shape) - 1, 0, -1):
        count = int(np.prod(shape[:axis]))
        size = shape[axis]
        texts = [f"[{', '.join(texts[i * size : (i + 1) * size])}]" for i in range(count)]
    return texts


def _spread(name: str, tensor: tensor_pb2.TensorProto, level: int) -> str:
    """A whole tensor, each value and each list on a line of its own."""
    shape = _shape(tensor)
    texts = _texts(name, tensor, level + (1 if shape else 0))
    for axis in range(len(shape) - 1, -1, -1):
        count, size = int(np.prod(shape[:axis])), shape[axis]
        inner, outer = "\n" + _INDENT * (level + axis + 1), "\n" + _INDENT * (level + axis)
        between = "," + inner
        texts = [
            f"[{inner}{between.join(texts[i * size : (i + 1) * size])}{outer}]" if size else "[]"
            for i in range(count)
        ]
    return texts[0]


def classes_json(result: classification_pb2.ClassificationResult) -> str:
    """The answer of classify: for each example its [label, score] pairs.

    Raises:
        ServingError: there is no example.
    """
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for row in result.classifications:
        scores = decimals(np.array([one.score for one in row.classes], np.float32))
        pairs = zip(row.classes, scores, strict=True)
        rows.append(f"[{', '.join(f'[{quoted(one.label)}, {score}]' for one, score in pairs)}]")
    return f'{{\n{_INDENT}"results": [{", ".join(rows)}\n{_INDENT}]\n}}'


def numbers_json(result: regression_pb2.RegressionResult) -> str:
    """The answer of regress: a number for each example; raises as `classes_json` does."""
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    numbers = decimals(np.array([one.value for one in result.regressions], np.float32))
    return f'{{\n{_INDENT}"results": [{", ".join(numbers)}]\n}}'


def status_json(response: get_model_status_pb2.GetModelStatusResponse) -> str:
    """The answer to a question about versions.

    Example:
        >>> status_json(get_model_status_pb2.GetModelStatusResponse())
        '{\\n "model_version_status": []\\n}\\n'
    """
    return _printed(response)


def metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """The answer to a question about signatures, put together as TensorFlow Serving does."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return (
        f'{{\n"model_spec":{_printed(response.model_spec)},\n'
        f'"metadata": {{"signature_def": {_printed(signatures)}}}\n}}\n'
    )


def _printed(message) -> str:
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
