"""The benchmark of generation for many clients, on a tiny model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from export.saved_model import export_saved_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_text_is_as_alone(tmp_path):
    tokenizer = zoo.ByteTokenizer()
    size = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "context_length": 64}
    config = zoo.GPTConfig(
        vocabulary_size=tokenizer.vocabulary_size, initializer_range=0.5, dropout=0.0, **size
    )
    bundle = zoo.save(tmp_path / "run", zoo.build(config), tokenizer)
    export_saved_model(bundle, tmp_path / "m")
    names = {"GENERATE_MODEL": str(tmp_path / "m"), "BENCH_OUT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "serving_generate"],
        cwd=ROOT,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    header, rows = table[0], [row for row in table if "clients" in row[0]]
    assert [row[0].split()[1] for row in rows] == ["1", "8", "32"]
    assert [row[header.index("wrong")] for row in rows] == ["0", "0", "0"]
