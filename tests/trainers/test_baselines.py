"""Baselines: they learn what is easy, and stand data that teach nothing."""

import warnings

import numpy as np
import pytest

from trainers.report import baselines
from trainers.report.baselines import (
    fitted_vectorizer,
    question_baseline,
    ridge_baseline,
    tagging_baseline,
    tfidf_baseline,
)
from trainers.report.scores import rank_partners

GOOD, BAD = ["good film !", "very good", "a good one"], ["bad film", "very bad", "a bad one ."]
TEXTS, LABELS = GOOD + BAD, ["+"] * 3 + ["-"] * 3


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def classify(texts, labels, test_texts, classes=None, pairs=None):
    """The likeliest class of each test text."""
    classes = classes or sorted(set(labels))
    probabilities = tfidf_baseline(texts, labels, test_texts, classes, pairs)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    return [classes[i] for i in probabilities.argmax(axis=1)]


def test_tfidf_learns_words_and_chinese_characters():
    assert classify(TEXTS, LABELS, ["good good", "so bad"]) == ["+", "-"]
    texts = ["这部电影真好看", "好看极了", "难看的电影", "真难看啊"]
    assert classify(texts, ["+", "+", "-", "-"], ["非常难看", "好看不贵"]) == ["-", "+"]


def test_tfidf_sees_what_pairs_share():
    names = [f"name{i}" for i in range(12)]
    second = names + names[1:] + names[:1]
    labels = ["same"] * 12 + ["other"] * 12
    tests = ["name3", "name3"], ["name3", "name7"]
    assert classify(names * 2, labels, tests[0], pairs=(second, tests[1])) == ["same", "other"]


def test_classes_give_the_order_of_columns():
    probabilities = tfidf_baseline(TEXTS, LABELS, ["good"], ["never", "-", "+"])
    assert probabilities[0, 0] == 0.0 and probabilities.argmax() == 2


def test_tfidf_at_the_edges():
    probabilities = tfidf_baseline(["", " ", ""], ["a", "b", "b"], ["word"], ["a", "b"])
    # Blank texts teach only how frequent classes are.
    assert probabilities[0, 1] == pytest.approx(2 / 3, abs=0.05)
    assert classify(["x"], ["only"], ["y"]) == ["only"]
    vectors = map(fitted_vectorizer([""]).transform, (["x"], ["y"]))
    assert rank_partners(*vectors)[0].tolist() == [1]


def test_tfidf_finds_partners_by_shared_words():
    texts, partners = ["red house", "blue car"], ["the car", "a house"]
    vectors = map(fitted_vectorizer(texts + partners).transform, (texts, partners))
    assert rank_partners(*vectors)[1].tolist() == [1, 0]


def test_ridge():
    high, low = ridge_baseline(TEXTS, [5, 5, 5, 1, 1, 1], ["good", "bad"])
    assert low < 3 < high
    pairs = (["good"] * 3 + ["film"] * 3, ["film"])
    assert ridge_baseline(TEXTS, [5, 5, 5, 1, 1, 1], ["bad"], pairs)[0] < 3


def test_tagging_learns_neighbours_and_forms(monkeypatch):
    monkeypatch.setattr(baselines, "_HASHED_FEATURES", 2**10)  # for speed
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
