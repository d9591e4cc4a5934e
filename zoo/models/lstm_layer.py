"""An LSTM layer with Keras' weights and numbers, and few large matrix products.

A loop over time that multiplies the inputs at every step, and adds up the gradients of the weights
step by step, spends its time on reading and writing matrices. Here all that does not wait for the
step before is done for all steps at once: the product of the inputs before the loop, those of the
weights' gradients after it. What stays in the loop is one product of the state, a step.

Shape letters: T time steps, first, so that a step is one piece of memory; B rows, E width of the
inputs, U units.
"""

from __future__ import annotations

import itertools

import keras
from keras import ops


class LSTM(keras.layers.Layer):
    """A layer of long short-term memory (Hochreiter & Schmidhuber, 1997; Gers et al., 2000).

        i, f, g, o = x W + h U + b
        c = sigmoid(f) c + sigmoid(i) tanh(g)
        h = sigmoid(o) tanh(c)

    The weights are those of `keras.layers.LSTM`, in a `keras.layers.LSTMCell`, which alone does a
    single step.
    """

    def __init__(self, units: int, forget_bias: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.cell = keras.layers.LSTMCell(
            units,
            bias_initializer=_GateBias(forget_bias),
            unit_forget_bias=False,
            dtype=self.dtype_policy,
            name="lstm_cell",
        )

    def build(self, inputs_shape):
        self.cell.build((None, inputs_shape[-1]))

    def compute_output_shape(self, inputs_shape):
        length, batch_size, _ = inputs_shape
        state = (batch_size, self.cell.units)
        return (length, *state), state, state

    def call(self, inputs, state=None, padding_mask=None, rows=None, training=None):
        """Hidden states (T, B, U), and h and c (B, U) after the last step.

        Args:
            inputs: (T, B, E) float; with `rows` a table (V, E).
            state: h and c before the first step, each (B, U). `None` means zeros.
            padding_mask: (T, B) bool, True at real steps: at padding the state stands still.
            rows: (T, B) int32, which row of the table is each input. Cheaper than `inputs` of
                that shape where the table has fewer rows.
            training: bool, whether what the gradient needs is kept.
        """
        if state is None:
            batch_size = ops.shape(inputs if rows is None else rows)[1]
            state = (ops.zeros((batch_size, self.cell.units), self.compute_dtype),) * 2
        h, c = (ops.cast(part, self.compute_dtype) for part in state)
        real = real_steps(padding_mask, self.compute_dtype)
        gates = _product(inputs, self.cell.kernel) + self.cell.bias
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
    if padding_mask is None:
        return None
    return ops.expand_dims(ops.cast(padding_mask, dtype), -1)


def _product(x, kernel):
    """x (..., E) times kernel (E, N): one product of two matrices."""
    width, outputs = kernel.shape
    product = ops.matmul(ops.reshape(x, (-1, width)), kernel)
    return ops.reshape(product, (*ops.shape(x)[:-1], outputs))


def _reader(kernel, keep: int):
    """One step of an LSTM; what it gives are the last `keep` of i, f, g, o, h, c."""

    def step(gates, h, c):
        i, f, g, o = ops.split(gates + ops.matmul(h, kernel), 4, axis=-1)
        i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
        c = f * c + i * g
        return (i, f, g, o, o * ops.tanh(c), c)[-keep:]

    return step


def read_steps(step, inputs, first: tuple, real):
    """`step` for each of the inputs, from h and c at the end of `first` on.

    Returns what the last step gave, and all that the steps gave, each (T, B, U).
    """

    def body(before, now):
        after = step(now[0], *before[-2:])
        if real is not None:
            still = (ops.where(now[1] > 0, new, old) for new, old in zip(after[-2:], before[-2:]))
            after = (*after[:-2], *still)
        return after

    return _scan(body, first, (inputs,) if real is None else (inputs, real))


def _scan(body, first: tuple, inputs: tuple, reverse: bool = False):
    """`ops.scan` for steps whose output is all that they hand on, as TensorFlow's wants it."""
    if len(inputs) > 1 and inputs[0].shape[0] is None:
        # Of several inputs TensorFlow's scan must know the length: here they are made one.
        ends = list(itertools.accumulate(x.shape[-1] for x in inputs))[:-1]
        body, inputs = _taking_apart(body, ends), (ops.concatenate(inputs, axis=-1),)

    def step(before, now):
        after = body(before, now)
        return after, after

    return ops.scan(step, first, inputs, reverse=reverse)


def _taking_apart(body, ends):
    return lambda before, now: body(before, ops.split(now[0], ends, axis=-1))


def _trainable(gates, kernel, h, c, real):
    """All hidden states and the last c, (T + 1, B, U), with a gradient of its own.

    One tensor, because a gradient of several outputs is more than Keras has on every backend.
    """

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
        d_gates = ops.concatenate(
            [
                d_cell * g * i * (1 - i),
                d_cell * c_before * f * (1 - f),
                d_cell * i * (1 - g * g),
                dh * tanh_c * o * (1 - o),
            ],
            axis=-1,
        )
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
    units, outputs = kernel.shape
    d_kernel = ops.matmul(
        ops.transpose(ops.reshape(before_h, (-1, units))), ops.reshape(d_gates, (-1, outputs))
    )
    return d_gates, d_kernel, dh, dc


@keras.saving.register_keras_serializable(package="zoo")
class _GateBias(keras.initializers.Initializer):
    """Zeros, but `forget_bias` for the forget gate (Jozefowicz et al., 2015)."""

    def __init__(self, forget_bias: float = 1.0):
        self.forget_bias = forget_bias

    def __call__(self, shape, dtype=None):
        units = shape[0] // 4  # Keras orders the gates input, forget, cell, output
        return ops.concatenate(
            [
                ops.zeros((units,), dtype),
                ops.full((units,), self.forget_bias, dtype),
                ops.zeros((2 * units,), dtype),
            ]
        )

    def get_config(self):
        return {"forget_bias": self.forget_bias}
