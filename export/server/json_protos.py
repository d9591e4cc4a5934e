"""The messages that REST answers as they are, status and metadata, in protobuf's JSON."""

import json

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2


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
    ordered = _in_order(fields, message.DESCRIPTOR)
    text = json.dumps(ordered, indent=1, ensure_ascii=False)
    # Only strings hold these; protobuf's C++ printer escapes them, against browsers that guess.
    return text.replace("<", "\\u003c").replace(">", "\\u003e") + "\n"


def _in_order(fields: dict, descriptor: Descriptor) -> dict:
    """The same, in the order of field numbers: Python prints the unset ones last."""
    ordered = {}
    for field in descriptor.fields:
        if field.name not in fields:
            continue
        value, kind = fields[field.name], field.message_type
        if kind is None or isinstance(value, str):  # a number that protobuf wraps in a message
            ordered[field.name] = _plain(value)
        elif kind.GetOptions().map_entry:
            kind = kind.fields_by_name["value"].message_type
            ordered[field.name] = {name: _in_order(value[name], kind) for name in value}
        elif isinstance(value, list):
            ordered[field.name] = [_in_order(one, kind) for one in value]
        else:
            ordered[field.name] = _in_order(value, kind)
    return ordered


def _plain(value):
    """Whole decimals without a point, as C++ prints them."""
    if isinstance(value, list):
        return [_plain(element) for element in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return int(value) if whole else value
