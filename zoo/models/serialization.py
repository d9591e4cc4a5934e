"""How models write themselves into Keras' `get_config` and are read back from it."""

from __future__ import annotations

from typing import Any

import keras

from zoo.config import from_dict, to_dict
from zoo.models.configs import ModelConfig


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


def model_from_config(cls: type, values: dict[str, Any]) -> keras.Model:
    """`from_config` of a head: its backbone, and what `quantization_config` wrote."""
    values = dict(values)
    quantization = values.pop("quantization", {})
    values["backbone"] = keras.saving.deserialize_keras_object(values["backbone"])
    model = cls(**values)
    quantize_layers(model, quantization)
    return model


def quantization_config(model: keras.Model) -> dict[str, Any]:
    """How `model.quantize` left each layer that it changed, by the layer's path in the model.

    Keras rebuilds only the layers that a model makes itself with the dtype of their own config;
    ours are made from the model config, which knows nothing of it.
    """
    return {
        path: {
            "policy": keras.saving.serialize_keras_object(layer.dtype_policy),
            "config": keras.saving.serialize_keras_object(layer.quantization_config),
        }
        for path, layer in _quantizable_layers(model).items()
        if layer.quantization_mode is not None
    }


def quantize_layers(model: keras.Model, quantization: dict[str, Any]) -> None:
    """Quantizes the layers that `quantization_config` names, so that their weights fit."""
    layers = _quantizable_layers(model) if quantization else {}
    for path, values in quantization.items():
        if path not in layers:
            raise ValueError(f"quantization: the model has no layer {path!r}")
        policy = keras.saving.deserialize_keras_object(values["policy"])
        config = values["config"] and keras.saving.deserialize_keras_object(values["config"])
        mode = policy.quantization_mode
        if mode not in ("int8", "int4", "float8"):
            raise ValueError(
                f"quantization: {path} is of mode {mode!r}; int8, int4 and float8 can be read"
            )
        if mode == "int4" and config is None:
            config = keras.quantizers.Int4QuantizationConfig(block_size=policy.block_size)
        layers[path].quantize(mode, config=config)


def _quantizable_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers that can be quantized, by names that do not depend on the model's own."""
    layers = {}

    def walk(layer: keras.layers.Layer, path: str):
        for part in layer._layers:
            inner = f"{path}{part.name}"
            if hasattr(part, "quantization_config"):
                layers[inner] = part
            walk(part, f"{inner}/")

    walk(model, "")
    return layers
