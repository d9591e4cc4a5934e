"""Pictures of a report: the run's losses, confusion between classes, confidence and accuracy."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from zoo.files import replacing

matplotlib.use("Agg")  # scikit-learn imports pyplot; no screen is needed, or there
_MOST_CLASSES = 40  # more names than this cannot be read on one picture
_SHOWN_OF_MANY = 20
_MOST_NUMBERED_CELLS = 25  # classes up to which a cell has room for its number
_LONGEST_NAME = 28  # characters
# Fonts with Chinese and Japanese, for what the default font lacks.
_CJK_FONTS = re.compile(
    r"CJK|Han (?:Sans|Serif)|WenQuanYi|Droid Sans Fallback|SimHei|SimSun|YaHei|PingFang|Heiti|"
    r"Songti|Hiragino|JhengHei|Arial Unicode|AR PL|IPA|Takao|Fangsong|Kaiti",
    re.IGNORECASE,
)


def progress_figure(records: list[dict[str, float]], metric: str, mode: str) -> Figure:
    """Losses over steps, and at the right the `metric` that chose the best by `mode`."""
    steps = [record["step"] for record in records]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()

    def curve(where, key, label, style, **options):
        values = [record[key] for record in records]
        return where.plot(steps, values, style, label=label, ms=3, **options)

    best = (min if mode == "min" else max)(records, key=lambda record: record[metric])
    label = f"{title(metric)}, best {best[metric]:.4f} at step {best['step']}"
    lines = curve(axes, "loss", "training loss, mean of the steps since the point before", "o-")
    if "val_loss" in records[0]:
        name = label if metric == "val_loss" else "validation loss"
        lines += curve(axes, "val_loss", name, "o-")
    if metric != "val_loss":
        right = axes.twinx()
        lines += curve(right, metric, label, "s--", color="tab:green")
        right.set_ylabel(title(metric))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside lower center")  # where it covers no curve
    return figure


def title(metric: str) -> str:
    """ "val_loss" is "validation loss"."""
    return metric.replace("val_", "validation ").replace("_", " ")


def confusion_counts(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> tuple[np.ndarray, list[int]]:
    """Counts (label, prediction) and their classes: of more than 40 the 20 with the most errors,
    and a last row and column of all others.
    """
    if num_classes <= _MOST_CLASSES:
        shown = list(range(num_classes))
        return confusion_matrix(labels, predicted, labels=shown), shown
    wrong = labels != predicted
    errors = sum(np.bincount(ids[wrong], minlength=num_classes) for ids in (labels, predicted))
    shown = sorted(np.argsort(-errors, kind="stable")[:_SHOWN_OF_MANY].tolist())
    group = np.full(num_classes, _SHOWN_OF_MANY)
    group[shown] = np.arange(_SHOWN_OF_MANY)
    groups = range(_SHOWN_OF_MANY + 1)
    return confusion_matrix(group[labels], group[predicted], labels=groups), shown


def draw_confusion(counts: np.ndarray, names: Sequence[str], path: Path) -> bool:
    """Draws what each class is taken for. False: no font has the names, numbers stand there."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.38 * len(names), 4, 16))
    small = 9 if len(names) <= 12 else 7
    cjk = sorted({font.name for font in fontManager.ttflist if _CJK_FONTS.search(font.name)})

    def draw(names):
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        display = ConfusionMatrixDisplay(share, display_labels=names).plot(
            ax=axes,
            cmap="Blues",
            xticks_rotation="vertical",
            include_values=len(names) <= _MOST_NUMBERED_CELLS,
            im_kw={"vmin": 0, "vmax": 1},
            text_kw={"fontsize": small},
        )
        for text, count in zip(np.ravel(display.text_), np.ravel(counts)):
            if text is not None:
                text.set_text(str(count) if count else "")
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(parse_math=False, fontsize=small)  # a name may hold dollar signs
        display.im_.colorbar.set_label("share of the label's rows")
        axes.set(xlabel="predicted", ylabel="label")
        save(figure, path)

    with matplotlib.rc_context({"font.family": [*matplotlib.rcParams["font.family"], *cjk]}):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Glyph .* missing from")
                draw([_short(name) for name in names])
            return True
        except UserWarning:
            draw(range(len(names)))
            return False


def draw_calibration(right: np.ndarray, confidence: np.ndarray, path: Path) -> None:
    """Draws accuracy over confidence, and below it how many rows each bin has."""
    figure = Figure(figsize=(5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    right, confidence = right.astype(int), np.minimum(confidence, 1.0)
    CalibrationDisplay.from_predictions(
        right, confidence, n_bins=10, pos_label=1, name="rows of a bin", ax=above
    )
    above.set(xlabel="", ylabel="accuracy")
    above.grid(alpha=0.3)
    below.hist(confidence, bins=np.linspace(0, 1, 11), color="grey", edgecolor="white")
    below.set(xlabel="confidence (the highest probability)", ylabel="rows")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture; the suffix of the path says the format."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _short(name: str) -> str:
    name = " ".join(name.split()) or "(blank)"
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
