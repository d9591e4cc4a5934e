"""Sections of `report.md` for tasks on texts: scores beside a baseline's, and what is wrong."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from trainers.data.examples import LabeledTexts, Questions, TaggedTexts, TextPairs
from trainers.report.figures import confusion_counts, draw_calibration, draw_confusion
from trainers.report.scores import (
    Predictions,
    answer_scores,
    are_entities,
    calibration_error,
    entity_spans,
)
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
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "loss": "loss (nats a token)",
    "accuracy_of_tokens": "accuracy of tokens, each after the right ones",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the model and a baseline score on the same rows."""

    split: str  # "test" or "validation"
    rows: str  # what is scored, such as "1,066 examples"
    # Score -> value, the one to compare by first; mappings are scores by type.
    model: Mapping[str, float | Mapping]
    # The same, as far as it has them; None where there is none.
    baseline: Mapping[str, float | Mapping] | None = None
    method: str = ""  # what the baseline is

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
        if behind := [n for n in numbers if n in other and not self._model_is_ahead(n)]:
            names = ", ".join(_NAMES.get(name, name) for name in behind)
            text += f" **The baseline is as good or better in: {names}.**"
        return f"## Scores{about}, {self.split}\n\n{text}"

    def _model_is_ahead(self, name: str) -> bool:
        ours, other = self.model[name], self.baseline[name]
        return ours < other if name in _LESS_IS_BETTER else ours > other


def classification_sections(
    comparison: Comparison,
    examples: LabeledTexts,
    labels: np.ndarray,
    predictions: Predictions,
    classes: Sequence[str],
    folder: Path,
) -> list[str]:
    """Scores, confusion, calibration, weak classes, surest mistakes; pictures go into `folder`."""
    predicted, confidence, _ = predictions
    error = calibration_error(labels, predictions)
    draw_calibration(predicted == labels, confidence, folder / _CALIBRATION_FILE)
    wrong = np.flatnonzero(predicted != labels)
    columns = {
        **_columns(examples, text="text", text_pair="second text"),
        "label": lambda row: cell(classes[labels[row]]),
        "predicted": lambda row: cell(classes[predicted[row]]),
        "probability": lambda row: f"{confidence[row]:.3f}",
        **_columns(examples, where="where"),
    }
    return [
        comparison.section(calibration_error=error),
        _confusion(labels, predicted, classes, folder),
        f"## Calibration\n\n![accuracy over confidence]({_CALIBRATION_FILE})\n\nExpected "
        f"calibration error {error:.4f}: the mean distance of the highest probability from the "
        "share of right rows.",
        f"## Classes, the weakest first\n\n{_classes(labels, predicted, classes)}",
        _mistakes("Surest mistakes", columns, wrong[np.argsort(-confidence[wrong], kind="stable")]),
    ]


def tagging_sections(
    comparison: Comparison,
    examples: TaggedTexts,
    predicted: Sequence[Sequence[str]],
    labels: Collection[str],
) -> list[str]:
    """Scores, each type's or tag's, the worst sentences; `labels` are all tags of the data."""
    entities = are_entities(labels)
    spans = [
        tuple(map(entity_spans, tags)) if entities else _wrong_words(*tags)
        for tags in zip(examples.tags, predicted)
    ]
    errors = [len(set(right) ^ set(made)) for right, made in spans]
    worst = sorted((row for row in range(len(errors)) if errors[row]), key=lambda r: -errors[r])
    columns = {
        "label": lambda row: _marked(examples.words[row], spans[row][0], spans[row]),
        "predicted": lambda row: _marked(examples.words[row], spans[row][1], spans[row]),
        **_columns(examples, where="where"),
    }
    types = sorted(comparison.model["types"].items(), key=lambda item: item[1]["f1"])
    kind, unit = ("type", "entities") if entities else ("tag", "words")
    rows = [_ratio_row(name, list(of.values())) for name, of in types]
    header = [kind, "precision", "recall", "F1", unit]
    return [
        comparison.section(f" ({unit})"),
        f"## {kind.capitalize()}s, the weakest first\n\n{table(header, rows, range(1, 5))}",
        _mistakes("Mistakes", columns, worst),
    ]


def question_sections(
    comparison: Comparison,
    examples: Questions,
    predictions: Sequence[str],
    confidence: Sequence[float],
    language: str,
) -> list[str]:
    """Exact match and F1, and wrong answers, the surest first."""
    single = [answer_scores(*pair, language) for pair in zip(examples.answers, predictions)]
    wrong = [row for row, (exact, _) in enumerate(single) if not exact]

    def answers(row):
        return " / ".join(dict.fromkeys(text for text in examples.answers[row] if text.strip()))

    columns = {
        **_columns(examples, question="question"),
        "answers": lambda row: cell(answers(row) or "(none)"),
        "predicted": lambda row: cell(predictions[row] or "(none)"),
        "F1": lambda row: f"{single[row][1]:.2f}",
        **_columns(examples, where="where"),
    }
    surest = sorted(wrong, key=lambda row: -confidence[row])
    return [comparison.section(), _mistakes("Mistakes", columns, surest)]


def regression_sections(
    comparison: Comparison, examples: LabeledTexts, targets: np.ndarray, predictions: np.ndarray
) -> list[str]:
    """Correlations, errors, and the rows that are furthest off."""
    predictions = np.reshape(predictions, -1)
    columns = {
        **_columns(examples, text="text", text_pair="second text"),
        "target": lambda row: f"{targets[row]:.3f}",
        "predicted": lambda row: f"{predictions[row]:.3f}",
        **_columns(examples, where="where"),
    }
    furthest = np.argsort(-np.abs(predictions - targets), kind="stable")
    return [comparison.section(), _mistakes("Furthest off", columns, furthest)]


def retrieval_sections(
    comparison: Comparison, examples: LabeledTexts, ranks: np.ndarray, best: np.ndarray
) -> list[str]:
    """Scores, and texts whose partner comes last, by `rank_partners`."""
    columns = {
        **_columns(examples, text="text", text_pair="its partner"),
        "rank": lambda row: str(ranks[row]),
        "most similar": lambda row: cell(examples.text_pair[best[row]]),
    }
    last = [row for row in np.argsort(-ranks, kind="stable") if ranks[row] > 1]
    return [comparison.section(), _mistakes("Furthest off", columns, last)]


def writing_sections(
    comparison: Comparison,
    examples: TextPairs,
    written: Sequence[str],
    score: str,
    of_each: np.ndarray,
    about: str,
) -> list[str]:
    """Scores, what is known `about` them, and texts: by chance, the best and the worst."""
    columns = {
        **_columns(examples, source="source"),
        "written": lambda row: cell(written[row]),
        **_columns(examples, target="reference"),
        _NAMES[score]: lambda row: f"{of_each[row]:.3g}",
        **_columns(examples, where="where"),
    }
    order = np.argsort(of_each, kind="stable")
    # Of the many that are right the longest say most.
    best = sorted(order, key=lambda row: (-of_each[row], -len(examples.target[row])))
    chance = np.random.default_rng(0).permutation(len(order))
    return [
        f"{comparison.section()}\n\n{about}",
        _mistakes("Texts by chance", columns, chance),
        _mistakes("Best", columns, best),
        _mistakes("Worst", columns, order),
    ]


def _columns(examples, **titles: str) -> dict[str, Callable[[int], str]]:
    """Title -> cell of a row, of those columns that the examples have."""
    columns = {title: getattr(examples, name) for name, title in titles.items()}
    return {
        title: lambda row, column=column: cell(column[row])
        for title, column in columns.items()
        if column is not None
    }


def _mistakes(title: str, columns: dict[str, Callable[[int], str]], rows: Iterable[int]) -> str:
    cells = [[column(row) for column in columns.values()] for row in list(rows)[:_MISTAKES]]
    return f"## {title}\n\n{table(list(columns), cells) if cells else 'None.'}"


def _confusion(labels, predicted, classes, folder: Path) -> str:
    counts, shown = confusion_counts(labels, predicted, len(classes))
    names = [classes[i] for i in shown]
    parts = [f"## Confusion\n\n![what each class is taken for]({_CONFUSION_FILE})"]
    if len(shown) < len(classes):
        names.append("(all others)")
        parts.append(f"The {len(shown)} of {len(classes)} classes with the most errors.")
    if not draw_confusion(counts, names, folder / _CONFUSION_FILE):  # no font for the names
        numbers = ", ".join(f"{i} {cell(name)}" for i, name in enumerate(names))
        parts.append(f"Numbers on the picture: {numbers}.")
    wrong = labels != predicted
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist()))
    most = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MISTAKES]
    rows = [[cell(classes[gold]), cell(classes[made]), str(n)] for (gold, made), n in most]
    if rows:
        parts.append(table(["label", "taken for", "times"], rows, numbers=[2]))
    return "\n\n".join(parts)


def _classes(labels, predicted, classes) -> str:
    seen = np.union1d(labels, predicted)
    columns = precision_recall_fscore_support(labels, predicted, labels=seen, zero_division=0)
    order = np.argsort(columns[2], kind="stable")
    rows = [_ratio_row(classes[seen[i]], [of[i] for of in columns]) for i in order[:_CLASS_ROWS]]
    text = table(["class", "precision", "recall", "F1", "rows"], rows, numbers=range(1, 5))
    if len(seen) > _CLASS_ROWS:
        text += f"\n\nThe other {len(seen) - _CLASS_ROWS} classes do better."
    if len(seen) < len(classes):
        text += f"\n\n{len(classes) - len(seen)} classes occur in neither labels nor predictions."
    return text


def _ratio_row(name: str, scores: Sequence[float]) -> list[str]:
    """Precision, recall, F1, and how many there are."""
    return [cell(name), *(f"{score:.3f}" for score in scores[:3]), str(scores[3])]


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
