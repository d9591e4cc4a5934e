"""Losses against their formulas in NumPy, compiled and not."""

import math

import keras
import numpy as np
import pytest

from trainers.optim.losses import (
    DistillationLoss,
    InBatchContrastiveLoss,
    SimilarityLoss,
    SpanLoss,
    SparseCrossentropy,
)

RANDOM = np.random.default_rng(0)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def unit(shape):
    vectors = RANDOM.normal(size=shape).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_smoothed_crossentropy(shape, smoothing):
    logits = RANDOM.normal(size=(*shape, 6)).astype("float32") * 3
    labels = RANDOM.integers(0, 6, shape).astype("int32")
    targets = np.eye(6)[labels] * (1 - smoothing) + smoothing / 6
    expected = -(targets * log_softmax(logits)).sum(-1)
    loss = SparseCrossentropy(smoothing, reduction=None)(labels, logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_without_smoothing_it_is_keras_own():
    logits, labels = RANDOM.normal(size=(4, 3)).astype("float32"), np.array([0, 2, 1, 1])
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    keras_own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours = SparseCrossentropy()
    assert float(ours(labels, logits, weights)) == float(keras_own(labels, logits, weights))


def test_padding_of_weight_zero_does_not_dilute_the_mean():
    logits, labels = RANDOM.normal(size=(2, 3, 5)).astype("float32"), np.array([[1, 2, 0]] * 2)
    weights = np.array([[1, 1, 0], [1, 0, 0]])
    loss = SparseCrossentropy(0.1, reduction="mean_with_sample_weight")
    each = np.array(SparseCrossentropy(0.1, reduction=None)(labels, logits))
    expected = each[weights == 1].mean()
    assert float(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-6)


def test_span_loss():
    logits = RANDOM.normal(size=(3, 7, 2)).astype("float32")
    labels = np.array([[0, 6], [2, 2], [4, 5]], "int32")
    log_p = log_softmax(logits.transpose(0, 2, 1))  # (B, 2, T)
    expected = -(log_p[range(3), 0, labels[:, 0]] + log_p[range(3), 1, labels[:, 1]]) / 2
    np.testing.assert_allclose(SpanLoss(reduction=None)(labels, logits), expected, rtol=1e-5)
    assert float(SpanLoss()(labels, logits)) == pytest.approx(expected.mean(), rel=1e-5)


def test_contrastive_loss():
    anchor, positive = unit((4, 3)), unit((4, 3))
    similarity = anchor @ positive.T / 0.2
    rows, columns = log_softmax(similarity), log_softmax(similarity.T)
    expected = -(np.diag(rows) + np.diag(columns)) / 2
    pairs = np.stack([anchor, positive], axis=1)
    loss = InBatchContrastiveLoss(0.2, reduction=None)(np.zeros(4), pairs)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_contrastive_loss_is_low_for_the_right_pairs_only():
    vectors, loss = np.eye(4, dtype="float32"), InBatchContrastiveLoss(reduction=None)
    assert np.max(loss(np.zeros(4), np.stack([vectors, vectors], axis=1))) < 1e-6
    assert np.min(loss(np.zeros(4), np.stack([vectors, vectors[::-1]], axis=1))) > 19


def test_distillation_loss():
    logits, teacher = RANDOM.normal(size=(2, 3, 4)), RANDOM.normal(size=(2, 3, 4))
    teacher -= teacher.mean(axis=-1, keepdims=True)
    labels = np.array([[0, 3, -1], [2, -1, 1]])
    y_true = np.concatenate([labels[..., None], teacher], axis=-1).astype("float32")
    own = -np.take_along_axis(log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    apart = np.square(logits - logits.mean(axis=-1, keepdims=True) - teacher).mean(axis=-1)
    expected = 0.3 * np.where(labels < 0, 0, own) + 0.7 * apart
    loss = DistillationLoss(0.7, reduction=None)(y_true, logits.astype("float32"))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_similarity_loss_compares_texts_with_all_partners():
    found, wanted = (np.stack([unit((3, d)), unit((3, d))], axis=1) for d in (4, 6))
    cosines = [pairs[:, 0] @ pairs[:, 1].T for pairs in (found, wanted)]
    expected = np.square(cosines[0] - cosines[1]).mean(axis=1)
    losses = SimilarityLoss(reduction=None)(3 * wanted, found / 2)  # of any length
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        SparseCrossentropy(0.2, reduction="sum"),
        SpanLoss(),
        InBatchContrastiveLoss(0.3),
        DistillationLoss(0.7, label_smoothing=0.1),
        SimilarityLoss(),
    ],
)
def test_losses_survive_serialization(loss):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("loss", "labels", "shape"),
    [
        (SparseCrossentropy(0.1), np.array([1, 0, 2]), (3,)),
        (SpanLoss(), np.array([[0, 1], [3, 3], [2, 3]]), (4, 2)),
        (InBatchContrastiveLoss(), np.zeros(3), (2, 5)),
        (DistillationLoss(0.5), np.eye(3, 4) + [1, 0, 0, 0], (3,)),
        (SimilarityLoss(), np.eye(6).reshape(3, 2, 6), (2, 5)),
    ],
)
def test_losses_train_under_xla(loss, labels, shape):
    inputs = RANDOM.normal(size=(3, 4)).astype("float32")
    width = math.prod(shape)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width), keras.layers.Reshape(shape)]
    )
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=True)
    before = float(loss(labels, model(inputs)))
    reported = model.fit(inputs, labels, epochs=3, verbose=0).history["loss"]
    assert reported[0] == pytest.approx(before, rel=1e-5)
    assert float(loss(labels, model(inputs))) < reported[2] < before
