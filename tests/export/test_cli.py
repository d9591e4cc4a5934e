"""`python -m export` and `python -m export.verify` as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240
    )


def test_an_unfinished_run_is_refused_in_one_line(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "train_config.json").write_text(json.dumps({}))
    result = run("export", f"--workdir={workdir}", f"--out={tmp_path / 'served'}")
    assert result.returncode == 1
    assert f"export: {workdir}: the training run in it has not finished" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "served").exists()


def test_flags_that_are_missing_or_wrong_are_named(tmp_path):
    result = run("export", "--workdir=x", "--version=-1")
    assert result.returncode == 1
    assert "--version=-1" in result.stderr
    assert "non-negative" in result.stderr


def test_verify_without_a_model_cannot_replay(tmp_path):
    result = run("export.verify", f"--model_dir={tmp_path}")
    assert result.returncode == 2
    assert f"{tmp_path}: no model version in it" in result.stdout
