"""Baselines: they learn what is easy, and stand data that teach nothing."""

import warnings

import numpy as np
import pytest

from trainers.report import baselines
from trainers.report.baselines import ridge_baseline, tagging_baseline, tfidf_baseline
from trainers.report.question_baseline import question_baseline

GOOD, BAD = ["good film !", "very good", "a good one"], ["bad film", "very bad", "a bad one ."]
TEXTS, LABELS = GOOD + BAD, ["+"] * 3 + ["-"] * 3


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_tfidf_learns_words():
    predicted, probabilities, classes = tfidf_baseline(TEXTS, LABELS, ["good good", "so bad"])
    assert (predicted, classes) == (["+", "-"], ["+", "-"])
    assert probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities[0, 0] > 0.5 < probabilities[1, 1]


def test_tfidf_learns_chinese_characters():
    texts = ["这部电影真好看", "好看极了", "难看的电影", "真难看啊"]
    predicted, *_ = tfidf_baseline(texts, ["+", "+", "-", "-"], ["非常难看", "好看不贵"])
    assert predicted == ["-", "+"]


def test_tfidf_sees_what_pairs_share():
    names = [f"name{i}" for i in range(12)]
    first = names * 2
    second = names + names[1:] + names[:1]
    labels = ["same"] * 12 + ["other"] * 12
    tests = ["name3", "name3"], ["name3", "name7"]
    predicted, *_ = tfidf_baseline(first, labels, tests[0], pairs=(second, tests[1]))
    assert predicted == ["same", "other"]


def test_classes_give_the_order_of_columns():
    predicted, probabilities, classes = tfidf_baseline(
        TEXTS, LABELS, ["good"], classes=["never", "-", "+"]
    )
    assert (predicted, classes) == (["+"], ["never", "-", "+"])
    assert probabilities[0, 0] == 0.0
    assert probabilities[0].sum() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"training labels \['-'\] are not among classes"):
        tfidf_baseline(TEXTS, LABELS, ["good"], classes=["+"])


def test_tfidf_at_the_edges():
    predicted, probabilities, _ = tfidf_baseline(["", " ", ""], ["a", "b", "b"], ["word"])
    assert predicted == ["b"]  # blank texts teach only how frequent classes are
    assert probabilities[0, 1] == pytest.approx(2 / 3, abs=0.05)
    assert tfidf_baseline(["x"], ["only"], ["y"])[0] == ["only"]
    assert tfidf_baseline(TEXTS, LABELS, [])[1].shape == (0, 2)
    with pytest.raises(ValueError, match="2 training texts, 1 labels"):
        tfidf_baseline(["x", "y"], ["a"], [])
    with pytest.raises(ValueError, match="second texts"):
        tfidf_baseline(["x"], ["a"], ["y"], pairs=(["x"], []))


def test_ridge():
    high, low = ridge_baseline(TEXTS, [5, 5, 5, 1, 1, 1], ["good", "bad"])
    assert low < 3 < high
    assert ridge_baseline(TEXTS, [1] * 6, []).shape == (0,)
    pairs = (["good"] * 3 + ["film"] * 3, ["film"])
    assert ridge_baseline(TEXTS, [5, 5, 5, 1, 1, 1], ["bad"], pairs)[0] < 3


def test_tagging_learns_neighbours_and_forms(monkeypatch):
    monkeypatch.setattr(baselines, "HASHED_FEATURES", 2**10)  # a small model is a fast one
    words = [["in", "Rome", "now"], ["in", "Paris", "."], ["saw", "Bob", "."], ["in", "Oslo"]] * 3
    tags = [
        ["O", "B-place", "O"],
        ["O", "B-place", "O"],
        ["O", "B-name", "O"],
        ["O", "B-place"],
    ] * 3
    assert tagging_baseline(words, tags, [["in", "Madrid", "."], [], ["saw", "Bob"]]) == [
        ["O", "B-place", "O"],
        [],
        ["O", "B-name"],
    ]


def test_tagging_at_the_edges():
    assert tagging_baseline([["a"]], [["O"]], [["b", "c"], []]) == [["O", "O"], []]
    assert tagging_baseline([["a"]], [["O"]], [[]]) == [[]]
    with pytest.raises(ValueError, match="sentence 0 has 1 words and 2 tags"):
        tagging_baseline([["a"]], [["O", "O"]], [])
    with pytest.raises(ValueError, match="no words"):
        tagging_baseline([[]], [[]], [["a"]])


def test_question_takes_the_stretch_beside_the_shared_words():
    context = "Hamlet was written by William Shakespeare. Faust was written by Johann Goethe."
    questions = ["Who wrote Hamlet, the play?", "Who wrote Faust?"]
    answers = question_baseline(questions, [context] * 2)
    assert "Shakespeare" in answers[0]
    assert "Goethe" in answers[1]


def test_question_that_asks_for_a_number_gets_one():
    context = "該寺由王安石建造，1998年重修。另一座塔不高。"
    questions = ["該寺由誰建造？", "該寺何年由誰建造？"]
    assert question_baseline(questions, [context] * 2) == ["王安石", "1998年重修"]


def test_answers_are_pieces_of_their_contexts():
    contexts = [
        "",
        "。",
        "A cat sat.  It slept!\nThen 3 dogs came; all ran.",
        "《書》的 name 是 iPhone 7。",
    ]
    questions = ["What?", "什麼？", "How many dogs came?", "name 是什麼"]
    answers = question_baseline(questions, contexts)
    assert answers[:2] == ["", ""]
    assert all(answer in context for answer, context in zip(answers, contexts))
    assert answers[2:] != ["", ""]
    with pytest.raises(ValueError, match="1 questions, 0 contexts"):
        question_baseline(["a"], [])
