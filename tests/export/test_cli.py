"""`python -m export` and `python -m export.verify` as a user meets them."""

import json
import os
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


def test_a_reader_that_leaves_ends_in_no_traceback(tmp_path):
    """As `... | head` does; also with 2>&1. Commands that import TensorFlow do as these do."""
    code = """
import sys
from zoo.output import outlive_readers
outlive_readers()
for number in range(20_000):
    print(number)
print(number, file=sys.stderr, flush=True)
open(sys.argv[1], "w").close()
sys.exit(7)
"""
    commands = {
        "export.client": ["-m", "export.client", "--help"],
        "export": ["-m", "export", "--help"],
        "trainers": ["-m", "trainers", "--help"],
        "trainers.data.prepare": ["-m", "trainers.data.prepare", "--help"],
        "on": ["-c", code, str(tmp_path / "went on")],
    }
    reading, writing = os.pipe()
    os.close(reading)
    running = {
        name: subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=writing,
            stderr=writing if name == "on" else subprocess.PIPE,
            text=True,
        )
        for name, arguments in commands.items()
    }
    os.close(writing)
    said = {name: process.communicate(timeout=240)[1] for name, process in running.items()}
    for name, text in said.items():
        assert not text or "BrokenPipe" not in text, name
    assert running["on"].returncode == 7
    assert (tmp_path / "went on").exists()
    for module in ("export/server/__main__", "export/verify", "export/closure/__main__"):
        assert "    outlive_readers()\n" in (ROOT / f"{module}.py").read_text()


def test_verify_without_a_model_cannot_replay(tmp_path):
    result = run("export.verify", f"--model_dir={tmp_path}")
    assert result.returncode == 2
    assert f"{tmp_path}: no model version in it" in result.stdout
