"""Scores: right numbers, and a plain answer at the edges where ratios have none."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from trainers.report.figures import draw_confusion
from trainers.report.scores import (
    Predictions,
    calibration,
    classification_scores,
    confused_pairs,
    partner_ranks,
    regression_scores,
    retrieval_scores,
)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_classification():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    scores = classification_scores(labels, probabilities)
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["mcc"] == pytest.approx((1 * 2 - 1 * 0) / math.sqrt(1 * 2 * 2 * 3))
    assert scores["nll"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())


def test_a_class_that_does_not_occur_does_not_count():
    labels = np.array([0, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert classification_scores(labels, probabilities)["macro_f1"] == 1.0
    wrong = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])  # predicted, so it counts
    assert classification_scores(labels, wrong)["macro_f1"] == pytest.approx(1 / 3)


def test_one_row_and_a_certain_mistake_are_finite():
    scores = classification_scores(np.array([1]), np.array([[1.0, 0.0]], np.float16))
    assert scores["accuracy"] == scores["macro_f1"] == scores["mcc"] == 0.0
    assert scores["nll"] == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0], [[2.0, -1.0]], "row 0 of the probabilities is no distribution"),
        ([0, 0], [[0.5, 0.5], [3.0, 1.0]], r"row 1 .* sums to 4\); apply softmax"),
        ([0], [[np.nan, 1.0]], "row 0"),
        ([2], [[0.5, 0.5]], r"integers 0\.\.1; found 2"),
        ([-1], [[0.5, 0.5]], r"integers 0\.\.1; found -1"),
        ([0.0], [[0.5, 0.5]], "found float64"),
        ([], np.zeros((0, 2)), "N at least 1"),
        ([0, 1], [[0.5, 0.5]], "expected"),
    ],
)
def test_bad_classification_input(labels, probabilities, message):
    for score in (classification_scores, calibration):
        with pytest.raises(ValueError, match=message):
            score(np.array(labels), np.array(probabilities))


def test_twenty_thousand_classes_need_no_table_of_classes_by_classes(tmp_path):
    classes, rows = 20_000, 20_000
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, classes, (2, rows))
    predicted[::2] = labels[::2]
    predictions = Predictions(predicted, np.full(rows, 0.5), np.full(rows, 0.25))
    names = [str(i) for i in range(classes)]
    tracemalloc.start()
    scores = classification_scores(labels, predictions)
    calibration(labels, predictions)
    warnings.simplefilter("ignore")  # matplotlib's own
    draw_confusion(labels, predicted, names, tmp_path / "confusion.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # a table of counts has 3.2 GB
    assert scores["nll"] == pytest.approx(math.log(4))
    few = random.integers(0, 9, (2, 50))
    eye = np.eye(9)[few[1]]
    assert classification_scores(few[0], eye)["mcc"] == pytest.approx(matthews_corrcoef(*few))


def test_regression():
    scores = regression_scores([1.0, 2.0, 3.0], np.array([[1.0], [2.0], [9.0]]))
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 9])[0, 1])
    assert scores["mse"] == pytest.approx(12.0)
    assert scores["mae"] == pytest.approx(2.0)
    assert regression_scores([1, 2, 3], [3, 2, 1])["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("targets", "predictions"), [([1, 2], [5, 5]), ([5, 5], [1, 2]), ([1], [2])]
)
def test_nothing_to_order_is_zero(targets, predictions):
    scores = regression_scores(targets, predictions)
    assert scores["spearman"] == scores["pearson"] == 0.0
    assert scores["mae"] > 0


def test_bad_regression_input():
    with pytest.raises(ValueError, match="predictions have NaN or infinity at row 1"):
        regression_scores([1, 2], [1, np.inf])
    with pytest.raises(ValueError, match="2 targets, 1 predictions"):
        regression_scores([1, 2], [1])
    with pytest.raises(ValueError, match="at least one"):
        regression_scores([], [])


def test_calibration():
    labels = np.array([0, 1, 0, 0])
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.55, 0.45], [1.0, 0.0]])
    measured = calibration(labels, probabilities, bins=5)
    assert measured.count.tolist() == [0, 0, 1, 2, 1]  # 0.8 is the upper edge of (0.6, 0.8]
    assert measured.confidence.tolist() == pytest.approx([0, 0, 0.55, 0.8, 1.0])
    assert measured.accuracy.tolist() == pytest.approx([0, 0, 1.0, 0.5, 1.0])
    assert measured.error == pytest.approx((0.45 + 2 * 0.3 + 0) / 4)


def test_calibration_of_sure_and_right_is_zero():
    assert calibration(np.array([0, 1]), np.eye(2)).error == 0.0
    assert calibration(np.array([1, 0]), np.eye(2)).error == 1.0
    with pytest.raises(ValueError, match="bins is 0"):
        calibration(np.array([0]), np.eye(2)[:1], bins=0)


def test_retrieval():
    similarities = np.array([[0.9, 0.1, 0.0], [0.8, 0.5, 0.2], [0.3, 0.2, 0.1]])
    assert partner_ranks(similarities).tolist() == [1, 2, 3]
    scores = retrieval_scores(similarities)
    assert scores["accuracy@1"] == pytest.approx(1 / 3)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_equal_vectors_retrieve_nothing():
    assert retrieval_scores(np.ones((4, 4))) == {"accuracy@1": 0.0, "mrr": 0.25}
    assert retrieval_scores(np.ones((1, 1)))["accuracy@1"] == 1.0


@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (2,)])
def test_bad_retrieval_shapes(shape):
    with pytest.raises(ValueError, match=r"expected \(N, N\)"):
        retrieval_scores(np.zeros(shape))


def test_retrieval_of_nan_is_no_success():
    with pytest.raises(ValueError, match="row 1"):
        retrieval_scores(np.array([[1.0, 0.0], [np.nan, np.nan]]))


def test_confused_pairs():
    labels, predicted = [0, 0, 0, 1, 2, 2], [1, 1, 0, 1, 0, 1]
    assert confused_pairs(labels, predicted) == [(0, 1, 2), (2, 0, 1), (2, 1, 1)]
    assert confused_pairs(labels, predicted, limit=1) == [(0, 1, 2)]
    assert confused_pairs([0], [0]) == []
