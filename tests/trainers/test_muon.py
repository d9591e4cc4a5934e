"""Our Muon: Keras' update, made for all matrices together."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from trainers.optim.muon import Muon, orthogonalized

numpy = ops.convert_to_numpy
SHAPES = [(3, 7), (3, 3), (9, 3), (4, 2), (2, 6), (5, 5)]


def random_matrices(shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype("float32") for shape in shapes]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.integers(1, 6),
)
def test_equals_keras_one_by_one(shapes, seed, steps):
    matrices = random_matrices(shapes, seed)
    keras_own = keras.optimizers.Muon()
    found = orthogonalized([ops.convert_to_tensor(x) for x in matrices], steps)
    for x, one in zip(matrices, found):
        expected = numpy(keras_own.zeropower_via_newtonschulz5(ops.convert_to_tensor(x), steps))
        np.testing.assert_allclose(numpy(one), expected, atol=2e-4)


def test_singular_values_are_about_one_and_the_vectors_stay():
    matrices = random_matrices([(6, 20), (20, 6), (6, 6)])
    for x, one in zip(matrices, orthogonalized([ops.convert_to_tensor(x) for x in matrices])):
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        turned = u.T @ numpy(one) @ vt.T
        assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-3
        assert np.diag(turned).min() > 0.6
        assert np.diag(turned).max() < 1.3


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e6])
def test_any_scale_and_rank(scale):
    """A gradient may be tiny, huge, or of one direction only; zeros stay zeros."""
    (x,) = random_matrices([(4, 6)])
    low_rank = np.outer(x[:, 0], x[0]).astype("float32")
    for matrix in (x, low_rank):
        one = numpy(orthogonalized([ops.convert_to_tensor(matrix * np.float32(scale))])[0])
        if scale > 1e-10:
            expected = numpy(orthogonalized([ops.convert_to_tensor(matrix)])[0])
            np.testing.assert_allclose(one, expected, atol=2e-2)
        assert np.isfinite(one).all()
    assert not numpy(orthogonalized([ops.zeros((3, 5))])[0]).any()


def train(optimizer, jit_compile):
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, "tanh", name="block_0"),
            keras.layers.Dense(6, "tanh", name="block_1"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    (x,) = random_matrices([(24, 5)])
    model.fit(x, x[:, :3] ** 2, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("nesterov", [True, False])
def test_training_equals_keras_own(nesterov, jit_compile):
    options = {"exclude_layers": ["head"], "weight_decay": 0.1, "nesterov": nesterov}
    ours = train(Muon(0.02, **options), jit_compile)
    theirs = train(keras.optimizers.Muon(0.02, **options), jit_compile)
    for one, other in zip(ours.weights, theirs.weights):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=2e-4, err_msg=one.path)
    shapes = [[v.shape for v in model.optimizer.variables] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_keras_can_serialize_it():
    again = keras.optimizers.deserialize(keras.optimizers.serialize(Muon(0.1, momentum=0.8)))
    assert type(again) is Muon
    assert again.momentum == 0.8
