"""Fine-tuning: where the weights start from, and which of them move."""

import json
import math

import keras

from trainers.config import FineTuneConfig
from trainers.optim.optimizers import stack_index
from zoo.config import ConfigError, to_dict
from zoo.models.lora import enable_lora
from zoo.weights.assign import backbone_weights

# Settings that two models may differ in and still share weights; positions may become fewer.
_MAY_DIFFER = {
    "dropout",
    "initializer_range",
    "forget_bias",
    "use_pooler",
    "tie_embeddings",
    "context_length",
}


def load_initial(model: keras.Model, source: keras.Model, drop_layers: int = 0) -> int:
    """Copies `source`'s backbone, less its top `drop_layers`, into `model`'s; returns how many
    numbers.

    Heads stay behind. Learned positions may become fewer; a pooler or an untied output projection
    that `source` lacks begins anew.
    """
    ours, theirs = model.backbone.config, source.backbone.config
    layers_left = theirs.num_layers - drop_layers
    if layers_left < 1:
        raise ConfigError(
            f"finetune.drop_layers must be below {theirs.num_layers}, the layers of the model in "
            f"finetune.init_from. Received: {drop_layers}"
        )
    wanted, settings = to_dict(theirs) | {"num_layers": layers_left}, to_dict(ours)
    differing = [key for key in wanted if key not in _MAY_DIFFER and settings[key] != wanted[key]]
    if settings.get("positions") == "learned" and ours.context_length > theirs.context_length:
        differing.append("context_length")
    if differing:
        found = (
            f"model.{key} is {wanted[key]} there and {settings[key]} here" for key in differing
        )
        advice = (f"--set=model.{key}={json.dumps(wanted[key])}" for key in differing)
        raise ConfigError(
            f"finetune.init_from, without {drop_layers} layers, is a model of another kind or "
            f"shape: {', '.join(found)}. Use {' '.join(advice)}"
        )
    here, there = backbone_weights(model.backbone), backbone_weights(source.backbone)
    shared = [name for name in here if name in there]
    for name in shared:
        rows = here[name].shape[0]  # all of them, or the first of the learned positions
        here[name].assign(keras.ops.convert_to_tensor(there[name])[:rows])
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
