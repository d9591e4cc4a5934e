"""Runs that are killed or told to stop, and go on as if nothing had happened."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.config import to_dict

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"seconds", "cpu_seconds", "tokens_per_second"}
WRITES = ["write", "progress", "log", "best", "update"]


def killed(config, folder, moments, seed=0):
    """Trains in `folder`/run, killed at these moments, and undisturbed in `folder`/whole.

    Returns what was printed.
    """
    folder.mkdir(exist_ok=True)
    config_file = folder / "config.json"
    config_file.write_text(json.dumps(to_dict(config)))
    script = Path(__file__).with_name("killed_runs.py")
    result = subprocess.run(
        [sys.executable, script, config_file, folder, str(seed), *moments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.count(" ") == 2]
    assert [line[0] for line in lines] == [*moments, "end", "end"], result.stdout
    return lines, result.stderr


def log_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_result(folder):
    """Of the two runs: weights equal to the last bit, and the same log."""
    workdir, other = folder / "run", folder / "whole"
    assert log_of(workdir) == log_of(other)
    for one, two in zip(zoo.load(workdir).model.get_weights(), zoo.load(other).model.get_weights()):
        np.testing.assert_array_equal(one, two)


def assert_ended_as_told(lines, errors):
    codes = {"term": {"75", "0"}, "between": {"75", "0"}, "end": {"0"}}
    for moment, code, _ in lines:
        # A run may be at its end before the moment comes.
        assert code in codes.get(moment, {"-9", "0"}), f"{lines}\n{errors}"


@pytest.mark.slow
def test_killed_in_writes_and_stopped_between_two_evaluations(tiny, tmp_path):
    """The state of an LSTM, the sums of the training metrics and the seeds of dropout go on."""
    config = tiny("lstm", steps=60, evaluate_every=5, sample_prompts=())
    moments = ["write", "between", "log"]
    lines, errors = killed(config, tmp_path, moments, seed=1)
    assert [code for _, code, _ in lines] == ["-9", "75", "-9", "0", "0"], errors
    saved = [int(step.removeprefix("step-")) for moment, _, step in lines if moment == "between"]
    assert all(step % config.evaluate_every for step in saved), lines
    assert_same_result(tmp_path)
    assert "Traceback" not in errors
    assert not [p for p in tmp_path.rglob(".partial-*") if p.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt", "lstm"])
def test_killed_at_twenty_random_moments(tiny, tmp_path, family):
    options = {"steps": 1200, "evaluate_every": 20, "sample_prompts": (), "select": "best"}
    config = tiny(family, **options)
    chance = random.Random(family)
    moments = [chance.choice(["kill"] * 6 + ["term"] * 3 + WRITES) for _ in range(20 - len(WRITES))]
    moments += WRITES  # each of them at least once
    chance.shuffle(moments)
    lines, errors = killed(config, tmp_path, moments, seed=3)
    assert_ended_as_told(lines, errors)
    assert sum(code != "0" for _, code, _ in lines) >= 10, lines
    assert_same_result(tmp_path)
