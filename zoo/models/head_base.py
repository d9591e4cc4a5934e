"""What every head on an encoder shares: reading the inputs dict, saving, building."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo.config import ConfigError
from zoo.models.pooling import pool
from zoo.models.serialization import model_from_config, quantization_config
from zoo.text.token_inputs import TokenModel, require_two_axes


class EncoderHead(TokenModel):
    """What all heads share: reading the inputs dict, saving, building.

    A subclass makes its layers, then calls `finish`; its `call` starts from `encode`.

    Args:
        backbone: BertBackbone or LSTMBackbone.
    """

    task: str
    inputs_text = (
        'a dict of inputs: {"token_ids": (B, T) int32, "padding_mask": (B, T) bool or int32}'
    )

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone

    def finish(self, uses_pooler: bool = False, **extra_inputs: str):
        """Builds the model on symbolic inputs; called last in a subclass's `__init__`.

        Args:
            uses_pooler: bool, whether the head reads the backbone's pooler, if there is one.
            **extra_inputs: name to dtype of inputs besides the usual three.
        """
        pooler = getattr(self.backbone, "pooler", None)
        if pooler is not None:
            # Without a gradient it is not trainable: optimizers would warn, or only decay it.
            pooler.trainable = uses_pooler and self.backbone.trainable
        names = {"token_ids": "int32", "padding_mask": "bool"}
        if getattr(self.backbone.config, "num_segments", 0) > 1:
            names["segment_ids"] = "int32"
        names |= extra_inputs
        # Built at once, so that summary(), count_params() and load_weights() work right away.
        self({name: keras.Input((None,), dtype=dtype, name=name) for name, dtype in names.items()})

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

    def encode(self, inputs: dict, training):
        """Hidden states (B, T, D) of the inputs dict."""
        if not isinstance(inputs, dict) or "token_ids" not in inputs:
            received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise TypeError(f"{type(self).__name__} takes {self.inputs_text}. Received: {received}")
        require_two_axes(self, inputs["token_ids"])
        return self.backbone.encode(
            inputs["token_ids"],
            padding_mask=inputs.get("padding_mask"),
            segment_ids=inputs.get("segment_ids"),
            training=training,
        )

    def pool(self, hidden, inputs: dict, pooling: str):
        """Hidden states (B, T, D) to one vector a row (B, D)."""
        if pooling == "cls" and getattr(self.backbone, "pooler", None) is not None:
            return self.backbone.pool(hidden)
        return pool(hidden, inputs.get("padding_mask"), pooling)

    def head_config(self) -> dict[str, Any]:
        """The head's own options, besides the backbone: JSON-able, `zoo.build(head=...)`."""
        return {}

    @property
    def context_length(self) -> int:
        """Tokens read at once, special tokens included."""
        return self.backbone.config.context_length

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return self.backbone.config.vocabulary_size

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self.head_config(),
            "name": self.name,
            "quantization": quantization_config(self),
        }

    @classmethod
    def from_config(cls, config):
        return model_from_config(cls, config)


def input_dropout(rate: float, *shape: int | None) -> keras.layers.Dropout:
    """Dropout of what a head's last layer reads; built, so that `summary()` knows its shape."""
    dropout = keras.layers.Dropout(require_fraction("dropout", rate))
    dropout.build(shape)
    return dropout


def output_dense(units: int, name: str) -> keras.layers.Dense:
    """The last layer of a head: float32 logits, small at first."""
    # Small weights: at the start every class is as likely as the others.
    return keras.layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
        dtype="float32",
        name=name,
    )


def gather_positions(hidden, positions):
    """Rows of `hidden` (B, T, D) at `positions` (B, P) int32: (B, P, D)."""
    batch_size, length, width = ops.shape(hidden)
    # One gather of whole rows: take_along_axis would make an index for every channel.
    starts = ops.arange(batch_size, dtype="int32")[:, None] * length
    return ops.take(ops.reshape(hidden, (-1, width)), positions + starts, axis=0)


def require_at_least(name: str, value: int, least: int) -> int:
    """`value` itself if it is an int of at least `least`; else ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number from {least} on. Received: {value!r}")
    return value


def require_fraction(name: str, value: float) -> float:
    """`value` itself if it is in [0, 1); else ConfigError."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name} must be in [0, 1). Received: {value!r}")
    return value
