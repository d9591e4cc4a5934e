"""Sections of `report.md` for tasks on texts: scores beside a baseline's, and what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from trainers.report.figures import confusion_counts, draw_calibration, draw_confusion
from trainers.report.scores import Predictions, calibration_error, confused_pairs, partner_ranks
from trainers.report.squad_scores import answer_scores
from trainers.report.tag_scores import are_entities, entity_spans
from zoo.output import cell, table

_CONFUSION_FILE, _CALIBRATION_FILE = "confusion.png", "calibration.png"
_MISTAKES = 10  # rows of a table of them
_CLASS_ROWS = 25
_CONTEXT_WORDS, _MOST_WORDS = 6, 40  # of a sentence around wrong entities
_LESS_IS_BETTER = ("nll", "mse", "mae", "calibration_error", "loss")
_NAMES = {
    "macro_f1": "macro F1",
    "mcc": "Matthews correlation",
    "nll": "negative log-likelihood (nats)",
    "calibration_error": "expected calibration error",
    "f1": "F1",
    "exact_match": "exact match",
    "spearman": "Spearman correlation",
    "pearson": "Pearson correlation",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "accuracy@1": "accuracy at 1",
    "mrr": "mean reciprocal rank",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the model and a baseline score on the same rows.

    Attributes:
        split: "test" or "validation".
        rows: what is scored, such as "1,066 examples".
        model: score -> value, the one to compare by first; mappings are scores by type.
        baseline: the same, as far as it has them; None where there is none.
        method: what the baseline is.
    """

    split: str
    rows: str
    model: Mapping[str, float | Mapping]
    baseline: Mapping[str, float | Mapping] | None = None
    method: str = ""

    def verdict(self, advice: str) -> str:
        """Whether the model beats the baseline, in one line, and if not the advice."""
        if self.baseline is None:
            return f"No baseline was trained; the scores are on {self.rows} ({self.split})."
        name = next(iter(self.model))
        ahead = self._model_is_ahead(name)
        return (
            f"**{'Better' if ahead else 'Not better'} than the baseline** ({self.method}): "
            f"{_NAMES.get(name, name)} {self.model[name]:.4f} against {self.baseline[name]:.4f} on "
            f"{self.rows} ({self.split}).{'' if ahead else ' ' + advice}"
        )

    def section(self, about: str = "", **only_model: float) -> str:
        """The table of all scores; says in which the baseline is ahead."""
        numbers = {k: v for k, v in self.model.items() if not isinstance(v, Mapping)} | only_model
        other = self.baseline or {}
        rows = []
        for name, value in numbers.items():
            beside = [f"{other[name]:.4f}" if name in other else "—"] if other else []
            rows.append([_NAMES.get(name, name), f"{value:.4f}", *beside])
        header = ["", "model", *(["baseline"] if other else [])]
        text = table(header, rows, numbers=(1, 2)) + f"\n\nOver {self.rows}."
        behind = [name for name in numbers if name in other and not self._model_is_ahead(name)]
        if behind:
            names = ", ".join(_NAMES.get(name, name) for name in behind)
            text += f" **The baseline is as good or better in: {names}.**"
        return f"## Scores{about}, {self.split}\n\n{text}"

    def _model_is_ahead(self, name: str) -> bool:
        ours, other = self.model[name], self.baseline[name]
        return ours < other if name in _LESS_IS_BETTER else ours > other


def classification_sections(
    comparison: Comparison,
    texts: Sequence[str],
    labels: np.ndarray,
    predictions: Predictions,
    classes: Sequence[str],
    folder: Path,
    text_pairs: Sequence[str] | None = None,
    where: Sequence[str] | None = None,
) -> list[str]:
    """Scores, confusion, calibration, weak classes and the surest mistakes of a classifier.

    Pictures are drawn into `folder`; `where` are N places such as "test.csv:12".
    """
    predicted, confidence, _ = predictions
    error = calibration_error(labels, predictions)
    draw_calibration(predicted == labels, confidence, folder / _CALIBRATION_FILE)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    mistakes = [
        [
            *_texts(row, texts, text_pairs),
            *(cell(classes[i]) for i in (labels[row], predicted[row])),
            f"{confidence[row]:.3f}",
            *_place(row, where),
        ]
        for row in surest
    ]
    header = [*_text_names(text_pairs), "label", "predicted", "probability", *_place_name(where)]
    return [
        comparison.section(calibration_error=error),
        _confusion(labels, predicted, classes, folder),
        f"## Calibration\n\n![accuracy over confidence]({_CALIBRATION_FILE})\n\nExpected "
        f"calibration error {error:.4f}: the mean distance of the highest probability from the "
        "share of right rows.",
        f"## Classes, the weakest first\n\n{_classes(labels, predicted, classes)}",
        _mistakes("Surest mistakes", header, mistakes),
    ]


def tagging_sections(
    comparison: Comparison,
    words: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    labels: Collection[str],
    where: Sequence[str] | None = None,
) -> list[str]:
    """Scores of entities, or of tags that are none; each type's; the sentences with most mistakes.

    `labels` are all tags of the data, which decide whether they are entities.
    """
    entities = are_entities(labels)
    spans = [
        tuple(map(entity_spans, tags)) if entities else _wrong_words(*tags)
        for tags in zip(gold, predicted)
    ]
    errors = [len(set(right) ^ set(made)) for right, made in spans]
    worst = sorted((row for row in range(len(errors)) if errors[row]), key=lambda r: -errors[r])
    mistakes = [
        [*(_marked(words[row], side, spans[row]) for side in spans[row]), *_place(row, where)]
        for row in worst[:_MISTAKES]
    ]
    types = [
        [
            cell(kind),
            *(f"{of[key]:.3f}" for key in ("precision", "recall", "f1")),
            str(of["support"]),
        ]
        for kind, of in sorted(comparison.model["types"].items(), key=lambda item: item[1]["f1"])
    ]
    kind, unit = ("type", "entities") if entities else ("tag", "words")
    header = [kind, "precision", "recall", "F1", unit]
    return [
        comparison.section(f" ({unit})"),
        f"## {kind.capitalize()}s, the weakest first\n\n{table(header, types, range(1, 5))}",
        _mistakes("Mistakes", ["label", "predicted", *_place_name(where)], mistakes),
    ]


def question_sections(
    comparison: Comparison,
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    confidence: Sequence[float],
    language: str = "english",
    where: Sequence[str] | None = None,
) -> list[str]:
    """Exact match and F1, and wrong answers, the surest first."""
    single = [answer_scores(*pair, language) for pair in zip(answers, predictions)]
    wrong = [row for row, (exact, _) in enumerate(single) if not exact]
    mistakes = []
    for row in sorted(wrong, key=lambda row: -confidence[row])[:_MISTAKES]:
        golds = " / ".join(dict.fromkeys(answer for answer in answers[row] if answer.strip()))
        shown = [cell(text) if text else "(none)" for text in (golds, predictions[row])]
        overlap = f"{single[row][1]:.2f}"
        mistakes.append([cell(questions[row]), *shown, overlap, *_place(row, where)])
    header = ["question", "answers", "predicted", "F1", *_place_name(where)]
    return [comparison.section(), _mistakes("Mistakes", header, mistakes)]


def regression_sections(
    comparison: Comparison,
    texts: Sequence[str],
    targets: np.ndarray,
    predictions: np.ndarray,
    text_pairs: Sequence[str] | None = None,
    where: Sequence[str] | None = None,
) -> list[str]:
    """Correlations, errors, and the rows that are furthest off."""
    predictions = np.reshape(predictions, -1)
    mistakes = [
        [
            *_texts(row, texts, text_pairs),
            f"{targets[row]:.3f}",
            f"{predictions[row]:.3f}",
            *_place(row, where),
        ]
        for row in np.argsort(-np.abs(predictions - targets), kind="stable")[:_MISTAKES]
    ]
    header = [*_text_names(text_pairs), "target", "predicted", *_place_name(where)]
    return [comparison.section(), _mistakes("Furthest off", header, mistakes)]


def retrieval_sections(
    comparison: Comparison,
    queries: Sequence[str],
    candidates: Sequence[str],
    similarities: np.ndarray,
) -> list[str]:
    """Scores, and queries whose partner comes last.

    `similarities` are (N, N), queries by candidates; candidate i belongs to query i.
    """
    ranks, best = partner_ranks(similarities), similarities.argmax(axis=1)
    mistakes = [
        [cell(queries[row]), cell(candidates[row]), str(ranks[row]), cell(candidates[best[row]])]
        for row in np.argsort(-ranks, kind="stable")[:_MISTAKES]
        if ranks[row] > 1
    ]
    header = ["text", "its partner", "rank", "most similar"]
    return [comparison.section(), _mistakes("Furthest off", header, mistakes)]


def _mistakes(title: str, header: list[str], rows: list[list[str]]) -> str:
    return f"## {title}\n\n{table(header, rows) if rows else 'None.'}"


def _confusion(labels, predicted, classes, folder: Path) -> str:
    counts, shown = confusion_counts(labels, predicted, len(classes))
    names = [classes[i] for i in shown]
    others = ["(all others)"] if len(shown) < len(classes) else []
    named = draw_confusion(counts, [*names, *others], folder / _CONFUSION_FILE)
    parts = [f"## Confusion\n\n![what each class is taken for]({_CONFUSION_FILE})"]
    if others:
        parts.append(f"The {len(shown)} of {len(classes)} classes with the most errors.")
    if not named:  # no font for the names
        numbers = ", ".join(f"{i} {cell(name)}" for i, name in enumerate([*names, *others]))
        parts.append(f"Numbers on the picture: {numbers}.")
    pairs = confused_pairs(labels, predicted)[:_MISTAKES]
    rows = [[cell(classes[gold]), cell(classes[made]), str(count)] for gold, made, count in pairs]
    if rows:
        parts.append(table(["label", "taken for", "times"], rows, numbers=[2]))
    return "\n\n".join(parts)


def _classes(labels, predicted, classes) -> str:
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    made = set(predicted.tolist())
    seen = [i for i in range(len(classes)) if columns[3][i] or i in made]
    order = sorted(seen, key=lambda i: columns[2][i])
    rows = [
        [cell(classes[i]), *(f"{column[i]:.3f}" for column in columns[:3]), str(columns[3][i])]
        for i in order[:_CLASS_ROWS]
    ]
    text = table(["class", "precision", "recall", "F1", "rows"], rows, numbers=range(1, 5))
    if len(order) > _CLASS_ROWS:
        text += f"\n\nThe other {len(order) - _CLASS_ROWS} classes do better."
    if len(seen) < len(classes):
        text += f"\n\n{len(classes) - len(seen)} classes occur in neither labels nor predictions."
    return text


def _wrong_words(gold: Sequence[str], predicted: Sequence[str]) -> tuple[list, list]:
    """Words whose tags differ, as spans of either side."""
    wrong = [place for place, pair in enumerate(zip(gold, predicted)) if pair[0] != pair[1]]
    return tuple([(tags[at], at, at + 1) for at in wrong] for tags in (gold, predicted))


def _marked(words: Sequence[str], spans, both) -> str:
    """The stretch of a sentence around its mistakes, entities of one side in bold."""
    wrong = set(both[0]) ^ set(both[1])
    first = max(min(start for _, start, _ in wrong) - _CONTEXT_WORDS, 0)
    last = min(max(end for *_, end in wrong) + _CONTEXT_WORDS, len(words), first + _MOST_WORDS)
    starts = {start: (end, kind) for kind, start, end in spans}
    # An entity that the cut would split is shown from its start.
    first = min([first, *(start for _, start, end in spans if start < first < end)])
    parts, at = ["…"] if first else [], first
    while at < last:
        end, kind = starts.get(at, (at + 1, None))
        text = " ".join(cell(word) or "\ufffd" for word in words[at:end])
        parts.append(text if kind is None else f"**{text}** ({cell(kind)})")
        at = end
    return " ".join([*parts, *(["…"] if at < len(words) else [])])


def _texts(row: int, texts, text_pairs) -> list[str]:
    return [cell(texts[row])] if text_pairs is None else [cell(texts[row]), cell(text_pairs[row])]


def _text_names(text_pairs) -> list[str]:
    return ["text"] if text_pairs is None else ["text", "second text"]


def _place(row: int, where: Sequence[str] | None) -> list[str]:
    return [] if where is None else [cell(where[row])]


def _place_name(where: Sequence[str] | None) -> list[str]:
    return [] if where is None else ["where"]
