"""Parts that the report of every task on text has: a table of scores, a table of mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.markdown import table

# Scores of which less is better, and how scores are called.
LESS_IS_BETTER = ("nll", "mse", "mae", "calibration_error")
NAMES = {
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


def sections(*parts: tuple[str, str]) -> str:
    """Titles and texts as sections of the second level."""
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts)


def mistakes_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or "None." where nothing is wrong."""
    return table(header, rows) if rows else "None."


def scores_table(
    scores: Mapping[str, float],
    baseline: Mapping[str, float] | None,
    count: int,
    unit: str = "rows",
) -> str:
    """A model's scores with a baseline's beside them; says in which the baseline is ahead.

    Args:
        scores: name -> value; values that are mappings (a score for each type) are left out.
        baseline: the same names, as far as it has them; None for a table without the column.
        count: what the scores are over.
        unit: what is counted.
    """
    keys = [key for key, value in scores.items() if not isinstance(value, Mapping)]
    rows = []
    for key in keys:
        other = []
        if baseline is not None:
            other = [f"{baseline[key]:.4f}" if key in baseline else "—"]
        rows.append([NAMES.get(key, key), f"{scores[key]:.4f}", *other])
    header = ["", "model", *(["baseline"] if baseline is not None else [])]
    text = table(header, rows, numbers=(1, 2)) + f"\n\nOver {count:,} {unit}."
    behind = [
        key for key in keys if baseline and key in baseline and _behind(key, scores, baseline)
    ]
    if behind:
        names = ", ".join(NAMES.get(key, key) for key in behind)
        text += f" **The baseline is as good or better in: {names}.**"
    return text


def _behind(key: str, scores, baseline) -> bool:
    sign = -1 if key in LESS_IS_BETTER else 1
    return sign * scores[key] <= sign * baseline[key]
