"""Every exported model of the zoo runs on the releases of TensorFlow Serving, and without zoo.

The fast tests hold each task once, the slow ones every family and tokenizer. With older TensorFlows
installed, each with the TF-Text of its release, the models are run by those, too:

    ZOO_OLD_TF=/tmp/tf216/bin/python:/tmp/tf219/bin/python \
        python -m pytest -m slow tests/export/test_closure_of_zoo.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import zoo
from export.closure.check import check
from export.golden.pairs import differences, read_golden_pairs
from export.model_folder import GOLDEN_FILE
from export.saved_model import export_saved_model
from zoo.models.build import build
from zoo.text.config import CleaningConfig, TextConfig
from zoo.tokenizers import BytePairTokenizer, SentencePieceTokenizer, WordPieceTokenizer

SCRIPT = Path(__file__).with_name("session_replay.py")
PIECES = Path(__file__).parents[1] / "zoo" / "fixtures" / "sentencepiece" / "unigram.model"
VERSIONS = ("2.16.1", "2.19.1", "2.21")
TEXT = "To be, or not to be: that is the question."
NAMES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
ROLES = {**NAMES, "unknown": "<unk>"}
CLEANING = CleaningConfig(
    html=True, control_characters=True, unicode="nfkc", lowercase=True, urls="mask",
    emails="remove", stop_words=("the",), whitespace=True,
)  # fmt: skip
HEADS = {
    "mlm": ({}, ()),
    "classify": ({"num_classes": 2}, ("bad", "good")),
    "pair": ({"num_classes": 3}, ("no", "may be", "yes")),
    "tag": ({"num_tags": 3}, ("O", "B-PER", "I-PER")),
    "span": ({}, ()),
    "embed": ({"pooling": "mean"}, ()),
    "regress": ({}, ()),
}
# task, family, tokenizer, whether texts are cleaned
FAST = [
    ("lm", "lstm", "characters", False),
    ("mlm", "bert", "sentencepiece", False),
    ("classify", "bert", "sentencepiece", True),
    ("pair", "bert", "sentencepiece", False),
    ("tag", "bert", "sentencepiece", False),
    ("span", "bert", "sentencepiece", False),
    ("embed", "bert", "bytepair", False),
    ("regress", "bert", "wordpiece", False),
]
SLOW = [
    *(("lm", "gpt", name, False) for name in ("characters", "bytes", "bytepair", "sentencepiece")),
    ("lm", "gpt", "wordpiece", True),
    ("lm", "lstm", "bytes", True),
    *((task, "bert", "wordpiece", task not in ("mlm", "tag", "span")) for task in HEADS),
    *((task, "bert", "bytepair", False) for task in ("mlm", "tag", "span")),
    ("classify", "lstm", "wordpiece", True),
]

pytestmark = pytest.mark.tensorflow_only


def make_tokenizer(kind, task):
    if kind == "characters":
        return zoo.CharacterTokenizer.train([TEXT])
    if kind == "bytes":
        return zoo.ByteTokenizer()
    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return WordPieceTokenizer([*special, *"abdehinoqrstu", *(f"##{c}" for c in "abehinorstu")])
    if kind == "sentencepiece":
        return SentencePieceTokenizer.from_file(PIECES, roles=None if task == "lm" else NAMES)
    if task == "lm":
        return BytePairTokenizer.train([TEXT], 270)
    return BytePairTokenizer.train(
        [TEXT], 270, special_tokens=[*ROLES.values()], roles=ROLES, parse_special=True,
        pair_separators=2, end="</s>",
    )  # fmt: skip


def make_bundle(folder, task, family, kind, cleaned):
    keras.utils.set_random_seed(1)
    tokenizer = make_tokenizer(kind, task)
    shape = {"context_length": 16, "num_layers": 1, "hidden_dim": 8, "initializer_range": 0.5}
    shape["vocabulary_size"] = tokenizer.vocabulary_size
    if family == "lstm":
        config = zoo.LSTMConfig(**shape)
    else:
        config = {"gpt": zoo.GPTConfig, "bert": zoo.BertConfig}[family](**shape, num_heads=2)
    head, labels = HEADS.get(task, ({}, ()))
    model = zoo.build(config) if task == "lm" else build(config, task, head)
    text = TextConfig(max_length=16, cleaning=CLEANING) if cleaned else None
    start = 0 if task == "lm" and kind == "wordpiece" else None
    return zoo.save(folder, model, tokenizer, start, labels=labels, text=text)


def export(cases, folder):
    """name -> version folder; the golden answers in each are the Keras model's own."""
    exported = {}
    with pytest.MonkeyPatch.context() as patch:
        # Each is replayed below, in another process.
        patch.setattr("export.saved_model.replay_locally", lambda _: [])
        for case in cases:
            name = "-".join(map(str, case))
            bundle = make_bundle(folder / name / "run", *case)
            path = folder / name / "served"
            exported[name] = export_saved_model(bundle, path, serving_version="2.16.1")
    return exported


def findings(exported):
    found = [(name, v, check(path, v)) for name, path in exported.items() for v in VERSIONS]
    return [f"{name}, {version}: {one}" for name, version, some in found for one in some]


def differences_on(interpreter, exported, folder):
    """Runs models by another Python: its version of TensorFlow, and what answers differ."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": ""}
    arguments = [f"{name}={path}" for name, path in exported.items()]
    ran = subprocess.run(
        [interpreter, SCRIPT, folder, *arguments], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    version, *imported = json.loads(ran.stdout.splitlines()[-1])
    assert imported == [], "the models need more than TensorFlow and the library of TF-Text"
    lines = []
    for name, path in exported.items():
        golden = read_golden_pairs(path / GOLDEN_FILE)
        answers = read_golden_pairs(folder / name)
        assert len(golden) == len(answers) > 0
        for pair, answer in zip(golden, answers):
            lines += [f"{name}: {line}" for line in differences(pair, answer.outputs)]
    return version, lines


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return export(FAST, tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return export(SLOW, tmp_path_factory.mktemp("wide"))


def test_every_task_has_the_ops_of_all_releases(fast):
    assert {case[0] for case in FAST} == {"lm", *HEADS}
    assert findings(fast) == []


@pytest.mark.timeout(600)
def test_every_task_answers_as_keras_where_there_is_no_zoo(fast, tmp_path):
    version, lines = differences_on(sys.executable, fast, tmp_path)
    assert version == tf.__version__
    assert lines == []


@pytest.mark.slow
def test_every_family_and_tokenizer(wide, tmp_path):
    assert findings(wide) == []
    _, lines = differences_on(sys.executable, wide, tmp_path)
    assert lines == []


@pytest.mark.slow
@pytest.mark.skipif("ZOO_OLD_TF" not in os.environ, reason="needs older TensorFlows")
@pytest.mark.parametrize("interpreter", os.environ.get("ZOO_OLD_TF", "").split(":"))
def test_older_runtimes(interpreter, fast, wide, tmp_path):
    version, lines = differences_on(interpreter, {**fast, **wide}, tmp_path)
    assert version != tf.__version__
    assert lines == []
