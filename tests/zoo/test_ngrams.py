"""The linear model of token n-grams beside a classifier's network."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import zoo
from zoo.config import ConfigError
from zoo.models.build import count_weights
from zoo.models.ngrams import NgramLogits


def slow_logits(layer, ids, mask):
    """The same by a dictionary, one text after the other."""
    keys, kernel = (np.asarray(w) for w in layer.get_weights())
    table = dict(zip(keys.tolist(), kernel))
    rows = []
    for row, real in zip(ids.tolist(), mask.tolist()):
        row = [token for token, is_real in zip(row, real) if is_real]
        found = [-1 - token for token in row]
        found += [a * layer.base + b for a, b in itertools.pairwise(row)]
        total = sum((table[key] for key in found if key in table), np.zeros(kernel.shape[1]))
        rows.append(total / max(len(row), 1) ** 0.5)
    return np.array(rows)


@pytest.mark.parametrize("vocabulary_size", [50, 250_000])
def test_logits_are_sums_over_a_texts_ngrams(vocabulary_size):
    generator = np.random.default_rng(0)
    layer = NgramLogits(40, 3, vocabulary_size)
    high = vocabulary_size - 1
    ids = high - generator.integers(0, 8, (6, 9)).astype("int32")
    mask = np.arange(9) < generator.integers(0, 10, (6, 1))
    known = np.unique(ops.convert_to_numpy(layer.ngrams(ids)))[:-1]  # the last one is none
    keys = np.sort(generator.choice(known, 40, replace=False))
    layer.set_weights([keys, generator.normal(size=(40, 3))])
    found = ops.convert_to_numpy(layer(ids, mask))
    np.testing.assert_allclose(found, slow_logits(layer, ids, mask), atol=1e-6)
    everything = np.ones_like(mask)
    found = ops.convert_to_numpy(layer(ids))
    np.testing.assert_allclose(found, slow_logits(layer, ids, everything), atol=1e-6)


def test_training_sees_the_network_alone():
    head = {"num_classes": 3, "ngrams": 2}
    config = zoo.preset_config("bert_tiny", vocabulary_size=20)
    model = zoo.build(config, "classify", head)
    assert model.count_params() == count_weights(config, "classify", head)
    inputs = {"token_ids": np.array([[2, 5, 6, 3]], "int32")}
    before = ops.convert_to_numpy(model(inputs))
    # Of the tokens 5 and 6.
    model.ngram_logits.set_weights([np.array([-7, -6]), np.diag([2.0, 1.0, 0.0])[1::-1]])
    np.testing.assert_allclose(model(inputs) - before, [[1.0, 0.5, 0.0]], atol=1e-6)
    assert not model.ngram_logits.trainable_weights
    without = ops.convert_to_numpy(model(inputs, training=True))
    model.ngram_logits.set_weights([np.array([-7, -6]), np.full((2, 3), 1000.0)])
    assert np.abs(ops.convert_to_numpy(model(inputs, training=True)) - without).max() < 100


def test_a_trained_model_is_given_ngrams():
    model = zoo.build("bert_tiny", "classify", {"num_classes": 3}, vocabulary_size=20)
    inputs = {"token_ids": np.array([[2, 5, 6, 3]], "int32")}
    before = model.predict_on_batch(inputs)
    keys, kernel = np.array([-7, -6], "int32"), np.diag([2.0, 1.0, 0.0])[1::-1]
    model.add_ngrams(keys, kernel)
    np.testing.assert_allclose(model.predict_on_batch(inputs) - before, [[1, 0.5, 0]], atol=1e-6)
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(again.predict_on_batch(inputs), model.predict_on_batch(inputs))


def test_a_model_may_be_built_of_one_with_ngrams():
    head = {"num_classes": 3, "ngrams": 2}
    model = zoo.build("bert_tiny", "classify", head, vocabulary_size=20)
    inputs = {"token_ids": keras.Input((None,), dtype="int32")}
    whole = keras.Model(inputs, model(inputs))
    assert whole({"token_ids": np.ones((2, 5), "int32")}).shape == (2, 3)


def test_a_wrong_number_of_ngrams_is_named():
    with pytest.raises(ConfigError, match="ngrams must be a whole number from 0 on"):
        zoo.build("bert_tiny", "classify", {"num_classes": 3, "ngrams": -1}, vocabulary_size=20)
