"""The embedded server through requests, versions and its own life."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
)
from toy_server import Client, State, add_version, refused, serving, until

from export.server import Loader, Retries, ServedModel, Server, ServingError
from export.server.api.classification import classify
from export.server.api.inference import predict
from export.server.grpc_service import truncated
from export.server.status import RequestClock

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def toy(versions, tmp_path_factory):
    """A running server with version 1 of a Toy named `toy`."""
    base = tmp_path_factory.mktemp("toy")
    shutil.copytree(versions / "1", base / "1")
    with Server([ServedModel("toy", str(base))], port=0, host="localhost") as server:
        yield server


# --- requests


def test_predict_names_the_version_and_the_signature_it_used(toy):
    answer = Client(toy).predict("toy", x=np.float32([1, 2]))
    assert list(answer.outputs["y"].float_val) == [2, 3]
    assert answer.model_spec.version.value == 1
    assert answer.model_spec.signature_name == "serving_default"


def test_default_of_an_input_is_used_and_overridden(toy):
    client = Client(toy)
    answer = client.predict("toy", "shout", text=[b"a\0b\xff"])
    assert list(answer.outputs["text"].string_val) == [b"A\0B\xff"]
    assert list(answer.outputs["times"].int_val) == [3]
    answer = client.predict("toy", "shout", text=["x"], times=np.int32([7]))
    assert list(answer.outputs["times"].int_val) == [7]


def test_compiled_graph_is_refused_as_in_tensorflow_serving(toy):
    code, message = refused(Client(toy).predict, "toy", "compiled", x=np.float32([1]))
    assert code == "INTERNAL"
    assert message.startswith("XLA compilation disabled")


def test_method_names_are_checked_when_asked_for(versions):
    """TensorFlow 2 writes the name of Predict into every signature."""
    servable, _ = Loader(checks_method_names=True).load("m", 1, str(versions / "1"))
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1])))
    assert predict(servable, request).outputs["y"].float_val[0] == 2
    message = "Expected classification signature method_name to be tensorflow/serving/classify"
    with pytest.raises(ServingError, match=message):
        classify(servable, classification_pb2.ClassificationRequest())
    servable.signatures["serving_default"].method_name = "mine"
    with pytest.raises(ServingError, match="INTERNAL: Expected prediction signature method_name"):
        predict(servable, request)
    servable.close()


def test_a_call_that_is_not_offered_is_unimplemented(toy):
    call = Client(toy).channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert refused(call, b"", timeout=20)[0] == "UNIMPLEMENTED"


def test_any_request_leaves_the_server_up(toy):
    client = Client(toy)
    empty = client.predict("toy", x=np.zeros([0], np.float32))
    assert empty.outputs["y"].tensor_shape.dim[0].size == 0
    special = client.predict("toy", x=np.float32([np.nan, np.inf, -np.inf]))
    assert np.isnan(special.outputs["y"].float_val[0])
    huge = client.predict("toy", "shout", text=[b"a" * 20_000_000])
    assert len(huge.outputs["text"].string_val[0]) == 20_000_000
    ranks = client.predict("toy", "shout", text=np.array([[[b"a"]]], object))
    assert len(ranks.outputs["text"].tensor_shape.dim) == 3
    for text in (
        "dtype: 9999",
        "dtype: DT_FLOAT tensor_shape { dim { size: -1 } }",
        "dtype: DT_FLOAT tensor_shape { dim { size: 99999999999999 } } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { " + "dim { size: 1 } " * 300 + "}",
        "dtype: DT_STRING tensor_shape { dim { size: 2 } } tensor_content: '\\xff\\xff\\xff'",
    ):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        text_format.Parse(text, request.inputs["x"])
        wanted = ("INVALID_ARGUMENT", "tensor parsing error: x")
        assert refused(client.prediction.Predict, request, timeout=20) == wanted
    assert client.states("toy") == {1: "AVAILABLE"}


def test_messages_are_cut_at_1024_bytes(toy):
    code, message = refused(Client(toy).predict, "n" * 3000)
    assert code == "NOT_FOUND"
    assert len(message) == 1024 + len("...TRUNCATED")
    assert truncated("é" * 600).removesuffix("...TRUNCATED") == "é" * 512


class Occupied:
    """Holds one thread of the server in a GetModelMetadata call until `free` is set."""

    def __init__(self, server, client, monkeypatch):
        entered, self.free = threading.Event(), threading.Event()

        acquire = server.manager.acquire

        def occupy(*args, **kwargs):
            if entered.is_set():
                return acquire(*args, **kwargs)
            entered.set()
            self.free.wait(20)
            raise ServingError(grpc.StatusCode.NOT_FOUND, "")

        monkeypatch.setattr(server.manager, "acquire", occupy)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "m"
        self.call = client.prediction.GetModelMetadata.future(request, timeout=20)
        assert entered.wait(20)


def test_expired_request_is_not_run(versions, tmp_path, monkeypatch):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path, max_threads=1) as (server, client):
        occupied = Occupied(server, client, monkeypatch)
        # Waits for the only thread, and gives up before it is free.
        late = refused(client.predict, "m", "count", timeout=0.05, x=np.float32([1]))
        assert late[0] == "DEADLINE_EXCEEDED"
        occupied.free.set()
        assert occupied.call.code() is grpc.StatusCode.NOT_FOUND
        answer = client.predict("m", "count", x=np.float32([1]))
        assert list(answer.outputs["n"].int64_val) == [1]


def test_stop_lets_running_requests_finish(versions, tmp_path, monkeypatch):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path) as (server, client):
        occupied = Occupied(server, client, monkeypatch)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        time.sleep(0.1)
        assert stopping.is_alive()
        occupied.free.set()
        assert occupied.call.code() is grpc.StatusCode.NOT_FOUND  # an answer, not a broken line
        stopping.join(timeout=20)
        assert not stopping.is_alive()


def test_stop_gives_up_on_a_request_that_does_not_end(versions, tmp_path, caplog):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path) as (server, _):
        with server.manager.acquire("m"):
            assert server.manager.stop(timeout=0.1) is False
        assert server.stop() is True


# --- versions


def test_versions_come_and_go(versions, tmp_path):
    """Under load: test_server_load.py."""
    shutil.copytree(versions / "1", tmp_path / "1")
    (tmp_path / "tmp-9").mkdir()  # what an exporter is still writing
    with serving(tmp_path) as (_, client):
        assert client.added() == 1
        add_version(versions / "2", tmp_path / "2")
        until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
        assert client.added() == 2
        code = refused(client.predict, version=1, x=np.float32([0]))
        assert code == ("NOT_FOUND", "Servable not found for request: Specific(m, 1)")
        shutil.rmtree(tmp_path / "2")  # back to the older one
        until(lambda: client.states() == {2: "END", 1: "AVAILABLE"})
        assert client.added() == 1
        shutil.rmtree(tmp_path / "1")
        until(lambda: client.states() == {2: "END", 1: "END"})
        code = refused(client.predict, x=np.float32([0]))
        assert code == ("NOT_FOUND", "Servable not found for request: Latest(m)")


def test_unloading_waits_for_the_requests_of_the_old_version(versions, tmp_path):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path) as (server, client):
        with server.manager.acquire("m") as held:
            add_version(versions / "2", tmp_path / "2")
            until(lambda: client.states() == {2: "AVAILABLE", 1: "UNLOADING"})
            fetch = held.signatures["serving_default"].outputs["y"].name
            feed = held.signatures["serving_default"].inputs["x"].name
            assert held.run({feed: np.float32([0])}, [fetch])[0].tolist() == [1]
        until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


def test_broken_version_is_retried_while_the_old_one_serves(versions, tmp_path, caplog):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path, retries=Retries(1000, 0.05)) as (_, client):
        half = tmp_path / "2"
        half.mkdir()
        content = (versions / "2" / "saved_model.pb").read_bytes()
        (half / "saved_model.pb").write_bytes(content[: len(content) // 2])
        until(lambda: client.states() == {2: "LOADING", 1: "AVAILABLE"})
        until(lambda: str(half) in caplog.text)
        assert client.predict(x=np.float32([0])).model_spec.version.value == 1
        shutil.copytree(versions / "2", half, dirs_exist_ok=True)
        until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
        (tmp_path / "3").mkdir()
        until(lambda: client.states().get(3) == "LOADING")
        (tmp_path / "3").rmdir()
        until(lambda: client.states() == {3: "END", 2: "AVAILABLE", 1: "END"})


def test_missing_base_path_is_waited_for(versions, tmp_path, caplog):
    base = tmp_path / "later"
    server = Server([ServedModel("m", str(base))], port=0, host="localhost", poll_wait_seconds=0.05)
    starting = threading.Thread(target=server.start)
    starting.start()
    until(lambda: f"no versions of model m found in {base}" in caplog.text)
    assert f"write a SavedModel to {base / '1'}" in caplog.text
    shutil.copytree(versions / "1", tmp_path / "whole")
    base.mkdir()
    (tmp_path / "whole").rename(base / "0007")
    starting.join(timeout=20)
    try:
        assert Client(server).states() == {7: "AVAILABLE"}
    finally:
        server.stop()


def test_start_can_be_cancelled(tmp_path):
    cancelled = threading.Event()
    cancelled.set()
    assert Server([ServedModel("m", str(tmp_path))], port=0).start(cancelled) is False


def test_warm_up_requests_are_replayed(versions, tmp_path):
    add_version(versions / "1", tmp_path / "1", "count", "count")
    with serving(tmp_path) as (_, client):
        answer = client.predict("m", "count", x=np.float32([1]))
        assert list(answer.outputs["n"].int64_val) == [3]


def test_failing_warm_up_request_fails_the_load(versions, tmp_path):
    add_version(versions / "1", tmp_path / "1", "nope")
    server = Server([ServedModel("m", str(tmp_path))], port=0, retries=Retries(0))
    with pytest.raises(ServingError, match='Serving signature key "nope" not found'):
        server.start()
    (status,) = server.manager.versions_of("m")
    assert (status.state, status.error.code) == (State.END, grpc.StatusCode.FAILED_PRECONDITION)


def test_relative_base_path_is_refused():
    with pytest.raises(ValueError, match="absolute path"):
        ServedModel("m", "models/m")


# --- the command


def test_command_serves_waits_and_stops(toy, versions, tmp_path):
    base, logs = tmp_path / "base", [tmp_path / "first.log", tmp_path / "second.log"]

    def start(path, port, log):
        command = [sys.executable, "-m", "export.server", f"--port={port}", "--host=localhost"]
        command += ["--model_name=m", f"--model_base_path={path}"]
        return subprocess.Popen(
            [*command, "--file_system_poll_wait_seconds=0.1"],
            cwd=ROOT,
            # A user's Keras may run on JAX, which the server neither needs nor imports.
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "jax"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
        )

    # Side by side, because most of their time goes into importing TensorFlow.
    with (
        start(base, 0, logs[0]) as first,
        start(versions, toy.port, logs[1]) as second,
    ):
        try:
            until(lambda: f"no versions of model m found in {base}" in logs[0].read_text(), 60)
            add_version(versions / "1", base / "1")
            line = first.stdout.readline()
            assert line.startswith("serving m version 1 at localhost:")
            assert int(line.rsplit(":")[-1]) > 0
            first.send_signal(signal.SIGTERM)
            assert first.wait(timeout=60) == 0
            assert second.wait(timeout=60) == 255
            assert f"port {toy.port} is in use" in second.stdout.read()
        finally:
            first.kill()
            second.kill()


def test_centuries_are_no_deadline():
    assert RequestClock(9.2e15).remaining() is None  # what gRPC says of a call without one
    assert 0 < RequestClock(60).remaining() <= 60
