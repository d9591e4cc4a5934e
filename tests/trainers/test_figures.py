"""Pictures: any class names, any number of them, no warnings."""

import re
import warnings

import matplotlib.image
import numpy as np
import pytest

from trainers.report import figures
from trainers.report.figures import draw_calibration, draw_confusion
from trainers.report.scores import calibration


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # missing glyphs are
        yield


def confusion(tmp_path, names, labels=(0, 1, 1), predicted=(0, 1, 0)):
    path = tmp_path / "folder" / "confusion.png"
    picture = draw_confusion(labels, predicted, names, path)
    assert matplotlib.image.imread(path).std() > 0
    assert [file.name for file in path.parent.iterdir()] == ["confusion.png"]
    return picture


@pytest.mark.parametrize(
    "names", [["no", "yes"], ["$x_{$", "a\nb" * 50], ["", "_hidden"], ["only", "$", "never"]]
)
def test_confusion_draws_any_latin_names(tmp_path, names):
    picture = confusion(tmp_path, names)
    assert picture.shown == tuple(range(len(names)))
    assert not picture.numbered
    assert not picture.others


def test_names_without_a_font_become_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "CJK_FONTS", re.compile("no such font"))
    assert confusion(tmp_path, ["军事学", "yes"]).numbered
    assert confusion(tmp_path, ["\ue123", "yes"]).numbered


def test_an_installed_font_is_found(tmp_path, monkeypatch):
    # The machine may have no Chinese font: DejaVu Sans plays it for a default that lacks a glyph.
    full = figures._glyphs
    monkeypatch.setattr(figures, "CJK_FONTS", re.compile("^DejaVu Sans Mono$"))
    monkeypatch.setattr(
        figures, "_glyphs", lambda file: full(file) - (set() if "Mono" in file else {"é"})
    )
    assert figures._fonts("café")[-1] == "DejaVu Sans Mono"
    assert not confusion(tmp_path, ["café", "yes"]).numbered


def test_many_classes_show_those_with_errors(tmp_path):
    labels = np.repeat(np.arange(50), 4)
    predicted = labels.copy()
    predicted[labels == 40] = 7
    picture = confusion(tmp_path, [f"class {i}" for i in range(50)], labels, predicted)
    assert {7, 40} < set(picture.shown)
    assert len(picture.shown) == figures.SHOWN_OF_MANY
    assert picture.others


def test_no_row_of_data_is_lost(tmp_path):
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 60, (2, 500))
    counts, shown = figures._confusion(labels, predicted, 60)
    assert counts.sum() == 500
    assert counts[0].sum() == (labels == shown[0]).sum()
    assert counts[:, -1].sum() == (~np.isin(predicted, shown)).sum()


def test_bad_confusion_input(tmp_path):
    with pytest.raises(ValueError, match=r"indices 0\.\.2 for 2 classes"):
        draw_confusion([0, 2], [0, 1], ["a", "b"], tmp_path / "x.png")
    with pytest.raises(ValueError, match="both must be"):
        draw_confusion([0, 1], [0], ["a", "b"], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_calibration_picture(tmp_path):
    draw_calibration(calibration(np.array([0, 1]), np.eye(2)), tmp_path / "calibration.png")
    assert matplotlib.image.imread(tmp_path / "calibration.png").std() > 0
