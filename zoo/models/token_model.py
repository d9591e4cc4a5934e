"""What all models of token ids share: checks of inputs, their config, what `quantize` did."""

import inspect
from typing import Any

import keras
import numpy as np

_USE_STRINGS = (
    "For strings use the bundle, zoo.load(folder).lm or .text_model, or put a tokenizer before the "
    "model: zoo.text.lm.TextLM(tokenizer, model), zoo.text.models.TEXT_MODELS[model.task]"
    "(tokenizer, model)."
)


class TokenModel(keras.Model):
    """A head on a backbone, called with token ids: says so to who gives it strings or lists."""

    task: str
    inputs_text: str  # what the model reads, for messages

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone

    def build(self, input_shape):
        """Makes all weights by layers' shapes: Keras' own would trace the whole model for them."""
        if not self.backbone.built:  # one that Keras has loaded is
            self.backbone.build(input_shape)

    def build_from_config(self, config):
        """Nothing: `__init__` has built it."""

    @property
    def context_length(self) -> int:
        """Tokens read at once: special tokens included; longer prompts keep their last ones."""
        return self.backbone.config.context_length

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return self.backbone.config.vocabulary_size

    @classmethod
    def head_options(cls) -> dict[str, inspect.Parameter]:
        """The head's own options, besides the backbone: those of `__init__`."""
        parameters = inspect.signature(cls).parameters.items()
        return {k: v for k, v in parameters if k != "backbone" and v.kind != v.VAR_KEYWORD}

    def head_config(self) -> dict[str, Any]:
        """The values of `head_options`: JSON-able, `zoo.build(head=...)`."""
        return {name: getattr(self, name) for name in self.head_options()}

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self.head_config(),
            "name": self.name,
            "quantization": quantization_config(self),
        }

    @classmethod
    def from_config(cls, config):
        values = dict(config)
        quantization = values.pop("quantization", {})
        values["backbone"] = keras.saving.deserialize_keras_object(values["backbone"])
        model = cls(**values)
        quantize_layers(model, quantization)
        return model

    def __call__(self, *args, **kwargs):
        if args:
            self._refuse_strings(args[0])
        return super().__call__(*args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._refuse_strings(x)
        return super().predict(x, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self._refuse_strings(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._refuse_strings(x)
        return super().evaluate(x, *args, **kwargs)

    def _refuse_strings(self, inputs) -> None:
        """Raises TypeError for strings and lists: Keras alone says "Invalid dtype: str32"."""
        for value in inputs.values() if isinstance(inputs, dict) else [inputs]:
            if isinstance(value, str | bytes | list | tuple) or _holds_strings(value):
                kind = "strings" if _holds_strings(value) else type(value).__name__
                raise TypeError(
                    f"{type(self).__name__} takes {self.inputs_text}, as arrays. Received: {kind}, "
                    f"{value!r:.80}. {_USE_STRINGS}"
                )

    def require_ids(self, token_ids) -> None:
        """Raises TypeError for what is no tensor, ValueError unless its shape is (B, T)."""
        name, kind = type(self).__name__, type(token_ids).__name__
        if not hasattr(token_ids, "shape"):
            raise TypeError(f"{name} takes {self.inputs_text}. Received: {kind}")
        if len(token_ids.shape) != 2:
            raise ValueError(
                f"{name} takes token_ids of shape (B, T), one row for each text; for one text give "
                f"token_ids[None]. Received: shape {tuple(token_ids.shape)}"
            )


class DictModel(TokenModel):
    """A model of a dict of inputs, `token_ids` among them."""

    required: tuple[str, ...] = ("token_ids",)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # `fit` under MirroredStrategy adds up the first batch of all replicas, to see its shapes,
        # and TensorFlow adds no bools. The model is built; one replica's batch does for metrics.
        if iterator is not None and keras.backend.backend() == "tensorflow":
            if self._distribute_strategy is None:
                return
            _, _, batches = next(iter(iterator))
            first = self.distribute_strategy.experimental_local_results
            data_batch = keras.tree.map_structure(lambda x: first(x)[0], next(batches))
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def require_inputs(self, inputs: dict) -> dict:
        """The inputs; TypeError for what is no such dict, ValueError for shapes that do not fit."""
        if not isinstance(inputs, dict) or not {*self.required} <= {*inputs}:
            received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise TypeError(f"{type(self).__name__} takes {self.inputs_text}. Received: {received}")
        for name in self.required:
            self.require_ids(inputs[name])
        token_ids = inputs["token_ids"]
        for name in ("padding_mask", "segment_ids"):
            # Of a graph a size may not be known yet, and a mask of one row may stand for all.
            shape = tuple(getattr(inputs.get(name), "shape", ()))
            known = [pair for pair in zip(shape, token_ids.shape) if None not in pair]
            if any(size not in (1, wanted) for size, wanted in known):
                raise ValueError(
                    f"{name} must have the shape of token_ids, {tuple(token_ids.shape)}. "
                    f"Received: shape {shape}"
                )
        return inputs


def _holds_strings(value) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OSU"
    return isinstance(value, str | bytes) or getattr(value, "dtype", None) == "string"


def quantization_config(model: keras.Model) -> dict[str, Any]:
    """How `model.quantize` left each layer that it changed, by the layer's path in the model."""
    # Keras rebuilds with it only layers from their own config; ours are made from the model's.
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


def _quantizable_layers(holder: keras.layers.Layer, path: str = "") -> dict[str, Any]:
    """The layers that can be quantized, by names that do not depend on the model's own."""
    layers = {}
    for layer in holder._layers:
        if hasattr(layer, "quantization_config"):
            layers[path + layer.name] = layer
        layers |= _quantizable_layers(layer, f"{path}{layer.name}/")
    return layers
