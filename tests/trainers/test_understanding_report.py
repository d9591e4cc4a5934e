"""Sections of the report: the right mistakes first, and no text that breaks their tables."""

import re

import numpy as np
import pytest

from trainers.report.entities import tag_scores
from trainers.report.understanding import (
    classification_section,
    question_section,
    regression_section,
    retrieval_section,
    tagging_section,
)
from zoo.markdown import cell, table

NASTY = "a|b `c` *d* <b>\n\nx\ty $z$ \\ [l](u) &amp; \u202e\ud800" + " long" * 100


def rows_of(text, title):
    """Cells of the table below a title, split at the bars that Markdown splits at."""
    section = text.split(f"## {title}\n\n")[1].split("\n\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]


def test_cell_is_one_line_that_shows_the_text():
    told = cell(NASTY)
    assert "\n" not in told
    assert told.startswith(r"a\|b \`c\` \*d\* \<b\> x y \$z\$ \\ \[l\](u) \&amp; " + "\ufffd\ufffd")
    assert len(re.sub(r"\\(.)", r"\1", told)) == 160
    assert told.endswith("…")
    assert cell("中" * 160) == "中" * 160
    assert cell("|" * 200) == r"\|" * 159 + "…"
    told.encode()


def test_table():
    assert table(["a", "b"], [["1", "2"]], numbers=[1]) == "| a | b |\n|---|---:|\n| 1 | 2 |"


@pytest.fixture
def classified():
    probabilities = np.array([[0.6, 0.4, 0], [0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.3, 0]])
    return [NASTY, "sure and wrong", "fine", "wrong"], np.array([0, 1, 1, 1]), probabilities


def test_classification(classified, tmp_path):
    texts, labels, probabilities = classified
    text = classification_section(
        texts,
        labels,
        probabilities,
        ["n|o", "yes", "never"],
        folder=tmp_path,
        text_pairs=[NASTY] * 4,
        baseline={"accuracy": 0.5, "nll": 9.0},
        where=[f"test.csv:{i}" for i in range(4)],
    )
    assert [row[0].strip() for row in rows_of(text, "Surest mistakes")] == [
        "sure and wrong",
        "wrong",
    ]
    first = [part.strip() for part in rows_of(text, "Surest mistakes")[0]]
    assert first[2:] == ["yes", r"n\|o", "0.900", "test.csv:1"]
    assert rows_of(text, "Confusion") == [[" yes ", r" n\|o ", " 2 "]]
    assert [row[0] for row in rows_of(text, "Classes, the weakest first")] == [r" n\|o ", " yes "]
    assert "1 classes occur in neither" in text
    assert rows_of(text, "Scores")[0] == [" accuracy ", " 0.5000 ", " 0.5000 "]
    # Equal accuracy is no gain; less nll is.
    assert "as good or better in: accuracy.**" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / picture).stat().st_size > 1000


def test_classification_without_mistakes(tmp_path):
    text = classification_section(["a", "b"], [0, 1], np.eye(2), ["x", "y"], folder=tmp_path)
    assert "## Surest mistakes\n\nNone." in text
    assert "baseline" not in text


def test_many_classes_are_cut_and_numbered_names_are_told(tmp_path):
    names = [f"\ue000{i}" for i in range(50)]  # no font has this character
    labels = np.arange(50)
    probabilities = np.eye(50)[np.roll(labels, 1)]
    text = classification_section([""] * 50, labels, probabilities, names, folder=tmp_path)
    assert len(rows_of(text, "Classes, the weakest first")) == 25
    assert "The other 25 classes do better." in text
    assert "The 20 of 50 classes with the most errors." in text
    assert "Numbers on the picture: 0 \ufffd0, 1 \ufffd1" in text


def test_tagging():
    words = [["in", "New", "Y|ork"], ["fine"], ["w"] * 30 + ["Bob"] + ["w"] * 30]
    gold = [["O", "B-place", "I-place"], ["O"], ["O"] * 30 + ["B-name"] + ["O"] * 30]
    made = [["O", "B-place", "O"], ["O"], ["O"] * 61]
    scores = tag_scores(gold, made, ["B-place", "I-place", "B-name", "O"])
    text = tagging_section(words, gold, made, baseline=scores, where=["a:1", "a:5", "a:7"])
    mistakes = rows_of(text, "Mistakes")
    assert mistakes[0] == [
        r" in **New Y\|ork** (place) ",
        r" in **New** (place) Y\|ork ",
        " a:1 ",
    ]
    assert mistakes[1][0] == " … w w w w w w **Bob** (name) w w w w w w … "
    assert mistakes[1][1] == " … w w w w w w Bob w w w w w w … "
    assert len(mistakes) == 2
    assert rows_of(text, "Types, the weakest first")[0][0] == " name "
    assert "as good or better in: F1, precision, recall, accuracy" in text


def test_an_entity_before_the_cut_is_shown_from_its_start():
    words = [f"w{i}" for i in range(20)]
    gold = ["O"] * 2 + ["B-a"] + ["I-a"] * 7 + ["O"] * 2 + ["B-a"] + ["O"] * 7
    made = [*gold[:12], "O", *gold[13:]]
    row = rows_of(tagging_section([words], [gold], [made]), "Mistakes")[0]
    assert row[0].startswith(" … **w2 w3")
    assert row[1].startswith(" … **w2 w3")


def test_questions():
    questions, answers = ["q|1", "q2", "q3", "q4"], [["cat"], ["big dog"], [], ["yes", "yes"]]
    made = ["a cat", "dog", "bird", ""]
    text = question_section(questions, answers, made, where=["1", "2", "3", "4"])
    rows = rows_of(text, "Mistakes")
    assert [row[0] for row in rows] == [" q3 ", " q4 ", " q2 "]
    assert rows[0][1:] == [" (none) ", " bird ", " 0.00 ", " 3 "]
    assert rows[1][1:3] == [" yes ", " (none) "]
    surest = question_section(questions, answers, made, confidence=[0.9, 0.8, 0.1, 0.2])
    assert [row[0] for row in rows_of(surest, "Mistakes")] == [" q2 ", " q4 ", " q3 "]


def test_regression():
    text = regression_section(["a", NASTY], [1.0, 2.0], np.array([[1.5], [9.0]]), where=["x", "y"])
    rows = rows_of(text, "Furthest off")
    assert rows[0][1:] == [" 2.000 ", " 9.000 ", " y "]
    assert rows[1] == [" a ", " 1.000 ", " 1.500 ", " x "]


def test_retrieval():
    similarities = np.array([[0.9, 0.0, 0.1], [0.8, 0.1, 0.5], [0.0, 0.1, 0.3]])
    text = retrieval_section(["a", "b|", "c"], ["A", "B", "C"], similarities)
    assert rows_of(text, "Furthest off") == [[r" b\| ", " B ", " 3 ", " A "]]
    assert "Over 3 pairs." in text
