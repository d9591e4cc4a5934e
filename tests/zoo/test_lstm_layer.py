"""Our LSTM layer against Keras' own: outputs, states and gradients, on every backend."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from zoo.models.lstm_layer import LSTM

numpy = ops.convert_to_numpy
# dtype -> largest difference: of sums in another order, and of numbers of 8 bits.
TOLERANCE = {"float32": 1e-5, "mixed_bfloat16": 0.06}


def pair(width, units, dtype, seed=0):
    """Our layer, time first, and Keras' layer with the same weights, rows first."""
    keras.utils.set_random_seed(seed)
    ours = LSTM(units, dtype=dtype)
    theirs = keras.layers.LSTM(
        units, return_sequences=True, return_state=True, use_cudnn=False, dtype=dtype
    )
    ours.build((None, None, width))
    theirs.build((None, None, width))
    random = np.random.default_rng(seed)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        assert (one.path.split("/", 1)[1], one.shape) == (other.path.split("/", 1)[1], other.shape)
        value = random.normal(0, 0.7, one.shape)
        one.assign(value)
        other.assign(value)
    return ours, theirs


def run_ours(layer, inputs, h, c, mask, training):
    mask = None if mask is None else ops.transpose(mask)
    inputs = ops.transpose(inputs, (1, 0, 2))
    hidden, h, c = layer(inputs, (h, c), padding_mask=mask, training=training)
    return ops.transpose(hidden, (1, 0, 2)), h, c


def run_theirs(layer, inputs, h, c, mask, training):
    return layer(inputs, initial_state=[h, c], mask=mask, training=training)


def outputs_and_gradients(run, layer, arrays, mask, training, jit_compile=False):
    """Hidden states, h, c, and the gradients of a weighted sum of them all: arrays', weights'."""
    random = np.random.default_rng(1)
    shapes = [(*arrays[0].shape[:2], layer.cell.units), arrays[1].shape, arrays[2].shape]
    weights = [random.normal(size=shape).astype("float32") for shape in shapes]
    mask = None if mask is None else ops.convert_to_tensor(mask)

    def loss(arrays, values):
        with keras.StatelessScope(list(zip(layer.trainable_variables, values))):
            outputs = run(layer, *arrays, mask, training)
        outputs = [ops.cast(output, "float32") for output in outputs]
        return sum(ops.sum(w * output) for w, output in zip(weights, outputs)), outputs

    arrays = [ops.convert_to_tensor(array) for array in arrays]
    values = [ops.convert_to_tensor(numpy(v)) for v in layer.trainable_variables]
    if keras.backend.backend() == "jax":
        import jax

        both = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        (of_arrays, of_values), outputs = both(arrays, values)
        gradients = [*of_arrays, *of_values]
    elif keras.backend.backend() == "torch":
        tensors = [tensor.requires_grad_() for tensor in (*arrays, *values)]
        total, outputs = loss(tensors[:3], tensors[3:])
        total.backward()
        gradients = [tensor.grad for tensor in tensors]
    else:
        import tensorflow as tf

        @tf.function(jit_compile=jit_compile, autograph=False)
        def both(tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                total, outputs = loss(tensors[:3], tensors[3:])
            return outputs, tape.gradient(total, tensors)

        outputs, gradients = both([*arrays, *values])
    return [numpy(ops.cast(x, "float32")) for x in (*outputs, *gradients)]


def example(rows, length, width, units, seed=0):
    random = np.random.default_rng(seed)
    shapes = ((rows, length, width), (rows, units), (rows, units))
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def padded(rows, length, seed=0):
    lengths = np.random.default_rng(seed).integers(1, length + 1, rows)
    return np.arange(length) < lengths[:, None]


def assert_equal_to_keras(arrays, units, mask, training, dtype="float32", seed=0):
    ours, theirs = pair(arrays[0].shape[-1], units, dtype, seed)
    found = outputs_and_gradients(run_ours, ours, arrays, mask, training)
    expected = outputs_and_gradients(run_theirs, theirs, arrays, mask, False)
    for one, other in zip(found, expected, strict=True):
        scale = max(np.abs(other).max(), 1)
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize(
    ("masked", "training", "dtype"),
    [
        (False, True, "float32"),
        (True, True, "mixed_bfloat16"),
        (True, False, "float32"),
        (False, False, "mixed_bfloat16"),
    ],
)
def test_equal_to_keras(masked, training, dtype):
    """Also the gradients of the state before, and where rows end before the others."""
    mask = padded(4, 6) if masked else None
    assert_equal_to_keras(example(4, 6, 3, 5), 5, mask, training, dtype)


@pytest.mark.slow
@settings(max_examples=3)  # each one is two graphs
@given(st.data())
def test_equal_to_keras_for_any_sizes_and_padding(data):
    rows, length, width, units, seed = (data.draw(st.integers(1, 4)) for _ in range(5))
    mask = padded(rows, length, seed) if data.draw(st.booleans()) else None
    assert_equal_to_keras(example(rows, length, width, units, seed), units, mask, True, seed=seed)


def test_state_stands_still_wherever_the_mask_says():
    """Padding between and before real tokens: what comes out is the state, as if it were not there.

    Keras' layer agrees but for padding before the first token, where it gives zeros.
    """
    layer, _ = pair(3, 4, "float32")
    inputs, h, c = example(1, 7, 3, 4)
    real = [1, 2, 5]
    mask = np.isin(np.arange(7), real)[None]
    for training in (True, False):
        hidden, last_h, last_c = run_ours(layer, inputs, h, c, mask, training)
        short = run_ours(layer, inputs[:, real], h, c, None, training)
        expected = np.concatenate([h[:, None], numpy(short[0])], axis=1)[:, [0, 1, 2, 2, 2, 3, 3]]
        np.testing.assert_allclose(numpy(hidden), expected, atol=1e-6)
        np.testing.assert_allclose(numpy(last_h), numpy(short[1]), atol=1e-6)
        np.testing.assert_allclose(numpy(last_c), numpy(short[2]), atol=1e-6)


@pytest.mark.tensorflow_only
def test_compiled_by_xla():
    layer, _ = pair(3, 5, "float32")
    arrays, mask = example(4, 6, 3, 5), padded(4, 6)
    plain = outputs_and_gradients(run_ours, layer, arrays, mask, True)
    compiled = outputs_and_gradients(run_ours, layer, arrays, mask, True, jit_compile=True)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_rows_of_a_table_are_inputs(training):
    layer, _ = pair(3, 4, "float32")
    table = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")
    rows = np.random.default_rng(0).integers(0, 7, (5, 2), "int32")
    state = example(2, 1, 1, 4)[1:]
    looked_up = layer(table, state, rows=ops.convert_to_tensor(rows), training=training)
    written_out = layer(table[rows], state, training=training)
    for one, other in zip(looked_up, written_out, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=1e-6)


def test_forget_bias():
    layer = LSTM(2, forget_bias=3.0)
    layer.build((None, None, 1))
    assert numpy(layer.cell.bias).tolist() == [0, 0, 3, 3, 0, 0, 0, 0]
