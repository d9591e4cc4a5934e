"""Recipes keep what their docstrings promise: minutes long, so `make test-slow`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.metrics import MetricsLog
from trainers.recipes import RECIPES, describe_recipes, find_recipe

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "tokens", "validation_loss"),
    [
        ("shakespeare_gpt_cpu", 12 * 64 * 2000, 1.56),
        ("shakespeare_lstm_cpu", 12 * 64 * 2000, 1.55),
        ("tatoeba_cmn_seq2seq", 2_480_655, 2.06),
    ],
)
def test_recipe_reaches_its_score(recipe, tokens, validation_loss, tmp_path):
    """The whole recipe, as a user runs it."""
    if not os.environ.get("ZOO_DATA"):
        pytest.skip("set ZOO_DATA to the folder with tinyshakespeare and tatoeba_cmn_eng")
    command = [sys.executable, "-m", "trainers", f"--recipe={recipe}", f"--workdir={tmp_path}/w"]
    subprocess.run(command, cwd=ROOT, check=True)
    records = MetricsLog(tmp_path / "w").read()
    assert records[-1]["tokens"] == tokens
    assert min(record["val_loss"] for record in records) <= validation_loss


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_config(name):
    config = find_recipe(name)
    assert config.recipe == name
    assert config.model_config(100).vocabulary_size == 100
    assert f"    python -m trainers --recipe={name} --workdir=" in describe_recipes()
