"""Scores: the numbers of scikit-learn, seqeval and SQuAD, and plain ones where ratios have none."""

import json
import math
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import matthews_corrcoef

from trainers.report.figures import confusion_counts
from trainers.report.scores import (
    Predictions,
    answer_scores,
    answer_tokens,
    are_entities,
    calibration_error,
    classification_scores,
    entity_spans,
    question_scores,
    rank_partners,
    regression_scores,
    retrieval_scores,
    tag_scores,
)

SQUAD = json.loads((Path(__file__).parent / "squad_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_classification():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    scores = classification_scores(labels, Predictions.of(labels, probabilities))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["mcc"] == pytest.approx((1 * 2 - 1 * 0) / math.sqrt(1 * 2 * 2 * 3))
    assert scores["nll"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())


def test_a_class_that_does_not_occur_does_not_count():
    labels = np.array([0, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert classification_scores(labels, Predictions.of(labels, probabilities))["macro_f1"] == 1.0
    wrong = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])  # predicted, so it counts
    wrong = Predictions.of(labels, wrong)
    assert classification_scores(labels, wrong)["macro_f1"] == pytest.approx(1 / 3)


def test_one_row_and_a_certain_mistake_are_finite():
    labels = np.array([1])
    predictions = Predictions.of(labels, np.array([[1.0, 0.0]], np.float16))
    scores = classification_scores(labels, predictions)
    assert scores["accuracy"] == scores["macro_f1"] == scores["mcc"] == 0.0
    assert scores["nll"] == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0], [[2.0, -1.0]], "row 0 of the probabilities is no distribution"),
        ([0, 0], [[0.5, 0.5], [3.0, 1.0]], r"row 1 .* sums to 4\); apply softmax"),
        ([0], [[np.nan, 1.0]], "row 0"),
    ],
)
def test_bad_classification_input(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        Predictions.of(np.array(labels), np.array(probabilities))


def test_twenty_thousand_classes_need_no_table_of_classes_by_classes():
    classes, rows = 20_000, 20_000
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, classes, (2, rows))
    predicted[::2] = labels[::2]
    predictions = Predictions(predicted, np.full(rows, 0.5), np.full(rows, 0.25))
    tracemalloc.start()
    scores = classification_scores(labels, predictions)
    calibration_error(labels, predictions)
    confusion_counts(labels, predicted, classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # a table of counts has 3.2 GB
    assert scores["nll"] == pytest.approx(math.log(4))
    few = random.integers(0, 9, (2, 50))
    predictions = Predictions.of(few[0], np.eye(9)[few[1]])
    assert classification_scores(few[0], predictions)["mcc"] == pytest.approx(
        matthews_corrcoef(*few)
    )


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


def error_of(labels, probabilities, **options):
    labels = np.array(labels)
    return calibration_error(labels, Predictions.of(labels, probabilities), **options)


def test_calibration():
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.55, 0.45], [1.0, 0.0]])
    # 0.8 is the upper edge of its bin, (0.6, 0.8].
    error = error_of([0, 1, 0, 0], probabilities, bins=5)
    assert error == pytest.approx((0.45 + 2 * 0.3 + 0) / 4)
    assert error_of([0, 1], np.eye(2)) == 0.0
    assert error_of([1, 0], np.eye(2)) == 1.0


def test_retrieval():
    similarities = np.array([[0.9, 0.1, 0.0], [0.8, 0.5, 0.2], [0.3, 0.2, 0.1]])
    ranks, best = rank_partners(similarities, np.eye(3))
    assert ranks.tolist() == [1, 2, 3] and best.tolist() == [0, 0, 0]
    scores = retrieval_scores(ranks)
    assert scores["accuracy@1"] == pytest.approx(1 / 3)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_equal_vectors_retrieve_nothing():
    ranks = rank_partners(np.ones((4, 2)), np.ones((4, 2)))[0]
    assert retrieval_scores(ranks) == {"accuracy@1": 0.0, "mrr": 0.25}
    assert rank_partners(np.ones((1, 2)), np.ones((1, 2)))[0].tolist() == [1]


def test_retrieval_of_nan_is_no_success():
    with pytest.raises(ValueError, match="row 1"):
        rank_partners(np.array([[1.0, 0.0], [np.nan, np.nan]]), np.eye(2))


def test_many_texts_are_ranked_in_blocks():
    """All products of 20,000 pairs at once would be 1.6 GB."""
    rng = np.random.default_rng(0)
    texts = rng.integers(-3, 4, (20_000, 4)).astype("float32")
    partners = texts + rng.integers(-1, 2, texts.shape)
    tracemalloc.start()
    ranks, best = rank_partners(texts, partners)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    for row in (0, 12_345, 19_999):
        products = partners @ texts[row]
        assert ranks[row] == np.sum(products >= products[row])
        assert best[row] == products.argmax()


def test_no_row_is_lost_of_a_picture_that_shows_some_classes():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 60, (2, 500))
    counts, shown = confusion_counts(labels, predicted, 60)
    assert counts.sum() == 500
    assert counts[0].sum() == (labels == shown[0]).sum()
    assert counts[:, -1].sum() == (~np.isin(predicted, shown)).sum()
    predicted = labels.copy()
    predicted[labels == 40] = 7
    assert {7, 40} < set(confusion_counts(labels, predicted, 60)[1])


# Entities.

TAGS = st.sampled_from(
    ["O", "B", "I", "E", "S", "B-", "I-", "I-_", "E-_", "O-a", "I-a-b", "B-a-b", "Ia"]
    + [f"{letter}-{kind}" for letter in "BIES" for kind in ("a", "b")]
)
SENTENCES = st.lists(st.lists(st.tuples(TAGS, TAGS), max_size=8), min_size=1, max_size=4)


@settings(max_examples=150)
@given(st.lists(TAGS, max_size=12))
def test_spans_equal_seqeval(tags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tags
        theirs = get_entities(tags)
    assert entity_spans(tags) == [(kind, first, last + 1) for kind, first, last in theirs]


@settings(max_examples=50)
@given(SENTENCES)
def test_scores_equal_seqeval(sentences):
    gold = [[pair[0] for pair in sentence] for sentence in sentences]
    predicted = [[pair[1] for pair in sentence] for sentence in sentences]
    scores = tag_scores(gold, predicted, ["B-a"])
    pairs = [pair for sentence in sentences for pair in sentence]
    assert scores["accuracy"] == sum(a == b for a, b in pairs) / max(len(pairs), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of undefined ratios and odd tags
        for name in ("precision", "recall", "f1"):
            theirs = getattr(seqeval.metrics, f"{name}_score")(gold, predicted)
            assert scores[name] == pytest.approx(theirs)
        if not scores["types"]:
            return  # seqeval's report fails on sentences without entities
        report = seqeval.metrics.classification_report(gold, predicted, output_dict=True)
    assert list(scores["types"]) == [name for name in report if not name.endswith(" avg")]
    for kind, ours in scores["types"].items():
        theirs = report[kind]
        assert ours["f1"] == pytest.approx(theirs["f1-score"])
        for name in ("precision", "recall", "support"):
            assert ours[name] == pytest.approx(theirs[name])


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ([], []),
        (["O", "I-a", "I-a"], [("a", 1, 3)]),  # never opened
        (["B-a", "I-b"], [("a", 0, 1), ("b", 1, 2)]),  # another type
        (["B-a", "B-a"], [("a", 0, 1), ("a", 1, 2)]),
        (["B-a", "I-a", "E-a", "I-a", "S-a"], [("a", 0, 3), ("a", 3, 4), ("a", 4, 5)]),
    ],
)
def test_spans(tags, spans):
    assert entity_spans(tags) == spans


def test_entities_are_told_from_other_tags():
    assert are_entities(["O", "B-person", "I-person"]) and are_entities(["B", "I", "O"])
    assert not are_entities(["O", "person"]) and not are_entities(["NN", "IN"])
    assert not are_entities(["O"])


def test_same_words_in_another_sentence_do_not_count():
    scores = tag_scores([["B-a"], ["O"]], [["O"], ["B-a"]], ["B-a", "O"])
    assert scores["f1"] == 0.0
    assert scores["types"]["a"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_as_many_tags_as_words():
    with pytest.raises(ValueError, match="shorter"):
        tag_scores([["O"], ["O", "O"]], [["O"], ["O"]], ["B-a"])


def test_tags_that_are_no_entities():
    scores = tag_scores([["NN", "IN"], ["NN"]], [["NN", "NN"], ["NN"]], ["NN", "IN"])
    assert scores["accuracy"] == 2 / 3
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 0) / 2)
    assert scores["types"]["NN"]["precision"] == 2 / 3


# Answers.


def test_every_case_scores_as_the_official_scripts_do():
    for case in SQUAD["cases"]:
        blank = not any(answer.strip() for answer in case["answers"])
        expected = case["v2"] if blank else case["v1"]
        ours = answer_scores(case["answers"], case["prediction"])
        assert ours == pytest.approx(expected, abs=1e-12), case
    # Blank answers follow version 2, and SQuAD 1.1 has none: score them apart.
    cases = [case for case in SQUAD["cases"] if any(a.strip() for a in case["answers"])]
    scores = question_scores([c["answers"] for c in cases], [c["prediction"] for c in cases])
    for column, key in enumerate(("exact_match", "f1")):
        mean = sum(case["v1"][column] for case in cases) / len(cases)
        assert scores[key] == pytest.approx(mean, abs=1e-12)
        assert 0.2 < scores[key] < 0.8


def test_the_cases_are_of_all_kinds():
    v1 = [case["v1"] for case in SQUAD["cases"] if case["v1"]]
    assert len(v1) > 300
    assert sum(0 < overlap < 1 for _, overlap in v1) > 20
    assert sum(exact and not overlap for exact, overlap in v1) > 5  # articles alone


@pytest.mark.parametrize(
    ("answers", "prediction", "score"),
    [([], "", 1), ([""], "", 1), ([" "], "the", 1), ([], "cat", 0), ([""], "cat", 0)],
)
def test_questions_without_answers(answers, prediction, score):
    assert answer_scores(answers, prediction) == (score, score)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("《iPhone 7》手機", ["iphone", "7", "手", "機"]),
        ("維生素A", ["維", "生", "素", "a"]),  # the article's letter stays
        ("１９９８年，５０％～", ["１９９８", "年", "５０"]),
        ("U.S.—中國 ·。", ["us", "中", "國"]),
        ("𠀋〇々", ["𠀋", "〇", "々"]),
        ("，。！", []),
    ],
)
def test_chinese_tokens(text, tokens):
    assert answer_tokens(text, "chinese") == tokens


def test_chinese_scores():
    def f1(answer, prediction):
        return answer_scores([answer], prediction, "chinese")[1]

    assert answer_scores(["《八篇書》"], "八篇書。", "chinese")[0] == 1.0
    assert f1("八篇書", "八書") == f1("八篇書", "書八") == pytest.approx(2 * 2 / 5)  # a bag
    assert f1("中中", "中") == pytest.approx(2 / 3)  # a bag, not a set
    assert question_scores([["八篇書", "書"], []], ["書", ""], "chinese") == {
        "exact_match": 1.0,
        "f1": 1.0,
    }
    assert question_scores([["八篇書"]], ["八書"])["f1"] == 0.0  # one word, as English has it
