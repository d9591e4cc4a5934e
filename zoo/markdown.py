"""Markdown that stays a table whatever text is put in its cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST_CELL = 160  # characters
# All that Markdown, its tables, HTML in it or GitHub's formulas would read as more than text.
SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&#])")


def cell(text: str, longest: int = LONGEST_CELL) -> str:
    """Text as one table cell that shows it as it is, cut and on one line.

    White space becomes single spaces; control characters, lone surrogates and marks that turn the
    reading direction become U+FFFD; text longer than `longest` characters ends in "…".
    """
    # Cut before escaping, or a backslash could lose its character. The first cut is for speed.
    text = " ".join(text[: 20 * longest].split())
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return SPECIAL.sub(r"\\\1", text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns `numbers` are set to the right."""
    right = set(numbers)
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---:" if i in right else "---" for i in range(len(header))) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
