"""Every understanding task from a bundle to a served answer: all ways to ask say the same."""

import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from old_releases import differences_on, findings
from tiny_models import HEADS, make_bundle

from export.client import Client
from export.client import __main__ as command
from export.golden.pairs import read_golden_pairs
from export.golden.replay import problems_of, replay_remotely
from export.golden.requests import to_examples
from export.model_folder import GOLDEN_FILE, read_saved_model
from export.saved_model import export_saved_model
from export.server import ServedModel, Server

pytestmark = pytest.mark.timeout(300)

SIGNATURES = {
    "mlm": {"fill_mask"},
    "classify": {"predict", "classify", "regress"},
    "pair": {"predict", "classify"},
    "tag": {"tag"},
    "span": {"answer"},
    "embed": {"embed"},
    "regress": {"predict", "regress"},
}
TEXTS = [
    "Ada wrote in Z\u00fcrich.".encode(),
    b"",
    "\U0001f469\u200d\U0001f680 Cafe\u0301s \u6625\u7720\uff0c \U0001f1e8\U0001f1ed ada!".encode(),
    b"the [MASK] wrote a [MASK] " * 6,
    b"\xff\xc3 not <b> \x00 ADA",
    b" \t ",
]


class Served:
    """A tiny model of a task, exported and served."""

    def __init__(self, task, client, address, bundle, path):
        self.task, self.client, self.address = task, client, address
        self.bundle, self.path = bundle, path
        # The default signature's name, and its graph function over the Keras model.
        self.default, self.function = next(iter(bundle.text_model.functions.items()))

    def inputs(self, rows=None):
        """The first `rows` of TEXTS; a second input has them in another order."""
        names = [spec.name for spec in self.function.input_signature]
        rolled = [TEXTS[2 * place :] + TEXTS[: 2 * place] for place in range(len(names))]
        return {name: np.array(texts[:rows], object) for name, texts in zip(names, rolled)}

    def keras(self, inputs):
        outputs = self.function(*(tf.constant(value, tf.string) for value in inputs.values()))
        return {name: value.numpy() for name, value in outputs.items()}

    def predict(self, inputs, signature=""):
        return self.client.predict("m", inputs, signature).outputs


TOKENIZERS = {**dict.fromkeys(HEADS, "wordpiece"), "pair": "sentencepiece", "embed": "bytepair"}


@pytest.fixture(scope="module")
def export_of(tmp_path_factory):
    """task -> bundle and version folder, each exported once."""
    made = {}

    def export(task):
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            family, tokenizer = ("lstm", "bytes") if task == "lm" else ("bert", TOKENIZERS[task])
            bundle = make_bundle(folder / "run", task, family, tokenizer, task == "regress")
            path = export_saved_model(bundle, folder / "served", serving_version="2.16.1")
            made[task] = bundle, path
        return made[task]

    with pytest.MonkeyPatch.context() as patch:
        # The golden pairs are replayed over the wire.
        patch.setattr("export.saved_model.replay", lambda *_: [])
        yield export


# `make test` asks one task of a text, one of each token and one of two texts.
QUICK = ("mlm", "tag", "span")
TASKS = [pytest.param(x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in HEADS]


@pytest.fixture(scope="module", params=TASKS)
def served(request, export_of):
    bundle, path = export_of(request.param)
    with (
        Server([ServedModel("m", str(path.parent))], port=0, host="localhost") as server,
        Client(f"localhost:{server.port}") as client,
    ):
        yield Served(request.param, client, f"localhost:{server.port}", bundle, path)


def assert_same(answer, expected):
    assert set(answer) == set(expected)
    for name, value in expected.items():
        assert answer[name].shape == value.shape, name
        if value.dtype.kind == "f":
            np.testing.assert_allclose(answer[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        else:
            assert answer[name].tolist() == value.tolist(), name


def test_keras_saved_model_and_server_agree(served):
    known = served.client.signatures("m")
    assert set(known) == SIGNATURES[served.task] | {"serving_default"}
    for rows in (1, len(TEXTS)):
        inputs = served.inputs(rows)
        expected = served.keras(inputs)
        assert all(len(value) == rows for value in expected.values())
        if served.task in ("classify", "span") and rows > 1:
            reloaded = tf.saved_model.load(str(served.path)).signatures[served.default]
            local = reloaded(**{key: tf.constant(value) for key, value in inputs.items()})
            assert_same({key: value.numpy() for key, value in local.items()}, expected)
        assert_same(served.predict(inputs), expected)
        assert_same(served.predict(inputs, served.default), expected)
        examples = to_examples(inputs)
        if "classify" in known:
            answer = served.client.classify("m", examples, "classify").outputs
            assert_same(answer, {key: expected[key] for key in ("classes", "scores")})
            labels = list(map(str.encode, served.bundle.config.labels))
            assert answer["classes"].tolist() == [labels] * rows
        if "regress" in known:
            answer = served.client.regress("m", examples, "regress").outputs
            wanted = expected["outputs"] if "outputs" in expected else expected["scores"][:, 1]
            assert_same(answer, {"outputs": wanted})
        if len(known) == 4:  # both kinds of answer at once
            tasks = {"classify": "classify", "regress": "regress"}
            answers = served.client.multi_inference("m", examples, tasks)
            assert_same(
                answers["classify"].outputs, {k: expected[k] for k in ("classes", "scores")}
            )
            assert_same(answers["regress"].outputs, {"outputs": expected["scores"][:, 1]})
    # Outputs have the batch first, never a scalar.
    signatures = read_saved_model(served.path).meta_graphs[0].signature_def
    for name in SIGNATURES[served.task]:
        for value in signatures[name].outputs.values():
            assert value.tensor_shape.dim[0].size == -1


def test_golden_pairs_hold_over_the_wire(served):
    assert problems_of(replay_remotely(served.path, served.client, "m", clients=2)) == []
    pairs = read_golden_pairs(served.path / GOLDEN_FILE)
    assert {pair.signature for pair in pairs} == SIGNATURES[served.task]
    assert {pair.rows for pair in pairs} == {1, 9}


def test_an_empty_batch_and_rows_that_do_not_match(served):
    inputs = {name: value[:0] for name, value in served.inputs().items()}
    assert all(len(value) == 0 for value in served.predict(inputs).values())
    if len(inputs) == 2:
        inputs = dict(zip(inputs, (["a", "b"], ["a"])))
        with pytest.raises(grpc.RpcError, match="must have the same number of rows") as error:
            served.predict(inputs)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_offsets_are_those_of_the_bytes_that_were_sent(served):
    if served.task not in ("tag", "span"):
        pytest.skip("a task without offsets")
    inputs = served.inputs()
    answer = served.predict(inputs)
    source, shown = ("text", "tokens") if served.task == "tag" else ("context", "answer")
    found = 0
    for row, text in enumerate(inputs[source]):
        spans = zip(*(np.ravel(answer[name][row]).tolist() for name in (shown, "start", "end")))
        for piece, start, end in spans:
            assert (start == -1) == (end == -1) == (piece == b"")
            assert start == -1 or text[start:end] == piece
            found += start >= 0
    assert found >= (20 if served.task == "tag" else 4)
    if served.task == "tag":
        words = [word.decode() for word in answer["tokens"][2] if word]
        assert words[1:5] == ["Cafe\u0301s", "\u6625", "\u7720", "\uff0c"]


def test_a_missing_feature_is_an_empty_text(served):
    if served.task not in ("classify", "pair", "regress"):
        pytest.skip("a task without tf.Examples")
    name, ask = ("regress", served.client.regress)
    if served.task != "regress":
        name, ask = ("classify", served.client.classify)
    empty = tf.train.Example()
    for key in served.inputs():
        empty.features.feature[key].bytes_list.value.append(b"")
    left_out = ask("m", [tf.train.Example()], name).outputs
    assert_same(left_out, ask("m", [empty], name).outputs)


@pytest.mark.slow
def test_every_task_runs_on_all_releases_and_without_zoo(export_of, tmp_path):
    exported = {task: export_of(task)[1] for task in ("lm", *HEADS)}
    assert findings(exported) == []
    tokenizers = {task: exported[task] for task in ("lm", "mlm", "pair", "embed")}  # one of each
    version, lines = differences_on(sys.executable, tokenizers, tmp_path)
    assert version == tf.__version__
    assert lines == []


def test_the_command_asks_and_prints(served, capsys):
    arguments = [f"--set={name}=Ada wrote." for name in served.inputs()]
    shown = {
        "mlm": "Ada wrote.",
        "classify": "0.",
        "pair": "may be",
        "tag": "0-3  Ada",
        "span": "score 0.",
        "embed": "embedding of 8 numbers: ",
        "regress": "outputs: ",
    }

    def run(*arguments):
        values = flags.FlagValues()
        command.define_flags(values)
        values(["client", f"--server={served.address}", "--model=m", *arguments])
        code = command.run(values)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert shown[served.task] in out
    for name in SIGNATURES[served.task] & {"classify", "regress"}:
        assert run(f"--signature={name}", *arguments)[0] == 0
    if served.task == "span":
        code, _, err = run("--text=Ada?")
        assert code == 1
        assert "no input text; its inputs: context, question. Give each as --set=NAME=VALUE" in err
