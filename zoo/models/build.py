"""A preset or config, a task and head options become a Keras model."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras

from zoo.config import ConfigError
from zoo.models.bert import BertBackbone
from zoo.models.causal_lm import CausalLM
from zoo.models.configs import ModelConfig
from zoo.models.encoder_heads import (
    Classifier,
    MaskedLM,
    PairClassifier,
    Regressor,
    SentenceEncoder,
    SpanPredictor,
    Tagger,
)
from zoo.models.gpt import GPTBackbone
from zoo.models.lstm import LSTMBackbone
from zoo.presets import preset_config, tasks_for

BACKBONES = {"gpt": GPTBackbone, "bert": BertBackbone, "lstm": LSTMBackbone}
HEADS = {
    head.task: head
    for head in (
        CausalLM,
        MaskedLM,
        Classifier,
        PairClassifier,
        Tagger,
        SpanPredictor,
        SentenceEncoder,
        Regressor,
    )
}


def build(
    preset_or_config: str | ModelConfig,
    task: str = "lm",
    head: dict[str, Any] | None = None,
    **overrides,
) -> keras.Model:
    """A freshly initialised, built model for a task.

    Args:
        preset_or_config: preset name, or a GPTConfig / BertConfig / LSTMConfig.
        task: a key of `HEADS`: "lm" (CausalLM), "mlm" (MaskedLM), "classify" and "pair"
            (Classifier), "tag" (Tagger), "span" (SpanPredictor), "embed" (SentenceEncoder) or
            "regress" (Regressor). Defaults to "lm".
        head: the head's own options, such as {"num_classes": 4}; its class lists them.
        **overrides: config fields to replace; a preset needs `vocabulary_size`.

    Returns:
        A `keras.Model` of the task's class: compile, fit, save, summary work as ever.

    Raises:
        ConfigError: unknown preset, field, task or head option, a preset without
            `vocabulary_size`, a missing head option, or a task that the family cannot do.

    Example:
        >>> import zoo
        >>> zoo.build("gpt_char_cpu", vocabulary_size=65).count_params()
        800256
        >>> zoo.build("bert_tiny", "classify", {"num_classes": 4}, vocabulary_size=90).task
        'classify'
    """
    if isinstance(preset_or_config, str):
        config = preset_config(preset_or_config, **overrides)
        if config.vocabulary_size == 1:
            raise ConfigError(
                f"preset {preset_or_config!r} needs vocabulary_size=..., "
                "such as your tokenizer's vocabulary_size"
            )
    else:
        config = dataclasses.replace(preset_or_config, **overrides)
    head = head or {}
    check_task(config, task, head)
    backbone = BACKBONES[config.family](config, name="backbone")
    return HEADS[task](backbone, name=config.family, **head)


def check_task(config: ModelConfig, task: str, head: dict[str, Any]):
    """Raises ConfigError unless config, task and head options fit together; builds nothing."""
    if task not in HEADS:
        raise ConfigError(f"unknown task {task!r}; known tasks: {', '.join(HEADS)}")
    possible = tasks_for(config)
    if task not in possible:
        kind = config.family
        if getattr(config, "bidirectional", False):
            kind += " with bidirectional=True"
        raise ConfigError(f"{kind} cannot do task {task!r}; it can do: {', '.join(possible)}")
    parameters = list(inspect.signature(HEADS[task]).parameters.values())
    options = [p for p in parameters if p.name != "backbone" and p.kind != p.VAR_KEYWORD]
    known = ", ".join(p.name for p in options) or "none"
    for key in head:
        if key not in [p.name for p in options]:
            raise ConfigError(f"task {task!r} has no head option {key!r}; known options: {known}")
    for option in options:
        if option.default is option.empty and option.name not in head:
            raise ConfigError(f"task {task!r} needs the head option {option.name!r}")
