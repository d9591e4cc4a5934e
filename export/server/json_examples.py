"""JSON bodies of classify and regress to tf.Examples.

A feature is what its JSON values are: an int64 list from integers and booleans, a float list from
decimals, a bytes list from strings and base64. So `1` and `1.0` are not the same.
"""

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from export.server.inference import invalid
from export.server.json_reading import Members, printable, text_bytes
from export.server.json_requests import format_error
from export.server.json_tensors import base64_bytes, checked_decimal, is_base64, json_type

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_INT64_END, _UINT64_END = 2**63, 2**64


def fill_examples(body: Members, request_input: input_pb2.Input) -> None:
    """Fills the input of a ClassificationRequest or a RegressionRequest.

    Args:
        body: Members. An object with `examples` and, perhaps, a `context` for all of them.
        request_input: Input, empty.

    Raises:
        ServingError: INVALID_ARGUMENT, the body is at fault.

    Example:
        >>> fill_examples(read_json(b'{"examples": [{"x": 1.0}]}'), request.input)
    """
    has_context, context = body.first("context")
    if has_context:
        _fill_example(context, request_input.example_list_with_context.context)
    found, examples = body.first("examples")
    if not found:
        # So for regress, too: the text is TensorFlow Serving's.
        raise format_error(
            body, "When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise format_error(body, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise format_error(body, "'examples' value is an empty array")
    chosen = request_input.example_list_with_context if has_context else request_input.example_list
    for example in examples:
        _fill_example(example, chosen.examples.add())


def _fill_example(value: object, example: example_pb2.Example) -> None:
    if not isinstance(value, Members):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    example.SetInParent()  # an empty context is a context
    for key, content in value:
        name = printable(key.split("\0", 1)[0])
        feature = feature_pb2.Feature()
        for element in content if isinstance(content, list) else [content]:
            _add(element, name, feature)
        example.features.feature[name].CopyFrom(feature)


def _add(value: object, name: str, feature: feature_pb2.Feature) -> None:
    if isinstance(value, bool):
        _list(feature, "int64_list", name).append(int(value))
    elif isinstance(value, str):
        _list(feature, "bytes_list", name).append(text_bytes(value))
    elif is_base64(value):
        _list(feature, "bytes_list", name).append(base64_bytes(value))
    elif value is None or isinstance(value, (list, Members)):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    elif isinstance(value, int) and -_INT64_END <= value < _UINT64_END:
        values = _list(feature, "int64_list", name)
        if value >= _INT64_END:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        values.append(value)
    else:
        _list(feature, "float_list", name).append(checked_decimal(value, np.float32))


def _list(feature: feature_pb2.Feature, kind: str, name: str):
    """The values of a feature, once it is of the kind that the next value needs."""
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: {_KINDS[present]}"
        )
    return getattr(feature, kind).value
