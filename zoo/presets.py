"""Named model shapes: preset name -> config, and `build`, which turns either into a model."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from typing import Any

import keras

from zoo.models.bert import BertBackbone
from zoo.models.causal_lm import CausalLM
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig, ModelConfig
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
from zoo.strict_config import ConfigError

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


@dataclasses.dataclass(frozen=True)
class Preset:
    """A config and one line that says what it is for."""

    purpose: str
    config: ModelConfig


# vocabulary_size 1 is a placeholder: the tokenizer decides it. Published shapes carry their own.
PRESETS: dict[str, Preset] = {
    "gpt_char_cpu": Preset(
        "0.8 M parameters, context 64: character GPT that trains in a minute or two on a laptop",
        GPTConfig(
            vocabulary_size=1,
            context_length=64,
            num_layers=4,
            num_heads=4,
            hidden_dim=128,
            activation="swiglu",
            intermediate_dim=344,
            token_shift=3,
        ),
    ),
    "gpt_char": Preset(
        "10.6 M parameters, context 256: nanoGPT's character model for one GPU",
        GPTConfig(
            vocabulary_size=1,
            context_length=256,
            num_layers=6,
            num_heads=6,
            hidden_dim=384,
            dropout=0.2,
        ),
    ),
    "gpt_quick": Preset(
        "0.4 M parameters, context 96: the quickstart's, half a minute of training",
        GPTConfig(vocabulary_size=1, context_length=96, num_layers=2, num_heads=4, hidden_dim=128),
    ),
    "gpt2_small": Preset(
        "124 M parameters, context 1024: GPT-2 as published",
        GPTConfig(
            vocabulary_size=50257,
            context_length=1024,
            num_layers=12,
            num_heads=12,
            hidden_dim=768,
            positions="learned",
            norm="layer_norm",
            qk_norm=False,
            activation="gelu_tanh",
            use_bias=True,
            dropout=0.1,
        ),
    ),
    "lstm_char_cpu": Preset(
        "0.8 M parameters: two-layer character LSTM that trains in a few minutes on a laptop",
        LSTMConfig(vocabulary_size=1, context_length=64, num_layers=2, hidden_dim=224),
    ),
    "bert_base": Preset(
        "110 M parameters, context 512: BERT base as published",
        BertConfig(vocabulary_size=30522, num_layers=12, num_heads=12, hidden_dim=768),
    ),
    "bert_mini": Preset(
        "11 M parameters, context 512: the published 4-layer, 256-wide BERT",
        BertConfig(vocabulary_size=30522, num_layers=4, num_heads=4, hidden_dim=256),
    ),
    "bert_tiny": Preset(
        "4 M parameters, context 512: the published 2-layer, 128-wide BERT",
        BertConfig(vocabulary_size=30522, num_layers=2, num_heads=2, hidden_dim=128),
    ),
    "distilbert": Preset(
        "66 M parameters, context 512: DistilBERT as published, half of BERT base's layers",
        BertConfig(
            vocabulary_size=30522,
            num_layers=6,
            num_heads=12,
            hidden_dim=768,
            num_segments=0,
            use_pooler=False,
        ),
    ),
    "minilm_l6": Preset(
        "23 M parameters, context 512: MiniLM with 6 layers, for sentence embeddings",
        BertConfig(vocabulary_size=30522, num_layers=6, num_heads=12, hidden_dim=384),
    ),
    "bert_small_cpu": Preset(
        "1.8 M parameters and the vocabulary's, context 128: a modern encoder for a laptop",
        BertConfig(
            vocabulary_size=1,
            context_length=128,
            num_layers=4,
            num_heads=3,
            hidden_dim=192,
            intermediate_dim=512,
            norm_placement="pre",
            norm="rms_norm",
            norm_epsilon=1e-5,
            positions="rotary",
            qk_norm=True,
            activation="swiglu",
            use_bias=False,
        ),
    ),
    "lstm_encoder_cpu": Preset(
        "0.3 M parameters and the vocabulary's, context 128: bidirectional LSTM for a laptop",
        LSTMConfig(
            vocabulary_size=1,
            context_length=128,
            num_layers=1,
            hidden_dim=128,
            dropout=0.1,
            bidirectional=True,
        ),
    ),
}


def preset_config(name: str, **overrides) -> ModelConfig:
    """The config of a preset, with fields replaced.

    Raises:
        ConfigError: unknown preset (the known ones are listed) or unknown field.

    Example: `preset_config("gpt_char_cpu", vocabulary_size=65, dropout=0.1)`
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown preset {name!r}.{hint} Known presets: {', '.join(PRESETS)}")
    config = PRESETS[name].config
    known = [field.name for field in dataclasses.fields(config)]
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise ConfigError(
            f"preset {name!r} has no field {', '.join(unknown)}; known fields: {', '.join(known)}"
        )
    return dataclasses.replace(config, **overrides)


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
        model = zoo.build("gpt_char_cpu", vocabulary_size=65)
        model = zoo.build("bert_mini", "classify", {"num_classes": 4}, vocabulary_size=8000)
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


def tasks_for(config: ModelConfig) -> tuple[str, ...]:
    """The tasks that a model of this config can be built for.

    Example: `tasks_for(GPTConfig(vocabulary_size=9))  # ("lm",)`
    """
    of_texts = ("classify", "pair", "tag", "span", "embed", "regress")
    if config.family == "gpt":
        return ("lm",)
    if config.family == "bert":
        return ("mlm", *of_texts)
    return of_texts if config.bidirectional else ("lm", *of_texts)


def check_task(config: ModelConfig, task: str, head: dict[str, Any]):
    """Checks, before a model is built, that config, task and head options fit together.

    Args:
        config: GPTConfig, BertConfig or LSTMConfig.
        task: a key of `HEADS`.
        head: the head's options.

    Raises:
        ConfigError: unknown task, a task that does not fit the config, unknown or missing option.
    """
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
