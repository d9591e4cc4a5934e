"""Recipes: functions that return a config. Docstring = command, expected time, expected score.

Times are for 2 CPU cores unless a GPU is named.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.optim.config import OptimizerConfig, muon
from trainers.recipes.pretrained import PRETRAINED_RECIPES
from trainers.recipes.understanding import UNDERSTANDING_RECIPES
from zoo.config import ConfigError

_SHAKESPEARE_PROMPTS = ("", "ROMEO:", "To be, or not to be")


def shakespeare_gpt_cpu() -> TrainConfig:
    """Character GPT, 0.80 M parameters, nanoGPT's CPU budget of 1.5 M tokens.

    python -m trainers --recipe=shakespeare_gpt_cpu --workdir=runs/shakespeare_gpt

    2 minutes. Validation loss 1.529 on the whole last tenth; with seeds 1 and 2 1.525 and 1.533
    (nanoGPT at this budget: 1.886).
    """
    return TrainConfig(
        recipe="shakespeare_gpt_cpu",
        preset="gpt_char_cpu",
        data=DataConfig(train="tinyshakespeare", start_text="\n"),
        optimizer=muon(6e-3),
        batch_size=12,
        steps=2000,
        evaluate_every=250,
        sample_prompts=_SHAKESPEARE_PROMPTS,
    )


def shakespeare_lstm_cpu() -> TrainConfig:
    """Character LSTM, 0.82 M parameters, the same budget, state carried between windows.

    python -m trainers --recipe=shakespeare_lstm_cpu --workdir=runs/shakespeare_lstm

    1.5 minutes. Validation loss 1.491 (torch's nn.LSTM of this size with AdamW: 1.552).
    """
    return TrainConfig(
        recipe="shakespeare_lstm_cpu",
        preset="lstm_char_cpu",
        data=DataConfig(
            train="tinyshakespeare", start_text="\n", order="segments", segment_windows=4
        ),
        # A third iteration gives 0.017 and takes a fifth more time, see BUILD_NOTES.md.
        optimizer=muon(1e-2, newton_schulz_steps=2),
        batch_size=12,
        steps=2000,
        evaluate_every=250,
        sample_prompts=_SHAKESPEARE_PROMPTS,
    )


def shakespeare_gpt() -> TrainConfig:
    """Character GPT, 10.6 M parameters, nanoGPT's one-GPU shape: for a GPU.

    python -m trainers --recipe=shakespeare_gpt --workdir=runs/shakespeare_gpt_large

    Not measured yet: no GPU was at hand. nanoGPT's own run reaches 1.470 on an A100 in 3 minutes.
    """
    return TrainConfig(
        recipe="shakespeare_gpt",
        preset="gpt_char",
        data=DataConfig(train="tinyshakespeare", start_text="\n"),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-3, warmup_steps=100, final_fraction=0.1
        ),
        batch_size=64,
        steps=5000,
        evaluate_every=250,
        precision="mixed_bfloat16",
        sample_prompts=_SHAKESPEARE_PROMPTS,
        sample_tokens=500,
    )


def python_gpt_quick() -> TrainConfig:
    """The quickstart: a small GPT on this machine's own Python standard library; no download.

    python -m trainers --recipe=python_gpt_quick --workdir=runs/quick

    1 minute. Validation loss 1.190 a byte (1.72 bits a character) on Python 3.11's library.
    """
    return TrainConfig(
        recipe="python_gpt_quick",
        preset="gpt_quick",
        data=DataConfig(train="python_stdlib", max_bytes=4_000_000, tokenizer="byte"),
        optimizer=muon(1e-2, warmup_steps=50),
        batch_size=12,
        steps=1000,
        evaluate_every=250,
        sample_prompts=("import ", "def __init__(self", "    for "),
    )


def chinese_poetry_gpt() -> TrainConfig:
    """Character GPT on classical Chinese poems, rare characters unknown.

    python -m trainers --recipe=chinese_poetry_gpt --workdir=runs/poetry --data_dir=DATA

    2.5 minutes. Validation loss 4.376 a character (6.39 bits); there is no published figure.
    """
    return TrainConfig(
        recipe="chinese_poetry_gpt",
        preset="gpt_char_cpu",
        model={"token_shift": 0},  # as measured; what token shift gives here was not
        data=DataConfig(train="chinese_poetry", min_count=2),
        optimizer=muon(6e-3),
        batch_size=12,
        steps=2000,
        evaluate_every=500,
        sample_prompts=("", "\u6625\u6653", "\u6c34\u8c03\u6b4c\u5934\n\u82cf\u8f7c\n"),
        sample_tokens=80,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        shakespeare_gpt_cpu,
        shakespeare_lstm_cpu,
        shakespeare_gpt,
        python_gpt_quick,
        chinese_poetry_gpt,
        *UNDERSTANDING_RECIPES,
        *PRETRAINED_RECIPES,
    )
}


def find_recipe(name: str) -> TrainConfig:
    """The config of a recipe.

    Raises:
        ConfigError: unknown name; the known ones are listed.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unknown recipe {name!r}.{hint} Known recipes: {', '.join(RECIPES)}")
    return RECIPES[name]()


def describe_recipes() -> str:
    """Every recipe with its docstring, for `--list`."""
    return "\n\n".join(
        f"{name}\n" + "\n".join(f"    {line}" for line in inspect.getdoc(recipe).splitlines())
        for name, recipe in RECIPES.items()
    )
