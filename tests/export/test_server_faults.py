"""The embedded server and clients that vanish, wait too briefly, ask too much or never finish."""

import concurrent.futures
import contextlib
import errno
import http.client
import json
import os
import socket
import threading
import time
import types

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from toy_server import until

from benchmarks.server_process import ServerProcess
from export.client import Client, RequestError
from export.server import (
    BatchingParameters,
    Loader,
    RestOptions,
    Servable,
    ServedModel,
    Server,
    program,
)

pytestmark = pytest.mark.timeout(120)

BATCHING = BatchingParameters(max_batch_size=4, batch_timeout_micros=1000)
PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Worker(tf.Module):
    """Works for as many steps as it is told; tells how long a text is."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "steps")])
    def work(self, steps):
        def body(i, y):
            return i + 1, tf.linalg.matmul(y, y) * 1e-3

        y = tf.while_loop(lambda i, _: i < tf.reduce_max(steps), body, (0, tf.ones([200, 200])))[1]
        return {"steps": steps + tf.cast(0.0 * tf.reduce_sum(tf.math.tanh(y)), tf.int32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def measure(self, text):
        return {"size": tf.strings.length(text)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base, worker = tmp_path_factory.mktemp("worker"), Worker()
    signatures = {"work": worker.work, "measure": worker.measure}
    tf.saved_model.save(worker, str(base / "1"), signatures=signatures)
    return base


class Served:
    """A server of the model, and questions to it."""

    def __init__(self, server: Server):
        self.server, self.address = server, f"127.0.0.1:{server.port}"
        (self.version,) = server.manager.versions_of("m")

    def over_grpc(self, steps: int, timeout: float = 60.0) -> str:
        """`OK`, or the code."""
        with Client(self.address, retries=0) as client:
            try:
                answer = client.predict("m", {"steps": np.int32([steps])}, "work", timeout=timeout)
            except RequestError as error:
                return error.code().name
        assert answer.outputs["steps"].tolist() == [steps]
        return "OK"

    def over_rest(self, steps: int) -> int:
        """The HTTP code."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.server.rest_port, timeout=60)
        ) as connection:
            connection.request("POST", "/v1/models/m:predict", rest_body(steps))
            answer = connection.getresponse()
            content = json.loads(answer.read())
        assert content == {"predictions": [steps]} or "error" in content
        return answer.status

    def is_idle(self) -> bool:
        """Whether no request is being worked on."""
        rest = self.server._rest_server
        return self.version.users == 0 and not rest.exchanges and not rest.memory.used

    def is_well(self) -> bool:
        return (self.over_grpc(1), self.over_rest(1)) == ("OK", 200)


def rest_body(steps: int) -> bytes:
    return json.dumps({"signature_name": "work", "instances": [steps]}).encode()


@contextlib.contextmanager
def serving(base, batching=None, rest_threads=None, **options):
    loader = Loader(batching=batching)
    rest = RestOptions(port=0, max_threads=rest_threads)
    with Server(
        [ServedModel("m", str(base))], port=0, loader=loader, rest=rest, **options
    ) as server:
        yield Served(server)


def taken() -> tuple[int, int]:
    """Threads and open files of this process."""
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


# --- clients that vanish


def vanish_over_grpc(served: Served, number: int) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "work"
    request.inputs["steps"].CopyFrom(tf.make_tensor_proto(np.int32([50])))
    own = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(served.address, own)
    call = channel.unary_unary(PREDICT).future(request.SerializeToString(), timeout=60)
    time.sleep(0.003 * (number % 5))
    if number % 2:
        call.cancel()
    channel.close()


def vanish_over_rest(served: Served, number: int) -> None:
    body = rest_body(50)
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", served.server.rest_port)) as connection:
        connection.sendall((head + body)[: -5 if number % 3 == 0 else None])
        time.sleep(0.003 * (number % 5))


@pytest.mark.parametrize(
    ("vanish", "batching"),
    [(vanish_over_grpc, None), (vanish_over_grpc, BATCHING), (vanish_over_rest, BATCHING)],
)
def test_clients_that_vanish_leave_nothing_behind(base, vanish, batching):
    with serving(base, batching) as served:
        counts = []
        for _ in range(3):
            for number in range(10):
                vanish(served, number)
            until(served.is_idle)
            assert served.is_well()
            counts.append(taken())
    threads, files = zip(*counts)
    assert threads[-1] <= threads[0] + 8  # the pools of threads grow to their size
    assert files[-1] <= files[0] + 2


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_what_waits_for_a_thread_never_starts_once_its_client_left(base, monkeypatch, transport):
    run, started, entered, release = Servable.run, [], threading.Event(), threading.Event()

    def held(servable, feeds, fetches, clock):
        (steps,) = feeds.values()
        started.append(steps.tolist())
        if steps.tolist() == [2]:
            entered.set()
            release.wait(60)
        return run(servable, feeds, fetches, clock)

    with serving(base, max_threads=1, rest_threads=1) as served:
        monkeypatch.setattr(Servable, "run", held)
        ask = {"grpc": served.over_grpc, "rest": served.over_rest}[transport]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, 2)
            assert entered.wait(60)  # it has the only thread
            for number in (1, 3, 5):
                {"grpc": vanish_over_grpc, "rest": vanish_over_rest}[transport](served, number)
            time.sleep(0.3)  # the server learns of it
            release.set()
            assert first.result() in ("OK", 200)
        until(served.is_idle)
        assert served.is_well()
    assert started == [[2], [1], [1]]  # none of 50 steps


# --- full queues


def answers(ask, count: int) -> list:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(100), range(count)))


def test_full_queue_of_threads_refuses_and_recovers(base):
    with serving(base, max_threads=2, max_queued=3) as served:
        codes = answers(served.over_grpc, 24)
        assert {*codes} == {"OK", "RESOURCE_EXHAUSTED"}
        assert codes.count("OK") >= 5
        until(served.is_idle)
        assert served.is_well()


# --- connections that are no clients


def test_connections_that_never_finish_hold_nobody_up(base):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    starts = [
        b"",
        preface[:10],
        preface,
        preface + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\xff\1\4\0\0\0\1",  # headers that do not come
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01",  # the begin of TLS
        os.urandom(100),
    ]
    with serving(base) as served:
        assert served.is_well()
        before = taken()
        silent = [socket.create_connection(("127.0.0.1", served.server.port)) for _ in range(105)]
        for number, connection in enumerate(silent):
            with contextlib.suppress(ConnectionError):  # it may refuse to listen any longer
                connection.sendall(starts[number % len(starts)])
        assert served.is_well()
        for connection in silent:
            connection.close()
        until(lambda: taken()[1] <= before[1] + 2)
        assert served.is_well()


# --- large messages

GIGABYTE = 2**30


def measured(text: bytes) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "measure"
    proto = request.inputs["text"]
    proto.dtype = tf.string.as_datatype_enum
    proto.tensor_shape.dim.add(size=1)
    proto.string_val.append(text)
    return request.SerializeToString()


def test_freed_memory_is_given_back_after_large_moves_alone(monkeypatch):
    """Also after a look that fails."""
    trims, now = [], [700]
    sizes = iter([700, 820, 5500, 5510, 5510, OSError(errno.EMFILE, "no file"), 1800, 800, 805])

    def resident():
        size = next(sizes)
        if isinstance(size, OSError):
            raise size
        now[0] = size
        return size * 2**20

    library = types.SimpleNamespace(malloc_trim=lambda pad: trims.append((pad, now[0])))
    monkeypatch.setattr(program.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(program, "resident_bytes", resident)
    monkeypatch.setattr(program, "_LOOK_SECONDS", 0)
    with pytest.raises(StopIteration):
        program.give_memory_back()
    # A large request comes in; it is done, and what it left behind is given back, too.
    assert trims == [(0, 5500), (0, 1800)]


def test_freed_memory_asks_this_machine(monkeypatch):
    assert 50e6 < program.resident_bytes() < 100e9
    monkeypatch.setattr(program.ctypes, "CDLL", lambda _: object())
    assert program.give_memory_back() is None  # at once, where the C library cannot


def available_memory() -> int:
    with open("/proc/meminfo", encoding="utf-8") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", [[], ["--enable_batching"]], ids=["plain", "batched"])
def test_messages_of_a_gigabyte(base, flags):
    """Read up to protobuf's 2 GiB, refused beyond; what they took is given back."""
    if available_memory() < 10 * GIGABYTE:
        pytest.skip("needs 10 GiB of free memory")
    unlimited = [("grpc.max_send_message_length", -1)]
    with (
        ServerProcess(base, flags, rest=True) as server,
        grpc.insecure_channel(server.address, unlimited) as channel,
    ):
        predict = channel.unary_unary(
            PREDICT, response_deserializer=predict_pb2.PredictResponse.FromString
        )

        def size(text):
            return list(predict(measured(text), timeout=300).outputs["size"].int_val)

        assert size(b"abc") == [3]
        before = server.memory()
        assert size(b"x" * GIGABYTE) == [GIGABYTE]
        until(lambda: server.memory() < before + 200)
        with pytest.raises(grpc.RpcError) as caught:
            predict(b"\0" * (2 * GIGABYTE + 100), timeout=300)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        peak = server.peak_memory()

        # REST reads less: the body is thrown away as it comes.
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=300)
        ) as connection:
            body = (b" " * 2**20 for _ in range(1024))
            headers = {"Content-Length": str(GIGABYTE)}
            connection.request("POST", "/v1/models/m:predict", body, headers)
            assert connection.getresponse().status == 413
        assert server.peak_memory() < peak + 50
        assert size(b"abc") == [3]
        until(lambda: server.memory() < before + 200)
        print(f"{before:.0f} MB before, {peak:.0f} at most, {server.memory():.0f} after")
