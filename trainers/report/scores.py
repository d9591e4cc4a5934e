"""Numbers that say how good a model is: classification, regression, calibration, retrieval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics

SUM_TOLERANCE = 1e-2  # half-precision softmax is off by about 1e-3


class Predictions(NamedTuple):
    """What scores need of the probabilities (N, C) of a classifier, which may be too many to keep.

    Attributes:
        predicted: (N,) int, the class of the highest probability.
        confidence: (N,) float, that probability.
        of_labels: (N,) float, the probability of the right class.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    of_labels: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray) -> Predictions:
        """Those of some rows.

        Raises:
            ValueError: as `classification_scores`.
        """
        labels, probabilities = _checked(labels, probabilities)
        predicted = probabilities.argmax(axis=1)
        rows = np.arange(len(labels))
        return cls(predicted, probabilities[rows, predicted], probabilities[rows, labels])

    @classmethod
    def joined(cls, parts: Iterable[Predictions]) -> Predictions:
        """Those of all rows, from those of batches."""
        return cls(*map(np.concatenate, zip(*parts)))


def classification_scores(
    labels: np.ndarray, probabilities: np.ndarray | Predictions
) -> dict[str, float]:
    """Accuracy, macro F1, Matthews correlation and negative log-likelihood.

    Macro F1 is the mean over classes that occur in the labels or the predictions: a class that
    the evaluation data lack, and that is never predicted, does not count. The correlation is 0.0
    where it is undefined: one class only in labels or in predictions.

    Args:
        labels: (N,) int, indices of classes.
        probabilities: (N, C) float, rows sum to 1; or what `Predictions.of` keeps of them.

    Returns:
        "accuracy", "macro_f1", "mcc" and "nll" (nats).

    Raises:
        ValueError: no rows, wrong shapes, labels outside 0..C-1, or rows that are no
            distribution (logits, NaN).

    Example:
        classification_scores(np.array([0, 1]), np.array([[0.9, 0.1], [0.4, 0.6]]))
    """
    predicted, _, of_labels = _predictions(labels, probabilities)
    labels = np.asarray(labels)
    # A probability of 0.0 is float32's rounding; log would make the mean infinite.
    of_labels = np.maximum(of_labels, 1e-12)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "mcc": _matthews(labels, predicted),
        "nll": float(-np.log(of_labels).mean()),
    }


def regression_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Spearman and Pearson correlation, mean squared and mean absolute error.

    A correlation is 0.0, not NaN, if targets or predictions are constant (one row is): such
    predictions order nothing, and a NaN would end training.

    Args:
        targets: (N,) float.
        predictions: (N,) float; (N, 1) is taken too.

    Returns:
        "spearman", "pearson", "mse" and "mae".

    Raises:
        ValueError: no rows, different lengths, NaN or infinity.

    Example:
        regression_scores([1.0, 2.0, 3.0], [1.5, 2.0, 9.0])["spearman"] == 1.0
    """
    targets = np.asarray(targets, np.float64).reshape(-1)
    predictions = np.asarray(predictions, np.float64).reshape(-1)
    if not len(targets) or len(targets) != len(predictions):
        raise ValueError(
            f"{len(targets)} targets, {len(predictions)} predictions; need as many, at least one"
        )
    for name, values in (("targets", targets), ("predictions", predictions)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} have NaN or infinity at row {_first(~np.isfinite(values))}")
    spearman = pearson = 0.0
    if np.ptp(targets) > 0 and np.ptp(predictions) > 0:
        spearman = float(stats.spearmanr(targets, predictions).statistic)
        pearson = float(np.nan_to_num(np.corrcoef(targets, predictions)[0, 1]))
    errors = predictions - targets
    return {
        "spearman": spearman,
        "pearson": pearson,
        "mse": float(np.mean(errors**2)),
        "mae": float(np.mean(np.abs(errors))),
    }


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from accuracy.

    Attributes:
        error: expected calibration error, 0..1: the mean gap between the two over rows.
        edges: (bins + 1,) borders of the bins of confidence; the upper one belongs to a bin.
        confidence: (bins,) mean confidence of the rows in each; 0.0 where there are none.
        accuracy: (bins,) share of right rows in each; 0.0 where there are none.
        count: (bins,) int, rows in each.
    """

    error: float
    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def calibration(
    labels: np.ndarray, probabilities: np.ndarray | Predictions, bins: int = 10
) -> Calibration:
    """Expected calibration error over bins of equal width of the highest probability.

    Args:
        labels: (N,) int.
        probabilities: as `classification_scores`.
        bins: at least 1.

    Raises:
        ValueError: as `classification_scores`; bins below 1.

    Example:
        calibration(np.array([0, 1]), np.array([[0.8, 0.2], [0.8, 0.2]])).error  # 0.3
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; needs at least 1")
    predicted, confidence, _ = _predictions(labels, probabilities)
    confidence = np.minimum(confidence, 1.0)
    right = predicted == np.asarray(labels)
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    rows = np.maximum(count, 1)  # an empty bin has sums of 0
    mean_confidence = np.bincount(index, confidence, bins) / rows
    accuracy = np.bincount(index, right, bins) / rows
    error = float(np.sum(count * np.abs(mean_confidence - accuracy)) / len(labels))
    return Calibration(error, edges, mean_confidence, accuracy, count)


def retrieval_scores(similarities: np.ndarray) -> dict[str, float]:
    """How often the partner of a row is the most similar one; row i belongs to column i.

    Ties count against the model: an encoder that gives all texts one vector scores near 0.

    Args:
        similarities: (N, N) float, queries by candidates.

    Returns:
        "accuracy@1" and "mrr", the mean reciprocal rank.

    Raises:
        ValueError: not square, empty, NaN or infinity.

    Example:
        retrieval_scores(left @ right.T)  # left, right (N, D): vectors of pairs
    """
    ranks = partner_ranks(similarities)
    return {"accuracy@1": float(np.mean(ranks == 1)), "mrr": float(np.mean(1 / ranks))}


def partner_ranks(similarities: np.ndarray) -> np.ndarray:
    """(N,) int: place of column i among row i's candidates, 1 the best; ties count against it.

    Raises:
        ValueError: as `retrieval_scores`.
    """
    similarities = np.asarray(similarities)
    shape = similarities.shape
    if similarities.ndim != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"similarities have shape {shape}; expected (N, N)")
    if not np.isfinite(similarities).all():
        row = _first(~np.isfinite(similarities).all(axis=1))
        raise ValueError(f"similarities have NaN or infinity in row {row}")
    return (similarities >= np.diagonal(similarities)[:, None]).sum(axis=1)


def confused_pairs(
    labels: np.ndarray, predicted: np.ndarray, limit: int = 20
) -> list[tuple[int, int, int]]:
    """What is most often taken for what: (label, predicted, count), the most frequent first."""
    wrong = np.asarray(labels) != np.asarray(predicted)
    pairs = np.stack([np.asarray(labels)[wrong], np.asarray(predicted)[wrong]], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:limit]
    return [(int(unique[i, 0]), int(unique[i, 1]), int(counts[i])) for i in order]


def _predictions(labels, probabilities: np.ndarray | Predictions) -> Predictions:
    if isinstance(probabilities, Predictions):
        return probabilities
    return Predictions.of(labels, probabilities)


def _checked(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"labels have shape {labels.shape}, probabilities {probabilities.shape}; "
            "expected (N,) and (N, C) with N at least 1"
        )
    classes = probabilities.shape[1]
    outside = (labels < 0) | (labels >= classes)
    if not np.issubdtype(labels.dtype, np.integer) or outside.any():
        found = labels[_first(outside)] if outside.any() else labels.dtype
        raise ValueError(f"labels must be integers 0..{classes - 1}; found {found}")
    sums = probabilities.sum(axis=1)
    # The comparison is false for NaN, so `not` catches that too.
    good = (np.abs(sums - 1) <= SUM_TOLERANCE) & (probabilities >= 0).all(axis=1)
    if not good.all():
        row = _first(~good)
        raise ValueError(
            f"row {row} of the probabilities is no distribution (it sums to {sums[row]:.4g}); "
            "apply softmax to logits first"
        )
    return labels, probabilities


def _matthews(labels: np.ndarray, predicted: np.ndarray) -> float:
    if len(np.unique(labels)) == 1 or len(np.unique(predicted)) == 1:
        return 0.0  # scikit-learn says the same, with a warning
    # From counts of each class: scikit-learn's table of confusion has classes x classes cells.
    size = int(max(labels.max(), predicted.max())) + 1
    of_labels, of_predicted = (np.bincount(ids, minlength=size) for ids in (labels, predicted))
    rows, right = float(len(labels)), float(np.sum(labels == predicted))
    spread = [
        rows**2 - float(np.sum(count.astype(float) ** 2)) for count in (of_labels, of_predicted)
    ]
    above_chance = right * rows - float(np.dot(of_labels.astype(float), of_predicted))
    return above_chance / float(np.sqrt(spread[0] * spread[1]))


def _first(mask: np.ndarray) -> int:
    return int(np.flatnonzero(mask)[0])
