"""Named model shapes: preset name -> config. Importing it loads no Keras."""

import dataclasses
import difflib
from typing import Any

from zoo.config import ConfigError
from zoo.models.configs import (
    BertConfig,
    EncoderDecoderConfig,
    GPTConfig,
    LSTMConfig,
    LSTMEncoderDecoderConfig,
    ModelConfig,
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A config and one line that says what it is for."""

    purpose: str
    config: ModelConfig


_GPT2: dict[str, Any] = {"positions": "learned", "norm": "layer_norm", "qk_norm": False}
_GPT2 |= {"activation": "gelu_tanh", "use_bias": True}
_MODERN: dict[str, Any] = {"norm_placement": "pre", "norm": "rms_norm", "norm_epsilon": 1e-5}
_MODERN |= {"positions": "rotary", "qk_norm": True, "activation": "swiglu", "use_bias": False}

# Vocabulary size, context length, layers, heads and width; the rest by name. A vocabulary of 1 is a
# placeholder: the tokenizer decides it. Published shapes carry their own.
PRESETS: dict[str, Preset] = {
    "gpt_char_cpu": Preset(
        "0.8 M parameters, context 64: character GPT that trains in a minute or two on a laptop",
        GPTConfig(1, 64, 4, 4, 128, activation="swiglu", intermediate_dim=344, token_shift=3),
    ),
    "gpt_char": Preset(
        "10.6 M parameters, context 256: nanoGPT's character model for one GPU",
        GPTConfig(1, 256, 6, 6, 384, dropout=0.2),
    ),
    "gpt_quick": Preset(
        "0.4 M parameters, context 96: the quickstart's, half a minute of training",
        GPTConfig(1, 96, 2, 4, 128),
    ),
    "gpt2_small": Preset(
        "124 M parameters, context 1024: GPT-2 as published",
        GPTConfig(50257, 1024, 12, 12, 768, dropout=0.1, **_GPT2),
    ),
    "lstm_char_cpu": Preset(
        "0.8 M parameters: two-layer character LSTM that trains in a few minutes on a laptop",
        LSTMConfig(1, 64, num_layers=2, hidden_dim=224),
    ),
    "bert_base": Preset(
        "110 M parameters, context 512: BERT base as published",
        BertConfig(30522, 512, 12, 12, 768),
    ),
    "bert_mini": Preset(
        "11 M parameters, context 512: the published 4-layer, 256-wide BERT",
        BertConfig(30522, 512, 4, 4, 256),
    ),
    "bert_tiny": Preset(
        "4 M parameters, context 512: the published 2-layer, 128-wide BERT",
        BertConfig(30522, 512, 2, 2, 128),
    ),
    "distilbert": Preset(
        "66 M parameters, context 512: DistilBERT as published, half of BERT base's layers",
        BertConfig(30522, 512, 6, 12, 768, num_segments=0, use_pooler=False),
    ),
    "minilm_l6": Preset(
        "23 M parameters, context 512: MiniLM with 6 layers, for sentence embeddings",
        BertConfig(30522, 512, 6, 12, 384),
    ),
    "bert_small_cpu": Preset(
        "1.8 M parameters and the vocabulary's, context 128: a modern encoder for a laptop",
        BertConfig(1, 128, 4, 3, 192, intermediate_dim=512, **_MODERN),
    ),
    "seq2seq_cpu": Preset(
        "2 M parameters and the vocabulary's, context 64: an encoder-decoder for a laptop",
        # Positions that are added: with rotary ones alone, which say nothing of where in the source
        # a token stands, it took four times as many steps to learn to translate.
        EncoderDecoderConfig(1, 64, 3, 4, 192, 384, positions="sinusoidal", scale_embeddings=True),
    ),
    "lstm_seq2seq_cpu": Preset(
        "0.9 M parameters and two vocabularies', context 64: an LSTM encoder-decoder for a laptop",
        LSTMEncoderDecoderConfig(1, 64, hidden_dim=256, dropout=0.1),
    ),
    "lstm_encoder_cpu": Preset(
        "0.3 M parameters and the vocabulary's, context 128: bidirectional LSTM for a laptop",
        LSTMConfig(1, 128, num_layers=1, hidden_dim=128, dropout=0.1, bidirectional=True),
    ),
}


def preset_config(name: str, **overrides: Any) -> ModelConfig:
    """The config of a preset, with fields replaced.

    Raises:
        ConfigError: unknown preset (the known ones are listed) or unknown field.

    Example:
        >>> preset_config("gpt_char_cpu", vocabulary_size=65, dropout=0.1).num_layers
        4
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


# Tasks of models that read a text in both directions, or put a head on its end.
TEXT_TASKS = ["classify", "pair", "tag", "span", "embed", "regress"]


def tasks_for(config: ModelConfig) -> tuple[str, ...]:
    """The tasks that a model of this config can be built for."""
    if config.family == "gpt":
        return ("lm",)
    if config.family == "bert":
        return ("mlm", *TEXT_TASKS)
    if config.family.endswith("encoder_decoder"):
        return ("translate", "summarize")
    return tuple(TEXT_TASKS) if getattr(config, "bidirectional", False) else ("lm", *TEXT_TASKS)
