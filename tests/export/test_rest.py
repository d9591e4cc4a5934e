"""The REST server: a small model, hostile clients, limits, start and stop."""

import contextlib
import gzip
import http.client
import json
import os
import random
import resource
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from toy_server import until

from export.server import RestOptions, ServedModel, every_version
from export.server.api import inference
from export.server.api.requests import INFERENCE
from export.server.metrics import Metrics
from export.server.models.manager import Manager
from export.server.rest.http import RestServer
from export.server.rest.options import Limits

pytestmark = pytest.mark.timeout(120)

METRICS = "/monitoring/prometheus/metrics"


class Toy(tf.Module):
    """Doubles numbers, joins text and numbers, classifies, fills memory."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def double(self, x):
        return {"y": 2.0 * x}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None, None], tf.int64, "ids"),
        ]
    )
    def join(self, text, ids):
        return {"text": text, "total": tf.reduce_sum(ids, -1)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "times")])
    def slow(self, times):
        return {"y": tf.while_loop(lambda i: i < times, lambda i: (i + 1,), (0,))[0]}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "size")])
    def zeros(self, size):
        return {"y": tf.zeros([size])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        feature = tf.io.FixedLenFeature([], tf.float32)
        return {"outputs": tf.io.parse_example(inputs, {"x": feature})["x"]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        return {"scores": tf.stack([x, -x], -1)}


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    base = tmp_path_factory.mktemp("toy")
    toy = Toy()
    signatures = {
        "serving_default": toy.double,
        "join": toy.join,
        "slow": toy.slow,
        "zeros": toy.zeros,
        "regress": toy.regress,
        "classify": toy.classify,
    }
    tf.saved_model.save(toy, str(base / "7"), signatures=signatures)
    labels = {"stable": 7}
    manager = Manager(
        [ServedModel("toy", str(base), every_version(), labels)],
        poll_wait_seconds=0,
        label_unavailable=True,
    )
    manager.start()
    assert manager.wait_until_available(timeout=100)
    yield manager
    manager.stop()


def rest_options(**options):
    return RestOptions(**{"port": 0, "max_threads": 16, "metrics_path": METRICS, **options})


@contextlib.contextmanager
def serving(manager, metrics=None, **options):
    server = RestServer(manager, rest_options(**options), "127.0.0.1", metrics or Metrics())
    server.start()
    try:
        yield server
    finally:
        assert server.stop(60)


@pytest.fixture(scope="module")
def server(manager):
    with serving(manager, metrics=Metrics()) as server:
        yield server


def ask(server, method, path, body=None, headers=None):
    """One request on a connection of its own: (code, parsed or raw body)."""
    connection = http.client.HTTPConnection("localhost", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    is_json = answer.headers["Content-Type"] == "application/json"
    return answer.status, json.loads(content) if is_json and content else content


def predict(server, body, path="/v1/models/toy:predict", **headers):
    return ask(server, "POST", path, json.dumps(body), headers)


class Hold:
    """Stands in for a graph that takes as long as the test likes."""

    def __init__(self):
        self.entered, self.release = threading.Event(), threading.Event()

    def __call__(self, servable, request, clock):
        self.entered.set()
        assert self.release.wait(60)
        return inference.predict(servable, request, clock)


@pytest.fixture
def hold(monkeypatch):
    hold = Hold()
    monkeypatch.setitem(INFERENCE, "Predict", hold)
    yield hold
    hold.release.set()


def in_thread(work):
    """Runs `work` beside the test; the list gets what it returns or raises."""
    results = []

    def run():
        try:
            results.append(work())
        except (ConnectionError, http.client.HTTPException) as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def raw(server, *pieces, pause=0.0):
    """Sends bytes as they are; returns all that comes until the server closes."""
    with socket.create_connection(("localhost", server.port), timeout=20) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while chunk := connection.recv(65536):
                received += chunk
        return received


GOOD = {"instances": [1.0, 2.5]}
DOUBLED = (200, {"predictions": [2.0, 5.0]})


@pytest.mark.parametrize("which", ["", "/versions/7", "/labels/stable"])
def test_predict(server, which):
    assert predict(server, GOOD, f"/v1/models/toy{which}:predict") == DOUBLED


def test_several_inputs_and_outputs(server):
    rows = [{"text": "a", "ids": [1, 2]}, {"text": {"b64": "Yg=="}, "ids": [3, 4]}]
    code, answer = predict(server, {"signature_name": "join", "instances": rows})
    assert (code, answer["predictions"][1]) == (200, {"text": "b", "total": 7})
    columns = {"text": ["a"], "ids": [[1, 2]]}
    code, answer = predict(server, {"signature_name": "join", "inputs": columns})
    assert (code, answer) == (200, {"outputs": {"text": ["a"], "total": [3]}})


def test_classify_and_regress(server):
    body = {"signature_name": "regress", "context": {"x": 1.5}, "examples": [{}, {"x": 2.5}]}
    assert predict(server, body, "/v1/models/toy:regress") == (200, {"results": [1.5, 2.5]})
    body = {"signature_name": "classify", "examples": [{"x": 2.5}]}
    code, answer = predict(server, body, "/v1/models/toy:classify")
    assert (code, answer) == (200, {"results": [[["", 2.5], ["", -2.5]]]})


def test_status_and_metadata(server):
    code, answer = ask(server, "GET", "/v1/models/toy/versions/7")
    assert (code, answer["model_version_status"][0]["state"]) == (200, "AVAILABLE")
    code, answer = ask(server, "GET", "/v1/models/toy/labels/stable/metadata")
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert (code, answer["model_spec"]["version"]) == (200, "7")
    assert signatures["join"]["inputs"]["ids"]["dtype"] == "DT_INT64"


@pytest.mark.parametrize(
    ("method", "path", "code", "words"),
    [
        ("POST", "/v1/models/toy:PREDICT", 400, b"Malformed request: POST /v1/models/toy:PREDICT"),
        ("POST", "/V1/MODELS/toy:predict", 400, b"JSON Parse error: The document is empty"),
        ("GET", "/v1/models/toy/METADATA", 200, b"AVAILABLE"),
        ("PUT", "/v1/models/toy", 400, b"Malformed request: PUT /v1/models/toy"),
        ("OPTIONS", "/v1/models/toy", 200, b"Content-Length: 0"),
        ("GET", "/v1/models/metadata", 404, b"Could not find any versions of model metadata"),
        ("GET", "/v1/models/toy/versions/8/metadata", 404, b"Specific(toy, 8)"),
        ("GET", "/v1/models/%ff", 404, rb"of model \\xff"),
        ("GET", "/v1/models/toy/versions/0000000000000000000000007", 200, b"AVAILABLE"),
        ("GET", "/v1/models/toy/versions/" + "9" * 5000, 400, b"Content-Length: 0"),
        ("GET", "/v2", 404, b"<H1>Not Found</H1>"),
        ("GET", "/v1/models/a[b", 400, b"<H1>Bad Request</H1>"),
        ("TRACE", "/v1/models/toy", 501, b"<H1>Not Implemented</H1>"),
        ("GET", METRICS + "?x", 400, b"Unexpected path: /monitoring"),
    ],
)
def test_paths_and_methods(server, method, path, code, words):
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(server, request.encode())
    assert answer.startswith(b"HTTP/1.1 %d " % code)
    assert words in answer


@pytest.mark.parametrize(
    "name",
    ["..", "../..", "%2e%2e", "%2F", "..%2f..%2fetc%2fpasswd", "toy%00", "toy/..", "%2e/7", "/toy"],
)
@pytest.mark.parametrize("form", ["/v1/models/{}", "/v1/models/toy/labels/{}/metadata"])
def test_no_path_leads_out_of_the_models(server, name, form):
    request = f"GET {form.format(name)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, body = raw(server, request.encode()).split(b"\r\n\r\n")
    assert head.split()[1] in (b"400", b"404")
    (message,) = json.loads(body).values()
    assert message.startswith(
        ("Malformed request", "Could not find any versions", "Unrecognized servable version label")
    )


def test_metrics_are_counted_and_shown(manager):
    with serving(manager, metrics=Metrics()) as server:
        predict(server, GOOD)
        predict(server, {"instances": ["a"]})
        predict(server, GOOD, "/v1/models/none:predict")
        code, text = ask(server, "GET", METRICS)
    assert code == 200
    count = b":tensorflow:serving:request_count"
    assert count + b'{model_name="toy",status="OK"} 1\n' in text
    assert count + b'{model_name="toy",status="INVALID_ARGUMENT"} 1\n' in text
    assert count + b'{model_name="(other)",status="NOT_FOUND"} 1\n' in text
    labels = b'{model_name="toy",API="predict",entrypoint="REST"}'
    assert b":tensorflow:serving:request_latency_count" + labels + b" 1\n" in text
    labels = b'{model_name="toy",API="Predict",runtime="TF1"}'
    assert b":tensorflow:serving:runtime_latency_count" + labels + b" 1\n" in text


def test_without_metrics_there_is_no_page(manager):
    with serving(manager, metrics_path="") as server:
        assert ask(server, "GET", METRICS)[0] == 404


def test_a_chunked_body_and_one_that_is_announced(server):
    pieces = [b'{"instances"', b": [1.0, 2.5]}"]
    assert ask(server, "POST", "/v1/models/toy:predict", iter(pieces)) == DOUBLED
    body = json.dumps(GOOD).encode()
    head = "POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    assert b" 200 OK\r\n" in raw(server, head.encode(), body, pause=0.05)


def test_gzip_that_is_none_is_an_empty_body(server):
    for body in (b"nonsense", gzip.compress(b'{"instances": [1]}')[:-6]):
        answer = ask(server, "POST", "/v1/models/toy:predict", body, {"Content-Encoding": "gzip"})
        assert answer == (400, {"error": "JSON Parse error: The document is empty"})


def ask_gzip(server, text):
    headers = {"Content-Encoding": "gzip"}
    return ask(server, "POST", "/v1/models/toy:predict", gzip.compress(text), headers)


def test_a_gzip_bomb_is_refused(manager):
    with serving(manager, limits=Limits(unpacked_bytes=1000)) as server:
        code, answer = ask_gzip(server, b" " * 1_000_000)
        assert code == 413
        assert answer == {"error": "the body is larger than 1000 bytes once decompressed"}
        assert server.memory.used == 0


def test_elements_count_against_the_limits(manager):
    zeros = b'{"instances":[' + b"0," * 1_500_000 + b"0]}"  # 3 MB, 3 kB of gzip
    with serving(manager, limits=Limits(elements=1_000_000)) as server:
        wanted = {"error": "the body has 1500002 JSON elements; 1000000 are allowed"}
        assert ask_gzip(server, zeros) == (413, wanted)
        assert predict(server, GOOD) == DOUBLED
    # Alone it would do, but not beside the others that are being worked on.
    with serving(manager, limits=Limits(memory_bytes=50_000_000)) as server:
        code, answer = ask_gzip(server, zeros)
        assert (code, answer["error"][:23]) == (503, "too many large requests")
        assert predict(server, GOOD) == DOUBLED
        assert server.memory.used == 0


def test_nesting_has_a_limit(server):
    for levels in (254, 255):  # and two more around them
        body = b'{"instances":[%s1%s]}' % (b"[" * levels, b"]" * levels)
        code, answer = ask(server, "POST", "/v1/models/toy:predict", body)
        assert code == 400
        assert ("Nested more than 256 levels" in answer["error"]) == (levels == 255)


CHUNKS = [
    (b"5;name=value\r\n", b"0\r\n\r\n"),  # extensions
    (b'5 ; quoted="a;b"\r\n', b"0;last\r\n\r\n"),
    (b"5;" + b"x" * 3000 + b"\r\n", b"000\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n"),  # trailers
]


@pytest.mark.parametrize(("first", "last"), CHUNKS)
def test_chunk_extensions_and_trailers(server, first, last):
    body = json.dumps(GOOD).encode()
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    chunks = first + body[:5] + b"\r\n%x\r\n" % len(body[5:]) + body[5:] + b"\r\n" + last
    following = b"GET /v1/models/toy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = raw(server, head + b"\r\n" + chunks + following)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"[2.0, 5.0" in answers


@pytest.mark.parametrize(
    "chunks",
    [
        b"5;a\nb\r\n12345\r\n0\r\n\r\n",
        b"0x5\r\n12345\r\n0\r\n\r\n",
        b"5\r\n123456\r\n0\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
)
def test_chunks_that_are_none_end_the_connection(server, chunks):
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    answer = raw(server, head + b"\r\n" + chunks)
    assert answer in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert predict(server, GOOD) == DOUBLED


def test_a_length_of_many_digits(server, caplog):
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n"
    assert raw(server, head % (b"9" * 5000)).startswith(b"HTTP/1.1 413 ")
    assert raw(server, head % (b"0" * 5000 + b"2")).startswith(b"HTTP/1.1 400 ")
    assert not caplog.records


def test_a_nul_does_not_cut_a_message(server):
    code, answer = predict(server, {"signature_name": "join", "instances": [{"a\0b": 1}]})
    assert code == 400
    assert answer["error"].endswith("JSON object: does not have named input: a\0b")


def test_a_body_that_is_too_large_is_refused(manager):
    with serving(manager, limits=Limits(body_bytes=1000)) as server:
        large = b" " * 4000
        wanted = (413, {"error": "the body is larger than 1000 bytes"})
        path = "/v1/models/toy:predict"
        assert ask(server, "POST", path, large) == wanted
        assert ask(server, "POST", path, iter([large[:800]] * 5)) == wanted
        # What is larger still is not waited for, nor what asks before it is sent.
        for header in ("Content-Length: 1000000", "Content-Length: 1001\r\nExpect: 100-continue"):
            answer = raw(server, f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 413 ")
        assert predict(server, GOOD) == DOUBLED
        assert server.memory.used == 0


def test_bodies_may_take_so_much_memory_together(manager):
    with serving(manager, limits=Limits(memory_bytes=1000)) as server:
        code, answer = ask(server, "POST", "/v1/models/toy:predict", b" " * 2000)
        assert (code, answer["error"][:23]) == (503, "too many large requests")
        assert predict(server, GOOD) == DOUBLED


def test_headers_that_are_too_large_end_the_connection(manager):
    with serving(manager, limits=Limits(header_bytes=1000)) as server:
        head = b"GET /v1/models/toy HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 5000 + b"\r\n\r\n"
        assert raw(server, head) == b""
        assert predict(server, GOOD) == DOUBLED


def test_slow_clients_are_dropped_and_hold_nobody_up(manager):
    limits = Limits(idle_seconds=0.5, body_seconds=0.5, bytes_a_second=1e9)
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    with serving(manager, limits=limits, max_threads=1) as server:
        begin = time.monotonic()
        silent = [
            socket.create_connection(("localhost", server.port), timeout=20) for _ in range(50)
        ]
        for number, connection in enumerate(silent):
            connection.sendall([b"", b"GE", head, head + b"\r\n", head + b"\r\n{"][number % 5])
        assert predict(server, GOOD) == DOUBLED
        # One byte now and then does not help.
        dripping = raw(server, *[bytes([byte]) for byte in head[:20]], pause=0.06)
        assert dripping == b""
        for connection in silent:
            assert connection.recv(1) == b""
            connection.close()
        assert time.monotonic() - begin < 15
        assert predict(server, GOOD) == DOUBLED
        until(lambda: not server.exchanges)
        assert server.memory.used == 0


def test_a_client_that_does_not_read_is_dropped(manager):
    limits = Limits(body_seconds=0.5, bytes_a_second=1e9)
    body = json.dumps({"signature_name": "zeros", "inputs": 600_000}).encode()
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with serving(manager, limits=limits) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("localhost", server.port))
        connection.sendall(head + body)
        until(lambda: server.exchanges)
        until(lambda: not server.exchanges)
        connection.close()
        assert predict(server, GOOD) == DOUBLED


def test_a_client_that_vanishes_leaves_nothing_behind(manager, hold):
    body = json.dumps(GOOD).encode()
    head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with serving(manager, max_threads=2) as server:
        for sent in (head, head + body[:5], head + body) * 5:
            with socket.create_connection(("localhost", server.port)) as connection:
                connection.sendall(sent)
        assert hold.entered.wait(20)
        until(lambda: not server.exchanges)  # though two of them run on
        hold.release.set()
        assert predict(server, GOOD) == DOUBLED
        until(lambda: server.memory.used == 0)


def test_further_connections_take_the_place_of_the_idlest(manager, hold):
    with serving(manager, limits=Limits(connections=2)) as server:
        address = ("localhost", server.port)
        idlest, idle = (socket.create_connection(address, timeout=20) for _ in range(2))
        until(lambda: len(server.idle) == 2)
        assert ask(server, "GET", "/v1/models/toy")[0] == 200
        assert idlest.recv(1) == b""
        idle.sendall(b"GET /v1/models/toy HTTP/1.0\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        # Those that are busy are not dropped, and a further one is closed.
        busy = [in_thread(lambda: predict(server, GOOD)) for _ in range(2)]
        until(lambda: len(server.exchanges) == 2)
        assert raw(server) == b""
        hold.release.set()
        for thread, answers in busy:
            thread.join()
            assert answers == [DOUBLED]
        for connection in (idlest, idle):
            connection.close()


CLIENTS = """
import http.client, socket, sys
port = int(sys.argv[1])
held = [socket.create_connection(("localhost", port)) for _ in range(120)]
for _ in range(3):
    client = http.client.HTTPConnection("localhost", port, timeout=60)
    client.request("GET", "/v1/models/toy")
    print(client.getresponse().status)
"""


def test_more_connections_than_files(manager, caplog, capfd):
    """Another process opens more connections than this one may have files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(manager) as server:
        command = [sys.executable, "-c", CLIENTS, str(server.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            files = len(os.listdir("/dev/fd")) + 40
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, limits[1]))
            try:
                assert process.stdout.read() == "200\n200\n200\n"
                assert Limits().open_connections() < 40
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert predict(server, GOOD) == DOUBLED
    assert "Traceback" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize(
    ("body", "wrong", "words"),
    [
        ({"inputs": {"text": "a"}}, {"text": ([], [-1])}, "Missing named input: ids in 'inputs'"),
        ({"inputs": {"text": ["a", "b"], "ids": 8}}, {"ids": ([], [-1, -1])}, ""),
        ({"inputs": {"text": []}}, {}, "Missing named input: ids in 'inputs' object."),
        (
            {"instances": [{"text": []}]},
            {"text": ([1, 0], [-1])},
            "keys must be equal to: ids,text",
        ),
        (
            {"instances": [{"text": ["a", "b"]}]},
            {"text": ([1, 2], [-1])},
            "keys must be equal to: ids,text",
        ),
        ({"instances": [{"text": "a"}]}, {}, "keys must be equal to: ids,text"),
    ],
)
def test_what_has_a_wrong_shape_is_named(server, body, wrong, words):
    code, answer = predict(server, {"signature_name": "join", **body})
    assert code == 400
    assert words in answer["error"]
    for name, (shape, needed) in wrong.items():
        text = f'input "{name}" has shape {shape}, but the model needs {needed} (-1 is any size)'
        assert text in answer["error"]
    assert wrong or answer["error"].startswith(("Missing", "Failed to process element: 0 of"))


def test_what_takes_too_long_is_answered_so(manager, hold):
    wanted = (504, {"error": "Timed out waiting for notification"})
    metrics = Metrics(lambda name: name == "toy")
    with serving(manager, timeout_ms=200, metrics=metrics, max_threads=1) as server:
        assert predict(server, GOOD) == wanted
        assert predict(server, GOOD) == wanted  # it waits for the thread that the first one has
        hold.release.set()
        until(lambda: predict(server, GOOD) == DOUBLED)
    assert 'request_count{model_name="toy",status="DEADLINE_EXCEEDED"}' in metrics.text()


def test_a_run_that_takes_too_long_is_ended(manager):
    with serving(manager, timeout_ms=300) as server:
        body = {"signature_name": "slow", "inputs": 10_000_000}
        code, answer = predict(server, body)
        assert code == 504
        assert answer["error"].startswith("Timed out")
    # serving() saw to it that no run goes on


def test_a_full_queue_is_answered_so(manager, hold):
    with serving(manager, max_threads=1, limits=Limits(queued=0)) as server:
        thread, answers = in_thread(lambda: predict(server, GOOD))
        assert hold.entered.wait(20)
        code, answer = predict(server, GOOD)
        hold.release.set()
        thread.join()
        assert answers == [DOUBLED]
        assert code == 503
        assert answer == {"error": "the queue of requests is full; try again later"}
        until(lambda: predict(server, GOOD) == DOUBLED)


def test_a_stop_lets_requests_finish_and_takes_no_more(manager, hold):
    server = RestServer(manager, rest_options(), "127.0.0.1", Metrics())
    server.start()
    idle = http.client.HTTPConnection("localhost", server.port, timeout=30)
    idle.request("GET", "/v1/models/toy")
    idle.getresponse().read()
    thread, answers = in_thread(lambda: predict(server, GOOD))
    assert hold.entered.wait(20)
    threading.Timer(0.3, hold.release.set).start()
    assert server.stop(30)
    thread.join()
    assert answers == [DOUBLED]
    with pytest.raises(ConnectionError):
        predict(server, GOOD)
    assert server.stop(30)  # a second stop has nothing to do


def test_a_stop_does_not_wait_longer_than_its_grace(manager, hold):
    server = RestServer(manager, rest_options(), "127.0.0.1", Metrics())
    server.start()
    thread, answers = in_thread(lambda: predict(server, GOOD))
    assert hold.entered.wait(20)
    begin = time.monotonic()
    assert not server.stop(0.1)
    assert time.monotonic() - begin < 10
    thread.join()
    assert isinstance(answers[0], (ConnectionError, http.client.HTTPException))


def test_a_port_that_is_taken_is_named(manager, server):
    other = RestServer(manager, rest_options(port=server.port), "127.0.0.1", Metrics())
    with pytest.raises(OSError, match=rf"cannot listen on .*: port {server.port} is in use"):
        other.start()


SEEDS = [
    b'{"instances": [1.0, 2.5]}',
    b'{"inputs": {"x": [1, 2]}, "signature_name": "serving_default"}',
    b'{"signature_name": "join", "instances": [{"text": {"b64": "YQ=="}, "ids": [[1, 2]]}]}',
    b'{"signature_name": "regress", "context": {"x": 1.5}, "examples": [{}, {"x": [2.5]}]}',
    b'{"instances": [[[[[]]]], NaN, -Infinity, 1e999, 184467440737095516160, "\\ud800"]}',
    predict_pb2.PredictRequest(
        inputs={"x": tf.make_tensor_proto(np.float32([1, 2]))}
    ).SerializeToString(),
]


def malformed(rng):
    body = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(body) + 1)
        change = rng.random()
        if change < 0.3:
            del body[at : at + rng.randint(1, 4)]
        elif change < 0.6:
            body[at:at] = rng.choice(
                [b"[", b"{", b'"', b"\\", b"\0", b"\xff", b"1e", b"null", b"-"]
            )
        elif change < 0.7:
            body[at:at] = rng.choice([b"[", b'{"a":']) * rng.choice([10, 2000])
        elif change < 0.9 and at < len(body):
            body[at] = rng.randrange(256)
        else:
            body[at:at] = body[: rng.randrange(len(body) + 1)]
    return bytes(body)


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_malformed_bodies_get_json_answers(manager, count):
    rng = random.Random(count)
    codes = set()
    with serving(manager, timeout_ms=0) as server:
        connection = http.client.HTTPConnection("localhost", server.port, timeout=30)
        for _ in range(count):
            path = f"/v1/models/toy:{rng.choice(['predict', 'classify', 'regress'])}"
            connection.request("POST", path, malformed(rng))
            answer = connection.getresponse()
            content = answer.read().decode("utf-8", "surrogateescape")
            codes.add(answer.status)
            assert list(json.loads(content)) in (
                ["error"],
                ["predictions"],
                ["outputs"],
                ["results"],
            )
        connection.close()
        assert predict(server, GOOD) == DOUBLED
        assert server.memory.used == 0
    assert codes <= {200, 400}
