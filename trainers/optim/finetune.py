"""Fine-tuning: where the weights start from, and which of them move."""

from __future__ import annotations

import json
import math

import keras

from trainers.config import FineTuneConfig
from trainers.optim.optimizers import stack_index
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
    """Copies `source`'s backbone, less its top `drop_layers`, into `model`'s; returns how many
    numbers.

    Heads stay behind. Learned positions may become fewer; a pooler or an untied output projection
    that `source` lacks begins anew.
    """
    ours, theirs = model.backbone.config, source.backbone.config
    if ours.family != theirs.family:
        raise ConfigError(
            f"finetune.init_from is a {theirs.family} model and this one is {ours.family}: take a "
            f"preset of family {theirs.family}, or another bundle"
        )
    expected = theirs.num_layers - drop_layers
    if expected < 1:
        raise ConfigError(
            f"finetune.drop_layers must be below {theirs.num_layers}, the layers of the model in "
            f"finetune.init_from. Received: {drop_layers}"
        )
    if ours.num_layers != expected:
        raise ConfigError(
            f"finetune.init_from has {theirs.num_layers} layers, and without "
            f"finetune.drop_layers={drop_layers} of them {expected}; this model has "
            f"{ours.num_layers}. Use --set=model.num_layers={expected}, or another drop_layers"
        )
    settings = to_dict(ours), to_dict(theirs)
    others = set(settings[0]) - _MAY_DIFFER - _SHAPES
    if any(settings[0][key] != settings[1][key] for key in others):
        raise ConfigError(
            "finetune.init_from is a model of another kind. " + _advice(*settings, others)
        )
    here, there = backbone_weights(model.backbone), backbone_weights(source.backbone)
    there = {k: w for k, w in there.items() if not expected <= stack_index(k) < math.inf}
    problems = {}
    for name in sorted(here.keys() | there.keys()):
        shape, source = (tuple(w[name].shape) if name in w else None for w in (here, there))
        if None in (shape, source):
            fits = _of_head(name)
        elif name.startswith("position_embedding/"):
            fits = shape[0] <= source[0] and shape[1:] == source[1:]
        else:
            fits = shape == source
        if not fits:
            problems[name] = f"{name} is {source or 'missing'} there and {shape or 'missing'} here"
    if problems:
        positions_fit = not any(name.startswith("position_embedding/") for name in problems)
        keys = _SHAPES - {"context_length"} if positions_fit else _SHAPES
        raise ConfigError(
            f"finetune.init_from is a model of another shape: {'; '.join(problems.values())}. "
            + _advice(*settings, keys)
        )
    shared = [name for name in here if name in there]
    for name in shared:
        rows = here[name].shape[0]  # all of them, or the first of the learned positions
        here[name].assign(keras.ops.convert_to_numpy(there[name])[:rows])
    return sum(math.prod(here[name].shape) for name in shared)


def apply_freezing(model: keras.Model, config: FineTuneConfig) -> int:
    """Freezes weights, or adds LoRA, before `compile`; returns how many numbers stay trainable."""
    if config.lora_rank is not None:
        enable_lora(model, config.lora_rank, config.lora_alpha)
    num_layers = model.backbone.config.num_layers
    if config.freeze_layers > num_layers:
        raise ConfigError(
            f"finetune.freeze_layers must be at most model.num_layers, {num_layers}. "
            f"Received: {config.freeze_layers}"
        )
    # Blocks count from 0, embeddings are -1; see `stack_index`.
    frozen_below = config.freeze_layers or (0 if config.freeze == "embeddings" else -1)
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


def _advice(here: dict, there: dict, keys: set[str]) -> str:
    """Which settings differ, and the command line that makes them agree."""
    differing = [key for key in here if key in keys and here[key] != there[key]]
    found = ", ".join(
        f"model.{key} is {there[key]} there and {here[key]} here" for key in differing
    )
    advice = [
        f"--set=model.{key}={json.dumps(there[key])}"
        for key in differing
        if key != "vocabulary_size"
    ]
    if "vocabulary_size" in differing:
        advice.append("its tokenizer, which decides the vocabulary")
    return f"{found}. Use {' '.join(advice)}"
