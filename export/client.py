"""Asks a server, the embedded one or TensorFlow Serving, and prints what it answers.

python -m export.client --server=localhost:8500 --model=writer --text="Once upon" \
    --set=max_new_tokens=64
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from absl import app, flags
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

Stub = prediction_service_pb2_grpc.PredictionServiceStub

_DEFAULT_SIGNATURE = "serving_default"
_INIT_OP = "__saved_model_init_op"  # listed among the signatures, but not one to ask for
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def connect(server: str) -> grpc.Channel:
    """Opens a channel to `host:port`, without a limit to the size of messages."""
    unlimited = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    return grpc.insecure_channel(server, unlimited)


def predict(
    server: grpc.Channel | Stub,
    model: str,
    inputs: Mapping[str, object],
    signature: str = "",
    version: int | None = None,
    timeout: float = 60.0,
) -> dict[str, np.ndarray]:
    """Runs one request.

    Args:
        server: A channel, as `connect` opens it, or a PredictionServiceStub.
        model: str. The name the model is served under.
        inputs: Input name to array, list or scalar. Python numbers become int32 and float32; give
            numpy arrays where the signature asks for another dtype.
        signature: str. Defaults to `serving_default`.
        version: int | None. Defaults to the newest one.
        timeout: float. Seconds to wait for the answer.

    Returns:
        Output name to array. Strings are arrays of `bytes` objects.

    Raises:
        grpc.RpcError: the server cannot be reached, or refuses; `code()` and `details()` say why.

    Example:
        >>> predict(connect("localhost:8500"), "writer", {"text": ["Once upon"]})["text"]
        array([b'Once upon a time'], dtype=object)
    """
    request = predict_pb2.PredictRequest(model_spec=_spec(model, version, signature))
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    response = _stub(server).Predict(request, timeout=timeout)
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def signatures(
    server: grpc.Channel | Stub, model: str, version: int | None = None, timeout: float = 60.0
) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Looks up what a model can be asked: signature name to inputs and outputs.

    Raises:
        grpc.RpcError: the server cannot be reached, or does not serve the model.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=_spec(model, version), metadata_field=["signature_def"]
    )
    response = _stub(server).GetModelMetadata(request, timeout=timeout)
    found = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    return {name: value for name, value in found.signature_def.items() if name != _INIT_OP}


def convert(
    signature: meta_graph_pb2.SignatureDef, texts: Sequence[bytes], settings: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Turns what a command line gives into inputs of the dtypes that a signature declares.

    Args:
        signature: SignatureDef. What is asked.
        texts: The rows of the input `text`.
        settings: Input name to value; the value is repeated for every row.

    Returns:
        Input name to array of shape [B], or [] for an input declared as a scalar.

    Raises:
        ValueError: the signature has no input of such a name, or the value is not of its dtype.

    Example:
        >>> convert(signature, [b"Once upon"], {"max_new_tokens": "64"})
        {'text': array([b'Once upon'], dtype=object), 'max_new_tokens': array([64], dtype=int32)}
    """
    known = ", ".join(sorted(signature.inputs)) or "none"
    rows = max(1, len(texts))
    inputs = {"text": np.array(texts, dtype=object)} if texts else {}
    for name, value in settings.items():
        if name in inputs:
            raise ValueError(f"input {name} is given twice, by --text and by --set")
        inputs[name] = value
    for name, value in inputs.items():
        if name not in signature.inputs:
            raise ValueError(f"the signature has no input {name}; its inputs: {known}")
        if isinstance(value, str):
            info = signature.inputs[name]
            scalar = not info.tensor_shape.dim and not info.tensor_shape.unknown_rank
            one = _parse(name, value, tf.as_dtype(info.dtype))
            inputs[name] = one if scalar else np.repeat(one[np.newaxis], rows)
    return inputs


def _parse(name: str, value: str, dtype: tf.DType) -> np.ndarray:
    try:
        if dtype == tf.string:
            return np.array(os.fsencode(value), dtype=object)
        if dtype == tf.bool:
            return np.array(_TRUTH[value.lower()])
        # int() and not numpy's own parsing: that one would round 1.5, or wrap what is too large.
        number = int(value) if dtype.is_integer else float(value)
        return np.array(number, dtype=dtype.as_numpy_dtype)
    except (KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"--set={name}={value}: {value!r} is not a {dtype.name}") from error


def rows(outputs: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """Splits a batch into rows of plain Python values, strings decoded.

    Bytes that are not UTF-8 are shown as escapes. An output without a batch dimension is repeated
    in each row.
    """
    lengths = [len(array) for array in outputs.values() if array.ndim]
    batch = max(lengths, default=1)
    return [
        {
            name: _plain(array[row] if array.ndim and len(array) == batch else array)
            for name, array in sorted(outputs.items())
        }
        for row in range(batch)
    ]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _spec(model: str, version: int | None, signature: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def _stub(server: grpc.Channel | Stub) -> Stub:
    return Stub(server) if isinstance(server, grpc.Channel) else server


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, so that other commands may import this one."""
    define = {"flag_values": values}
    flags.DEFINE_string("server", "localhost:8500", "Address of the server's gRPC port.", **define)
    flags.DEFINE_string("model", "default", "Name the model is served under.", **define)
    flags.DEFINE_string("signature", "", "What to ask; by default serving_default.", **define)
    flags.DEFINE_integer("model_version", None, "Version; by default the newest.", **define)
    flags.DEFINE_multi_string(
        "text", [], "Value of the input `text`; repeat it for a batch; - reads stdin.", **define
    )
    flags.DEFINE_multi_string(
        "set", [], "NAME=VALUE of another input, the same for all rows.", **define
    )
    flags.DEFINE_float("timeout", 60.0, "Seconds to wait for the answer.", **define)
    flags.DEFINE_bool("json", False, "Print all outputs, one JSON line per row.", **define)


def run(values: flags.FlagValues) -> int:
    """Does what the flags ask for and returns the exit code: 0, or 1 after a message on stderr."""
    try:
        with connect(values.server) as channel:
            for row in _ask(channel, values):
                _print_row(row, values.json)
        return 0
    except ValueError as error:
        message = str(error)
    except grpc.RpcError as error:
        message = f"{error.code().name}: {error.details()}"
        if error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in error.details().lower():
            message = (
                f"cannot reach {values.server}: start it with python -m export.server "
                f"--model_name={values.model} --model_base_path=/absolute/folder "
                f"({error.details()})"
            )
    print(message, file=sys.stderr)
    return 1


def _ask(channel: grpc.Channel, values: flags.FlagValues) -> list[dict[str, object]]:
    settings = {}
    for setting in values.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set={setting} is not of the form NAME=VALUE")
        settings[name] = value
    known = signatures(channel, values.model, values.model_version, values.timeout)
    name = values.signature or _DEFAULT_SIGNATURE
    if name not in known:
        raise ValueError(
            f"model {values.model} has no signature {name}; its signatures: "
            f"{', '.join(sorted(known))}"
        )
    inputs = convert(known[name], [_text(text) for text in values.text], settings)
    return rows(predict(channel, values.model, inputs, name, values.model_version, values.timeout))


def _text(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read().removesuffix(b"\n")  # the newline that echo adds
    return os.fsencode(text)


def _print_row(row: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row, ensure_ascii=False))
    elif "text" in row:
        print(row["text"])
    else:
        print("\n".join(f"{name}: {value}" for name, value in row.items()))


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}; a prompt goes into --text=")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character
    sys.exit(run(flags.FLAGS))


if __name__ == "__main__":
    define_flags()
    app.run(main)
