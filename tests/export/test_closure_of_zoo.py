"""Every family and tokenizer of the zoo runs on the releases of TensorFlow Serving, without zoo.

`test_understanding.py` and `test_saved_model.py` hold each task once. With older TensorFlows
installed, each with the TF-Text of its release, the models are run by those, too:

    ZOO_OLD_TF=/tmp/tf216/bin/python:/tmp/tf219/bin/python \
        python -m pytest -m slow tests/export/test_closure_of_zoo.py
"""

import os
import sys

import pytest
import tensorflow as tf
from old_releases import differences_on, findings
from tiny_models import HEADS, make_bundle

from export.saved_model import export_saved_model

# task, family, tokenizer, whether texts are cleaned
CASES = [
    ("lm", "lstm", "characters", False),
    *(("lm", "gpt", name, False) for name in ("characters", "bytes", "bytepair", "sentencepiece")),
    ("lm", "gpt", "wordpiece", True),
    ("lm", "lstm", "bytes", True),
    *((task, "bert", "wordpiece", task not in ("mlm", "tag", "span")) for task in HEADS),
    *((task, "bert", "bytepair", False) for task in ("mlm", "tag", "span", "embed")),
    *((task, "bert", "sentencepiece", False) for task in ("mlm", "pair", "tag", "span")),
    ("classify", "bert", "sentencepiece", True),
    ("classify", "lstm", "wordpiece", True),
]

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """name -> version folder; the golden answers in each are the Keras model's own."""
    folder, paths = tmp_path_factory.mktemp("zoo"), {}
    with pytest.MonkeyPatch.context() as patch:
        # Each is replayed below, in another process.
        patch.setattr("export.saved_model.replay", lambda *_: [])
        for case in CASES:
            name = "-".join(map(str, case))
            bundle = make_bundle(folder / name / "run", *case)
            served = folder / name / "served"
            paths[name] = export_saved_model(bundle, served, serving_version="2.16.1")
    return paths


def test_every_family_and_tokenizer(exported, tmp_path):
    assert findings(exported) == []
    version, lines = differences_on(sys.executable, exported, tmp_path)
    assert version == tf.__version__
    assert lines == []


@pytest.mark.skipif("ZOO_OLD_TF" not in os.environ, reason="needs older TensorFlows")
@pytest.mark.parametrize("interpreter", os.environ.get("ZOO_OLD_TF", "").split(":"))
def test_older_runtimes(interpreter, exported, tmp_path):
    version, lines = differences_on(interpreter, exported, tmp_path)
    assert version != tf.__version__
    assert lines == []
