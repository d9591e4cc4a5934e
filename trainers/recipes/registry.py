"""Recipes by name: experiments with their expected time and score.

Times are for 2 CPU cores unless a GPU is named.
"""

from __future__ import annotations

import difflib
import inspect

from trainers.config import TrainConfig
from trainers.recipes.encoders import ENCODERS
from trainers.recipes.language_models import LANGUAGE_MODELS
from zoo.config import ConfigError

# Name -> its description and its config.
RECIPES: dict[str, tuple[str, TrainConfig]] = {
    config.recipe: (inspect.cleandoc(about), config) for about, config in LANGUAGE_MODELS + ENCODERS
}
# Found without --data_dir: downloaded, or part of Python.
_AT_HAND = ("tinyshakespeare", "python_stdlib")


def find_recipe(name: str) -> TrainConfig:
    """The config of a recipe.

    Raises:
        ConfigError: unknown name; the known ones are listed.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unknown recipe {name!r}.{hint} Known recipes: {', '.join(RECIPES)}")
    return RECIPES[name][1]


def describe_recipes() -> str:
    """What `--list` prints: what each recipe is, its command, and what it reached."""
    blocks = []
    for name, (about, config) in RECIPES.items():
        title, _, result = about.partition("\n")
        command = f"python -m trainers --recipe={name} --workdir=runs/{name}"
        if config.data.train not in _AT_HAND:
            command += " --data_dir=DATA"
        lines = [title, "", command, *result.split("\n")]
        blocks.append(f"{name}\n" + "\n".join(f"    {line}" for line in lines))
    return "\n\n".join(blocks)
