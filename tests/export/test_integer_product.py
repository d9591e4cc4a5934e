"""Products of integers in place of float32 ones: how near, exact from batch to batch, and where."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from export.precision.weights import INTEGER_PRODUCT, integer_product, product_terms

pytestmark = pytest.mark.tensorflow_only


def random_weights(rng, inputs, outputs):
    return rng.integers(-127, 128, (inputs, outputs)).astype("int8")


def product(x, weights, outputs_first=False):
    outputs = weights.shape[1:]
    weights = tf.constant(weights.T if outputs_first else weights)
    terms = product_terms(weights, tf.constant(1.0, shape=outputs), outputs_first)
    return integer_product(tf.constant(x), weights, *terms, outputs_first).numpy()


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 99),
)
def test_inputs_are_rounded_to_21_bits_and_sums_are_exact(
    inputs, outputs, rows, outputs_first, seed
):
    rng = np.random.default_rng(seed)
    weights = random_weights(rng, inputs, outputs)
    x = (rng.normal(size=(rows, inputs)) * 10 ** rng.uniform(-6, 6, (rows, 1))).astype("float32")
    got = product(x, weights, outputs_first)
    assert got.dtype == np.float32
    exact = x.astype(np.float64) @ weights
    half_step = np.abs(x).max(axis=1, keepdims=True) / 63 / 128**2 / 2
    bound = half_step * np.abs(weights.astype(float)).sum(axis=0) * 1.001
    assert (np.abs(got - exact) <= bound + 1e-6 * np.abs(x) @ np.abs(weights.astype(float))).all()


def test_whole_numbers_and_zeros_come_out_exactly():
    x = np.float32([[63, -63, 31, 0], [0, 0, 0, 0], [5, 0, -63, 2]])
    weights = random_weights(np.random.default_rng(0), 4, 6)
    np.testing.assert_array_equal(product(x, weights), x @ weights.astype("float32"))


@pytest.mark.parametrize("outputs_first", [False, True])
def test_the_largest_sums_do_not_overflow(outputs_first):
    """Pairs of products at the limit of 16 bits, which CPUs without VNNI add them in."""
    x = np.float32([[1, 1, 1, 1] * 800, [-1, -1, -1, -1] * 800])
    weights = np.full((3200, 3), 127, "int8")
    weights[:, 1] = -127
    got = product(x, weights, outputs_first)
    np.testing.assert_allclose(got, x @ weights.astype("float32"), rtol=1e-6)


@settings(max_examples=5)  # six graphs are made for each
@given(st.integers(0, 99))
def test_a_row_does_not_depend_on_its_batch(seed):
    rng = np.random.default_rng(seed)
    weights = random_weights(rng, 70, 30)
    x = (rng.normal(size=(5, 70)) * 10 ** rng.uniform(-3, 3, (5, 1))).astype("float32")
    together = product(x, weights)
    for row in range(5):
        np.testing.assert_array_equal(product(x[row : row + 1], weights)[0], together[row])


def test_shape_and_op_in_a_graph():
    weights = tf.ones((3, 5), tf.int8)

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def multiply(x):
        outputs = integer_product(x, weights, *product_terms(weights, tf.ones(5), False), False)
        assert outputs.shape.as_list() == [None, 5]
        return outputs

    operations = multiply.get_concrete_function().graph.get_operations()
    assert INTEGER_PRODUCT in {node.type for node in operations}
    np.testing.assert_allclose(multiply(tf.ones((2, 3))), np.full((2, 5), 3), rtol=1e-6)
    assert multiply(tf.ones((0, 3))).shape == (0, 5)
