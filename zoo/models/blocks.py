"""What the blocks of GPT and BERT are made of beside attention: norm, feed-forward, token shift.

`keras.ops` only: runs on every Keras backend.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
from keras import ops

from zoo.models.configs import TransformerConfig


def make_norm(config: TransformerConfig, name: str) -> keras.layers.Layer:
    """The normalisation layer that `config.norm` names."""
    if config.norm == "rms_norm":
        return keras.layers.RMSNormalization(epsilon=config.norm_epsilon, name=name)
    return keras.layers.LayerNormalization(
        epsilon=config.norm_epsilon, center=config.use_bias, name=name
    )


def make_dense(
    config: TransformerConfig, units: int, name: str, residual: bool = False
) -> keras.layers.Dense:
    """A dense layer; `residual` ones, which write to the residual stream, begin smaller."""
    stddev = config.residual_stddev if residual else config.initializer_range
    return keras.layers.Dense(
        units,
        use_bias=config.use_bias,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
        name=name,
    )


def as_rows(x):
    """(..., D) to (N, D): what TensorFlow's graph optimizer joins a bias and a GELU to.

    A product of higher rank is reshaped before and after on TensorFlow, and what comes next sees
    the reshape.
    """
    return x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))


def activate(x, activation: str):
    """The nonlinearity by its config name; "swiglu" halves the last dimension."""
    match activation:
        case "gelu":
            return ops.gelu(x, approximate=False)
        case "gelu_tanh":
            return ops.gelu(x, approximate=True)
        case "squared_relu":
            return ops.square(ops.relu(x))
        case "swiglu":
            gate, linear = ops.split(x, 2, axis=-1)
            return ops.silu(gate) * linear


class FeedForward(keras.layers.Layer):
    """The position-wise network of a block: (B, T, D) or rows (N, D) to the same shape."""

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        inner = config.feedforward_dim * (2 if config.activation == "swiglu" else 1)
        self.expand = make_dense(config, inner, "expand")
        self.contract = make_dense(config, config.hidden_dim, "contract", residual=True)

    def build(self, input_shape):
        self.expand.build(input_shape)
        self.contract.build((None, None, self.config.feedforward_dim))

    def call(self, x):
        output = self.contract(activate(self.expand(as_rows(x)), self.config.activation))
        return ops.reshape(output, ops.shape(x))

    def compute_output_shape(self, input_shape):
        return input_shape


def shift_tokens(x, shift: int, positions=None):
    """Part i of the channels of `x` (B, T, D) from i tokens before, for i from 0 to `shift`.

    A feed-forward network, which looks at each token alone, then sees a few tokens at once, without
    a weight and almost without arithmetic. Half the channels from one token before is what RWKV
    began with (Peng et al., 2023, arXiv:2305.13048); moving parts of the channels along time is Lin
    et al., 2019 (arXiv:1811.08383). `positions` (B, T) is the place of each token in its document:
    what would come from before its start is 0.
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
    """`shift_tokens` for rows (B*T, D) of T = `length` new tokens that follow others.

    `past` (B, shift, D) is what came before them, zeros before the start; `lengths` (B,) how many
    of a row's new tokens are real. Returns rows, and the past of what follows.
    """
    width = x.shape[-1]
    known = ops.concatenate([past, ops.reshape(x, (-1, length, width))], axis=1)  # (B, shift+T, D)
    if isinstance(length, int) and length == 1:
        # One operation for all parts: this is done for every token that is generated.
        columns = np.arange(width, dtype="int32")
        for distance, (start, end) in enumerate(_parts(width, shift)):
            columns[start:end] += (shift - distance) * width
        flat = ops.reshape(known, (-1, (shift + 1) * width))
        return ops.take(flat, columns, axis=1), known[:, 1:]
    shifted = ops.reshape(shift_tokens(known, shift)[:, shift:], (-1, width))
    if lengths is None:
        return shifted, known[:, length:]
    rows = lengths[:, None] + ops.arange(shift, dtype="int32")  # (B, shift)
    return shifted, ops.take_along_axis(known, rows[..., None], axis=1)


def _parts(width: int, shift: int) -> list[tuple[int, int]]:
    """First and last channel of each part, sizes at most one apart."""
    edges = [width * part // (shift + 1) for part in range(shift + 2)]
    return list(itertools.pairwise(edges))


def rematerialized(block: keras.layers.Layer, x, **arguments):
    """`block(x, **arguments)`, whose inside is computed again for the gradient.

    Less memory in training, for more time (Chen et al., 2016, arXiv:1604.06174). `keras.remat`
    alone would not do: on TensorFlow it loses the gradients of weights that are not variables at
    that moment, on JAX it may not change a variable inside, and dropout would draw other masks the
    second time. So weights and seeds go in as arguments, and new seeds come out.
    """
    variables = block.variables
    state = [variable for variable in variables if not variable.trainable]

    def inside(x, *values):
        with keras.StatelessScope(list(zip(variables, values))) as scope:
            y = block(x, **arguments)
        return y, *(scope.get_current_value(variable) for variable in state)

    y, *after = keras.remat(inside)(x, *(ops.convert_to_tensor(v) for v in variables))
    for variable, value in zip(state, after):
        if variable.name == "seed_generator_state":
            variable.assign(value)
    return y
