"""The REST surface against the answers recorded from TensorFlow Serving itself."""

import http.client
import json
import re
import socket
import time

import pytest
import tensorflow as tf
from google.protobuf import json_format, text_format
from recorded import MESSAGES, MODELS, RECORDED, alike, lines, write_model_with_default
from tensorflow_serving.apis import model_management_pb2

from export.server import RestOptions, ServingError
from export.server.api.requests import reload_config
from export.server.flags import parse
from export.server.metrics import Metrics
from export.server.models.config import ModelServerConfig, models_of
from export.server.models.manager import Manager
from export.server.program import make_server
from export.server.rest.http import RestServer

_RELOAD = "/HandleReloadConfigRequest"
_UNLOAD_SECONDS = 10.0

pytestmark = pytest.mark.timeout(120)


# All reloads in order. An exchange of `recorded` has the number of those that came before it.
RELOADS = [one for one in lines("transcripts.jsonl") if one.get("rpc", "").endswith(_RELOAD)]


def recorded():
    """The REST exchanges, and what was asked by gRPC after a reload and REST can ask, in order."""
    exchanges, reloads = [], 0
    for exchange in lines("transcripts.jsonl"):
        if exchange.get("rpc", "").endswith(_RELOAD):
            reloads += 1
        elif exchange["transport"] == "rest" or (reloads and rest_can_ask(exchange)):
            exchanges.append({**exchange, "reloads": reloads})
    return exchanges


def rest_can_ask(exchange):
    # The one left out caught TensorFlow Serving before it had begun to unload.
    left_out = exchange["id"] == "status_immediately_after_unload"
    return not left_out and exchange["rpc"].endswith(("/GetModelStatus", "/Predict"))


def lifecycle():
    """Each recorded start with REST exchanges after it, and what came between them, in order."""
    groups = []
    for entry in lines("lifecycle.jsonl"):
        name, what = entry["id"].split(":")
        if what == "start":
            groups.append({"name": name, "args": entry["args"], "exchanges": []})
        elif entry.get("transport") == "rest" or entry.get("rpc", "").endswith(_RELOAD):
            groups[-1]["exchanges"].append(entry)
    return [g for g in groups if any(e["transport"] == "rest" for e in g["exchanges"])]


def reload(manager, exchange):
    """Reloads as it was recorded, and checks how that ended."""
    request = text_format.Parse(
        exchange["request"] or "", model_management_pb2.ReloadConfigRequest()
    )
    try:
        reload_config(manager, request)
        code = "OK"
    except ServingError as error:
        code = error.code.name
    assert code == exchange["code"], exchange["id"]


@pytest.fixture(scope="module")
def manager():
    text = (RECORDED / "models.config").read_text().replace("{MODELS}", MODELS)
    models = models_of(text_format.Parse(text, ModelServerConfig()))
    manager = Manager(models, poll_wait_seconds=0, label_unavailable=True)
    manager.start()
    assert manager.wait_until_available(timeout=100)
    yield manager
    manager.stop()


@pytest.fixture(scope="module")
def done():
    """The reloads that were replayed."""
    return []


@pytest.fixture
def in_state(manager, done):
    """Brings the models to the state after so many reloads; tests come in their order."""

    def replay_reloads(count):
        assert len(done) <= count, "the exchanges are replayed in the order of their recording"
        for exchange in RELOADS[len(done) : count]:
            reload(manager, exchange)
            done.append(exchange["id"])

    return replay_reloads


@pytest.fixture(scope="module")
def port(manager):
    server = RestServer(manager, RestOptions(port=0, max_threads=16), "127.0.0.1", Metrics())
    server.start()
    yield server.port
    server.stop(60)


def replay(port, exchange):
    body, headers = exchange["request_body"], exchange["request_headers"] or {}
    if headers.get("Content-Encoding") == "gzip":
        body = bytes.fromhex(body)
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    connection.request(exchange["method"], exchange["path"], body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def canonical(text):
    """Equal for texts that differ in the order of keys only: numbers keep their digits."""
    as_written = {"parse_float": str, "parse_int": str, "parse_constant": str}
    return json.dumps(json.loads(text, **as_written), sort_keys=True)


def compare(port, exchange):
    answer, content = replay(port, exchange)
    reason = exchange.get("reason", http.client.responses[exchange["code"]])
    assert (answer.status, answer.reason) == (exchange["code"], reason)
    wanted = dict(exchange["response_headers"])
    # Bytes that are not UTF-8 were recorded as escapes.
    text = content.decode("utf-8", "backslashreplace")
    if "goo.gle/debug" in exchange["response"]:
        # A printed SignatureDef has a mark and blanks that protobuf varies from process to process.
        def shown(message):
            return re.sub(r"(\s|\\n)+", " ", re.sub(r"goo\.gle/debug\S*", "", message))

        assert shown(text).replace(" ", "") == shown(exchange["response"]).replace(" ", "")
        wanted["Content-Length"] = answer.headers["Content-Length"]
    elif exchange["id"] == "rest_predict_on_regress_sig":
        # The message holds a NUL byte, where TensorFlow's Python API cuts it.
        begin, _ = exchange["response"].split("\\u0000", 1)
        assert text == begin + '"\n}'
        wanted["Content-Length"] = str(len(content))
    elif "JSON Parse error" in exchange["response"]:
        # What is wrong may be said in other words; the place is the same.
        assert re.sub(": .* at", ": at", text) == re.sub(": .* at", ": at", exchange["response"])
        wanted["Content-Length"] = answer.headers["Content-Length"]
    elif text != exchange["response"]:
        # The order of keys is random in each process of TensorFlow Serving.
        texts = canonical(text), canonical(exchange["response"])
        assert texts[0] == texts[1] or ("/models/ex" in exchange["path"] and alike(*texts))
    # Headers that TensorFlow Serving does not send are let pass: Connection, when it is closed.
    assert {name: answer.headers[name] for name in wanted} == wanted


def soon(check):
    """Runs a check again and again for a while: what a reload drops is unloaded after it."""
    end = time.monotonic() + _UNLOAD_SECONDS
    while time.monotonic() < end:
        try:
            return check()
        except AssertionError:
            time.sleep(0.05)
    return check()


def as_rest(exchange):
    """(whether it predicts, path, body, code, answer) of a recorded gRPC exchange."""
    method = exchange["rpc"].rsplit("/")[-1]
    request_type, response_type = MESSAGES[method]
    predicts = method == "Predict"
    request = text_format.Parse(exchange["request"], request_type())
    path, body = f"/v1/models/{request.model_spec.name}", None
    if request.model_spec.version_label:
        path += f"/labels/{request.model_spec.version_label}"
    if predicts:
        inputs = {name: tf.make_ndarray(value).tolist() for name, value in request.inputs.items()}
        body = json.dumps({"signature_name": request.model_spec.signature_name, "inputs": inputs})
        body = body if request.model_spec.signature_name else json.dumps({"inputs": inputs})
        path += ":predict"
    if exchange["code"] != "OK":
        assert exchange["code"] == "NOT_FOUND"
        return predicts, path, body, 404, {"error": exchange["message"]}
    response = text_format.Parse(exchange["response"], response_type())
    if predicts:
        (value,) = response.outputs.values()
        return predicts, path, body, 200, {"outputs": tf.make_ndarray(value).tolist()}
    answer = json_format.MessageToDict(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return predicts, path, body, 200, answer


def compare_with_grpc(port, exchange):
    """REST must tell of the same models as gRPC did."""
    predicts, path, body, code, wanted = as_rest(exchange)
    asked = {"method": "POST" if predicts else "GET", "path": path}
    answer, content = replay(port, {**asked, "request_body": body, "request_headers": None})
    assert (answer.status, json.loads(content)) == (code, wanted)
    # The metadata are there as long as a version can be asked: what a readiness probe asks.
    asked = {"method": "GET", "path": path.split(":")[0] + "/metadata"}
    answer, _ = replay(port, {**asked, "request_body": None, "request_headers": None})
    gone = code == 404 or "state: END" in (exchange["response"] or "")
    assert answer.status == (404 if gone else 200)


@pytest.mark.skipif(not recorded(), reason="no recorded answers on this machine")
@pytest.mark.parametrize("exchange", recorded(), ids=lambda exchange: exchange["id"])
def test_answers_as_tensorflow_serving_did(port, in_state, exchange):
    in_state(exchange["reloads"])
    check = compare if exchange["transport"] == "rest" else compare_with_grpc
    if exchange["reloads"]:
        soon(lambda: check(port, exchange))
    else:
        check(port, exchange)


# --- Starts with flags


@pytest.mark.skipif(not lifecycle(), reason="no recorded answers on this machine")
@pytest.mark.parametrize("group", lifecycle(), ids=lambda group: group["name"])
def test_starts_as_tensorflow_serving_did(group, tmp_path):
    write_model_with_default(tmp_path / "defaults")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [argument.replace("{CONFIG}", str(tmp_path)) for argument in group["args"]]
    values, unknown = parse(["server", *arguments, "--port=0", f"--rest_api_port={port}"])
    assert not unknown
    with make_server(values) as server:
        for exchange in group["exchanges"]:
            if exchange["transport"] == "grpc":
                reload(server.manager, exchange)
            else:
                compare(server.rest_port, exchange)


def test_every_recorded_rest_exchange_is_replayed():
    names = {"transcripts.jsonl": sum(one["transport"] == "rest" for one in recorded())}
    names["lifecycle.jsonl"] = sum(
        exchange["transport"] == "rest" for group in lifecycle() for exchange in group["exchanges"]
    )
    for name, count in names.items():
        assert count == sum(entry.get("transport") == "rest" for entry in lines(name))
