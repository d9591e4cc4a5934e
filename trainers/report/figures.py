"""Pictures of what a model gets wrong: confusion between classes, confidence against accuracy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.font_manager
import numpy as np

from trainers.report.scores import Calibration
from zoo.files import replacing

MOST_CLASSES = 40  # more names than this cannot be read on one picture
SHOWN_OF_MANY = 20
MOST_NUMBERED_CELLS = 25  # classes up to which a cell has room for its number
LONGEST_NAME = 28  # characters
OTHERS = "(all others)"
# Fonts with Chinese and Japanese; asking every installed font for its glyphs would take seconds.
CJK_FONTS = re.compile(
    r"CJK|Han (?:Sans|Serif)|WenQuanYi|Droid Sans Fallback|SimHei|SimSun|YaHei|PingFang|Heiti|"
    r"Songti|Hiragino|JhengHei|Arial Unicode|AR PL|IPA|Takao|Fangsong|Kaiti",
    re.IGNORECASE,
)
matplotlib.use("Agg")  # no screen is needed, or there


@dataclass(frozen=True)
class ConfusionPicture:
    """What `draw_confusion` drew.

    Attributes:
        shown: indices of the classes on the picture, in its order.
        numbered: no installed font has the glyphs of the names, so the axes carry the numbers of
            `shown`; print a list of them beside the picture.
        others: a last row and column stand for all classes that are not shown.
    """

    shown: tuple[int, ...]
    numbered: bool
    others: bool


def draw_confusion(
    labels: Sequence[int], predicted: Sequence[int], classes: Sequence[str], path: str | Path
) -> ConfusionPicture:
    """A picture of what each class is taken for: rows are labels, columns predictions.

    Colour is the share of a row; numbers in cells are rows of data and are left out when there
    are many classes. Of more than 40 classes the 20 with the most errors are shown.

    Args:
        labels: (N,) int, indices of classes.
        predicted: (N,) int.
        classes: C names.
        path: the picture to write; the suffix says the format (".png").

    Returns:
        Which classes are on it and how they are named.

    Raises:
        ValueError: different lengths, or an index outside 0..C-1.

    Example:
        draw_confusion([0, 1, 1], [0, 1, 0], ["no", "yes"], "confusion.png")
    """
    counts, shown = _confusion(labels, predicted, len(classes))
    others = len(shown) < len(classes)
    names = [_short(classes[i]) for i in shown]
    fonts = _fonts("".join(names))
    if fonts is None:
        names = [str(i) for i in shown]
    picture = ConfusionPicture(tuple(shown), fonts is None, others)
    names += [OTHERS] if others else []
    with matplotlib.rc_context({"font.family": fonts or matplotlib.rcParams["font.family"]}):
        _save_confusion(counts, names, path)
    return picture


def draw_calibration(calibration: Calibration, path: str | Path) -> None:
    """A picture of accuracy over confidence, and below it how many rows each bin has.

    Bars below the diagonal: surer than right; above it: less sure than it could be.

    Args:
        calibration: from `trainers.report.scores.calibration`.
        path: the picture to write; the suffix says the format (".png").

    Example:
        draw_calibration(calibration(labels, probabilities), "calibration.png")
    """
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(5, 6), sharex=True, height_ratios=(3, 1), constrained_layout=True
    )
    left, widths = calibration.edges[:-1], np.diff(calibration.edges)
    full = calibration.count > 0
    above.bar(
        left[full],
        calibration.accuracy[full],
        widths[full],
        align="edge",
        edgecolor="white",
        label="accuracy of the rows in a bin",
    )
    above.plot(calibration.confidence[full], calibration.accuracy[full], "ko", ms=3)
    above.plot([0, 1], [0, 1], "--", color="grey", label="confidence = accuracy")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    above.set_title(f"expected calibration error {calibration.error:.3f}")
    above.legend(loc="lower right")
    above.grid(alpha=0.3)
    below.bar(left, calibration.count, widths, align="edge", color="grey", edgecolor="white")
    below.set(xlabel="confidence (the highest probability)", ylabel="rows")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _confusion(labels, predicted, classes: int) -> tuple[np.ndarray, list[int]]:
    """Counts (label, prediction) of the shown classes, others added up in a last row, column."""
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape}, predicted {predicted.shape}; both must be (N,)")
    both = np.concatenate([labels, predicted])
    if len(both) and (both.min() < 0 or both.max() >= classes):
        raise ValueError(
            f"indices {both.min()}..{both.max()} for {classes} classes; 0..{classes - 1}"
        )
    if classes <= MOST_CLASSES:
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (labels, predicted), 1)
        return counts, list(range(classes))
    wrong = labels != predicted
    errors = sum(np.bincount(ids[wrong], minlength=classes) for ids in (labels, predicted))
    shown = sorted(np.argsort(-errors, kind="stable")[:SHOWN_OF_MANY].tolist())
    group = np.full(classes, SHOWN_OF_MANY)
    group[shown] = np.arange(SHOWN_OF_MANY)
    grouped = np.zeros((SHOWN_OF_MANY + 1, SHOWN_OF_MANY + 1), np.int64)
    np.add.at(grouped, (group[labels], group[predicted]), 1)
    return grouped, shown


def _save_confusion(counts: np.ndarray, names: list[str], path: str | Path) -> None:
    from matplotlib import pyplot

    size = len(names)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.38 * size, 4, 16))
    figure, axes = pyplot.subplots(figsize=(side + 1, side), constrained_layout=True)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label's rows", shrink=0.8)
    small = 9 if size <= 12 else 7
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(size), names, fontsize=small)
        for label in axis.get_ticklabels():
            label.set_parse_math(False)  # a name may hold dollar signs
    pyplot.setp(axes.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
    axes.set(xlabel="predicted", ylabel="label")
    if size <= MOST_NUMBERED_CELLS:
        for row, column in zip(*np.nonzero(counts)):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=small)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _short(name: str) -> str:
    name = " ".join(name.split()) or "(blank)"
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _fonts(text: str) -> list[str] | None:
    """Font families that have every character of a text between them; None if none do."""
    manager = matplotlib.font_manager
    default = list(matplotlib.rcParams["font.family"])
    missing = set(text) - {" "} - _glyphs(manager.findfont(manager.FontProperties(default)))
    if not missing:
        return default
    for entry in manager.fontManager.ttflist:
        if CJK_FONTS.search(entry.name) and missing <= _glyphs(entry.fname):
            return [*default, entry.name]
    return None


def _glyphs(font_file: str) -> set[str]:
    return {chr(code) for code in matplotlib.font_manager.get_font(font_file).get_charmap()}
