"""What a run starts from: the bundle of an earlier one, or nothing."""

from __future__ import annotations

from typing import Any

import keras

from trainers.config import TrainConfig
from trainers.optim.finetuning import apply_freezing, load_initial
from zoo.bundle import Bundle
from zoo.config import ConfigError, from_dict, to_dict
from zoo.loading import load
from zoo.models.build import build


def read_initial(config: TrainConfig) -> Bundle | None:
    """The bundle that `finetune.init_from` names, or None.

    Raises:
        ConfigError: a language model for a task on an encoder, or the other way round.
    """
    start = config.finetune.init_from
    if start is None:
        return None
    initial = load(start)
    if (initial.config.task == "lm") != (config.task == "lm"):
        kind = "a language model" if initial.config.task == "lm" else "an encoder"
        raise ConfigError(f"finetune.init_from={start!r} holds {kind}: no start for {config.task}")
    return initial


def build_from(
    initial: Bundle, config: TrainConfig, head: dict[str, Any] | None = None
) -> keras.Model:
    """A model for `config.task` with the initial backbone's weights, some of them frozen.

    The shape is that of the initial model, changed by `config.model`.

    Args:
        head: options of the task's head.

    Raises:
        ConfigError: settings that do not fit the weights.
    """
    initial_config = initial.model.backbone.config
    values = to_dict(initial_config)
    values["num_layers"] -= config.finetune.drop_layers
    values |= config.model
    model_config = from_dict(type(initial_config), values, where="finetune.init_from")
    model = build(model_config, task=config.task, head=head)
    load_initial(model, initial.model, config.finetune.drop_layers)
    apply_freezing(model, config.finetune)
    return model
