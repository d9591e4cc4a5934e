"""The embedded server under load: every client its own answer, new versions, flat memory."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from toy_server import add_version, until

from benchmarks.server_process import ServerProcess
from export.client import AsyncClient, Client
from export.server import (
    BatchingParameters,
    Loader,
    RestOptions,
    Retries,
    Servable,
    ServedModel,
    Server,
)
from export.server.status import RequestClock

pytestmark = pytest.mark.timeout(120)

BATCHING = BatchingParameters(
    max_batch_size=32,
    batch_timeout_micros=1000,
    max_enqueued_batches=100,
    allowed_batch_sizes=(1, 2, 4, 8, 16, 32),
)
MODES = pytest.mark.parametrize("batching", [None, BATCHING], ids=["plain", "batched"])


class Echo(tf.Module):
    """Shouts a text back, with its length and the number of its version."""

    def __init__(self):
        super().__init__()
        self.number = tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def shout(self, text):
        number = tf.fill(tf.shape(text), self.number)
        return {"shouted": tf.strings.upper(text), "size": tf.strings.length(text), "by": number}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """The versions 1, 2 and 3."""
    base, echo = tmp_path_factory.mktemp("echo"), Echo()
    for number in (1, 2, 3):
        echo.number.assign(number)
        tf.saved_model.save(echo, str(base / str(number)), signatures={"echo": echo.shout})
    return base


@contextlib.contextmanager
def serving(base: pathlib.Path, batching: BatchingParameters | None, **options):
    with Server(
        [ServedModel("m", str(base))],
        port=0,
        loader=Loader(batching=batching),
        poll_wait_seconds=0.05,
        rest=RestOptions(port=0),
        **options,
    ) as server:
        yield server


def texts_of(client: int, count: int) -> list[str]:
    """Texts that no other client has, of different lengths."""
    return [f"client {client} says {'x' * (number % 7)} {number}" for number in range(count)]


def right(text: str, answer: dict) -> bool:
    return (answer["shouted"], answer["size"]) == (text.upper(), len(text))


def over_rest(connection: http.client.HTTPConnection, text: str) -> dict:
    body = json.dumps({"signature_name": "echo", "instances": [text]})
    connection.request("POST", "/v1/models/m:predict", body)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status == 200, content
    return content["predictions"][0]


async def over_grpc(client: AsyncClient, text: str) -> dict:
    outputs = (await client.predict("m", {"text": [text]}, "echo", timeout=60)).outputs
    values = {name: value[0] for name, value in outputs.items()}
    return {**values, "shouted": values["shouted"].decode()}


@pytest.mark.parametrize(
    ("batching", "clients", "requests"), [(None, 32, 10), (BATCHING, 256, 2), (BATCHING, 32, 10)]
)
def test_every_client_gets_its_own_answer(versions, batching, clients, requests):
    async def ask(address):
        async def client(number):
            async with AsyncClient(address, retries=0) as own:
                # With a connection of its own, else gRPC has one for the process.
                own._options.append(("grpc.use_local_subchannel_pool", 1))
                texts = texts_of(number, requests)
                return [right(text, await over_grpc(own, text)) for text in texts]

        return await asyncio.gather(*map(client, range(clients)))

    with serving(versions, batching) as server:
        answers = asyncio.run(ask(f"127.0.0.1:{server.port}"))
    assert answers == [[True] * requests] * clients


@MODES
def test_every_rest_client_gets_its_own_answer(versions, batching):
    def client(number):
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        ) as own:
            return [right(text, over_rest(own, text)) for text in texts_of(number, 8)]

    with serving(versions, batching) as server, concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(client, range(32))) == [[True] * 8] * 32


# --- versions that come and go meanwhile


class Asking:
    """Clients of both protocols that ask until they are told to stop."""

    def __init__(self, server: Server):
        self._server, self._done = server, threading.Event()
        self.failures, self.by = [], []
        kinds = [self._over_grpc] * 6 + [self._over_rest] * 3
        self._threads = [
            threading.Thread(target=self._ask, args=(kind, number))
            for number, kind in enumerate(kinds)
        ]

    def _ask(self, kind, number):
        try:
            for text, answer in kind(number):
                assert right(text, answer), (text, answer)
                self.by.append(int(answer["by"]))
        except (grpc.RpcError, OSError, http.client.HTTPException, AssertionError) as error:
            self.failures.append(error)

    def _texts(self, number):
        turn = 0
        while not self._done.is_set():
            turn += 1
            yield f"client {number} turn {turn}"

    def _over_grpc(self, number):
        with Client(f"127.0.0.1:{self._server.port}", retries=0) as client:
            for text in self._texts(number):
                outputs = client.predict("m", {"text": [text]}, "echo").outputs
                values = {name: value[0] for name, value in outputs.items()}
                yield text, {**values, "shouted": values["shouted"].decode()}

    def _over_rest(self, number):
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self._server.rest_port, timeout=60)
        ) as own:
            for text in self._texts(number):
                yield text, over_rest(own, text)

    def some_more(self):
        """Waits until each client has asked some more."""
        seen = len(self.by)
        until(lambda: len(self.by) > seen + 40 or self.failures)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()


@MODES
def test_good_and_bad_versions_under_load_fail_no_request(versions, tmp_path, batching):
    shutil.copytree(versions / "1", tmp_path / "1")
    with (
        serving(tmp_path, batching, retries=Retries(1, 0.05)) as server,
        Client(f"127.0.0.1:{server.port}") as client,
        Asking(server) as asking,
    ):

        def states():
            return {status.version: status.state for status in client.status("m")}

        def why(version):
            return next(s.message for s in client.status("m") if s.version == version)

        asking.some_more()
        (tmp_path / "2").mkdir()  # a corrupt one
        (tmp_path / "2" / "saved_model.pb").write_bytes(b"\x0a\xff\xff\xff\xff\x0f")
        until(lambda: states().get(2) == "END")
        assert why(2) == "Read less bytes than requested"
        asking.some_more()
        add_version(versions / "2", tmp_path / "3", "nope")  # one whose warm-up fails
        until(lambda: states().get(3) == "END")
        assert why(3) == 'Serving signature key "nope" not found.'
        asking.some_more()
        assert states() == {3: "END", 2: "END", 1: "AVAILABLE"}
        assert {*asking.by} == {1}
        add_version(versions / "3", tmp_path / "4")  # a good one
        until(lambda: states() == {4: "AVAILABLE", 3: "END", 2: "END", 1: "END"})
        asking.some_more()
        for broken in ("2", "3"):
            shutil.rmtree(tmp_path / broken)
        shutil.rmtree(tmp_path / "4")  # and the way back
        until(lambda: states()[1] == "AVAILABLE" and states()[4] == "END")
        asking.some_more()
    assert not asking.failures
    assert {*asking.by} == {1, 3}
    assert asking.by[-1] == 1


def test_requests_run_what_the_warm_up_has_prepared(versions, monkeypatch):
    """With a deadline and without: of each way to run, TensorFlow prepares a graph for a second."""
    ways = []
    monkeypatch.setattr(Servable, "_call", lambda *_: ways.append("another way"))
    servable = Servable("m", 1, str(versions / "1"))
    signature = servable.signatures["echo"]
    feed, fetch = signature.inputs["text"].name, signature.outputs["size"].name
    for seconds in (None, 60):
        feeds = {feed: np.array([b"abc"], object)}
        (sizes,) = servable.run(feeds, [fetch], RequestClock(seconds))
        assert sizes.tolist() == [3]
    servable.close()
    assert not ways


# --- memory


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flags", [[], ["--enable_batching"]], ids=["plain", "batched"])
def test_memory_is_flat_over_100_000_requests(versions, flags):
    """gRPC and REST, strings in and out; prints what the server's process had after each tenth."""
    clients, tenths = 15, []

    async def ask(address):
        async def client(number, start):
            async with AsyncClient(address, retries=0) as own:
                for turn in range(start, start + 9000 // clients):
                    text = f"client {number} turn {turn} {'x' * (turn % 300)}"
                    assert right(text, await over_grpc(own, text))

        for tenth in range(10):
            rest = asyncio.get_running_loop().run_in_executor(None, over_http, tenth)
            await asyncio.gather(*(client(number, 9000 * tenth) for number in range(clients)))
            await rest
            tenths.append((server.memory(), server.threads(), server.open_files()))

    def over_http(tenth):
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        ) as own:
            for turn in range(1000):
                text = f"{tenth} {turn} {'y' * (turn % 300)}"
                assert right(text, over_rest(own, text))

    with ServerProcess(versions, flags, rest=True) as server:
        asyncio.run(ask(server.address))
    print([f"{megabytes:.1f} MB, {threads} threads" for megabytes, threads, _ in tenths])
    warm, last = tenths[1], tenths[-1]
    assert last[0] < warm[0] + 8
    assert last[1] <= warm[1] + 4
    assert last[2] <= warm[2] + 4
