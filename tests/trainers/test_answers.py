"""Answers: the numbers of the official SQuAD scripts, and their rules on Chinese characters."""

import json
from pathlib import Path

import pytest

from trainers.report.answers import (
    answer_scores,
    answer_tokens,
    exact_match,
    f1,
    normalize_answer,
    question_scores,
)

GOLDEN = json.loads((Path(__file__).parent / "squad_golden.json").read_text(encoding="utf-8"))


def test_every_case_scores_as_the_official_scripts_do():
    for case in GOLDEN["cases"]:
        blank = not any(answer.strip() for answer in case["answers"])
        expected = case["v2"] if blank else case["v1"]
        ours = answer_scores(case["answers"], case["prediction"])
        assert ours == pytest.approx(expected, abs=1e-12), case


def test_the_mean_is_that_of_version_1_1():
    # Blank answers follow version 2, and SQuAD 1.1 has none: score them apart.
    cases = [case for case in GOLDEN["cases"] if any(a.strip() for a in case["answers"])]
    scores = question_scores([c["answers"] for c in cases], [c["prediction"] for c in cases])
    for column, key in enumerate(("exact_match", "f1")):
        mean = sum(case["v1"][column] for case in cases) / len(cases)
        assert scores[key] == pytest.approx(mean, abs=1e-12)
        assert 0.2 < scores[key] < 0.8


def test_the_cases_are_of_all_kinds():
    v1 = [case["v1"] for case in GOLDEN["cases"] if case["v1"]]
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
    assert exact_match("《八篇書》", "八篇書。", "chinese") == 1.0
    assert f1("八篇書", "八書", "chinese") == pytest.approx(2 * 2 / 5)
    assert f1("八篇書", "書八", "chinese") == pytest.approx(2 * 2 / 5)  # a bag: order is lost
    assert f1("中中", "中", "chinese") == pytest.approx(2 / 3)  # a bag, not a set
    assert question_scores([["八篇書", "書"], []], ["書", ""], "chinese") == {
        "exact_match": 1.0,
        "f1": 1.0,
    }
    assert question_scores([["八篇書"]], ["八書"])["f1"] == 0.0  # one word, as English has it


def test_normalize_answer():
    assert normalize_answer("The  U.S. an\u00a0Apple!") == "us apple"
    assert normalize_answer("《八 篇》書", "chinese") == "八篇書"


def test_bad_input_says_the_fix():
    with pytest.raises(ValueError, match="2 questions, 1 predictions"):
        question_scores([["a"], ["b"]], ["a"])
    with pytest.raises(ValueError, match="no questions"):
        question_scores([], [])
    with pytest.raises(ValueError, match="expected one of english, chinese"):
        normalize_answer("a", "klingon")
