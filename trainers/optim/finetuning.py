"""Fine-tuning: where the weights start from, which of them move, and when to stop."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import keras

from trainers.optim.optimizers import stack_index
from zoo.config import STRICT, ConfigError, to_dict
from zoo.models.lora import enable_lora
from zoo.weights.assign import backbone_weights

# Settings that two models may differ in and still share weights.
_FREE = {
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


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """What of an earlier model is kept, and what of it is trained.

    Attributes:
        init_from: bundle folder whose backbone's weights are the initial ones; None begins with
            random weights. Heads always begin anew.
        freeze: "none", "embeddings" (with their norm) or "backbone" (all but the head; a BERT
            pooler counts as the head's: masked-LM training leaves it as it began).
        freeze_layers: int, the lowest blocks to freeze, and the embeddings under them.
        drop_layers: int, top blocks of the initial model to leave out: the first ones carry most
            of what a small data set needs (Sajjad et al., 2020, arXiv:2004.03844).
        lora_rank: int, trains low-rank factors of the backbone's dense layers in place of the
            layers (see `zoo.models.lora`); None trains the layers themselves.
        lora_alpha: float, weight of the factors times `lora_rank`. None means `lora_rank`.

    Raises:
        ConfigError: a value is out of range, or settings that exclude each other.

    Example: `FineTuneConfig(init_from="runs/bert", freeze_layers=2)`
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    init_from: str | None = None
    freeze: Literal["none", "embeddings", "backbone"] = "none"
    freeze_layers: int = 0
    drop_layers: int = 0
    lora_rank: int | None = None
    lora_alpha: float | None = None

    def __post_init__(self):
        rank, alpha = self.lora_rank, self.lora_alpha
        freezes = self.freeze != "none" or self.freeze_layers > 0
        for name, holds, rule in (
            ("init_from", self.init_from != "", "a bundle folder, or null"),
            ("freeze_layers", self.freeze_layers >= 0, "0 or more"),
            ("drop_layers", self.drop_layers >= 0, "0 or more"),
            ("lora_rank", rank is None or rank >= 1, "at least 1"),
            ("lora_alpha", alpha is None or alpha > 0, "above 0"),
            ("lora_alpha", alpha is None or rank is not None, "null where lora_rank is null"),
            (
                "lora_rank",
                rank is None or not freezes,
                "null where finetune.freeze or finetune.freeze_layers is set: LoRA freezes the "
                "backbone itself",
            ),
        ):
            if not holds:
                value = getattr(self, name)
                raise ConfigError(f"finetune.{name} must be {rule}. Received: {value!r}")
        if self.init_from is None and (freezes or self.drop_layers or rank is not None):
            raise ConfigError(
                "finetune.freeze, freeze_layers, drop_layers and lora_rank are for weights that "
                "were trained before: set finetune.init_from to the bundle they come from"
            )


def load_initial(model: keras.Model, source: keras.Model, drop_layers: int = 0) -> int:
    """Copies the backbone's weights of `source` into the backbone of `model`.

    Any head can start from any head's backbone: a classifier from a masked LM. What belongs to
    the old head stays behind. Learned positions may become fewer; a pooler or an untied output
    projection that `source` lacks begins anew.

    Args:
        model: a head on a backbone, from `zoo.build`, with `drop_layers` fewer layers.
        source: the same of another run, such as `zoo.load(folder).model`. Its tokenizer must be
            the one of `model`; that is the caller's to check.
        drop_layers: int, top blocks of `source` to leave out. Defaults to 0.

    Returns:
        How many weights (numbers) were copied.

    Raises:
        ConfigError: another family, other settings or other shapes; the message names them and
            what to set.

    Example: `load_initial(classifier, zoo.load("runs/bert_mlm").model)`
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

    Do it after `load_initial` and before `compile`.

    Returns:
        How many weights (numbers) stay trainable.

    Raises:
        ConfigError: more layers than the model has, or nothing left to train.

    Example: `apply_freezing(model, FineTuneConfig(init_from="runs/bert", freeze="embeddings"))`
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


def should_stop(
    records: Sequence[dict[str, float]],
    metric: str,
    mode: Literal["min", "max"],
    patience: int,
) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them.

    A function of the log alone, so a resumed run stops where an undisturbed one does.

    Args:
        records: the evaluations so far, as `MetricsLog.read` gives them.
        metric: key of the records, such as "val_loss".
        mode: "min" if lower is better, "max" if higher.
        patience: int, at least 1.

    Raises:
        ConfigError: a record has no such metric; those it has are listed.

    Example: `should_stop(log.read(), "val_f1", "max", patience=3)`
    """
    for record in records:
        if metric not in record:
            known = ", ".join(sorted(record))
            raise ConfigError(f"no metric {metric!r} was measured; known: {known}")
    sign = 1 if mode == "min" else -1
    values = [sign * record[metric] for record in records]
    return len(values) > patience and min(values[-patience:]) >= min(values[:-patience])


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
    others = set(to_dict(here)) - _FREE - _SHAPES
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
