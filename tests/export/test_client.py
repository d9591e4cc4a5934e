"""The client, as a library and as a command, against a server in this process."""

import io
import json
import types

import grpc
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from export import client, conversion
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
        return {"text": repeated, "times": times}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float64, "f"),
            tf.TensorSpec([None], tf.int64, "i"),
            tf.TensorSpec([None], tf.bool, "b"),
            tf.TensorSpec([None], tf.string, "s"),
            tf.TensorSpec([], tf.float32, "scalar"),
        ]
    )
    def echo(self, f, i, b, s, scalar):
        return {"f": f, "i": i, "b": b, "s": s, "pair": tf.stack([f, f], 1), "scalar": scalar}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    base = tmp_path_factory.mktemp("toy")
    toy = Toy()
    tf.saved_model.save(
        toy, str(base / "1"), signatures={"serving_default": toy.repeat, "echo": toy.echo}
    )
    with Server([ServedModel("toy", str(base))], port=0, host="localhost") as server:
        yield f"localhost:{server.port}"


@pytest.fixture
def command(address, capsys):
    """Runs the command; answers its exit code, stdout and stderr."""

    def run(*arguments, server=address, model="toy"):
        values = flags.FlagValues()
        client.define_flags(values)
        values(["client", f"--server={server}", f"--model={model}", *arguments])
        code = client.run(values)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


ECHO = ["--signature=echo", "--set=f=1.5", "--set=i=9007199254740993", "--set=b=true", "--set=s=é"]


@pytest.mark.parametrize("wrap", [lambda channel: channel, client.Stub])
def test_predict_answers_with_arrays(address, wrap):
    with client.connect(address) as channel:
        inputs = {"text": [b"ab", b"\xff"], "times": [2, 2]}
        outputs = client.predict(wrap(channel), "toy", inputs, version=1)
        assert outputs["text"].tolist() == [b"abab", b"\xff\xff"]
        assert outputs["times"].dtype == np.int32
        with pytest.raises(grpc.RpcError) as caught:
            client.predict(wrap(channel), "toy", inputs, signature="nope")
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_texts_are_one_batch_and_the_answers_are_printed(command):
    code, out, err = command("--text=ab", "--text=-x", "--set=times=2")
    assert (code, out, err) == (0, "abab\n-x-x\n", "")


def test_bytes_that_are_not_utf8_are_escaped(command):
    assert command("--text=\udcffé", "--set=times=1")[:2] == (0, "\\xffé\n")


def test_text_from_stdin(command, monkeypatch):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"a\nb\n\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert command("--text=-", "--set=times=1")[:2] == (0, "a\nb\n\n")


def test_settings_take_the_dtype_of_their_input(command):
    code, out, _ = command(*ECHO, "--set=scalar=0.5")
    wanted = ["b: True", "f: 1.5", "i: 9007199254740993", "pair: [1.5, 1.5]", "s: é", "scalar: 0.5"]
    assert (code, sorted(out.splitlines())) == (0, wanted)


def test_json_prints_every_output(command):
    code, out, _ = command("--json", "--text=a", "--text=b", "--set=times=1")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert lines == [{"text": "a", "times": 1}, {"text": "b", "times": 1}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=tims=2"], "no input tims; its inputs: text, times"),
        (["--set=times=two"], "--set=times=two: 'two' is not a int32"),
        (["--set=times=1.5"], "'1.5' is not a int32"),
        (["--set=times=99999999999"], "is not a int32"),
        (["--set=times"], "is not of the form NAME=VALUE"),
        (["--text=a", "--set=text=b"], "given twice"),
        (["--signature=x"], "no signature x; its signatures: echo, serving_default"),
        ([*ECHO, "--set=b=maybe"], "'maybe' is not a bool"),
        ([*ECHO, "--text=a"], "no input text; its inputs: b, f, i, s, scalar"),
        (["--text=a"], "inputs are text, times; missing: --set=times=..."),
        (["--set=times=1"], "missing: --text=..."),
        (
            ["--text=a", "--text=b", "--set=times=1"] + ["--set=times=2"] * 2,
            "input text is given 2 times, where another one is given 3 times",
        ),
        ([*ECHO, "--set=scalar=1", "--set=scalar=2"], "one value for all rows; 2 were given"),
        (["--text=a", "--model_version=7"], "NOT_FOUND: Servable not found for request: Specific"),
    ],
)
def test_mistakes_end_with_1_and_say_what_is_wrong(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert message in err


def test_unknown_model_is_named(command):
    code, _, err = command("--text=a", model="nosuch")
    assert (code, err) == (1, "NOT_FOUND: Servable not found for request: Latest(nosuch)\n")


def test_unreachable_server_says_how_to_start_one(command):
    code, _, err = command("--text=a", server="localhost:1")
    assert code == 1
    assert err.startswith("cannot reach localhost:1: start it with python -m export.server")


def test_rows_repeat_what_has_no_batch_dimension():
    outputs = {"a": np.array([1, 2]), "b": np.float32(3), "c": np.array([[b"x"], [b"y"]], object)}
    assert conversion.rows(outputs) == [
        {"a": 1, "b": 3.0, "c": ["x"]},
        {"a": 2, "b": 3.0, "c": ["y"]},
    ]
