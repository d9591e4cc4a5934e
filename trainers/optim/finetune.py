"""Fine-tuning: where the weights start from, and which of them move."""

from __future__ import annotations

import json
import math
from typing import Any

import keras

from trainers.config import FineTuneConfig
from trainers.optim.adamw import stack_index
from zoo.config import ConfigError, to_dict
from zoo.models.lora import enable_lora
from zoo.weights.assign import backbone_weights

# Settings that two models may differ in and still share weights.
_MAY_DIFFER = {
    "dropout",
    "initializer_range",
    "forget_bias",
    "num_layers",
    "use_pooler",
    "tie_embeddings",
}
# Settings that say nothing but the shape of weights: the shapes themselves are compared.
_SHAPES = {
    "vocabulary_size",
    "context_length",
    "hidden_dim",
    "intermediate_dim",
    "embedding_dim",
    "num_kv_heads",
    "num_segments",
}


def load_initial(model: keras.Model, source: keras.Model, drop_layers: int = 0) -> int:
    """Copies the backbone's weights of `source` into the backbone of `model`.

    Any head can start from any head's backbone: a classifier from a masked LM. What belongs to
    the old head stays behind. Learned positions may become fewer; a pooler or an untied output
    projection that `source` lacks begins anew.

    Args:
        model: a head on a backbone, from `zoo.build`, with `drop_layers` fewer layers.
        source: the same of another run, such as `zoo.load(folder).model`, with the tokenizer of
            `model`.
        drop_layers: int, top blocks of `source` to leave out.

    Returns:
        How many weights (numbers) were copied.

    Raises:
        ConfigError: another family, other settings or other shapes, and what to set.
    """
    _require_same_settings(model.backbone.config, source.backbone.config, drop_layers)
    here, there = backbone_weights(model.backbone), backbone_weights(source.backbone)
    kept = {
        name: weight
        for name, weight in there.items()
        if not model.backbone.config.num_layers <= stack_index(name) < math.inf
    }
    problems = [
        f"{name} is {_shape(kept, name)} there and {_shape(here, name)} here"
        for name in sorted(set(here) | set(kept))
        if not (_of_head(name) and (name not in here or name not in kept))
        and not _fits(name, here.get(name), kept.get(name))
    ]
    if problems:
        positions_fit = not any(text.startswith("position_embedding/") for text in problems)
        keys = _SHAPES - {"context_length"} if positions_fit else _SHAPES
        raise ConfigError(
            f"finetune.init_from is a model of another shape: {'; '.join(problems)}. "
            + _advice(model.backbone.config, source.backbone.config, keys)
        )
    shared = [name for name in here if name in kept]
    for name in shared:
        rows = here[name].shape[0]  # all of them, or the first of the learned positions
        here[name].assign(keras.ops.convert_to_numpy(kept[name])[:rows])
    return sum(math.prod(here[name].shape) for name in shared)


def apply_freezing(model: keras.Model, config: FineTuneConfig) -> int:
    """Makes the weights that `config` freezes, or LoRA replaces, non-trainable.

    Between `load_initial` and `compile`. Returns how many weights (numbers) stay trainable; raises
    ConfigError for more layers than the model has, or nothing left to train.
    """
    if config.lora_rank is not None:
        enable_lora(model, config.lora_rank, config.lora_alpha)
    num_layers = model.backbone.config.num_layers
    if config.freeze_layers > num_layers:
        raise ConfigError(
            f"finetune.freeze_layers must be at most model.num_layers, {num_layers}. "
            f"Received: {config.freeze_layers}"
        )
    # Blocks count from 0, embeddings are -1; see `stack_index`.
    frozen_below = 0 if config.freeze == "embeddings" else -1
    if config.freeze_layers:
        frozen_below = config.freeze_layers
    for name, weight in backbone_weights(model.backbone).items():
        whole = config.freeze == "backbone" and not _of_head(name)
        if whole or stack_index(name) < frozen_below:
            weight.trainable = False
    if not model.trainable_weights:
        raise ConfigError(
            f"finetune.freeze={config.freeze!r} leaves nothing to train: a {model.task!r} model "
            "has no weights besides its backbone. Use lora_rank or freeze_layers"
        )
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def _of_head(name: str) -> bool:
    """What is kept in a backbone and serves a head alone: pooler, untied output projection."""
    return name.startswith("pooler/") or name.endswith("/reverse_embeddings")


def _fits(name: str, here: keras.Variable | None, there: keras.Variable | None) -> bool:
    if here is None or there is None:
        return False
    if name.startswith("position_embedding/"):
        return here.shape[0] <= there.shape[0] and here.shape[1:] == there.shape[1:]
    return here.shape == there.shape


def _shape(weights: dict[str, keras.Variable], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "missing"


def _require_same_settings(here: Any, there: Any, drop_layers: int) -> None:
    if here.family != there.family:
        raise ConfigError(
            f"finetune.init_from is a {there.family} model and this one is {here.family}: take a "
            f"preset of family {there.family}, or another bundle"
        )
    expected = there.num_layers - drop_layers
    if expected < 1:
        raise ConfigError(
            f"finetune.drop_layers must be below {there.num_layers}, the layers of the model in "
            f"finetune.init_from. Received: {drop_layers}"
        )
    if here.num_layers != expected:
        raise ConfigError(
            f"finetune.init_from has {there.num_layers} layers, and without "
            f"finetune.drop_layers={drop_layers} of them {expected}; this model has "
            f"{here.num_layers}. Use --set=model.num_layers={expected}, or another drop_layers"
        )
    others = set(to_dict(here)) - _MAY_DIFFER - _SHAPES
    if any(getattr(here, key) != getattr(there, key) for key in others):
        raise ConfigError(
            "finetune.init_from is a model of another kind. " + _advice(here, there, others)
        )


def _advice(here: Any, there: Any, keys: set[str]) -> str:
    """Which settings differ, and the command line that makes them agree."""
    here, there = to_dict(here), to_dict(there)
    keys = [key for key in here if key in keys and here[key] != there[key]]
    differing = ", ".join(f"model.{key} is {there[key]} there and {here[key]} here" for key in keys)
    settable = [key for key in keys if key != "vocabulary_size"]
    advice = [f"--set=model.{key}={json.dumps(there[key])}" for key in settable]
    if "vocabulary_size" in keys:
        advice.append("its tokenizer, which decides the vocabulary")
    return f"{differing}. Use {' '.join(advice)}"
