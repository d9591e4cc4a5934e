"""The client as a command, against a server in this process."""

import io
import json
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from export.client import __main__ as client_command
from export.client import printing
from export.server import ServedModel, Server
from export.server.config_files import read_credentials

CERTIFICATES = pathlib.Path(__file__).parent / "certificates"

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
            tf.TensorSpec([None], tf.bfloat16, "short"),
            tf.TensorSpec([None], tf.complex64, "c"),
        ]
    )
    def echo(self, f, i, b, s, scalar, short, c):
        pair = tf.stack([f, f], 1)
        shown = {"short": tf.cast(short, tf.float32), "c": tf.math.imag(c)}
        return {"f": f, "i": i, "b": b, "s": s, "pair": pair, "scalar": scalar, **shown}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None, None], tf.string, "stop"),
        ]
    )
    def until(self, text, stop=tf.constant([["", "", ""]])):  # noqa: B008
        return {"text": text, "stop": tf.strings.reduce_join(stop, axis=1, separator="|")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("toy")
    toy = Toy()
    tf.saved_model.save(
        toy,
        str(base / "1"),
        signatures={"serving_default": toy.repeat, "echo": toy.echo, "until": toy.until},
    )
    return ServedModel("toy", str(base), labels={"stable": 1})


@pytest.fixture(scope="module")
def address(model):
    with Server([model], port=0, host="localhost", label_unavailable=True) as server:
        yield f"localhost:{server.port}"


@pytest.fixture
def command(address, capsys):
    """Runs the command; answers its exit code, stdout and stderr."""

    def run(*arguments, server=address, model="toy"):
        values = flags.FlagValues()
        client_command.define_flags(values)
        values(["client", f"--server={server}", f"--model={model}", *arguments])
        code = client_command.run(values)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


ECHO = ["--signature=echo", "--set=f=1.5", "--set=i=9007199254740993", "--set=b=true", "--set=s=é"]
ECHO += ["--set=short=0.1", "--set=c=1+2j"]


def test_texts_are_one_batch_and_the_answers_are_printed(command):
    code, out, err = command("--text=ab", "--text=-x", "--set=times=2")
    assert (code, out, err) == (0, "abab\n-x-x\n", "")


def test_values_of_an_input_with_two_axes_are_those_of_each_row(command):
    """And as many as its default has, so that a server can put the request beside others."""
    texts = ["--signature=until", "--text=a", "--text=b", "--json"]
    shown = {0: "||", 1: "x||", 2: "x|x|", 4: "x|x|x|x"}
    for count, stop in shown.items():
        code, out, err = command(*texts, *["--set=stop=x"] * count)
        rows = [json.loads(line) for line in out.splitlines()]
        stops = [row["stop"] for row in rows]
        assert (code, err, [*map("".join, stops)]) == (0, "", [stop] * 2)
        assert [row["text"] for row in rows] == ["a", "b"]


def test_bytes_that_are_not_utf8_are_escaped(command):
    assert command("--text=\udcffé", "--set=times=1")[:2] == (0, "\\xffé\n")


def test_text_from_stdin(command, monkeypatch):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(b"a\nb\n\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert command("--text=-", "--set=times=1")[:2] == (0, "a\nb\n\n")


def test_settings_take_the_dtype_of_their_input(command):
    code, out, _ = command(*ECHO, "--set=scalar=0.5")
    wanted = ["b: True", "c: 2.0", "f: 1.5", "i: 9007199254740993", "pair: [1.5, 1.5]", "s: é"]
    wanted += ["scalar: 0.5", "short: 0.10009765625"]
    assert (code, sorted(out.splitlines())) == (0, wanted)


def test_json_prints_every_output(command):
    code, out, _ = command("--json", "--text=a", "--text=b", "--set=times=1")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert lines == [{"text": "a", "times": 1}, {"text": "b", "times": 1}]


MISTAKES = [
    (["--set=tims=2"], "no input tims; its inputs: text, times"),
    (["--set=times=two"], "--set=times=two: 'two' is not a int32"),
    (["--set=times=1.5"], "'1.5' is not a int32"),
    (["--set=times=99999999999"], "is not a int32"),
    (["--set=times"], "is not of the form NAME=VALUE"),
    (["--text=a", "--set=text=b"], "given twice"),
    (["--signature=x"], "no signature x; its signatures: echo, serving_default, until"),
    ([*ECHO, "--set=b=maybe"], "'maybe' is not a bool"),
    ([*ECHO, "--text=a"], "no input text; its inputs: b, c, f, i, s, scalar, short"),
    ([*ECHO, "--set=c=one"], "'one' is not a complex64"),
    (["--text=a"], "inputs are text, times; missing: --set=times=..."),
    (["--set=times=1"], "missing: --text=..."),
    (
        ["--text=a", "--text=b", "--set=times=1"] + ["--set=times=2"] * 2,
        "input text is given 2 times, where another one is given 3 times",
    ),
    ([*ECHO, "--set=scalar=1", "--set=scalar=2"], "one value for all rows; 2 were given"),
    (["--text=a", "--model_version=7"], "NOT_FOUND: Servable not found for request: Specific"),
    (["--text=a", "--version_label=x"], "INVALID_ARGUMENT: Unrecognized servable version"),
    (["--text=a", "--version_label=x", "--model_version=1"], "the version is given twice"),
    (["--text=a", "--retries=5"], "retries must be 0 to 4, not 5"),
    (["--text=a", "--timeout=0"], "timeout must be a number of seconds above 0"),
    (["--text=a", "--max_message_mb=0"], "max_message_bytes must be 1 to"),
    (["--text=a", "--ca_file=nosuch.pem"], "ca_file: cannot read nosuch.pem: No such file"),
    (["--text=a", "--cert_file=a.pem"], "belong together: key_file is missing"),
    (["--text=" + "a" * 2**20, "--set=times=1", "--max_message_mb=1"], "RESOURCE_EXHAUSTED"),
]


def test_mistakes_end_with_1_and_say_what_is_wrong(command):
    for arguments, message in MISTAKES:
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


def test_host_without_an_address_is_not_told_to_start(command):
    code, _, err = command("--text=a", server="nosuch.invalid:1")
    assert code == 1
    assert err.startswith("cannot find nosuch.invalid:1: ")


def test_version_by_label(command):
    assert command("--text=a", "--set=times=2", "--version_label=stable")[:2] == (0, "aa\n")


def test_tls(command, model, tmp_path):
    lines = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "ca.pem"}
    config = [f"{name}: {(CERTIFICATES / file).read_text()!r}" for name, file in lines.items()]
    (tmp_path / "ssl.config").write_text("\n".join([*config, "client_verify: true"]))
    credentials = read_credentials(str(tmp_path / "ssl.config"))
    ask = ["--text=a", "--set=times=2", "--retries=0"]
    ca = f"--ca_file={CERTIFICATES / 'ca.pem'}"
    own = [f"--{kind}_file={CERTIFICATES / 'client'}.{kind}" for kind in ("cert", "key")]
    own[0] = own[0].replace(".cert", ".pem")
    with Server([model], port=0, credentials=credentials, label_unavailable=True) as server:
        address = f"localhost:{server.port}"
        assert command(*ask, ca, *own, server=address) == (0, "aa\n", "")
        wrong = [[ca, *own, "--server_name=other"], ["--tls", *own], [ca], []]
        for arguments in wrong:
            code, out, err = command(*ask, *arguments, server=address)
            assert (code, out) == (1, "")
            assert err.startswith(f"{address} is there, but it and this client do not agree on TLS")


def test_rows_repeat_what_has_no_batch_dimension():
    outputs = {"a": np.array([1, 2]), "b": np.float32(3), "c": np.array([[b"x"], [b"y"]], object)}
    assert printing.rows(outputs) == [
        {"a": 1, "b": 3.0, "c": ["x"]},
        {"a": 2, "b": 3.0, "c": ["y"]},
    ]
