"""How both clients reach a server: TLS, and retries against one that counts its requests."""

import asyncio
import concurrent.futures
import contextlib
import pathlib
import socket
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf

from export.client import AsyncClient, Client, RequestError, Tls, client
from export.server import ServedModel, Server
from export.server.config_files import read_credentials

CERTIFICATES = pathlib.Path(__file__).parent / "certificates"
Code = grpc.StatusCode

pytestmark = pytest.mark.timeout(120)


def refused(call, *args, **kwargs):
    with pytest.raises(RequestError) as caught:
        call(*args, **kwargs)
    return caught.value.code()


# --- TLS


class AddOne(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def add_one(self, x):
        return {"y": x + 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base, module = tmp_path_factory.mktemp("add_one"), AddOne()
    tf.saved_model.save(module, str(base / "1"), signatures=module.add_one)
    return ServedModel("m", str(base))


def add_one(client):
    return client.predict("m", {"x": [1.5]}).outputs["y"].tolist()


# client.key, by `openssl ec -aes256`.
ENCRYPTED_KEY = """-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-256-CBC,B2E7E6734D86D61CBF68E34C18B944FF

OUyBfGDej9hI7+5vkQi7owGcp8ur3JYFX1CX9au6Z80l2ME/K5dXEONpStVTjuMy
Utyj9a0j6bc8NUlQTAF8D+cB6G+nGEv1yJA+Hw4hU6U30llbmnVUcgSVohVpZ+kb
4uC3iaOsfQjYoWfHBwXlGswnd0wNRyhH6tcZs5hcafs=
-----END EC PRIVATE KEY-----
"""


def pem(name):
    return str(CERTIFICATES / name)


@contextlib.contextmanager
def tls_server(model, folder, verify):
    fields = {"server_key": "server.key", "server_cert": "server.pem"}
    fields |= {"custom_ca": "ca.pem"} if verify else {}
    lines = [f"{name}: {pathlib.Path(pem(file)).read_text()!r}" for name, file in fields.items()]
    config = folder / "ssl.config"
    config.write_text("\n".join([*lines, f"client_verify: {str(verify).lower()}"]))
    with Server([model], port=0, credentials=read_credentials(str(config))) as server:
        yield server.port


def test_tls(connect, model, tmp_path):
    with tls_server(model, tmp_path, verify=False) as port:
        for host, name in (("localhost", ""), ("127.0.0.1", ""), ("localhost", "127.0.0.1")):
            with connect(f"{host}:{port}", tls=Tls(pem("ca.pem"), server_name=name)) as client:
                assert add_one(client) == [2.5]
        wrong = [None, Tls(), Tls(pem("stranger.pem")), Tls(pem("ca.pem"), server_name="other")]
        for tls in wrong:
            with connect(f"localhost:{port}", tls=tls, retries=0) as client:
                assert refused(add_one, client) is Code.UNAVAILABLE


def test_mutual_tls(connect, model, tmp_path):
    with tls_server(model, tmp_path, verify=True) as port:
        own = Tls(pem("ca.pem"), pem("client.pem"), pem("client.key"))
        with connect(f"localhost:{port}", tls=own) as client:
            assert add_one(client) == [2.5]
        strange = Tls(pem("ca.pem"), pem("stranger.pem"), pem("stranger.key"))
        for tls in (Tls(pem("ca.pem")), strange):
            with connect(f"localhost:{port}", tls=tls, retries=0) as client:
                assert refused(add_one, client) is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (Tls(pem("nosuch.pem")), "ca_file: cannot read .*nosuch.pem: No such file"),
        (Tls(pem("ca.pem"), pem("client.pem")), "belong together: key_file is missing"),
        (Tls(pem("ca.pem"), None, pem("client.key")), "belong together: cert_file is missing"),
        (Tls(pem("make.sh")), "ca_file: .*make.sh has no PEM certificate"),
        (Tls(pem("client.key")), "ca_file: .*client.key has no PEM certificate"),
        (
            Tls(pem("ca.pem"), pem("client.pem"), pem("server.key")),
            "client.pem and key_file .*server.key must be .*: KEY_VALUES_MISMATCH",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(connect, tls, message):
    with pytest.raises(ValueError, match=message), connect("localhost:1", tls=tls):
        pass


def test_encrypted_key_is_refused_without_asking_for_its_password(tmp_path):
    key = tmp_path / "encrypted.key"
    key.write_text(ENCRYPTED_KEY)
    with pytest.raises(ValueError, match=r"encrypted.key must be .* key, not encrypted: "):
        Client("localhost:1", tls=Tls(pem("ca.pem"), pem("client.pem"), key))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"server": "http://localhost:8501"}, "server must be host:port of the gRPC port"),
        ({"server": ""}, "server must be host:port"),
        ({"retries": 5}, "retries must be 0 to 4, not 5"),
        ({"retries": -1}, "retries must be 0 to 4"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0"),
        ({"max_message_bytes": 0}, "max_message_bytes must be 1 to"),
    ],
)
def test_settings_out_of_range_are_named(connect, settings, message):
    with pytest.raises(ValueError, match=message), connect(**{"server": "localhost:1", **settings}):
        pass


# --- retries


class Counting(grpc.GenericRpcHandler):
    """Ends requests with these codes, one after the other, the last one for good."""

    def __init__(self, *codes):
        self.codes, self.attempts, self.metadata = list(codes), [], {}
        self.cancelled = threading.Event()
        self.arrived = threading.Event()

    def service(self, details):
        def answer(request, context):
            self.attempts.append(context.time_remaining())
            self.metadata = dict(context.invocation_metadata())
            code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
            if code is None:  # never
                context.add_callback(self.cancelled.set)
                self.arrived.set()
                self.cancelled.wait(60)
            elif code is not Code.OK:
                context.abort(code, "no")
            return b""  # an answer without outputs

        return grpc.unary_unary_rpc_method_handler(answer)


@contextlib.contextmanager
def counting(*codes, port=0):
    handler = Counting(*codes)
    executor = concurrent.futures.ThreadPoolExecutor(4)
    server = grpc.server(executor, options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}", handler
    finally:
        server.stop(0).wait()
        executor.shutdown()


@pytest.fixture
def short_pauses(monkeypatch):
    pauses = {**client._RETRY_PAUSES, "initialBackoff": "0.01s"}
    monkeypatch.setattr(client, "_RETRY_PAUSES", pauses)


def ask(client, **kwargs):
    return client.predict("m", {"x": [1.0]}, **kwargs)


def test_unavailable_is_asked_again(connect, short_pauses):
    with (
        counting(Code.UNAVAILABLE, Code.UNAVAILABLE, Code.OK) as (address, handler),
        connect(address) as client,
    ):
        assert ask(client).outputs == {}
        assert len(handler.attempts) == 3
        assert ask(client).outputs == {}
        assert len(handler.attempts) == 4


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_retries_are_counted(connect, short_pauses, retries):
    with (
        counting(Code.UNAVAILABLE) as (address, handler),
        connect(address, retries=retries) as client,
    ):
        for call in (ask, lambda client: client.status("m")):
            handler.attempts.clear()
            assert refused(call, client) is Code.UNAVAILABLE
            assert len(handler.attempts) == retries + 1


def test_no_other_code_is_asked_again(connect, short_pauses):
    for code in {*Code} - {Code.OK, Code.UNAVAILABLE}:
        with counting(code) as (address, handler), connect(address, retries=4) as client:
            assert refused(ask, client) is code
            assert len(handler.attempts) == 1


def test_retries_end_with_the_deadline(connect):
    with counting(Code.UNAVAILABLE) as (address, handler), connect(address, retries=4) as client:
        # The fourth retry is 1.2 s after the start, or later: each pause may be a fifth shorter.
        assert refused(ask, client, timeout=0.9) is Code.DEADLINE_EXCEEDED
        attempts = len(handler.attempts)
        assert attempts < 5
        earliest = [0, 0.08, 0.24, 0.56]
        for pause, remaining in zip(earliest, handler.attempts):
            assert remaining < 0.9 - pause + 0.1  # gRPC's clock is not that exact
    assert len(handler.attempts) == attempts


def test_long_requests_are_asked_again(connect, short_pauses):
    with (
        counting(Code.UNAVAILABLE, Code.OK) as (address, handler),
        connect(address) as client,
    ):
        client.predict("m", {"x": np.zeros(1_000_000, np.float32)})
        assert len(handler.attempts) == 2


def test_a_server_that_is_not_there(connect, short_pauses):
    with connect("localhost:1") as client:
        assert refused(ask, client) is Code.UNAVAILABLE
    with connect("localhost:1", wait_for_ready=True) as client:
        assert refused(ask, client, timeout=0.2) is Code.DEADLINE_EXCEEDED


def test_waiting_for_a_server(connect):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = []

    def wait():
        with connect(f"127.0.0.1:{port}", wait_for_ready=True) as client:
            answers.append(ask(client))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    with counting(Code.OK, port=port):
        thread.join()
    assert answers[0].outputs == {}


def test_metadata_of_the_client_and_of_the_call(connect):
    with (
        counting(Code.OK) as (address, handler),
        connect(address, metadata=[("authorization", "Bearer x")]) as client,
    ):
        ask(client, metadata=[("trace", "7"), ("raw-bin", b"\xff")])
        sent = {name: handler.metadata.get(name) for name in ("authorization", "trace", "raw-bin")}
        assert sent == {"authorization": "Bearer x", "trace": "7", "raw-bin": b"\xff"}
        ask(client)
        assert "trace" not in handler.metadata


def test_a_cancelled_question_is_cancelled_at_the_server():
    async def cancel(address, handler):
        async with AsyncClient(address) as client:
            task = asyncio.create_task(ask_async(client))
            while not handler.arrived.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(handler.cancelled.wait, 60)

    async def ask_async(client):
        return await client.predict("m", {"x": [1.0]})

    with counting(None) as (address, handler):
        asyncio.run(cancel(address, handler))
        assert handler.cancelled.is_set()
