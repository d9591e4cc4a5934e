"""What the report says of speed: counts by hand, and a profile that TensorBoard finds."""

import subprocess
import sys

import numpy as np
import pytest

import zoo
from trainers.loop import train
from trainers.report.efficiency import (
    efficiency,
    peak_flops,
    peak_memory,
    pipeline_tokens_per_second,
    training_flops_per_token,
)
from trainers.tasks import make_task


def test_flops_of_a_gpt_by_hand():
    """GPT-2's own count: 6 x 124 M less the positions, which are looked up, and attention."""
    shape = {"num_layers": 2, "hidden_dim": 8, "num_heads": 2, "intermediate_dim": 16}
    config = zoo.GPTConfig(
        vocabulary_size=11, context_length=6, activation="gelu", positions="learned", **shape
    )
    block = 8 * 24 + 8 * 8 + 2 * 8 * 16  # qkv, output, up and down
    expected = 6 * (2 * block + 11 * 8) + 12 * 2 * 8 * 6
    assert training_flops_per_token(zoo.build(config), 6) == expected


def test_flops_of_an_lstm_and_an_encoder_by_hand():
    lstm = zoo.build(
        zoo.LSTMConfig(vocabulary_size=11, context_length=6, hidden_dim=8, num_layers=1)
    )
    kernels = [w for w in lstm.weights if len(w.shape) == 2 and "embedding" not in w.path]
    assert kernels
    tied = 11 * 8 if lstm.backbone.config.tie_embeddings else 0
    others = sum(int(np.prod(w.shape)) for w in lstm.weights if "reverse" in w.path)
    expected = 6 * (sum(int(np.prod(w.shape)) for w in kernels) + tied + others)
    assert training_flops_per_token(lstm, 6) == expected
    encoder = zoo.build("bert_tiny", "embed", vocabulary_size=100)
    matrices = 2 * (4 * 128 * 128 + 2 * 128 * 512)
    pooler = 128 * 128 if any("pooler" in w.path for w in encoder.weights) else 0
    expected = 6 * (matrices + pooler) + 12 * 2 * 128 * 10
    assert training_flops_per_token(encoder, 10) == expected


def test_rows_of_the_report(tiny):
    task = make_task(tiny("gpt"))
    records = [
        {"step": 500, "tokens": 16_000, "tokens_per_second": 50.0},
        {"step": 1000, "tokens": 32_000, "tokens_per_second": 1000.0},
        {"step": 1500, "tokens": 48_000, "tokens_per_second": 3000.0},
    ]
    rows = efficiency(task, records)
    assert rows["speed"] == "1,000 tokens a second in training"
    peak, source = peak_flops()
    assert peak > 1e8
    assert "float32 matrices here" in source
    assert "GFLOP/s" in rows["model FLOPs utilisation"]
    assert rows["memory"].endswith(" MB at most")
    assert peak_memory() > 50e6
    assert pipeline_tokens_per_second(task) > 1000
    # Of a few seconds of training nothing is measured that takes as long.
    short = [{"step": 300, "tokens": 9_600, "tokens_per_second": 1000.0}]
    assert {*efficiency(task, short)} == {"speed", "memory"}
    # A run whose only evaluation was made up for after a restart has no speed.
    assert {*efficiency(task, [{"step": 1, "tokens": 32, "tokens_per_second": 0.0}])} == {"memory"}


@pytest.mark.slow
def test_a_profile_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.report.efficiency._LEAST_SECONDS", 0)
    train(tiny("gpt", sample_prompts=(), steps=10), tmp_path, profile_steps=3)
    assert [*(tmp_path / "tensorboard").rglob("*.xplane.pb")]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| model FLOPs utilisation | " in text
    assert "| input pipeline alone | " in text


def test_a_bad_profile_flag_is_refused():
    command = [sys.executable, "-m", "trainers", "--recipe=x", "--workdir=y", "--profile=-1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "--profile" in result.stderr or "flag" in result.stderr
