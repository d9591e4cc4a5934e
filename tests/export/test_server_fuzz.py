"""What is no request, or nearly one: each gets its code, and the server stays as it was."""

import base64
import gc
import json
import os
import random
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from recorded import MESSAGES
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.server import BatchingParameters, Loader, RestOptions, ServedModel, Server, ServingError

pytestmark = pytest.mark.timeout(120)

MANY = pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
PREDICTION, MODELS = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
REQUESTS = {
    (MODELS if name in ("GetModelStatus", "HandleReloadConfigRequest") else PREDICTION) + name: kind
    for name, (kind, _) in MESSAGES.items()
}
RELOAD = MODELS + "HandleReloadConfigRequest"
# What a request that is at fault ends with; INTERNAL is for bytes that are no message at all.
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}


class Desk(tf.Module):
    """Each kind of request has a signature here."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, "x"),
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None, None], tf.int64, "ids"),
        ]
    )
    def predict(self, x, text, ids):
        return {"y": 2.0 * x, "text": tf.strings.upper(text), "total": tf.reduce_sum(ids, -1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32, 0.0)})["x"]
        return {"scores": tf.stack([x, -x], -1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        features = {"x": tf.io.FixedLenFeature([], tf.float32)}
        return {"outputs": tf.io.parse_example(inputs, features)["x"]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def number(self, text):
        return {"y": tf.strings.to_number(text)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base, desk = tmp_path_factory.mktemp("desk"), Desk()
    signatures = {
        "serving_default": desk.predict,
        "classify": desk.classify,
        "regress": desk.regress,
        "number": desk.number,
    }
    tf.saved_model.save(desk, str(base / "1"), signatures=signatures)
    return base


# --- requests that are right


def valid(method: str, rng: random.Random, base: str = ""):
    """A request that is answered; `base` is where a reload finds the model."""
    request = REQUESTS[method]()
    if method == RELOAD:
        for name in ("m", "other")[: rng.randint(1, 2)]:
            model = request.config.model_config_list.config.add(name=name, base_path=base)
            model.model_platform = "tensorflow"
        return request
    spec = request.tasks.add().model_spec if hasattr(request, "tasks") else request.model_spec
    spec.name = "m"
    if method.endswith("Predict"):
        rows = rng.randint(1, 3)
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32(range(rows))))
        request.inputs["text"].CopyFrom(tf.make_tensor_proto(["a\N{SNOWMAN}"] * rows))
        request.inputs["ids"].int64_val.extend(range(2 * rows))
        request.inputs["ids"].dtype = types_pb2.DT_INT64
        for size in (rows, 2):
            request.inputs["ids"].tensor_shape.dim.add(size=size)
    elif method.endswith("GetModelMetadata"):
        request.metadata_field.append("signature_def")
    elif not method.endswith("GetModelStatus"):
        kind = rng.choice(["classify", "regress"]) if hasattr(request, "tasks") else None
        spec.signature_name = kind or method.rsplit("/", 1)[1].lower()
        if kind:
            names = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}
            request.tasks[0].method_name = names[kind]
        for number in range(rng.randint(1, 3)):
            example = request.input.example_list.examples.add()
            example.features.feature["x"].float_list.value.append(number)
    return request


# --- and what is made of them

SIZES = (0, 1, 2, 3, 7, -1, -(2**63), 2**31, 2**40, 2**62, 10**5)


def broken_tensor(proto: tensor_pb2.TensorProto, rng: random.Random) -> None:
    """Changes what a tensor says of itself, or what it holds."""
    change = rng.randrange(7)
    if change == 0:
        proto.dtype = rng.choice([*types_pb2.DataType.values(), 9999, -1])
    elif change == 1:
        for dim in proto.tensor_shape.dim:
            dim.size = rng.choice(SIZES)
    elif change == 2:
        for _ in range(rng.choice([1, 2, 70, 300])):
            proto.tensor_shape.dim.add(size=rng.choice(SIZES))
    elif change == 3:
        proto.tensor_content = rng.randbytes(rng.choice([0, 1, 3, 4, 8, 100]))
    elif change == 4:
        proto.tensor_shape.unknown_rank = True
    elif change == 5:
        for field in ("float_val", "int64_val", "string_val", "half_val", "bool_val"):
            proto.ClearField(field)
        proto.int_val.extend([rng.randrange(-(2**31), 2**31) for _ in range(rng.randrange(4))])
    else:
        proto.ClearField("tensor_shape")


def broken_fields(request, rng: random.Random) -> None:
    """Changes a field so that the message is one still."""
    spec = request.tasks[0].model_spec if hasattr(request, "tasks") else request.model_spec
    strange = rng.choice(["", "nope", "../m", "m\0", "\N{SNOWMAN}" * 400, "serving_default"])
    change = rng.randrange(8)
    if change == 0:
        spec.name = strange
    elif change == 1:
        spec.signature_name = strange
    elif change == 2:
        spec.version.value = rng.choice([0, 1, -1, 2**63 - 1])
    elif change == 3:
        spec.version_label = strange
    elif hasattr(request, "inputs"):
        name = rng.choice([*request.inputs, strange])
        if change == 4:
            request.output_filter.extend(rng.choices(["y", "text", strange], k=2))
        elif change == 5:
            request.inputs.pop(name, None)
        else:
            broken_tensor(request.inputs[name], rng)
    elif hasattr(request, "input"):
        examples = request.input.example_list.examples
        if change == 4:
            request.input.Clear()
        elif change == 5:
            request.input.example_list_with_context.context.ParseFromString(b"")
        for example in examples[:1]:
            features = example.features.feature
            features[rng.choice(["x", strange])].bytes_list.value.append(b"\xff")
            features["x"].float_list.value.extend([1.0] * 3)
    else:
        request.ClearField("model_spec")


def broken_bytes(message: bytes, rng: random.Random) -> bytes:
    """Flips bits, cuts, repeats, puts in."""
    text = bytearray(message)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        change = rng.randrange(4)
        if change == 0 and at < len(text):
            text[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            del text[at : at + rng.randint(1, 6)]
        elif change == 2:
            text[at:at] = rng.randbytes(rng.randint(1, 6))
        else:
            text[at:at] = text[max(0, at - rng.randint(1, 20)) : at]
    return bytes(text)


def malformed(method: str, rng: random.Random, base: str = "") -> bytes:
    """A message that is most likely at fault."""
    chance = rng.random()
    if chance < 0.1:
        return rng.randbytes(rng.choice([1, 2, 5, 20, 200]))
    request = valid(method, rng, base)
    if chance < 0.7 and method != RELOAD:
        for _ in range(rng.randint(1, 2)):
            broken_fields(request, rng)
        return request.SerializeToString()
    return broken_bytes(request.SerializeToString(), rng)


def parses(method: str, message: bytes) -> bool:
    try:
        REQUESTS[method].FromString(message)
    except DecodeError:
        return False
    return True


def code_of(call, method: str, message: bytes, timeout: float) -> str:
    """The code of the answer, which must fit the message."""
    code, details = "OK", ""
    try:
        call(message, timeout=timeout)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details()
    assert (code == "OK") == (details == ""), (code, details, method, message)
    if not parses(method, message):
        assert (code, details[:17]) == ("INTERNAL", "the message is no"), (method, message)
    elif method == RELOAD:
        assert code in CODES | {"DEADLINE_EXCEEDED"}, (code, details, message)
    else:
        assert code in CODES, (code, details, method, message)
    return code


def taken() -> dict[str, int]:
    """What this process has: threads, open files, MB of memory."""
    gc.collect()
    with open("/proc/self/statm", encoding="utf-8") as file:
        pages = int(file.read().split()[1])
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "megabytes": pages * os.sysconf("SC_PAGESIZE") // 10**6,
    }


@pytest.mark.parametrize("count", [250, MANY])
@pytest.mark.parametrize("batching", [None, BatchingParameters(max_batch_size=8)])
def test_malformed_requests_get_their_codes(base, batching, count):
    rng, seen = random.Random(count), set()
    methods = [method for method in REQUESTS if method != RELOAD]
    methods += [PREDICTION + "Predict"] * 4  # it has the most to be at fault
    with Server([ServedModel("m", str(base))], port=0, loader=Loader(batching=batching)) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            calls = {method: channel.unary_unary(method) for method in {*methods}}
            for method, call in calls.items():
                assert call(valid(method, rng).SerializeToString(), timeout=60)
            before = None
            for number in range(count):
                method = rng.choice(methods)
                seen.add(code_of(calls[method], method, malformed(method, rng), timeout=60))
                if number == count // 4:
                    before = taken()
            after = taken()
            for method, call in calls.items():
                assert call(valid(method, rng).SerializeToString(), timeout=60)
        (version,) = server.manager.versions_of("m")
        assert version.users == 0
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "INTERNAL"} <= seen
    assert after["threads"] <= before["threads"] + 16  # those of the pool come one by one
    assert after["files"] <= before["files"] + 2
    if count > 1000:
        assert after["megabytes"] <= before["megabytes"] + 64


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=MANY.marks)])
def test_malformed_reloads_get_their_codes(base, count):
    rng, seen, left = random.Random(count), set(), count
    while left:
        with (
            Server([], port=0) as server,
            grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            call = channel.unary_unary(RELOAD)
            code = "OK"
            # One that names a folder that is not there is waited for, by all that come after it.
            while left and code != "DEADLINE_EXCEEDED":
                message = malformed(RELOAD, rng, str(base))
                code = code_of(call, RELOAD, message, timeout=0.3)
                seen.add(code)
                left -= 1
            if code != "DEADLINE_EXCEEDED":
                call(valid(RELOAD, rng, str(base)).SerializeToString(), timeout=60)
                assert ("m", 1) in server.manager.available_versions()
    assert {"INVALID_ARGUMENT", "INTERNAL", "DEADLINE_EXCEEDED"} <= seen


# Of a message that tells of this process rather than of the request.
_INSIDE = ("Exception", "codec", "Traceback", "inside the server", "Error:")


@pytest.mark.parametrize("batching", [None, BatchingParameters(max_batch_size=8)])
def test_errors_that_quote_bytes_reach_the_client(base, batching):
    """Examples that are none, with bytes that are no UTF-8, sent as Python cannot write them."""
    rng = random.Random(1)
    options = {"loader": Loader(batching=batching), "rest": RestOptions(port=0)}
    with (
        Server([ServedModel("m", str(base))], port=0, **options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        call = channel.unary_unary(PREDICTION + "Predict")

        def over_grpc(signature, alias, value):
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "m", signature
            request.inputs[alias].CopyFrom(tf.make_tensor_proto([value]))
            with pytest.raises(grpc.RpcError) as caught:
                call(request.SerializeToString(), timeout=60)
            return caught.value.code().name, caught.value.details()

        def over_rest(signature, alias, value):
            rows = [{alias: {"b64": base64.b64encode(value).decode()}}]
            body = json.dumps({"signature_name": signature, "instances": rows}).encode()
            url = f"http://127.0.0.1:{server.rest_port}/v1/models/m:predict"
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url, body, timeout=60)
            return caught.value.code, json.loads(caught.value.read())["error"]

        for number in range(12):
            garbage = b"\xff" + rng.randbytes(rng.choice([0, 1, 3, 30, 5000]))
            for ask, code in ((over_grpc, "INVALID_ARGUMENT"), (over_rest, 400)):
                found, text = ask("classify", "inputs", garbage)
                assert found == code, text
                assert "Could not parse example input, value: '" in text
                assert not [mark for mark in _INSIDE if mark in text]
                if number % 5 == 0:
                    found, text = ask("number", "text", garbage)
                    assert found == code, text
                    assert "StringToNumberOp could not correctly convert string: " in text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"Could not parse example input, value: '\xff'", "INVALID_ARGUMENT"),
        (b"/m/\xff; No such file or directory\n\t [[{{node ReadFile}}]]", "NOT_FOUND"),
        (b"/m/\xff; Permission denied", "PERMISSION_DENIED"),
    ],
)
def test_the_code_of_a_text_that_python_cannot_read(text, code):
    error = ServingError.from_tensorflow(UnicodeDecodeError("utf-8", text, 0, 1, "no"))
    assert (error.code.name, error.message) == (code, text.decode(errors="replace"))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("secret"), KeyError("secret"), MemoryError(), RecursionError("secret")]
    + [OSError(5, "secret"), ValueError("\udcff secret"), UnicodeError("secret")],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_reaches_a_client(base, error, monkeypatch, caplog):
    """Whatever fails inside: the client has a code and a plain text, the log has the rest."""

    def fail(*_, **__):
        raise error

    rng = random.Random(2)
    with (
        Server([], port=0, rest=RestOptions(port=0)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        for name in ("acquire", "versions_of", "reload"):
            monkeypatch.setattr(server.manager, name, fail)
        for method in REQUESTS:
            with pytest.raises(grpc.RpcError) as caught:
                message = valid(method, rng, str(base)).SerializeToString()
                channel.unary_unary(method)(message, timeout=60)
            assert caught.value.code() is grpc.StatusCode.INTERNAL, method
            assert caught.value.details() == "the request failed inside the server"
        for path, body in (("m:predict", b'{"instances": [1]}'), ("m", None), ("m/metadata", None)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(
                    f"http://127.0.0.1:{server.rest_port}/v1/models/{path}", body
                )
            told = json.loads(refused.value.read())
            assert (refused.value.code, told) == (
                500,
                {"error": "the request failed inside the server"},
            )
    assert caplog.text.count(type(error).__name__) >= len(REQUESTS) + 3
    caplog.text.encode()  # no half characters, which a log file cannot hold
