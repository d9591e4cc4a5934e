"""Method names and shared inputs, written into a SavedModel after TensorFlow has saved it."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.client import Client
from export.server import Servable, ServedModel, Server, ServingError
from export.server.models.loading import WARMUP_FILE, warm_up
from export.signatures import declare

METHODS = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}


class Judge(tf.Module):
    """Scores a text by its length."""

    def __init__(self):
        self.weight = tf.Variable(0.5)

    def scores(self, inputs):
        features = {"text": tf.io.FixedLenFeature([], tf.string, default_value="")}
        text = tf.io.parse_example(inputs, features)["text"]
        return self.weight * tf.cast(tf.strings.length(text), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        scores = tf.stack([self.scores(inputs), self.scores(inputs) + 1], 1)
        labels = tf.tile([["short", "l\u00e4ng"]], [tf.size(inputs), 1])
        return {"classes": labels, "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self.scores(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def odd(self, inputs):
        return {"outputs": tf.zeros([2]), "classes": tf.constant([[b"\xff"]])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "1"
    judge = Judge()
    functions = {"classify": judge.classify, "regress": judge.regress, "odd": judge.odd}
    tf.saved_model.save(judge, str(folder), signatures=functions)
    declare(folder, METHODS, {}, {})
    return folder


@pytest.fixture(scope="module")
def client(saved):
    models = [ServedModel("judge", str(saved.parent))]
    with (
        Server(models, port=0, host="localhost") as server,
        Client(f"localhost:{server.port}") as client,
    ):
        yield client


def example(text):
    return text_format.Parse(
        f'features {{ feature {{ key: "text" value {{ bytes_list {{ value: "{text}" }} }} }} }}',
        tf.train.Example(),
    )


def test_signatures_name_their_methods_and_share_an_input(client):
    known = client.signatures("judge")
    assert {name: known[name].method_name for name in METHODS} == METHODS
    assert known["odd"].method_name == "tensorflow/serving/predict"
    classify, regress, odd = (
        known[n].inputs["inputs"].name for n in ("classify", "regress", "odd")
    )
    assert classify == regress != odd


def test_both_loaders_still_take_the_model(saved, capfd):
    rows = tf.constant([example("four").SerializeToString()])
    reloaded = tf.saved_model.load(str(saved)).signatures
    assert reloaded["classify"](inputs=rows)["scores"].numpy().tolist() == [[2.0, 3.0]]
    assert reloaded["regress"](inputs=rows)["outputs"].numpy().tolist() == [2.0]
    assert "rror" not in capfd.readouterr().err
    assert not (saved / "fingerprint.pb").exists()


def test_classify_regress_and_predict_give_the_same(client):
    rows = [example("four"), tf.train.Example().SerializeToString(), example("ab")]
    answer = client.classify("judge", rows, "classify")
    assert answer.scores.tolist() == [[2, 3], [0, 1], [1, 2]]
    assert answer.classes.tolist() == [[b"short", "l\u00e4ng".encode()]] * 3
    numbers = client.regress("judge", rows, "regress", version=1)
    assert numbers.values.tolist() == [2, 0, 1]
    assert numbers.values.dtype == np.float32
    raw = np.array([example("four").SerializeToString()], dtype=object)
    predicted = client.predict("judge", {"inputs": raw}, "regress")
    assert predicted.outputs["outputs"].tolist() == [2]


def test_multi_inference_asks_several_signatures(client):
    rows, tasks = [example("four")], {"classify": "classify", "regress": "regress"}
    answers = client.multi_inference("judge", rows, tasks)
    assert answers["classify"].scores.tolist() == [[2, 3]]
    assert answers["regress"].values.tolist() == [2]
    assert {answer.signature for answer in answers.values()} == {*tasks}
    # A signature with an input tensor of its own joins in.
    with pytest.raises(grpc.RpcError, match="Expected one output Tensor"):
        client.multi_inference("judge", rows, {**tasks, "odd": "regress"})
    with pytest.raises(grpc.RpcError, match=r"the class label .* is not UTF-8"):
        client.multi_inference("judge", rows, {**tasks, "odd": "classify"})


def test_warm_up_replays_every_kind_of_request(saved):
    servable = Servable("judge", 1, str(saved))
    (saved / "assets.extra").mkdir()
    logs = [prediction_log_pb2.PredictionLog() for _ in range(3)]
    requests = [logs[0].classify_log.request, logs[1].regress_log.request]
    requests[0].model_spec.signature_name = "classify"
    requests[1].model_spec.signature_name = "regress"
    task = logs[2].multi_inference_log.request.tasks.add(method_name=REGRESS_METHOD)
    task.model_spec.name, task.model_spec.signature_name = "any", "regress"
    for request in [*requests, logs[2].multi_inference_log.request]:
        request.input.example_list.examples.append(example("warm"))

    def replay():
        with tf.io.TFRecordWriter(str(saved / WARMUP_FILE)) as file:
            for log in logs:
                file.write(log.SerializeToString())
        return warm_up(servable)

    try:
        assert replay() == 3
        for broken in (*requests, task):
            kept, broken.model_spec.signature_name = broken.model_spec.signature_name, "nope"
            with pytest.raises(ServingError, match=r"signature.*found.*nope"):
                replay()
            broken.model_spec.signature_name = kept
    finally:
        (saved / WARMUP_FILE).unlink()
        servable.close()
