"""Tiny runs: models of 8 channels on a few thousand characters, a second or two each."""

import random

import pytest

from trainers.config import OptimizerConfig, TrainConfig
from trainers.data.config import DataConfig

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """About 4 500 characters of sentences."""
    generator = random.Random(0)
    lines = [" ".join(generator.choice(WORDS) for _ in range(8)) for _ in range(120)]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(text_file):
    """`tiny("gpt" or "lstm", **fields of TrainConfig)`, with dropout: its seeds must resume."""

    def config(family, **options):
        model = {"hidden_dim": 8, "num_layers": 1, "context_length": 8, "dropout": 0.2}
        data = {"train": str(text_file), "start_text": "\n"}
        if family == "gpt":
            model["num_heads"] = 2
        else:
            data |= {"order": "segments", "segment_windows": 4}  # a checkpoint falls inside one
        values = {
            "recipe": f"tiny_{family}",
            "preset": f"{family}_char_cpu",
            "model": model,
            "data": DataConfig(**data),
            "optimizer": OptimizerConfig(
                name="muon" if family == "gpt" else "adamw", learning_rate=0.02, warmup_steps=5
            ),
            "batch_size": 4,
            "steps": 30,
            "evaluate_every": 10,
            "jit_compile": False,
            "sample_prompts": ("", "the ```", "fox\n"),
            "sample_tokens": 20,
        }
        return TrainConfig(**{**values, **options})

    return config


@pytest.fixture
def warnings(monkeypatch):
    """What absl.logging.warning is told, formatted."""
    messages = []

    def record(message, *args):
        messages.append(message % args)

    monkeypatch.setattr("absl.logging.warning", record)
    return messages
