"""Both clients against the embedded server: every question, limits and deadlines."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.client import AsyncClient, Client, RequestError, TensorInfo
from export.server import ServedModel, Server

pytestmark = pytest.mark.timeout(120)


class Toy(tf.Module):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None], tf.int32, "times"),
        ]
    )
    def repeat(self, text, times):
        repeated = tf.strings.reduce_join(tf.repeat(text[:, tf.newaxis], times[0], 1), 1)
        return {"text": repeated, "length": tf.strings.length(repeated)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
    def add_one(self, x):
        return {"y": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "steps")])
    def count(self, steps):
        # Sorting 50,000 numbers a step, so that a hundred thousand steps are never done in time.
        numbers = tf.random.uniform([50_000])
        for _ in tf.range(steps):
            numbers = tf.sort(numbers) * 0.5
        return {"sum": tf.reduce_sum(numbers)}

    def lengths(self, inputs):
        features = {"text": tf.io.FixedLenFeature([], tf.string, default_value="")}
        text = tf.io.parse_example(inputs, features)["text"]
        return tf.cast(tf.strings.length(text), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        classes = tf.tile([["short", "l\u00e4ng"]], [tf.size(inputs), 1])
        return {"classes": classes, "scores": tf.stack([-self.lengths(inputs)] * 2, 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self.lengths(inputs)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base, toy = tmp_path_factory.mktemp("toy"), Toy()
    functions = {name: getattr(toy, name) for name in ("add_one", "count", "classify", "regress")}
    signatures = {"serving_default": toy.repeat, **functions}
    tf.saved_model.save(toy, str(base / "3"), signatures=signatures)
    file = base / "3" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    definitions["classify"].method_name = CLASSIFY_METHOD
    definitions["regress"].method_name = REGRESS_METHOD
    default = definitions["serving_default"].defaults["times"]
    default.CopyFrom(tf.make_tensor_proto(np.int32([2])))
    file.write_bytes(saved.SerializeToString())
    return ServedModel("toy", str(base))


@pytest.fixture(scope="module")
def address(model):
    with Server([model], port=0, host="localhost") as server:
        yield f"localhost:{server.port}"


@pytest.fixture
def client(connect, address):
    with connect(address) as opened:
        yield opened


def refused(call, *args, **kwargs):
    with pytest.raises(RequestError) as caught:
        call(*args, **kwargs)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    return caught.value.code().name, caught.value.details()


def test_predict(client):
    answer = client.predict("toy", {"text": [b"ab", b"\xff\0"], "times": [3]})
    assert (answer.model, answer.version, answer.signature) == ("toy", 3, "serving_default")
    assert answer.outputs["text"].tolist() == [b"ababab", b"\xff\0\xff\0\xff\0"]
    assert answer.outputs["length"].dtype == np.int32
    answer = client.predict("toy", {"text": ["\u00e9"]}, version=3, outputs=["text"])
    assert {name: array.tolist() for name, array in answer.outputs.items()} == {
        "text": ["\u00e9\u00e9".encode()]  # twice: the signature's default
    }
    for x in (1.5, [], [[1, 2], [3, 4]], np.zeros([2, 0, 3], np.float32)):
        outputs = client.predict("toy", {"x": np.float32(x)}, "add_one").outputs
        np.testing.assert_array_equal(outputs["y"], np.float32(x) + 1)
        assert outputs["y"].shape == np.shape(x)


def test_classify_regress_and_both(client):
    rows = [{"text": "four"}, tf.train.Example(), tf.train.Example().SerializeToString()]
    answer = client.classify("toy", rows, "classify")
    assert answer.classes.tolist() == [[b"short", "l\u00e4ng".encode()]] * 3
    assert answer.scores.tolist() == [[-4, -4], [0, 0], [0, 0]]
    assert (answer.version, answer.signature) == (3, "classify")
    assert {*answer.outputs} == {"classes", "scores"}
    numbers = client.regress("toy", rows, "regress", version=3)
    assert numbers.values.tolist() == numbers.outputs["outputs"].tolist() == [4, 0, 0]
    with pytest.raises(ValueError, match="example 1: feature text: None is neither"):
        client.regress("toy", [{}, {"text": None}], "regress")
    with pytest.raises(ValueError, match="examples are a list of rows; this is one row"):
        client.regress("toy", {"text": "four"}, "regress")


def test_multi_inference(client):
    # Signatures of one SavedModel share no input tensor unless the exporter makes them; asking one
    # signature alone needs none to be shared. test_signature_defs.py asks two.
    answers = client.multi_inference("toy", [{"text": "four"}], {"classify": "classify"})
    assert answers["classify"].scores.tolist() == [[-4, -4]]
    answers = client.multi_inference("toy", [{"text": "four"}], {"regress": "regress"})
    assert answers["regress"].values.tolist() == [4]


def test_signatures(client):
    known = client.signatures("toy")
    assert {*known} == {"serving_default", "add_one", "count", "classify", "regress"}
    assert known["classify"].method_name == CLASSIFY_METHOD
    default = known["serving_default"]
    text = TensorInfo("serving_default_text:0", "string", (None,))
    assert default.inputs["text"] == text
    assert {name: array.tolist() for name, array in default.defaults.items()} == {"times": [2]}
    assert default.outputs["length"].dtype == "int32"
    assert known["add_one"].inputs["x"].shape is None
    assert known["count"].inputs["steps"].shape == ()


def test_status(client):
    (one,) = client.status("toy")
    assert (one.version, one.state, one.code.name, one.message) == (3, "AVAILABLE", "OK", "")
    assert client.status("toy", 3) == [one]
    assert refused(client.status, "toy", 4)[0] == "NOT_FOUND"


def test_reload_and_version_labels(connect, model):
    config = f"""model_config_list {{ config {{
        name: "other" base_path: "{model.base_path}" model_platform: "tensorflow"
        version_labels {{ key: "stable" value: 3 }} }} }}"""
    with Server([model], port=0) as server, connect(f"localhost:{server.port}") as client:
        # Labels may be given to versions that are served; so the model comes first.
        client.reload(config.replace('version_labels { key: "stable" value: 3 }', ""))
        client.reload(config)
        assert client.predict("other", {"text": ["a"]}, version="stable").version == 3
        code, details = refused(client.predict, "other", {"text": ["a"]}, version="x")
        assert (code, details) == ("INVALID_ARGUMENT", "Unrecognized servable version label: x")
        assert refused(client.predict, "toy", {"text": ["a"]})[0] == "NOT_FOUND"
        assert refused(client.reload, config.replace("tensorflow", "x"))[0] == "INVALID_ARGUMENT"
        with pytest.raises(ValueError, match="no ModelServerConfig in text form"):
            client.reload("nonsense { }")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nosuch", {}), "NOT_FOUND", "Latest(nosuch)"),
        (("toy", {}, "nosuch"), "FAILED_PRECONDITION", 'key "nosuch" not found'),
        (("toy", {}, "", 7), "NOT_FOUND", "Specific(toy, 7)"),
        (("toy", {"x": [1]}, "add_one"), "INVALID_ARGUMENT", "to be float but int32 is provided"),
    ],
)
def test_what_the_server_refuses(client, address, arguments, code, message):
    got, details = refused(client.predict, *arguments)
    assert got == code
    assert message in details
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(*arguments)
    assert str(caught.value) == f"{code}: {details} ({address})"


def test_what_cannot_be_sent_names_the_input(client):
    with pytest.raises(ValueError, match="input x: a tensor cannot hold None"):
        client.predict("toy", {"x": [None]}, "add_one")


def test_large_messages_and_their_limit(connect, address):
    long = {"text": [b"a" * 100_000], "times": [1]}
    grows = {"text": [b"a"], "times": [100_000]}
    with connect(address) as client:
        assert client.predict("toy", {"text": [b"a" * 20_000_000]}).outputs["length"] == 40_000_000
    with connect(address, max_message_bytes=10_000) as client:
        for inputs in (long, grows):
            code, details = refused(client.predict, "toy", inputs)
            assert code == "RESOURCE_EXHAUSTED"
            assert "larger than max" in details
        assert client.predict("toy", {"text": ["a"]}).outputs["length"] == 2


def test_deadline_of_the_client_and_of_the_call(connect, address):
    forever = {"steps": np.int32(100_000)}
    with connect(address, timeout=0.3) as client:
        assert refused(client.predict, "toy", forever, "count")[0] == "DEADLINE_EXCEEDED"
        assert client.predict("toy", {"text": ["a"]}, timeout=60).version == 3
    with connect(address) as client:
        late = refused(client.predict, "toy", forever, "count", timeout=0.3)
        assert late[0] == "DEADLINE_EXCEEDED"
        for timeout in (0, -1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
                client.predict("toy", {"text": ["a"]}, timeout=timeout)


def test_threads_share_a_client(address):
    with Client(address) as client:
        answers = {}

        def ask(number):
            answers[number] = client.predict("toy", {"text": [str(number)]}).outputs["text"][0]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {number: str(number).encode() * 2 for number in range(8)}


def test_many_questions_at_one_time(address):
    async def ask():
        async with AsyncClient(address) as client:
            asked = [client.predict("toy", {"text": [str(number)]}) for number in range(8)]
            return [answer.outputs["text"][0] for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [str(number).encode() * 2 for number in range(8)]
