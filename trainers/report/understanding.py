"""Sections of `report.md` for tasks that understand text: scores, a baseline beside them, mistakes.

Each function returns Markdown. Scores are printed as the functions in `trainers.report.scores`,
`trainers.report.entities` and `trainers.report.answers` give them, so a baseline's scores come
from the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from trainers.report.answers import answer_scores, question_scores
from trainers.report.entities import are_entities, entity_spans, tag_scores
from trainers.report.figures import ConfusionPicture, draw_calibration, draw_confusion
from trainers.report.scores import (
    Predictions,
    calibration,
    classification_scores,
    confused_pairs,
    partner_ranks,
    regression_scores,
    retrieval_scores,
)
from trainers.report.tables import mistakes_table, scores_table, sections
from zoo.markdown import cell, table

CONFUSION_FILE, CALIBRATION_FILE = "confusion.png", "calibration.png"
MOST_CLASS_ROWS = 25
CONTEXT_WORDS, MOST_WORDS = 6, 40  # of a sentence around wrong entities


def classification_section(
    texts: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray | Predictions,
    classes: Sequence[str],
    *,
    folder: str | Path,
    text_pairs: Sequence[str] | None = None,
    baseline: Mapping[str, float] | None = None,
    where: Sequence[str] | None = None,
    limit: int = 10,
) -> str:
    """Scores, confusion, calibration, weak classes and the surest mistakes of a classifier.

    Args:
        texts: N texts.
        labels: (N,) int, indices of `classes`.
        probabilities: (N, C) float, or what `Predictions.of` keeps of them.
        classes: C names.
        folder: where `confusion.png` and `calibration.png` are drawn, beside the report.
        text_pairs: N second texts, for tasks on pairs.
        baseline: `classification_scores` of a baseline on the same rows.
        where: N places such as "test.csv:12", printed with mistakes.
        limit: mistakes and confused pairs to print.

    Example:
        classification_section(texts, labels, probabilities, ["no", "yes"], folder=bundle.folder)
    """
    labels = np.asarray(labels)
    if not isinstance(probabilities, Predictions):
        probabilities = Predictions.of(labels, probabilities)
    measured = calibration(labels, probabilities)
    scores = classification_scores(labels, probabilities) | {"calibration_error": measured.error}
    predicted, confidence, _ = probabilities
    draw_calibration(measured, Path(folder) / CALIBRATION_FILE)
    picture = draw_confusion(labels, predicted, classes, Path(folder) / CONFUSION_FILE)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    mistakes = []
    for row in surest:
        told = [cell(classes[i]) for i in (labels[row], predicted[row])]
        chance = f"{confidence[row]:.3f}"
        mistakes.append([*_texts(row, texts, text_pairs), *told, chance, *_place(row, where)])
    header = ["text", *(["second text"] if text_pairs is not None else []), "label", "predicted"]
    return sections(
        ("Scores", scores_table(scores, baseline, len(labels))),
        ("Confusion", _confusion(picture, labels, predicted, classes, limit)),
        ("Calibration", _calibration(measured.error)),
        ("Classes, the weakest first", _classes(labels, predicted, classes)),
        (
            "Surest mistakes",
            mistakes_table([*header, "probability", *_place_name(where)], mistakes),
        ),
    )


def tagging_section(
    words: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    *,
    labels: Collection[str] | None = None,
    baseline: Mapping[str, float] | None = None,
    where: Sequence[str] | None = None,
    limit: int = 10,
) -> str:
    """Scores of entities, or of tags that are none; each type's; the sentences with most mistakes.

    Args:
        words: words of N sentences.
        gold: their tags.
        predicted: the model's tags.
        labels: all tags of the data, which decide whether they are entities. Default: those
            of `gold` and `predicted`.
        baseline: `tag_scores` of a baseline on the same sentences.
        where: N places, printed with mistakes.
        limit: sentences to print.
    """
    if labels is None:
        labels = {tag for tags in (*gold, *predicted) for tag in tags}
    entities = are_entities(labels)
    scores = tag_scores(gold, predicted, labels)
    spans = [
        tuple(map(entity_spans, tags)) if entities else _wrong_words(*tags)
        for tags in zip(gold, predicted)
    ]
    errors = [len(set(right) ^ set(made)) for right, made in spans]
    worst = sorted((row for row in range(len(errors)) if errors[row]), key=lambda r: -errors[r])
    mistakes = [
        [*(_marked(words[row], side, spans[row]) for side in spans[row]), *_place(row, where)]
        for row in worst[:limit]
    ]
    types = [
        [
            cell(kind),
            *(f"{of[key]:.3f}" for key in ("precision", "recall", "f1")),
            str(of["support"]),
        ]
        for kind, of in sorted(scores["types"].items(), key=lambda item: item[1]["f1"])
    ]
    kind, unit = ("type", "entities") if entities else ("tag", "words")
    header = [kind, "precision", "recall", "F1", unit]
    return sections(
        (f"Scores ({unit})", scores_table(scores, baseline, len(words), "sentences")),
        (f"{kind.capitalize()}s, the weakest first", table(header, types, numbers=range(1, 5))),
        ("Mistakes", mistakes_table(["label", "predicted", *_place_name(where)], mistakes)),
    )


def question_section(
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    *,
    language: str = "english",
    left_out: int = 0,
    confidence: Sequence[float] | None = None,
    baseline: Mapping[str, float] | None = None,
    where: Sequence[str] | None = None,
    limit: int = 10,
) -> str:
    """Exact match and F1, and wrong answers: the surest first, or else the furthest off.

    Args:
        questions: N questions.
        answers: gold answers of each.
        predictions: the model's answers.
        language: "english" or "chinese", as `question_scores`.
        left_out: questions of the file that are not among them, as `Questions.left_out`.
        confidence: (N,) the model's score of each answer.
        baseline: `question_scores` of a baseline on the same questions.
        where: N places (or ids), printed with mistakes.
        limit: mistakes to print.
    """
    scores = question_scores(answers, predictions, language)
    single = [answer_scores(*pair, language) for pair in zip(answers, predictions)]
    worst = sorted(
        (row for row, (exact, _) in enumerate(single) if not exact),
        key=lambda row: single[row][1] if confidence is None else -confidence[row],
    )
    mistakes = []
    for row in worst[:limit]:
        golds = " / ".join(dict.fromkeys(answer for answer in answers[row] if answer.strip()))
        told = [cell(text) if text else "(none)" for text in (golds, predictions[row])]
        mistakes.append([cell(questions[row]), *told, f"{single[row][1]:.2f}", *_place(row, where)])
    unit = "questions"
    if left_out:
        unit += f" ({left_out:,} more of the file left out: answers not at their offsets)"
    header = ["question", "answers", "predicted", "F1", *_place_name(where)]
    return sections(
        ("Scores", scores_table(scores, baseline, len(questions), unit)),
        ("Mistakes", mistakes_table(header, mistakes)),
    )


def regression_section(
    texts: Sequence[str],
    targets: Sequence[float],
    predictions: Sequence[float],
    *,
    text_pairs: Sequence[str] | None = None,
    baseline: Mapping[str, float] | None = None,
    where: Sequence[str] | None = None,
    limit: int = 10,
) -> str:
    """Correlations, errors, and the rows that are furthest off; arguments as the others'."""
    scores = regression_scores(targets, predictions)
    targets, predictions = (np.asarray(values).reshape(-1) for values in (targets, predictions))
    worst = np.argsort(-np.abs(predictions - targets), kind="stable")[:limit]
    mistakes = [
        [
            *_texts(row, texts, text_pairs),
            f"{targets[row]:.3f}",
            f"{predictions[row]:.3f}",
            *_place(row, where),
        ]
        for row in worst
    ]
    header = ["text", *(["second text"] if text_pairs is not None else []), "target", "predicted"]
    return sections(
        ("Scores", scores_table(scores, baseline, len(targets))),
        ("Furthest off", mistakes_table([*header, *_place_name(where)], mistakes)),
    )


def retrieval_section(
    queries: Sequence[str],
    candidates: Sequence[str],
    similarities: np.ndarray,
    *,
    baseline: Mapping[str, float] | None = None,
    limit: int = 10,
) -> str:
    """Accuracy at 1, mean reciprocal rank, and queries whose partner comes last.

    Args:
        queries: N texts.
        candidates: N texts; candidate i belongs to query i.
        similarities: (N, N) float, queries by candidates.
        baseline: `retrieval_scores` of a baseline on the same pairs.
        limit: queries to print.
    """
    scores = retrieval_scores(similarities)
    ranks, best = partner_ranks(similarities), np.asarray(similarities).argmax(axis=1)
    worst = [row for row in np.argsort(-ranks, kind="stable")[:limit] if ranks[row] > 1]
    mistakes = [
        [cell(queries[row]), cell(candidates[row]), str(ranks[row]), cell(candidates[best[row]])]
        for row in worst
    ]
    header = ["text", "its partner", "rank", "most similar"]
    return sections(
        ("Scores", scores_table(scores, baseline, len(queries), "pairs")),
        ("Furthest off", mistakes_table(header, mistakes)),
    )


def _confusion(picture: ConfusionPicture, labels, predicted, classes, limit: int) -> str:
    parts = [f"![what each class is taken for]({CONFUSION_FILE})"]
    if picture.others:
        parts.append(f"The {len(picture.shown)} of {len(classes)} classes with the most errors.")
    if picture.numbered:  # no font for the names
        names = ", ".join(f"{i} {cell(classes[i])}" for i in picture.shown)
        parts.append(f"Numbers on the picture: {names}.")
    pairs = confused_pairs(labels, predicted, limit)
    rows = [[cell(classes[gold]), cell(classes[made]), str(count)] for gold, made, count in pairs]
    if rows:
        parts.append(table(["label", "taken for", "times"], rows, numbers=[2]))
    return "\n\n".join(parts)


def _calibration(error: float) -> str:
    return (
        f"![accuracy over confidence]({CALIBRATION_FILE})\n\nExpected calibration error "
        f"{error:.4f}: the mean distance of the highest probability from the share of right rows."
    )


def _classes(labels, predicted, classes) -> str:
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    made = set(predicted.tolist())
    seen = [i for i in range(len(classes)) if columns[3][i] or i in made]
    order = sorted(seen, key=lambda i: columns[2][i])
    rows = [
        [cell(classes[i]), *(f"{column[i]:.3f}" for column in columns[:3]), str(columns[3][i])]
        for i in order[:MOST_CLASS_ROWS]
    ]
    text = table(["class", "precision", "recall", "F1", "rows"], rows, numbers=range(1, 5))
    if len(order) > MOST_CLASS_ROWS:
        text += f"\n\nThe other {len(order) - MOST_CLASS_ROWS} classes do better."
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
    first = max(min(start for _, start, _ in wrong) - CONTEXT_WORDS, 0)
    last = min(max(end for *_, end in wrong) + CONTEXT_WORDS, len(words), first + MOST_WORDS)
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


def _place(row: int, where: Sequence[str] | None) -> list[str]:
    return [] if where is None else [cell(where[row])]


def _place_name(where: Sequence[str] | None) -> list[str]:
    return [] if where is None else ["where"]
