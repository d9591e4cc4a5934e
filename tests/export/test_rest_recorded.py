"""The REST surface against the answers recorded from TensorFlow Serving itself."""

import http.client
import json
import os
import pathlib
import re

import pytest

from export.server import ServedModel, every_version
from export.server.manager import Manager
from export.server.rest import RestServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDED = pathlib.Path(os.environ.get("ZOO_SERVING", ROOT.parent / "shared" / "serving"))

pytestmark = pytest.mark.timeout(120)


def recorded(name="transcripts.jsonl", prefix=""):
    file = RECORDED / name
    if not file.exists():
        return []
    exchanges = []
    for line in file.read_text().splitlines():
        exchange = json.loads(line)
        if exchange.get("rpc", "").endswith("/HandleReloadConfigRequest") and not prefix:
            break  # from here on the answers are those of another configuration
        if exchange.get("transport") == "rest" and exchange["id"].startswith(prefix):
            exchanges.append(exchange)
    return exchanges


@pytest.fixture(scope="module")
def manager():
    def model(name, folder, *rest):
        return ServedModel(name, str(RECORDED / "models" / folder), *rest)

    labels = {"stable": 123, "canary": 124}
    models = [
        model("hpt", "half_plus_two"),
        model("two", "saved_model_half_plus_two_2_versions", every_version(), labels),
        model("types", "types"),
        model("ex", "examples"),
        model("jit", "jit"),
        model("texty", "texty"),
        model("m", "half_plus_two"),  # the name in lifecycle.jsonl
    ]
    manager = Manager(models, poll_wait_seconds=0, label_unavailable=True)
    manager.start()
    assert manager.wait_until_available(timeout=100)
    yield manager
    manager.stop()


@pytest.fixture(scope="module")
def port(manager):
    server = RestServer(manager, host="localhost", port=0)
    server.start()
    yield server.port
    server.stop()


@pytest.fixture(scope="module")
def cors_port(manager):
    server = RestServer(manager, host="localhost", port=0, cors=True)
    server.start()
    yield server.port
    server.stop()


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
    assert (answer.status, answer.reason) == (exchange["code"], exchange["reason"])
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
    elif text != exchange["response"]:
        # The order of keys is random in each process of TensorFlow Serving.
        assert canonical(text) == canonical(exchange["response"])
    # Headers that TensorFlow Serving does not send are let pass: Connection, when it is closed.
    assert {name: answer.headers[name] for name in wanted} == wanted


@pytest.mark.skipif(not recorded(), reason="no recorded answers on this machine")
@pytest.mark.parametrize("exchange", recorded(), ids=lambda exchange: exchange["id"])
def test_answers_as_tensorflow_serving_did(port, exchange):
    compare(port, exchange)


@pytest.mark.skipif(not recorded(), reason="no recorded answers on this machine")
@pytest.mark.parametrize(
    "exchange", recorded("lifecycle.jsonl", "f_cors"), ids=lambda exchange: exchange["id"]
)
def test_cors_as_tensorflow_serving(cors_port, exchange):
    compare(cors_port, {"reason": "OK", **exchange})
