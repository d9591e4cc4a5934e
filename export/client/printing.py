"""Outputs for people: a row as a few lines of text."""

from collections.abc import Mapping

import numpy as np

_SHOWN = 5  # classes, or candidates for a mask
_NUMBERS = 8  # of a vector


def rows(outputs: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """Splits a batch into rows of plain Python values; what has no batch dimension is in each."""
    batch = max((len(array) for array in outputs.values() if array.ndim), default=1)
    return [
        {
            name: _plain(array[row] if array.ndim and len(array) == batch else array)
            for name, array in sorted(outputs.items())
        }
        for row in range(batch)
    ]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def readable(row: Mapping[str, object]) -> str:
    """One of the `rows`, in the form that suits its outputs."""
    form = next((form for needed, form in _FORMS.items() if {*needed} <= {*row}), None)
    return form(row) if form else "\n".join(f"{name}: {value}" for name, value in row.items())


def _tags(row) -> str:
    """A line for each word; the words last, because their width on a screen is not known."""
    words = [word for word in zip(*(row[name] for name in _TAG)) if word[2] >= 0]
    width = max((len(tag) for _, tag, *_ in words), default=0)
    return "\n".join(
        f"{tag:<{width}}  {score:.3f}  {f'{start}-{end}':>9}  {token}"
        for token, tag, start, end, score in words
    )


def _answer(row) -> str:
    place = f", bytes {row['start']}-{row['end']}" if row["start"] >= 0 else ""
    return f"{row['answer'] or '(no answer)'}  (score {row['score']:.3f}{place})"


def _filled(row) -> str:
    lines = [row["text"]]
    for pieces, probabilities in zip(row["tokens"], row["probabilities"]):
        # A row with fewer masks than its batch mates is padded.
        shown = [pair for pair in zip(pieces, probabilities) if pair[0]][:_SHOWN]
        if shown:
            lines.append("  " + ", ".join(f"{piece} {value:.3f}" for piece, value in shown))
    return "\n".join(lines)


def _candidates(row) -> str:
    pairs = zip(row["tokens"], row["probabilities"])
    return "\n".join(f"{value:.3f}  {token!r}" for token, value in pairs)


def _scored(row) -> str:
    """The sums, then a line for each token."""
    scored = [pair for pair in zip(row["log_probabilities"], row["tokens"]) if pair[1]]
    lines = [f"{name}: {row[name]}" for name in row if not isinstance(row[name], list)]
    return "\n".join([*lines, *(f"{value:8.3f}  {token!r}" for value, token in scored)])


def _written(row) -> str:
    """The best text, and, where there are beams, all of them with their scores."""
    beams = [pair for pair in zip(row["scores"], row["texts"]) if any(pair)]
    shown = [f"  {score:.3f}  {text}" for score, text in beams] if len(beams) > 1 else []
    shown += ["  (only the beginning of the text was read)"] if row.get("truncated") else []
    return "\n".join([row["text"], *shown])


def _classes(row) -> str:
    ranked = sorted(zip(row["scores"], row["classes"]), key=lambda pair: -pair[0])
    lines = [row.get("label") or (ranked[0][1] if ranked else "")]
    lines += [f"  {score:.3f}  {name}" for score, name in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        lines.append(f"  and {len(ranked) - _SHOWN} more, which --json shows")
    return "\n".join(lines)


def _vector(row) -> str:
    values = row["embedding"]
    more = ", ..." if len(values) > _NUMBERS else ""
    shown = ", ".join(f"{value:.4f}" for value in values[:_NUMBERS])
    return f"embedding of {len(values)} numbers: {shown}{more}"


_TAG = ("tokens", "tags", "start", "end", "scores")
# The outputs that a form needs; the first one that finds all of its own is taken.
_FORMS = {
    _TAG: _tags,
    ("answer", "start", "end", "score"): _answer,
    ("text", "tokens", "probabilities"): _filled,
    ("tokens", "probabilities"): _candidates,
    ("tokens", "log_probabilities"): _scored,
    ("classes", "scores"): _classes,
    ("embedding",): _vector,
    ("text", "texts", "scores"): _written,
    ("text",): lambda row: row["text"],
    ("content", "finish_reason"): lambda row: row["content"],
}
