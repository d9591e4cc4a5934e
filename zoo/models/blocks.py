"""What the blocks of GPT and BERT are made of beside attention: norm, feed-forward, token shift."""

import itertools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from zoo.models.configs import TransformerConfig


def gelu(x):
    """The exact GELU (Hendrycks & Gimpel, 2016)."""
    if keras.backend.standardize_dtype(x.dtype) != "float32":
        return ops.gelu(x, approximate=False)
    # Keras' own form, by erfc, has more digits far below 0 and takes twice as long on TensorFlow
    # where it is not joined to a product.
    return 0.5 * x * (1 + ops.erf(x * 0.5**0.5))


def silu(x):
    """x sigmoid(x) (Elfwing et al., 2018); `ops.silu` takes five operations on TensorFlow."""
    return x * ops.sigmoid(x)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": silu,
    "squared_relu": lambda x: ops.square(ops.relu(x)),
}
# These multiply one half of the channels by a function of the other.
GATED_ACTIVATIONS = {"swiglu": silu}
GATED_ACTIVATIONS |= {"geglu": ACTIVATIONS["gelu"], "geglu_tanh": ACTIVATIONS["gelu_tanh"]}


def make_norm(config: TransformerConfig, name: str) -> keras.layers.Layer:
    """The normalisation layer that `config.norm` names."""
    if config.norm == "rms_norm":
        return keras.layers.RMSNormalization(epsilon=config.norm_epsilon, name=name)
    return keras.layers.LayerNormalization(
        epsilon=config.norm_epsilon, center=config.use_bias is True, name=name
    )


def normalized(x, norm: keras.layers.Layer | None):
    """`norm(x)`, or `x` where there is no norm."""
    return x if norm is None else norm(x)


def make_dense(
    config: TransformerConfig, units: int, name: str, residual: bool = False
) -> keras.layers.Dense:
    """A dense layer; `residual` ones, which write to the residual stream, begin smaller."""
    stddev = config.residual_stddev if residual else config.initializer_range
    return keras.layers.Dense(
        units,
        use_bias=config.has_bias(name),
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
        name=name,
    )


def as_rows(x):
    """(..., D) to (N, D): what TensorFlow's graph optimizer joins a bias and a GELU to."""
    return x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))


def is_one(length) -> bool:
    """Whether it is known, while a graph is made, that each row has one token."""
    return isinstance(length, int) and length == 1


def activate(x, activation: str):
    """The nonlinearity by its config name; a gated one halves the last dimension."""
    if activation in ACTIVATIONS:
        return ACTIVATIONS[activation](x)
    gate, linear = ops.split(x, 2, axis=-1)
    return GATED_ACTIVATIONS[activation](gate) * linear


def split_at(x, ends: Sequence[int], axis: int):
    """Parts of `x` that end before each of `ends`, and the rest."""
    if len({end - begin for begin, end in itertools.pairwise([0, *ends, x.shape[axis]])}) == 1:
        return ops.split(x, len(ends) + 1, axis=axis)
    # For parts that differ TensorFlow's `ops.split` computes the sizes in the graph, with 25 nodes:
    # a third of a GPT's. A slice has four.
    rest = (slice(None),) * (axis % len(x.shape))
    return [x[(*rest, slice(*limits))] for limits in itertools.pairwise([0, *ends, None])]


def soft_cap(x, cap: float):
    """`x` where it is small, and never beyond +-`cap`."""
    return cap * ops.tanh(x / cap)


class TransformerLayer(keras.layers.Layer):
    """A layer made from a config, (B, T, D) to (B, T, D); `layer` counts the model's from 0."""

    def __init__(self, config: TransformerConfig, layer: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.layer = layer

    def build(self, input_shape):
        # Explicit: else Keras traces each call once more for each level of nesting, and a model
        # takes twice as long to make.
        for layer in self._layers:
            if not layer.built:
                layer.build(input_shape)

    def compute_output_shape(self, input_shape):
        return input_shape


class FeedForward(TransformerLayer):
    """The position-wise network of a block: (B, T, D) or rows (N, D) to the same shape."""

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config, **kwargs)
        inner = config.feedforward_dim * (2 if config.activation in GATED_ACTIVATIONS else 1)
        self.expand = make_dense(config, inner, "expand")
        self.contract = make_dense(config, config.hidden_dim, "contract", residual=True)

    def build(self, input_shape):
        self.contract.build((None, None, self.config.feedforward_dim))
        super().build(input_shape)

    def call(self, x):
        output = self.contract(activate(self.expand(as_rows(x)), self.config.activation))
        return output if len(x.shape) == 2 else ops.reshape(output, ops.shape(x))


def shift_tokens(x, shift: int, positions=None):
    """Part i of the channels of `x` (B, T, D) from i tokens before, of the same document.

    A feed-forward network then sees a few tokens at once (Peng et al., 2023, arXiv:2305.13048).
    """
    shifted = []
    for distance, (start, end) in enumerate(_parts(x.shape[-1], shift)):
        part = x[..., start:end]
        if distance:
            # Longer than the row or not: cut to T tokens again.
            part = ops.pad(part, [[0, 0], [distance, 0], [0, 0]])[:, : ops.shape(x)[1]]
            if positions is not None:
                part = ops.where((positions >= distance)[..., None], part, 0.0)
        shifted.append(part)
    return ops.concatenate(shifted, axis=-1)


def shift_new_tokens(x, past, shift: int, length, lengths=None):
    """`shift_tokens` for rows (B*T, D) of T = `length` new tokens, `lengths` (B,) of them real.

    `past` (B, shift, D) is what came before them; returns rows, and the past of what follows.
    """
    width = x.shape[-1]
    known = ops.concatenate([past, ops.reshape(x, (-1, length, width))], axis=1)  # (B, shift+T, D)
    if is_one(length):
        # One operation for all parts: this is done for every token that is generated.
        columns = np.arange(width, dtype="int32")
        for distance, (start, end) in enumerate(_parts(width, shift)):
            columns[start:end] += (shift - distance) * width
        flat = ops.reshape(known, (-1, (shift + 1) * width))
        return ops.take(flat, columns, axis=1), known[:, 1:]
    shifted = as_rows(shift_tokens(known, shift)[:, shift:])
    if lengths is None:
        return shifted, known[:, length:]
    rows = lengths[:, None] + ops.arange(shift, dtype="int32")  # (B, shift)
    return shifted, ops.take_along_axis(known, rows[..., None], axis=1)


def _parts(width: int, shift: int) -> list[tuple[int, int]]:
    """First and last channel of each part, sizes at most one apart."""
    return list(itertools.pairwise(width * part // (shift + 1) for part in range(shift + 2)))
