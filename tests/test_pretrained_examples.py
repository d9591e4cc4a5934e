"""The examples of published models, on tiny local ones: they answer, and say what is missing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from examples import continue_text, fill_mask

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "zoo" / "fixtures" / "huggingface"

pytestmark = pytest.mark.tensorflow_only


def put_together(folder, *parts):
    """A model's folder from the fixtures, which keep tokenizers apart."""
    for part in parts:
        shutil.copytree(FIXTURES / part, folder, dirs_exist_ok=True)
    return str(folder)


@pytest.mark.usefixtures("eager_functions")
def test_fill_mask(tmp_path, capsys):
    model = put_together(tmp_path, "bert_mlm", "wordpiece")
    fill_mask.main(model, "the [MASK] sat.")
    given, *candidates, filled = filter(None, capsys.readouterr().out.split("\n"))
    assert given == "the [MASK] sat."
    assert len(candidates) == 5
    best = re.fullmatch(r" +(\d+\.\d)%  (\S+)", candidates[0])
    answer = zoo.load(model).text_model.fill_mask([given])
    assert best[2] == answer["tokens"].numpy()[0, 0, 0].decode()
    assert float(best[1]) == pytest.approx(100 * answer["probabilities"].numpy()[0, 0, 0], abs=0.06)
    assert filled == answer["text"].numpy()[0].decode()


@pytest.mark.slow
def test_fill_mask_of_a_model_with_another_mask_token(tmp_path, capsys):
    fill_mask.main(put_together(tmp_path, "roberta_mlm", "roberta"), "the [MASK] sat [MASK].")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the [MASK] sat [MASK]."
    assert sum("%" in line for line in lines) == 10
    assert "mask" not in lines[-1].lower()


@pytest.mark.slow
def test_continue_text(tmp_path, capsys):
    model = put_together(tmp_path, "gpt2_lm", "gpt2")
    continue_text.main(model, "the cat", max_new_tokens=6)
    captured = capsys.readouterr()
    bundle = zoo.load(model)
    ids = bundle.tokenizer.encode(["the cat"]).numpy().tolist()[0]
    for _ in range(6):
        logits = bundle.model(np.array([ids]))
        ids.append(int(np.argmax(logits[0, -1])))
        assert ids[-1] != bundle.tokenizer.end_id  # else generation would stop there
    expected = bundle.tokenizer.decode([ids]).numpy()[0]
    assert captured.out == expected.decode("utf-8", "replace") + "\n"
    assert "6 new tokens, log probability -" in captured.err


@pytest.mark.parametrize(
    "example, parts, message",
    [
        (fill_mask, ("gpt2_lm", "gpt2"), "does 'lm' and fills no masks"),
        (continue_text, ("bert_mlm", "wordpiece"), "does 'mlm' and writes no text"),
    ],
)
def test_a_model_of_another_task(tmp_path, example, parts, message):
    with pytest.raises(SystemExit, match=message):
        example.main(put_together(tmp_path, *parts))


@pytest.mark.parametrize(
    "name", ["continue_text", pytest.param("fill_mask", marks=pytest.mark.slow)]
)
def test_without_network(tmp_path, name):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", f"examples.{name}"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"{name}: hf://")
    assert "the Hub cannot be reached" in last
    assert "pass the folder of a download" in last
    assert "Traceback" not in ended.stderr
