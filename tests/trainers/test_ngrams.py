"""Logistic regression on token n-grams, and how much it counts beside the network."""

import itertools

import numpy as np
import pytest
from keras import ops
from scipy import special
from sklearn.linear_model import LogisticRegression

from trainers.tasks.ngrams import fit_ngrams, shares
from zoo.models.ngrams import NgramLogits


def slow_features(rows):
    """TF-IDF over tokens and pairs by dictionaries, as `fit_ngrams` scales it."""
    found = [[(a,) for a in row] + [*itertools.pairwise(row)] for row in rows]
    known = sorted({key for keys in found for key in keys})
    texts = {key: sum(key in keys for keys in found) for key in known}
    features = np.zeros((len(rows), len(known)))
    for row, keys in enumerate(found):
        for key in keys:
            idf = np.log((1 + len(rows)) / (1 + texts[key])) + 1
            features[row, known.index(key)] += idf / 3 / len(rows[row]) ** 0.5
    return features


@pytest.mark.parametrize("classes", [2, 3])
def test_the_layer_computes_what_was_learned(classes):
    generator = np.random.default_rng(classes)
    targets = generator.integers(0, classes, 60)
    rows = [
        [*generator.integers(5, 12, generator.integers(1, 9)), 20 + target] for target in targets
    ]
    weights = generator.uniform(0.5, 2, 60).astype("float32")
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows], "int32")
    mask = np.array([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    batches = [
        {"token_ids": ids[i : i + 7], "padding_mask": mask[i : i + 7]} for i in range(0, 60, 7)
    ]
    keys, kernel, bias = fit_ngrams(batches, targets, weights, vocabulary_size=30)
    assert (np.diff(keys) > 0).all()
    layer = NgramLogits(len(keys), classes, 30)
    layer.set_weights([keys, kernel])
    logits = ops.convert_to_numpy(layer(ids, mask)) + bias
    features = slow_features(rows)
    assert features.shape[1] == len(keys)
    model = LogisticRegression(C=10, max_iter=200)
    model.fit(features, targets, sample_weight=weights / weights.mean())
    expected = model.predict_proba(features)
    np.testing.assert_allclose(special.softmax(logits, axis=1), expected, atol=2e-3)


def test_shares_follow_the_validation_texts():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, 400)
    good = 3 * np.eye(3)[targets] + generator.normal(size=(400, 3))
    noise = generator.normal(size=(400, 3))
    network, ngrams = shares(good, noise, targets)
    assert network > 0.8 and ngrams < 0.3
    network, ngrams = shares(noise, good, targets)
    assert network < 0.3 and ngrams > 0.8
    # Few texts say little.
    np.testing.assert_allclose(shares(good[:2], noise[:2], targets[:2]), 0.5, atol=0.15)


def test_texts_without_a_common_ngram_teach_nothing():
    ids = np.arange(5, 2005, dtype="int32")[:, None]
    batch = {"token_ids": ids, "padding_mask": np.ones((2000, 1), bool)}
    targets = np.arange(2000) % 2
    assert fit_ngrams([batch], targets, np.ones(2000, "float32"), 3000) is None
