"""A model of three versions, a client, and waiting: what the tests of the server share."""

import contextlib
import pathlib
import shutil
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from export.server import ServedModel, Server

State = get_model_status_pb2.ModelVersionStatus


class Toy(tf.Module):
    """Adds its number, shouts, counts its calls, works as long as it is told, or needs XLA."""

    def __init__(self):
        super().__init__()
        self.number = tf.Variable(0.0)
        self.calls = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def add(self, x):
        return {"y": x + self.number}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None], tf.int32, "times"),
        ]
    )
    def shout(self, text, times):
        return {"text": tf.strings.upper(text), "times": times}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "steps")])
    def work(self, steps):
        # Arithmetic that cannot be folded away.
        def body(i, y):
            return i + 1, tf.linalg.matmul(y, y) * 1e-3

        y = tf.while_loop(lambda i, _: i < tf.reduce_max(steps), body, (0, tf.ones([200, 200])))[1]
        done = tf.cast(steps, tf.float32) + 0.0 * tf.reduce_sum(tf.math.tanh(y))
        return {"y": done + self.number}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def count(self, x):
        calls = self.calls.assign_add(1)
        return {"n": tf.fill(tf.shape(x), calls)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def compiled(self, x):
        return {"y": tf.function(lambda v: v * 2.0, jit_compile=True)(x)}


def write_versions(base: pathlib.Path) -> pathlib.Path:
    """Writes the versions 1, 2 and 3, whose answers tell the number; `times` has a default."""
    toy = Toy()
    signatures = {"serving_default": toy.add, "shout": toy.shout, "work": toy.work}
    signatures |= {"count": toy.count, "compiled": toy.compiled}
    for number in (1, 2, 3):
        toy.number.assign(number)
        tf.saved_model.save(toy, str(base / str(number)), signatures=signatures)
        file = base / str(number) / "saved_model.pb"
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        shout = saved.meta_graphs[0].signature_def["shout"]
        shout.defaults["times"].CopyFrom(tf.make_tensor_proto([3]))
        file.write_bytes(saved.SerializeToString())
    return base


def add_version(template: pathlib.Path, version: pathlib.Path, *warm_up: str) -> None:
    """A version that appears all at once; its warm-up asks for these signatures."""
    staging = version.parent / f"tmp-{version.name}"
    shutil.copytree(template, staging)
    if warm_up:
        (staging / "assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(staging / "assets.extra/tf_serving_warmup_requests")) as out:
            for signature in warm_up:
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.signature_name = signature
                request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1])))
                out.write(log.SerializeToString())
    staging.rename(version)


@contextlib.contextmanager
def serving(base: pathlib.Path, **options):
    """A server of the model `m`, and a client."""
    model = ServedModel("m", str(base))
    with Server([model], port=0, poll_wait_seconds=0.05, **options) as server:
        yield server, Client(server)


class Client:
    """Questions to a server over gRPC."""

    def __init__(self, server: Server):
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(f"localhost:{server.port}", unlimited)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    @staticmethod
    def request(name="m", signature="", version=0, label="", **inputs):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        if label:
            request.model_spec.version_label = label
        elif version:
            request.model_spec.version.value = version
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
        return request

    def predict(self, *args, timeout=20, **kwargs):
        return self.prediction.Predict(self.request(*args, **kwargs), timeout=timeout)

    def added(self, label="", version=0, name="m"):
        """What the model adds to 0: the number of the version that answered."""
        answer = self.predict(name, version=version, label=label, x=np.float32([0]))
        return answer.outputs["y"].float_val[0]

    def work(self, steps, timeout=20):
        return self.predict(signature="work", steps=np.int32([steps]), timeout=timeout)

    def reload(self, config, timeout=20):
        request = model_management_pb2.ReloadConfigRequest(config=config)
        return self.models.HandleReloadConfigRequest(request, timeout=timeout)

    def statuses(self, name="m"):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        answer = self.models.GetModelStatus(request, timeout=20)
        return {status.version: status for status in answer.model_version_status}

    def states(self, name="m"):
        statuses = self.statuses(name)
        return {number: State.State.Name(status.state) for number, status in statuses.items()}


def until(condition, seconds=60.0):
    """Waits until the condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def refused(call, *args, **kwargs):
    """Code and message of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    return caught.value.code().name, caught.value.details()
