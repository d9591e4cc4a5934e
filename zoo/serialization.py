"""How a backbone writes its dataclass config into Keras' `get_config` and reads it back."""

from __future__ import annotations

from typing import Any

import keras

from zoo.configs import ModelConfig
from zoo.strict_config import from_dict, to_dict


def config_kwargs(backbone: keras.Model) -> dict[str, Any]:
    """`get_config` of a backbone: the model config as a plain dict, plus name and dtype."""
    return {
        "config": to_dict(backbone.config),
        "name": backbone.name,
        "dtype": keras.saving.serialize_keras_object(backbone.dtype_policy),
    }


def config_from_kwargs(cls: type, config_class: type[ModelConfig], values: dict[str, Any]):
    """`from_config` of a backbone; unknown keys in the model config raise ConfigError."""
    values = dict(values)
    values["config"] = from_dict(config_class, values["config"], where=cls.__name__)
    if isinstance(values.get("dtype"), dict):
        values["dtype"] = keras.saving.deserialize_keras_object(values["dtype"])
    return cls(**values)
