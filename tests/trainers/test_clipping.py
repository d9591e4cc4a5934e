"""Clipping by the global norm against Keras' own."""

import keras
import numpy as np
import pytest
from keras import ops

from trainers.optim.adamw import AdamW

numpy = ops.convert_to_numpy


def clipped(kind, gradients, **options):
    optimizer = kind(**options)
    return [numpy(g) for g in optimizer._clip_gradients(gradients)]


def random_gradients(scale):
    generator = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 3, 2), ()]
    return [
        ops.convert_to_tensor(scale * generator.normal(size=shape).astype("float32"))
        for shape in shapes
    ]


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 1e4])
@pytest.mark.parametrize("options", [{"global_clipnorm": 1.0}, {"clipnorm": 0.5}, {}])
def test_equals_keras(scale, options):
    gradients = random_gradients(scale)
    ours = clipped(AdamW, gradients, **options)
    theirs = clipped(keras.optimizers.AdamW, gradients, **options)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_no_number_stays_of_a_norm_that_is_none(bad):
    gradients = [ops.convert_to_tensor(np.float32([1.0, bad])), ops.ones((2,))]
    assert all(np.isnan(g).all() for g in clipped(AdamW, gradients, global_clipnorm=1.0))


def test_zero_gradients_stay_zero():
    assert clipped(AdamW, [ops.zeros((3,))], global_clipnorm=1.0)[0].tolist() == [0, 0, 0]


@pytest.mark.tensorflow_only
def test_rows_of_an_embedding():
    import tensorflow as tf

    def gradients():
        rows = tf.constant([[3.0, 4.0], [6.0, 8.0]])
        return [tf.IndexedSlices(rows, tf.constant([1, 0]), tf.constant([4, 2])), tf.ones((2,))]

    ours = clipped(AdamW, gradients(), global_clipnorm=1.0)
    theirs = clipped(keras.optimizers.AdamW, gradients(), global_clipnorm=1.0)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6)
