"""Rows of one CSV, TSV or JSON-lines text: the asked columns of each, by line number."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from trainers.data.decoding import replace_surrogates

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_FIXES = {
    "csv": 'A text with a comma or line break needs quotes around it: "a, b".',
    "tsv": "A text must not hold a tab or line break (unless in quotes, with quotes=True).",
}
Row = tuple[int, dict[str, str]]  # (line the row starts in, {option that names a column: value})


def delimited_rows(
    path: str,
    text: str,
    format: str,
    columns: Mapping[str, str],
    header: str | Sequence[str] = "auto",
    quotes: bool | None = None,
) -> Iterator[Row]:
    """The rows of a CSV or TSV text; blank lines are none.

    Args:
        path: names the file in errors.
        text: of the file.
        format: "csv" or "tsv".
        columns: option -> column, by name or number: {"text_column": "review"}.
        header: "auto", "first", "none" or the columns' names; see `tables.read_labeled`.
        quotes: whether quotes enclose fields. Default: in CSV yes, in TSV no.

    Raises ValueError, naming file and line, for a missing column, a row of another length than
    the header's, and quotes that do not match.

    Example: `list(delimited_rows("a.csv", "text\\nhi\\n", "csv", {"text_column": "text"}))`
    """
    if isinstance(header, str) and header not in ("auto", "first", "none"):
        raise ValueError(f"header={header!r}: use 'auto', 'first', 'none' or a list of names.")
    if header == "auto":
        header = "none" if all(map(_is_number, columns.values())) else "first"
    quotes = format == "csv" if quotes is None else quotes
    names = None if isinstance(header, str) else list(header)
    width = None if names is None else len(names)
    places = None if names is None else _places(columns, names, width, f"{path}:1")
    quoted = 0
    for line, row in _split(path, text, format, quotes):
        if width is None:
            width = len(row)
            names = [name.strip() for name in row] if header == "first" else None
            places = _places(columns, names, width, f"{path}:{line}")
            if header == "first":
                continue
        if len(row) != width:
            raise ValueError(
                f"{path}:{line}: {len(row)} column(s), but the file has {width}"
                f"{f' ({_list(names)})' if names else ''}. {_FIXES[format]}"
            )
        values = {option: row[place] for option, place in places.items()}
        quoted += not quotes and any(map(_looks_quoted, values.values()))
        yield line, values
    if quoted:
        logging.warning(
            '%s: %d row(s) hold fields in quotes with "" in them, which are read as they stand. '
            "If quotes enclose fields in this file, read it with quotes=True",
            path,
            quoted,
        )


def json_rows(path: str, text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """The objects of a text with one JSON object per line; blank lines are none.

    Numbers keep the spelling of the file, true and false are labels of that name.

    Raises ValueError, naming file and line, for a line that is no JSON object, a missing field,
    and a field that is neither a string, a number nor a boolean.

    Example: `list(json_rows("a.jsonl", '{"text": "hi"}', {"text_column": "text"}))`
    """
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
    replaced = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}:{number}: not JSON ({error}). Each line must be one whole object, such "
                'as {"text": "...", "label": "..."}.'
            ) from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}:{number}: a JSON {type(record).__name__}, not an object. Each line must "
                'be one, such as {"text": "...", "label": "..."}.'
            )
        values = {}
        for option, name in columns.items():
            value = record.get(name)
            if isinstance(value, bool):
                value = str(value).lower()
            if value is None and option == "label_column" and name in record:
                value = ""  # The reader tells what to do about missing labels, as in a table.
            if not isinstance(value, str):
                found = "no field" if name not in record else f"{_kind(value)} in field"
                raise ValueError(
                    f"{path}:{number}: {found} {name!r} ({option}). The fields of this line are "
                    f"{_list(record)}. Name one that holds a string with --set=data.{option}=..."
                )
            values[option] = replace_surrogates(value)
            replaced += values[option] != value
        yield number, values
    if replaced:
        logging.warning("%s: %d field(s) held half a UTF-16 pair, now U+FFFD", path, replaced)


def _kind(value: object) -> str:
    return {type(None): "null", list: "an array", dict: "an object"}[type(value)]


def _split(path: str, text: str, format: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline="\n"),  # Only "\n" ends a line; decoding.py made them all so.
        delimiter=_DELIMITERS[format],
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    line = 1
    while True:
        # The limit is one for the whole process: set for a single row, which may be a book.
        limit = csv.field_size_limit(sys.maxsize)
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}:{line}: the quotes of the row that starts here do not match ({error}). "
                'Write a quote within quotes twice: "say ""hi""", or read the file with '
                "quotes=False if quotes are plain characters."
            ) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        if row:
            yield line, row
        line = reader.line_num + 1


def _places(
    columns: Mapping[str, str], names: list[str] | None, width: int, place: str
) -> dict[str, int]:
    places = {}
    for option, name in columns.items():
        if names is not None and names.count(name) > 1:
            raise ValueError(
                f"{place}: {names.count(name)} columns are called {name!r} ({option}). Give the "
                "column by its number from 0, or rename one."
            )
        if names is not None and name in names:
            places[option] = names.index(name)
        elif _is_number(name) and -width <= int(name) < width:
            places[option] = int(name) % width
        else:
            have = _list(names) if names is not None else f"0 to {width - 1} (no names)"
            raise ValueError(
                f"{place}: no column {name!r} ({option}). The columns are {have}. Choose one with "
                f"--set=data.{option}=..., by name or by number from 0; a file without a line of "
                "names is read if all columns are given by number, or with their names as header."
            )
    return places


def _is_number(column: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,6}", column) is not None


def _list(names) -> str:
    return ", ".join(repr(name[:60]) for name in names) or "none"


def _looks_quoted(value: str) -> bool:
    inside = value[1:-1]
    return value[:1] == value[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', "")
