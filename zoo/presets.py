"""Named model shapes: preset name -> config, and `build`, which turns either into a model."""

from __future__ import annotations

import dataclasses
import difflib

from zoo.configs import GPTConfig, LSTMConfig, ModelConfig
from zoo.gpt import GPTBackbone
from zoo.heads import CausalLM
from zoo.lstm import LSTMBackbone
from zoo.strict_config import ConfigError

BACKBONES = {"gpt": GPTBackbone, "lstm": LSTMBackbone}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A config and one line that says what it is for."""

    purpose: str
    config: ModelConfig


# vocabulary_size is a placeholder in all of them: the tokenizer decides it.
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


def build(preset_or_config: str | ModelConfig, **overrides) -> CausalLM:
    """A freshly initialised, built causal language model.

    Args:
        preset_or_config: preset name, or a GPTConfig / LSTMConfig.
        **overrides: config fields to replace; a preset needs `vocabulary_size`.

    Returns:
        CausalLM, a `keras.Model`: compile, fit, save, summary work as ever.

    Raises:
        ConfigError: unknown preset or field, or a preset without `vocabulary_size`.

    Example: `model = zoo.build("gpt_char_cpu", vocabulary_size=65)`
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
    return CausalLM(BACKBONES[config.family](config, name="backbone"), name=config.family)
