"""Scores of classifiers, regressions and embeddings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics
from sklearn.calibration import calibration_curve

_SUM_TOLERANCE = 1e-2  # half-precision softmax is off by about 1e-3


class Predictions(NamedTuple):
    """What scores need of a classifier's probabilities (N, C), which may be too many to keep."""

    predicted: np.ndarray  # (N,) int, the class of the highest probability
    confidence: np.ndarray  # (N,), that probability
    of_labels: np.ndarray  # (N,), the probability of the right class

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray) -> Predictions:
        """Of labels (N,) int and probabilities (N, C).

        Raises:
            ValueError: no rows, wrong shapes, labels outside 0..C-1, or rows that are no
                distribution (logits, NaN).
        """
        labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
        if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
            raise ValueError(
                f"labels have shape {labels.shape}, probabilities {probabilities.shape}; "
                "expected (N,) and (N, C) with N at least 1"
            )
        classes = probabilities.shape[1]
        outside = (labels < 0) | (labels >= classes)
        if not np.issubdtype(labels.dtype, np.integer) or outside.any():
            found = labels[outside][0] if outside.any() else labels.dtype
            raise ValueError(f"labels must be integers 0..{classes - 1}; found {found}")
        sums = probabilities.sum(axis=1)
        # The comparison is false for NaN, so `not` catches that too.
        good = (np.abs(sums - 1) <= _SUM_TOLERANCE) & (probabilities >= 0).all(axis=1)
        if not good.all():
            row = int(good.argmin())
            raise ValueError(
                f"row {row} of the probabilities is no distribution (it sums to {sums[row]:.4g}); "
                "apply softmax to logits first"
            )
        predicted, rows = probabilities.argmax(axis=1), np.arange(len(labels))
        return cls(predicted, probabilities[rows, predicted], probabilities[rows, labels])


def classification_scores(labels: np.ndarray, predictions: Predictions) -> dict[str, float]:
    """The "accuracy", "macro_f1", "mcc" (Matthews correlation) and "nll" (nats).

    Macro F1 is the mean over classes that occur in the labels or the predictions. The correlation
    is 0.0 where it is undefined: one class only in labels or in predictions.
    """
    predicted, _, of_labels = predictions
    # A probability of 0.0 is float32's rounding; log would make the mean infinite.
    of_labels = np.maximum(of_labels, 1e-12)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "mcc": _matthews(labels, predicted),
        "nll": float(-np.log(of_labels).mean()),
    }


def regression_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """The "spearman" and "pearson" correlation, "mse" and "mae" of (N,) or (N, 1) predictions.

    A correlation is 0.0, not NaN, if targets or predictions are constant (one row is): such
    predictions order nothing, and a NaN would end training.

    Raises:
        ValueError: no rows, different lengths, NaN or infinity.
    """
    targets = np.asarray(targets, np.float64).reshape(-1)
    predictions = np.asarray(predictions, np.float64).reshape(-1)
    if not len(targets) or len(targets) != len(predictions):
        raise ValueError(
            f"{len(targets)} targets, {len(predictions)} predictions; need as many, at least one"
        )
    for name, values in (("targets", targets), ("predictions", predictions)):
        finite = np.isfinite(values)
        if not finite.all():
            raise ValueError(f"{name} have NaN or infinity at row {finite.argmin()}")
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


def calibration_error(labels: np.ndarray, predictions: Predictions, bins: int = 10) -> float:
    """Expected calibration error, 0..1: the gap of confidence and accuracy, mean over the rows.

    Over bins of equal width of the highest probability; the upper edge belongs to a bin.
    """
    right = (predictions.predicted == labels).astype(int)
    confidence = np.minimum(predictions.confidence, 1.0)
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=bins)
    bin_of_row = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)  # as scikit-learn
    counts, gaps = np.bincount(bin_of_row, minlength=bins), np.zeros(bins)
    gaps[counts > 0] = np.abs(accuracy - mean_confidence)
    return float(np.sum(counts * gaps) / len(right))


def retrieval_scores(similarities: np.ndarray) -> dict[str, float]:
    """The "mrr" (mean reciprocal rank) and "accuracy@1" where row i belongs to column i.

    Ties count against the model: an encoder that gives all texts one vector scores near 0.
    """
    ranks = partner_ranks(similarities)
    return {"mrr": float(np.mean(1 / ranks)), "accuracy@1": float(np.mean(ranks == 1))}


def partner_ranks(similarities: np.ndarray) -> np.ndarray:
    """(N,) int: place of column i among row i's candidates, 1 the best; ties count against it.

    Raises:
        ValueError: `similarities` are not (N, N), empty, NaN or infinite.
    """
    similarities = np.asarray(similarities)
    shape = similarities.shape
    if similarities.ndim != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"similarities have shape {shape}; expected (N, N)")
    finite = np.isfinite(similarities).all(axis=1)
    if not finite.all():
        raise ValueError(f"similarities have NaN or infinity in row {finite.argmin()}")
    return (similarities >= np.diagonal(similarities)[:, None]).sum(axis=1)


def confused_pairs(labels: np.ndarray, predicted: np.ndarray) -> list[tuple[int, int, int]]:
    """What is most often taken for what: (label, predicted, count), the most frequent first."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    wrong = labels != predicted
    pairs, counts = np.unique(
        np.stack([labels[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return [(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]


def _matthews(labels: np.ndarray, predicted: np.ndarray) -> float:
    """From counts of each class: scikit-learn's makes a table of classes x classes cells."""
    size = int(max(np.max(labels), predicted.max())) + 1
    of_labels, of_predicted = (
        np.bincount(ids, minlength=size).astype(float) for ids in (labels, predicted)
    )
    rows = float(len(predicted))
    spread = [rows**2 - float(np.sum(count**2)) for count in (of_labels, of_predicted)]
    if not all(spread):
        return 0.0
    right = float(np.sum(labels == predicted))
    above_chance = right * rows - float(np.dot(of_labels, of_predicted))
    return above_chance / float(np.sqrt(spread[0] * spread[1]))
