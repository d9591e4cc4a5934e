"""The report: the right mistakes first, no text that breaks a table, pictures of anything."""

import re
import warnings

import matplotlib.image
import numpy as np
import pytest
from matplotlib.font_manager import findfont, get_font

from trainers.data.examples import LabeledTexts, Questions, TaggedTexts
from trainers.report import figures
from trainers.report.figures import draw_calibration, draw_confusion, progress_figure
from trainers.report.scores import Predictions, rank_partners, tag_scores
from trainers.report.sections import (
    Comparison,
    classification_sections,
    question_sections,
    regression_sections,
    retrieval_sections,
    tagging_sections,
)
from zoo.output import cell, table

NASTY = "a|b `c` *d* <b>\n\nx\ty $z$ \\ [l](u) &amp; \u202e\ud800" + " long" * 100


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # missing glyphs are
        yield


def rows_of(sections, title):
    """Cells of the table below a title, split at the bars that Markdown splits at."""
    (section,) = [text for text in sections if text.startswith(f"## {title}\n\n")]
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


def test_the_verdict_is_a_line_of_its_own():
    better = Comparison("test", "8 rows", {"accuracy": 0.75, "mcc": 0.1}, {"accuracy": 0.5}, "X")
    line = "**Better than the baseline** (X): accuracy 0.7500 against 0.5000 on 8 rows (test)."
    assert better.verdict("Try Y.") == line
    equal = Comparison("test", "8 rows", {"accuracy": 0.5}, {"accuracy": 0.5}, "X")
    assert equal.verdict("Try Y.").startswith("**Not better than the baseline** (X): ")
    assert equal.verdict("Try Y.").endswith(" Try Y.")
    loss = Comparison("validation", "9 tokens", {"loss": 2.0}, {"loss": 3.0}, "X")
    assert "Better" in loss.verdict("")
    assert "No baseline" in Comparison("test", "8 rows", {"mrr": 0.5}).verdict("")


def labeled(texts, text_pair=None):
    return LabeledTexts(texts, text_pair, None, [f"test.csv:{i}" for i in range(len(texts))])


def classification(folder, examples, labels, probabilities, classes, baseline=None):
    labels = np.asarray(labels)
    predictions = Predictions.of(labels, probabilities)
    scores = {"accuracy": float(np.mean(predictions.predicted == labels)), "nll": 1.0}
    comparison = Comparison("test", f"{len(labels)} examples", scores, baseline, "X")
    return classification_sections(comparison, examples, labels, predictions, classes, folder)


def test_classification(tmp_path):
    texts = [NASTY, "sure and wrong", "fine", "wrong"]
    probabilities = np.array([[0.6, 0.4, 0], [0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.3, 0]])
    sections = classification(
        tmp_path,
        labeled(texts, [NASTY] * 4),
        [0, 1, 1, 1],
        probabilities,
        ["n|o", "yes", "never"],
        baseline={"accuracy": 0.5, "nll": 9.0},
    )
    mistakes = rows_of(sections, "Surest mistakes")
    assert [row[0].strip() for row in mistakes] == ["sure and wrong", "wrong"]
    first = [part.strip() for part in mistakes[0]]
    assert first[2:] == ["yes", r"n\|o", "0.900", "test.csv:1"]
    assert rows_of(sections, "Confusion") == [[" yes ", r" n\|o ", " 2 "]]
    classes = rows_of(sections, "Classes, the weakest first")
    assert [row[0] for row in classes] == [r" n\|o ", " yes "]
    text = "\n\n".join(sections)
    assert "1 classes occur in neither" in text
    assert rows_of(sections, "Scores, test")[0] == [" accuracy ", " 0.5000 ", " 0.5000 "]
    # Equal accuracy is no gain; less nll is.
    assert "as good or better in: accuracy.**" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / picture).stat().st_size > 1000


def test_many_classes_are_cut_and_names_without_a_font_are_listed(tmp_path):
    names = [f"\ue000{i}" for i in range(50)]  # no font has this character
    labels = np.arange(50)
    probabilities = np.eye(50)[np.roll(labels, 1)]
    sections = classification(tmp_path, labeled([""] * 50), labels, probabilities, names)
    assert len(rows_of(sections, "Classes, the weakest first")) == 25
    text = "".join(sections)
    assert "The other 25 classes do better." in text
    assert "The 20 of 50 classes with the most errors." in text
    assert "Numbers on the picture: 0 \ufffd0, 1 \ufffd1" in text
    assert "baseline" not in text


def tagging(words, gold, made, labels=("B-place", "I-place", "B-name", "O")):
    scores = tag_scores(gold, made, labels)
    comparison = Comparison("test", f"{len(words)} sentences", scores, scores, "X")
    examples = TaggedTexts(words, gold, [f"a:{i}" for i in range(len(words))])
    return tagging_sections(comparison, examples, made, labels)


def test_tagging():
    words = [["in", "New", "Y|ork"], ["fine"], ["w"] * 30 + ["Bob"] + ["w"] * 30]
    gold = [["O", "B-place", "I-place"], ["O"], ["O"] * 30 + ["B-name"] + ["O"] * 30]
    made = [["O", "B-place", "O"], ["O"], ["O"] * 61]
    sections = tagging(words, gold, made)
    mistakes = rows_of(sections, "Mistakes")
    assert mistakes[0] == [
        r" in **New Y\|ork** (place) ",
        r" in **New** (place) Y\|ork ",
        " a:0 ",
    ]
    assert mistakes[1][0] == " … w w w w w w **Bob** (name) w w w w w w … "
    assert mistakes[1][1] == " … w w w w w w Bob w w w w w w … "
    assert len(mistakes) == 2
    assert rows_of(sections, "Types, the weakest first")[0][0] == " name "
    assert "as good or better in: F1, precision, recall, accuracy" in sections[0]


def test_parts_of_speech_are_shown_where_they_are_wrong():
    gold, made = [["DT", "NN"]], [["DT", "IN"]]
    sections = tagging([["the", "cat"]], gold, made, ("DT", "NN", "IN"))
    first = ["the **cat** (NN)", "the **cat** (IN)", "a:0"]
    assert [part.strip() for part in rows_of(sections, "Mistakes")[0]] == first
    assert rows_of(sections, "Tags, the weakest first")[-1][0] == " DT "
    assert "## Scores (words), test" in sections[0]


def test_an_entity_before_the_cut_is_shown_from_its_start():
    words = [f"w{i}" for i in range(20)]
    gold = ["O"] * 2 + ["B-a"] + ["I-a"] * 7 + ["O"] * 2 + ["B-a"] + ["O"] * 7
    made = [*gold[:12], "O", *gold[13:]]
    row = rows_of(tagging([words], [gold], [made], ("B-a", "I-a", "O")), "Mistakes")[0]
    assert row[0].startswith(" … **w2 w3")
    assert row[1].startswith(" … **w2 w3")


def test_questions():
    answers, rows = [["cat"], ["big dog"], [], ["yes", "yes"]], ["1", "2", "3", "4"]
    asked = ["q|1", "q2", "q3", "q4"]
    examples = Questions(rows, asked, [""] * 4, answers, [[0] * len(a) for a in answers], rows)
    comparison = Comparison("test", "4 questions", {"f1": 0.5})
    made, confidence = ["a cat", "dog", "bird", ""], [0.9, 0.1, 0.8, 0.2]
    sections = question_sections(comparison, examples, made, confidence, "english")
    rows = rows_of(sections, "Mistakes")
    assert [row[0] for row in rows] == [" q3 ", " q4 ", " q2 "]
    assert rows[0][1:] == [" (none) ", " bird ", " 0.00 ", " 3 "]
    assert rows[1][1:3] == [" yes ", " (none) "]


def test_regression():
    comparison = Comparison("test", "2 examples", {"mse": 1.0})
    targets, outputs = np.array([1.0, 2.0]), np.array([[1.5], [9.0]])
    sections = regression_sections(comparison, labeled(["a", NASTY]), targets, outputs)
    rows = rows_of(sections, "Furthest off")
    assert rows[0][1:] == [" 2.000 ", " 9.000 ", " test.csv:1 "]
    assert rows[1] == [" a ", " 1.000 ", " 1.500 ", " test.csv:0 "]


def test_retrieval():
    similarities = np.array([[0.9, 0.0, 0.1], [0.8, 0.1, 0.5], [0.0, 0.1, 0.3]])
    comparison = Comparison("test", "3 pairs", {"mrr": 0.6}, {"mrr": 0.5}, "X")
    examples = labeled(["a", "b|", "c"], ["A", "B", "C"])
    sections = retrieval_sections(comparison, examples, *rank_partners(similarities, np.eye(3)))
    assert rows_of(sections, "Furthest off") == [[r" b\| ", " B ", " 3 ", " A "]]
    assert "Over 3 pairs." in sections[0]
    perfect = retrieval_sections(comparison, examples, *rank_partners(np.eye(3), np.eye(3)))
    assert perfect[1] == "## Furthest off\n\nNone."


# Pictures.


@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
def test_the_legend_of_the_losses_lies_below_the_axes_and_covers_no_curve(metric):
    records = [
        {"step": step, "loss": 5 / step, "val_loss": 6 / step, "val_accuracy": step / 9}
        for step in range(1, 9)
    ]
    figure = progress_figure(records, metric, "min" if metric == "val_loss" else "max")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for axes in figure.axes:
        assert box.y1 <= axes.get_tightbbox().y0  # labels and ticks included
        assert not box.overlaps(axes.get_window_extent())
    assert figure.bbox.y0 <= box.y0 and box.y1 < figure.bbox.y1 / 2
    assert len(legend.get_texts()) == (2 if metric == "val_loss" else 3)


@pytest.mark.parametrize(
    "names", [["no", "yes"], ["$x_{$", "a\nb" * 50], ["", "_hidden"], ["only", "$", "never"]]
)
def test_confusion_draws_any_latin_names(tmp_path, names):
    path = tmp_path / "folder" / "confusion.png"
    assert draw_confusion(np.eye(len(names), dtype=int) * 3, names, path)
    assert matplotlib.image.imread(path).std() > 0
    assert [file.name for file in path.parent.iterdir()] == ["confusion.png"]


def test_names_without_a_font_become_numbers(tmp_path, monkeypatch):
    path, counts = tmp_path / "confusion.png", np.eye(2, dtype=int)
    assert not draw_confusion(counts, ["\ue123", "yes"], path)
    # The machine may have no Chinese font; one that comes with Matplotlib plays it.
    symbols, default = (set(get_font(findfont(f)).get_charmap()) for f in ("STIXGeneral", None))
    name = chr(min(code for code in symbols - default if chr(code).isalpha()))
    assert not draw_confusion(counts, [name, "yes"], path)
    monkeypatch.setattr(figures, "_CJK_FONTS", re.compile("^STIXGeneral$"))
    assert draw_confusion(counts, [name, "yes"], path)


def test_calibration_picture(tmp_path):
    path = tmp_path / "calibration.png"
    draw_calibration(np.array([True, True]), np.array([1.0, 0.4]), path)
    assert matplotlib.image.imread(path).std() > 0
