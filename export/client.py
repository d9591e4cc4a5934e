"""Asks a server, the embedded one or TensorFlow Serving, and prints what it answers.

python -m export.client --server=localhost:8500 --model=writer --text="Once upon" \
    --set=max_new_tokens=64
python -m export.client --model=reader --set=question="Who?" --set=context="Ada wrote it."
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
    classification_pb2,
    get_model_metadata_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from export.conversion import convert, convert_to_examples, rows
from export.methods import CLASSIFY_METHOD, REGRESS_METHOD
from export.printing import readable

Stub = prediction_service_pb2_grpc.PredictionServiceStub

_DEFAULT_SIGNATURE = "serving_default"
_INIT_OP = "__saved_model_init_op"  # listed among the signatures, but not one to ask for

Examples = Sequence[tf.train.Example | bytes]


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


def classify(
    server: grpc.Channel | Stub,
    model: str,
    examples: Examples,
    signature: str = "",
    version: int | None = None,
    timeout: float = 60.0,
) -> dict[str, np.ndarray]:
    """Asks for classes of tf.Examples, by the Classify request.

    Args:
        server, model, signature, version, timeout: as for `predict`.
        examples: tf.train.Example messages, or their serialized bytes.

    Returns:
        `classes` [B, C], bytes objects, and `scores` [B, C] float32. A signature without one of
        them leaves it empty: b"" and 0.

    Raises:
        grpc.RpcError: as `predict`.

    Example:
        >>> example = tf.train.Example()
        >>> example.features.feature["text"].bytes_list.value.append(b"a fine film")
        >>> classify(connect("localhost:8500"), "judge", [example], "classify")["classes"]
        array([[b'bad', b'good']], dtype=object)
    """
    request = classification_pb2.ClassificationRequest(model_spec=_spec(model, version, signature))
    _add(request.input, examples)
    result = _stub(server).Classify(request, timeout=timeout).result
    table = [row.classes for row in result.classifications]
    return {
        "classes": np.array([[one.label.encode() for one in row] for row in table], dtype=object),
        "scores": np.array([[one.score for one in row] for row in table], np.float32),
    }


def regress(
    server: grpc.Channel | Stub,
    model: str,
    examples: Examples,
    signature: str = "",
    version: int | None = None,
    timeout: float = 60.0,
) -> dict[str, np.ndarray]:
    """Asks for a number for each tf.Example, by the Regress request; `outputs` [B] float32.

    Arguments and errors are those of `classify`.
    """
    request = regression_pb2.RegressionRequest(model_spec=_spec(model, version, signature))
    _add(request.input, examples)
    result = _stub(server).Regress(request, timeout=timeout).result
    return {"outputs": np.array([one.value for one in result.regressions], np.float32)}


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


def _add(request_input: input_pb2.Input, examples: Examples) -> None:
    for example in examples:
        if isinstance(example, bytes):
            example = tf.train.Example.FromString(example)
        request_input.example_list.examples.append(example)


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
        "set", [], "NAME=VALUE of another input; repeat it for a batch.", **define
    )
    flags.DEFINE_float("timeout", 60.0, "Seconds to wait for the answer.", **define)
    flags.DEFINE_bool("json", False, "Print all outputs, one JSON line per row.", **define)


def run(values: flags.FlagValues) -> int:
    """Does what the flags ask for and returns the exit code: 0, or 1 after a message on stderr."""
    try:
        with connect(values.server) as channel:
            _print(_ask(channel, values), values.json)
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
    settings: dict[str, list[str | bytes]] = {}
    if values.text:
        settings["text"] = [_text(text) for text in values.text]
    for setting in values.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set={setting} is not of the form NAME=VALUE")
        if name == "text" and values.text:
            raise ValueError("input text is given twice, by --text and by --set")
        settings.setdefault(name, []).append(value)
    known = signatures(channel, values.model, values.model_version, values.timeout)
    name = values.signature or _DEFAULT_SIGNATURE
    if name not in known:
        raise ValueError(
            f"model {values.model} has no signature {name}; its signatures: "
            f"{', '.join(sorted(known))}"
        )
    how = {"signature": name, "version": values.model_version, "timeout": values.timeout}
    calls = {CLASSIFY_METHOD: classify, REGRESS_METHOD: regress}
    call = calls.get(known[name].method_name)
    if call is not None:
        return rows(call(channel, values.model, convert_to_examples(settings), **how))
    return rows(predict(channel, values.model, convert(known[name], settings), **how))


def _text(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read().removesuffix(b"\n")  # the newline that echo adds
    return os.fsencode(text)


def _print(answers: Sequence[Mapping[str, object]], as_json: bool) -> None:
    for number, row in enumerate(answers):
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        lines = readable(row)
        if number and "\n" in lines and {*row} - {"text"}:
            print()  # where one answer ends is not seen otherwise
        print(lines)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}; a prompt goes into --text=")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character
    sys.exit(run(flags.FLAGS))


if __name__ == "__main__":
    define_flags()
    app.run(main)
