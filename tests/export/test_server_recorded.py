"""The embedded server against the answers recorded from TensorFlow Serving itself."""

import json
import os
import pathlib
import re

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from export.server import ServedModel, Server, every_version

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDED = pathlib.Path(os.environ.get("ZOO_SERVING", ROOT.parent / "shared" / "serving"))

pytestmark = pytest.mark.timeout(120)


_MESSAGES = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "Classify": (
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
    ),
    "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "MultiInference": (
        inference_pb2.MultiInferenceRequest,
        inference_pb2.MultiInferenceResponse,
    ),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
    ),
}


def recorded():
    file = RECORDED / "transcripts.jsonl"
    if not file.exists():
        return []
    covered = tuple(f"/{name}" for name in _MESSAGES)
    exchanges = []
    for line in file.read_text().splitlines():
        exchange = json.loads(line)
        if exchange.get("rpc", "").endswith("/HandleReloadConfigRequest"):
            break  # from here on the answers are those of another configuration
        if exchange.get("rpc", "").endswith(covered):
            exchanges.append(exchange)
    return exchanges


@pytest.fixture(scope="module")
def recorded_server():
    def model(name, folder, *rest):
        return ServedModel(name, str(RECORDED / "models" / folder), *rest)

    labels = {"stable": 123, "canary": 124}
    models = [
        model("hpt", "half_plus_two"),
        model("two", "saved_model_half_plus_two_2_versions", every_version(), labels),
        model("types", "types"),
        model("ex", "examples"),
        model("hptcpu", "saved_model_half_plus_two_cpu"),
        model("batchsz", "batchsz"),
        model("texty", "texty"),
        model("jit", "jit"),
    ]
    with Server(models, port=0, host="localhost") as server:
        yield grpc.insecure_channel(f"localhost:{server.port}")


def shown(message):
    """A message without the mark and the blanks that protobuf varies where it prints a message."""
    return re.sub(r"\s+", " ", re.sub(r"goo\.gle/debug\S*", "", message)).strip()


def canonical(response):
    """Bytes that are equal for equal messages: maps in order, NaN comparable."""
    packed = []
    for field in sorted(getattr(response, "metadata", ())):
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[field].Unpack(signatures)
        packed.append(signatures.SerializeToString(deterministic=True))
        del response.metadata[field]
    return response.SerializeToString(deterministic=True), packed


@pytest.mark.skipif(not recorded(), reason="no recorded answers on this machine")
@pytest.mark.parametrize("exchange", recorded(), ids=lambda exchange: exchange["id"])
def test_answers_as_tensorflow_serving_did(recorded_server, exchange):
    request_type, response_type = _MESSAGES[exchange["rpc"].rsplit("/")[-1]]
    if exchange["request"] is None:
        content = bytes.fromhex(exchange["request_raw_hex"])
    else:
        content = text_format.Parse(exchange["request"], request_type()).SerializeToString()
    call = recorded_server.unary_unary(exchange["rpc"])
    try:
        answer = response_type.FromString(call(content, timeout=exchange.get("deadline_s", 20)))
    except grpc.RpcError as error:
        code, message = error.code().name, error.details()
    else:
        code, message = "OK", ""
    if "deadline_s" in exchange and code == "DEADLINE_EXCEEDED":
        return  # the recorded server won a race against a microsecond; either may
    assert code == exchange["code"]
    if exchange["request"] is not None:  # an unparsable request is answered by gRPC itself
        if exchange["id"] == "predict_mismatched_batch":
            # Two nodes fail; which of them is named is up to the executor's threads.
            message = message.replace("{{node mul}}", "{{node add}}")
        assert shown(message) == shown(exchange["message"])
    if code == "OK":
        wanted = response_type.FromString(bytes.fromhex(exchange["response_raw_hex"]))
        assert canonical(answer) == canonical(wanted)
