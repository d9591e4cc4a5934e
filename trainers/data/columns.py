"""Columns of a table by name or by number: one rule for every format that has an order of columns.

A name stands before a number: a column that is called "2" is found by "2". Numbers count from 0,
from the end with a minus sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"-?[0-9]{1,6}")


def is_number(column: str) -> bool:
    """Whether a column is given by a number.

    Example: `is_number("-1") and not is_number("text")`
    """
    return _NUMBER.fullmatch(column) is not None


def find_column(
    column: str, names: Sequence[str] | None, width: int, option: str, place: str
) -> int:
    """The place of a column.

    Args:
        column: its name or number. names: of all columns, None where they have none.
        width: number of columns. option: the setting that names the column.
        place: where the columns stand, for the message.

    Raises ValueError if there is none, or if several have the name.

    Example: `find_column("-1", ["text", "label"], 2, "label_column", "a.csv:1")` is `1`.
    """
    if names is not None and names.count(column) > 1:
        raise ValueError(
            f"{place}: {names.count(column)} columns are called {column!r} ({option}). Give the "
            "column by its number from 0, or rename one."
        )
    if names is not None and column in names:
        return names.index(column)
    if is_number(column) and -width <= int(column) < width:
        return int(column) % width
    have = quoted(names) if names is not None else f"0 to {width - 1} (no names)"
    raise ValueError(
        f"{place}: no column {column!r} ({option}). The columns are {have}. Choose one with "
        f"--set=data.{option}=..., by name or by number from 0; a file without a line of names is "
        "read if all columns are given by number, or with their names as header."
    )


def quoted(names: Iterable[str]) -> str:
    """The names in quotes, for messages.

    Example: `quoted(["text", "label"])` is `"'text', 'label'"`.
    """
    return ", ".join(repr(name[:60]) for name in names) or "none"
