"""A request that came by REST, for grpcurl and for the client in Python, to copy."""

import shlex
from collections.abc import Mapping

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message

from export.tensors import decode_tensor, encode_tensor

_SERVICE = "tensorflow.serving.PredictionService"
_PLAIN = (np.dtype(object), np.dtype(np.int32), np.dtype(np.float32), np.dtype(bool))


def snippets(method: str, request: Message, host: str, grpc: Mapping[str, object]) -> dict:
    """Texts of the two; `grpc` as `Page.grpc`."""
    address = f"{host}:{grpc['port']}"
    return {
        "grpcurl": _grpcurl(method, request, address, grpc),
        "python": _python(method, request, address, bool(grpc["tls"])),
    }


def _grpcurl(method: str, request: Message, address: str, grpc: Mapping[str, object]) -> str:
    shown = type(request)()
    shown.CopyFrom(request)
    for tensor in shown.inputs.values() if method == "predict" else ():
        array = decode_tensor(tensor)
        tensor.Clear()
        encode_tensor(array, tensor)  # value by value
    document = json_format.MessageToJson(
        shown, preserving_proto_field_name=True, ensure_ascii=False, indent=1
    )
    flags = "-cacert ca.pem" if grpc["tls"] else "-plaintext"
    if not grpc["reflection"]:
        flags += " -protoset export/client/serving.binpb"
    call = f"{shlex.quote(address)} {_SERVICE}/{method.capitalize()}"
    # By stdin, as an argument must be shorter than 128 kB. No line of JSON is EOF.
    return f"grpcurl {flags} -d @ {call} <<'EOF'\n{document}\nEOF"


def _python(method: str, request: Message, address: str, tls: bool) -> str:
    imports, lines = "", []
    if method == "predict":
        for name in sorted(request.inputs):
            array = decode_tensor(request.inputs[name])
            value = repr(_plain(array.tolist(), array.dtype == np.float32))
            if array.dtype not in _PLAIN:  # the client makes others of Python's own
                imports, value = "import numpy\n", f'numpy.array({value}, "{array.dtype.name}")'
            lines.append(f"    {name!r}: {value},\n")
    for example in () if method == "predict" else request.input.example_list.examples:
        lines.append(f"    {_features(example)!r},\n")
    asked = f"{{\n{''.join(lines)}}}" if method == "predict" else f"[\n{''.join(lines)}]"
    spec, client = request.model_spec, f"Client({address!r}"
    which = f", version={spec.version.value}" if spec.HasField("version") else ""
    which = f", version={spec.version_label!r}" if spec.version_label else which
    return (
        f"{imports}from export.client import Client{', Tls' if tls else ''}\n\n"
        f"asked = {asked}\n"
        f"""with {client}{', tls=Tls("ca.pem")' if tls else ""}) as client:\n"""
        f"    answer = client.{method}({spec.name!r}, asked, {spec.signature_name!r}{which})\n"
        "print(answer.outputs)"
    )


def _features(example: Message) -> dict[str, object]:
    features = {}
    for name, feature in sorted(example.features.feature.items()):
        kind = feature.WhichOneof("kind")
        values = _plain([*getattr(feature, kind).value] if kind else [], kind == "float_list")
        features[name] = values[0] if len(values) == 1 else values
    return features


def _plain(value: object, is_float32: bool) -> object:
    """Bytes as text where they are, and 0.7 as that."""
    if isinstance(value, list):
        return [_plain(one, is_float32) for one in value]
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return text if text.encode() == value else value
    return float(str(np.float32(value))) if is_float32 else value
