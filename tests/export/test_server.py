"""The embedded server through requests, versions and its own life."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from export.server import Loader, Retries, ServedModel, Server, ServingError
from export.server.api.classification import classify
from export.server.api.inference import predict
from export.server.grpc_service import answer, truncated
from export.server.status import RequestClock

ROOT = pathlib.Path(__file__).resolve().parents[2]
State = get_model_status_pb2.ModelVersionStatus

pytestmark = pytest.mark.timeout(120)


class Toy(tf.Module):
    """Adds an amount to numbers, shouts strings, and can be slow or refuse."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = tf.Variable(amount)
        self.calls = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def add(self, x):
        return {"y": x + self.amount}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None], tf.int32, "times"),
        ]
    )
    def shout(self, text, times):
        return {"text": tf.strings.upper(text), "times": times}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def slow(self, x):
        # Arithmetic that cannot be folded away.
        def body(i, y):
            return i + 1, tf.linalg.matmul(y, y) * 1e-3

        y = tf.while_loop(lambda i, _: i < 200, body, (0, tf.ones([200, 200]) + x[0]))[1]
        return {"y": x + self.amount + 0.0 * tf.reduce_sum(tf.math.tanh(y))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def count(self, x):
        calls = self.calls.assign_add(1)
        return {"n": tf.fill(tf.shape(x), calls)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def compiled(self, x):
        return {"y": tf.function(lambda v: v * 2.0, jit_compile=True)(x)}


def write(folder: pathlib.Path, amount: float) -> pathlib.Path:
    """Writes a Toy as a SavedModel, with a default for `times`, appearing all at once."""
    toy, staging = Toy(amount), folder.parent / f"tmp-{folder.name}"
    signatures = {
        "serving_default": toy.add,
        "shout": toy.shout,
        "slow": toy.slow,
        "count": toy.count,
        "compiled": toy.compiled,
    }
    tf.saved_model.save(toy, str(staging), signatures=signatures)
    file = staging / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    shout = saved.meta_graphs[0].signature_def["shout"]
    shout.defaults["times"].CopyFrom(tf.make_tensor_proto([3]))
    file.write_bytes(saved.SerializeToString())
    staging.rename(folder)
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two versions of a Toy, +1 and +2, to be copied: saving one takes a second."""
    base = tmp_path_factory.mktemp("template")
    return [write(base / str(number), float(number)) for number in (1, 2)]


@pytest.fixture(scope="module")
def toy(template, tmp_path_factory):
    """A running server with version 1 of a Toy named `toy`."""
    base = tmp_path_factory.mktemp("toy")
    shutil.copytree(template[0], base / "1")
    with Server([ServedModel("toy", str(base))], port=0, host="localhost") as server:
        yield server


@contextlib.contextmanager
def serving(base: pathlib.Path, **options):
    model = ServedModel("m", str(base))
    with Server([model], port=0, host="localhost", poll_wait_seconds=0.05, **options) as server:
        yield server, Client(server)


class Client:
    def __init__(self, server: Server):
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(f"localhost:{server.port}", options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, name="m", signature="", version=None, timeout=20, **inputs):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
        return self.prediction.Predict(request, timeout=timeout)

    def states(self, name="m"):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        statuses = self.models.GetModelStatus(request, timeout=20).model_version_status
        return {s.version: State.State.Name(s.state) for s in statuses}


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def code_and_message(call, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    return caught.value.code().name, caught.value.details()


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
    code, message = code_and_message(Client(toy).predict, "toy", "compiled", x=np.float32([1]))
    assert code == "INTERNAL"
    assert message.startswith("XLA compilation disabled")


def test_method_names_are_checked_when_asked_for(template):
    """TensorFlow 2 writes the name of Predict into every signature."""
    servable, _ = Loader(checks_method_names=True).load("m", 1, str(template[0]))
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
    assert code_and_message(call, b"", timeout=20)[0] == "UNIMPLEMENTED"


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
        assert code_and_message(client.prediction.Predict, request, timeout=20) == wanted
    assert client.states("toy") == {1: "AVAILABLE"}


def test_messages_are_cut_at_1024_bytes(toy):
    code, message = code_and_message(Client(toy).predict, "n" * 3000)
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


def test_expired_request_is_not_run(template, tmp_path, monkeypatch):
    shutil.copytree(template[0], tmp_path / "1")
    with serving(tmp_path, max_threads=1) as (server, client):
        occupied = Occupied(server, client, monkeypatch)
        # Waits for the only thread, and gives up before it is free.
        late = code_and_message(client.predict, "m", "count", timeout=0.05, x=np.float32([1]))
        assert late[0] == "DEADLINE_EXCEEDED"
        occupied.free.set()
        assert occupied.call.code() is grpc.StatusCode.NOT_FOUND
        answer = client.predict("m", "count", x=np.float32([1]))
        assert list(answer.outputs["n"].int64_val) == [1]


def test_request_past_its_deadline_is_not_begun(toy):
    context = mock.create_autospec(grpc.ServicerContext, instance=True)
    context.is_active.return_value, context.time_remaining.return_value = True, 0.0
    context.abort.side_effect = grpc.RpcError
    call = mock.Mock()
    with pytest.raises(grpc.RpcError):
        answer(call, None, context)
    assert context.abort.call_args.args[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    call.assert_not_called()


def test_stop_lets_running_requests_finish(template, tmp_path, monkeypatch):
    shutil.copytree(template[0], tmp_path / "1")
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


def test_stop_gives_up_on_a_request_that_does_not_end(template, tmp_path, caplog):
    shutil.copytree(template[0], tmp_path / "1")
    with serving(tmp_path) as (server, _):
        with server.manager.acquire("m"):
            assert server.manager.stop(timeout=0.1) is False
        assert server.stop() is True


# --- versions


def test_swap_drops_no_request(template, tmp_path):
    shutil.copytree(template[0], tmp_path / "1")
    (tmp_path / "tmp-9").mkdir()  # what an exporter is still writing
    answers, failures, done = [], [], threading.Event()

    def ask(client, signature):
        while not done.is_set():
            try:
                answer = client.predict("m", signature, x=np.float32([0]))
                answers.append((answer.model_spec.version.value, answer.outputs["y"].float_val[0]))
            except grpc.RpcError as error:
                failures.append(error)

    with serving(tmp_path) as (_, client):
        threads = [threading.Thread(target=ask, args=(client, s)) for s in ("", "", "slow")]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 20)
        shutil.copytree(template[1], tmp_path / "tmp-2")
        (tmp_path / "tmp-2").rename(tmp_path / "2")
        wait_until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + 20)
        done.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert {(1, 1.0), (2, 2.0)} == set(answers)
        code = code_and_message(client.predict, version=1, x=np.float32([0]))
        assert code == ("NOT_FOUND", "Servable not found for request: Specific(m, 1)")

        shutil.rmtree(tmp_path / "2")  # back to the older one
        wait_until(lambda: client.states() == {2: "END", 1: "AVAILABLE"})
        assert client.predict(x=np.float32([0])).outputs["y"].float_val[0] == 1
        shutil.rmtree(tmp_path / "1")
        wait_until(lambda: client.states() == {2: "END", 1: "END"})
        code = code_and_message(client.predict, x=np.float32([0]))
        assert code == ("NOT_FOUND", "Servable not found for request: Latest(m)")


def test_unloading_waits_for_the_requests_of_the_old_version(template, tmp_path):
    shutil.copytree(template[0], tmp_path / "1")
    with serving(tmp_path) as (server, client):
        with server.manager.acquire("m") as held:
            shutil.copytree(template[1], tmp_path / "tmp-2")
            (tmp_path / "tmp-2").rename(tmp_path / "2")
            wait_until(lambda: client.states() == {2: "AVAILABLE", 1: "UNLOADING"})
            fetch = held.signatures["serving_default"].outputs["y"].name
            feed = held.signatures["serving_default"].inputs["x"].name
            assert held.run({feed: np.float32([0])}, [fetch])[0].tolist() == [1]
        wait_until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})


def test_broken_version_is_retried_while_the_old_one_serves(template, tmp_path, caplog):
    shutil.copytree(template[0], tmp_path / "1")
    with serving(tmp_path, retries=Retries(1000, 0.05)) as (_, client):
        half = tmp_path / "2"
        half.mkdir()
        content = (template[1] / "saved_model.pb").read_bytes()
        (half / "saved_model.pb").write_bytes(content[: len(content) // 2])
        wait_until(lambda: client.states() == {2: "LOADING", 1: "AVAILABLE"})
        wait_until(lambda: str(half) in caplog.text)
        assert client.predict(x=np.float32([0])).model_spec.version.value == 1
        shutil.copytree(template[1], half, dirs_exist_ok=True)
        wait_until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
        (tmp_path / "3").mkdir()
        wait_until(lambda: client.states().get(3) == "LOADING")
        (tmp_path / "3").rmdir()
        wait_until(lambda: client.states() == {3: "END", 2: "AVAILABLE", 1: "END"})


def test_missing_base_path_is_waited_for(template, tmp_path, caplog):
    base = tmp_path / "later"
    server = Server([ServedModel("m", str(base))], port=0, host="localhost", poll_wait_seconds=0.05)
    starting = threading.Thread(target=server.start)
    starting.start()
    wait_until(lambda: f"no versions of model m found in {base}" in caplog.text)
    assert f"write a SavedModel to {base / '1'}" in caplog.text
    shutil.copytree(template[0], tmp_path / "whole")
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


def warm_up_with(folder: pathlib.Path, *signatures: str):
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra/tf_serving_warmup_requests")) as out:
        for signature in signatures:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1])))
            out.write(log.SerializeToString())


def test_warm_up_requests_are_replayed(template, tmp_path):
    shutil.copytree(template[0], tmp_path / "1")
    warm_up_with(tmp_path / "1", "count", "count")
    with serving(tmp_path) as (_, client):
        answer = client.predict("m", "count", x=np.float32([1]))
        assert list(answer.outputs["n"].int64_val) == [3]


def test_failing_warm_up_request_fails_the_load(template, tmp_path):
    shutil.copytree(template[0], tmp_path / "1")
    warm_up_with(tmp_path / "1", "nope")
    server = Server([ServedModel("m", str(tmp_path))], port=0, retries=Retries(0))
    with pytest.raises(ServingError, match='Serving signature key "nope" not found'):
        server.start()
    (status,) = server.manager.statuses("m")
    assert (status.state, status.error.code) == (State.END, grpc.StatusCode.FAILED_PRECONDITION)


def test_relative_base_path_is_refused():
    with pytest.raises(ValueError, match="absolute path"):
        ServedModel("m", "models/m")


# --- the command


def test_command_serves_waits_and_stops(toy, template, tmp_path):
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
        start(template[0].parent, toy.port, logs[1]) as second,
    ):
        try:
            wait_until(lambda: f"no versions of model m found in {base}" in logs[0].read_text(), 60)
            shutil.copytree(template[0], base / "tmp-1")
            (base / "tmp-1").rename(base / "1")
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
