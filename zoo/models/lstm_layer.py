"""An LSTM layer with Keras' weights and numbers, and but one matrix product in its loop.

Shapes: T steps, first, B rows, E width of the inputs, U units.
"""

import itertools

import keras
from keras import ops

from zoo.models.blocks import split_at


class LSTM(keras.layers.Layer):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; Gers et al., 2000).

    i, f, g, o = x W + h U + b;  c = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)
    """

    def __init__(self, units: int, forget_bias: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        bias = {"bias_initializer": _GateBias(forget_bias), "unit_forget_bias": False}
        self.cell = keras.layers.LSTMCell(units, dtype=self.dtype_policy, name="lstm_cell", **bias)

    def build(self, inputs_shape):
        self.cell.build((None, inputs_shape[-1]))

    def compute_output_shape(self, inputs_shape):
        length, batch_size, _ = inputs_shape
        state = (batch_size, self.cell.units)
        return (length, *state), state, state

    def call(self, inputs, state=None, padding_mask=None, rows=None, training=None):
        """Hidden states (T, B, U), and h and c (B, U) after the last step.

        `inputs` are (T, B, E), or a table (V, E) of which `rows` (T, B) int32 are read.
        """
        if state is None:
            batch_size = ops.shape(inputs if rows is None else rows)[1]
            state = (ops.zeros((batch_size, self.cell.units), self.compute_dtype),) * 2
        h, c = (ops.cast(part, self.compute_dtype) for part in state)
        real = real_steps(padding_mask, self.compute_dtype)
        product = ops.matmul(ops.reshape(inputs, (-1, inputs.shape[-1])), self.cell.kernel)
        gates = ops.reshape(product, (*ops.shape(inputs)[:-1], 4 * self.cell.units))
        gates = gates + self.cell.bias
        if rows is not None:
            gates = ops.take(gates, rows, axis=0)  # (T, B, 4 U)
        kernel = ops.cast(self.cell.recurrent_kernel, self.compute_dtype)
        if training:
            states = _trainable(gates, kernel, h, c, real)
            return states[:-1], states[-2], states[-1]
        (h, c), (hidden, _) = read_steps(_reader(kernel, keep=2), gates, (h, c), real)
        return hidden, h, c

    def step(self, x, h, c):
        """h and c (B, U) after one more step, of inputs (B, E)."""
        return tuple(self.cell(x, [h, c], training=False)[1])


def real_steps(padding_mask, dtype: str):
    """(T, B, 1), 1 at real steps and 0 at padding, of a mask (T, B); None of None."""
    return None if padding_mask is None else ops.expand_dims(ops.cast(padding_mask, dtype), -1)


def _reader(kernel, keep: int):
    """One step of an LSTM; what it gives are the last `keep` of i, f, g, o, h, c."""

    def step(gates, h, c):
        i, f, g, o = ops.split(gates + ops.matmul(h, kernel), 4, axis=-1)
        i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
        c = f * c + i * g
        return (i, f, g, o, o * ops.tanh(c), c)[-keep:]

    return step


def read_steps(step, inputs, first: tuple, real):
    """`step` for each input, from h and c at the end of `first` on: last and all outputs."""

    def body(before, now):
        after = step(now[0], *before[-2:])
        if real is not None:
            still = (ops.where(now[1] > 0, new, old) for new, old in zip(after[-2:], before[-2:]))
            after = (*after[:-2], *still)
        return after

    return _scan(body, first, (inputs,) if real is None else (inputs, real))


def _scan(body, first: tuple, inputs: tuple, reverse: bool = False):
    """`ops.scan` for steps whose output is all that they hand on, as TensorFlow's wants it."""
    ends = None
    if len(inputs) > 1 and inputs[0].shape[0] is None:
        # Of several inputs TensorFlow's scan must know the length: here they are made one.
        ends = list(itertools.accumulate(x.shape[-1] for x in inputs))[:-1]
        inputs = (ops.concatenate(inputs, axis=-1),)

    def step(before, now):
        after = body(before, now if ends is None else split_at(now[0], ends, axis=-1))
        return after, after

    return ops.scan(step, first, inputs, reverse=reverse)


def _trainable(gates, kernel, h, c, real):
    """All hidden states and the last c, (T + 1, B, U), with a gradient of its own."""
    # One tensor: a gradient of several outputs is more than Keras has on every backend.

    @ops.custom_gradient
    def read(gates, kernel, h, c):
        zeros = ops.zeros_like(h)
        last, saved = read_steps(_reader(kernel, keep=6), gates, (*[zeros] * 4, h, c), real)

        def gradient(*arguments, upstream=None):
            # PyTorch gives the arguments of `read` too, and `upstream` by name.
            upstream = arguments[0] if upstream is None else upstream
            return _gradient(upstream, saved, kernel, h, c, real)

        return ops.concatenate([saved[-2], last[-1][None]], axis=0), gradient

    return read(gates, kernel, h, c)


def _gradient(upstream, saved, kernel, first_h, first_c, real):
    """Gradients of gates, kernel, h and c; `saved` is i, f, g, o, h, c of all steps."""
    *activations, hidden, cells = saved
    before_h = ops.concatenate([first_h[None], hidden[:-1]], axis=0)  # (T, B, U)
    before_c = ops.concatenate([first_c[None], cells[:-1]], axis=0)
    transposed = ops.transpose(kernel)

    def step(later, now):
        _, dh, dc = later
        d_hidden, i, f, g, o, c, c_before = now[:7]
        tanh_c = ops.tanh(c)
        dh = dh + d_hidden
        d_cell = dc + dh * o * (1 - tanh_c * tanh_c)
        d_i, d_f = d_cell * g * i * (1 - i), d_cell * c_before * f * (1 - f)
        d_g, d_o = d_cell * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        d_gates = ops.concatenate([d_i, d_f, d_g, d_o], axis=-1)
        dc_before = d_cell * f
        if real is None:
            return d_gates, ops.matmul(d_gates, transposed), dc_before
        # A state that stood still hands its gradient on.
        d_gates = ops.where(now[7] > 0, d_gates, 0)
        dh_before = ops.where(now[7] > 0, ops.matmul(d_gates, transposed), dh)
        return d_gates, dh_before, ops.where(now[7] > 0, dc_before, dc)

    inputs = (upstream[:-1], *activations, cells, before_c)
    inputs = inputs if real is None else (*inputs, real)
    zeros = ops.zeros_like(first_h)
    first = (ops.concatenate([zeros] * 4, axis=-1), zeros, upstream[-1])
    (_, dh, dc), (d_gates, _, _) = _scan(step, first, inputs, reverse=True)
    before_rows, gate_rows = (
        ops.reshape(x, (-1, size)) for x, size in zip((before_h, d_gates), kernel.shape)
    )
    d_kernel = ops.matmul(ops.transpose(before_rows), gate_rows)
    return d_gates, d_kernel, dh, dc


@keras.saving.register_keras_serializable(package="zoo")
class _GateBias(keras.initializers.Initializer):
    """Zeros, but `forget_bias` for the forget gate (Jozefowicz et al., 2015)."""

    def __init__(self, forget_bias: float = 1.0):
        self.forget_bias = forget_bias

    def __call__(self, shape, dtype=None):
        units = shape[0] // 4  # Keras orders the gates input, forget, cell, output
        gates = [ops.full((units,), bias, dtype) for bias in (0, self.forget_bias, 0, 0)]
        return ops.concatenate(gates)

    def get_config(self):
        return {"forget_bias": self.forget_bias}
