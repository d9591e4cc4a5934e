"""Rows of tables that are text: CSV, TSV, JSON lines and arrays; columns by name or number.

CSV and JSON are read by Python's own modules. pandas, pyarrow and datasets read 48 MB of CSV in
2.1, 0.4 and 1.0 s where this takes 4.0, but none of them names file, line and column of a mistake,
all take the first of two columns of one name, two fill short rows with nothing, and none limits
what a row or an unpacked file may take.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from trainers.data.config import DEFAULT_LIMITS, Limits
from trainers.data.text import open_bytes, plain_name, replace_surrogates

HUGGING_FACE = "hfds://"
FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "tfrecord")
# Formats that are no text; "hfds" is a data set by name.
STORED = ("parquet", "tfrecord", "hfds")
SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}
_EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # "json" where it holds an array
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
_FIXES = {
    True: 'A text with a comma or line break needs quotes around it: "a, b".',
    False: "A text must not hold a tab or line break (unless in quotes, with quotes=True).",
}
_NUMBER = re.compile(r"-?[0-9]{1,6}")
_BLANK = re.compile(r"\s*")
Row = tuple[int, dict[str, str]]  # (line or number of the row, {option that names a column: value})


# Formats and columns.


def table_format(path: str) -> str | None:
    """The format of a table by the name of its file, None if that does not tell."""
    if path.startswith(HUGGING_FACE):
        return "hfds"
    extension = os.path.splitext(plain_name(path))[1].lower()
    found = _EXTENSIONS.get(extension)
    if extension == ".json" and os.path.isfile(path):
        with open_bytes(path) as file:
            found = "json" if file.read(256).lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"[" else found
    return found


def row_format(path: str, format: str) -> str:
    """The format of a file of which rows are read: as asked, or by its name."""
    if format != "auto" and not path.startswith(HUGGING_FACE):
        if format not in FORMATS:
            raise ValueError(
                f"{path}: data.format={format!r} has no rows of text; use 'auto' or one of "
                f"{', '.join(FORMATS)}."
            )
        return format
    found = table_format(path)
    if found is None:
        raise ValueError(
            f"{path}: cannot tell its format from its name. Name it with --set=data.format=..., "
            f"one of {', '.join(FORMATS)}; or choose other files with --set=data.pattern=...."
        )
    return found


def is_number(column: str) -> bool:
    """Whether a column is given by a number."""
    return _NUMBER.fullmatch(column) is not None


def quoted(names: Iterable[str]) -> str:
    """The names in quotes, for messages."""
    return ", ".join(repr(name[:60]) for name in names) or "none"


def find_column(
    column: str, names: Sequence[str] | None, width: int, option: str, place: str
) -> int:
    """The place of a column that is given by name or by number.

    A name stands before a number: a column that is called "2" is found by "2". Numbers count from
    0, from the end with a minus sign.
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


# CSV and TSV.


def delimited_rows(
    path: str,
    text: str,
    format: str,
    columns: Mapping[str, str],
    header: str | Sequence[str] = "auto",
    quotes: bool | None = None,
    limits: Limits = DEFAULT_LIMITS,
    separator: str = "auto",
) -> Iterator[Row]:
    """The rows of a CSV or TSV text; blank lines are none. See `labeled.read_labeled`."""
    if isinstance(header, str) and header not in ("auto", "first", "none"):
        raise ValueError(f"header={header!r}: use 'auto', 'first', 'none' or a list of names.")
    if header == "auto":
        header = "none" if all(map(is_number, columns.values())) else "first"
    quotes = format == "csv" if quotes is None else quotes
    names = None if isinstance(header, str) else list(header)
    width = None if names is None else len(names)

    def find(place: str) -> dict[str, int]:
        return {
            option: find_column(name, names, width, option, place)
            for option, name in columns.items()
        }

    places = None if names is None else find(f"{path}:1")
    in_quotes = 0
    for line, row in split_rows(path, text, delimiter(format, separator), quotes, limits):
        if places is None:
            width = len(row)
            names = [name.strip() for name in row] if header == "first" else None
            places = find(f"{path}:{line}")
            if header == "first":
                continue
        if len(row) != width:
            raise ValueError(
                f"{path}:{line}: {len(row)} column(s), but the file has {width}"
                f"{f' ({quoted(names)})' if names else ''}. {_FIXES[quotes]}"
            )
        values = {option: row[place] for option, place in places.items()}
        in_quotes += not quotes and any(map(_looks_quoted, values.values()))
        yield line, values
    if in_quotes:
        logging.warning(
            '%s: %d row(s) hold fields in quotes with "" in them, which are read as they stand. '
            "If quotes enclose fields in this file, read it with quotes=True",
            path,
            in_quotes,
        )


def delimiter(format: str, separator: str) -> str:
    """The character between the columns of a CSV or TSV file."""
    if separator == "auto":
        return "\t" if format == "tsv" else ","
    if separator not in SEPARATORS:
        raise ValueError(
            f"data.separator={separator!r} does not separate the columns of a table: use 'auto' "
            f"or one of {', '.join(SEPARATORS)}."
        )
    return SEPARATORS[separator]


def split_rows(
    path: str, text: str, delimiter: str, quotes: bool, limits: Limits
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row of a text, with the line in which it starts."""
    line, size = 1, 0  # where the row starts, and how much of it was read

    def lines() -> Iterator[str]:
        nonlocal size
        for part in io.StringIO(text, newline="\n"):  # text.py made all line ends so
            size += len(part)
            limits.check_row(part if size == len(part) else size, f"{path}:{line}")
            yield part

    reader = csv.reader(
        lines(),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        # The module's own limit is one for the whole process: set for a single row.
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
        line, size = reader.line_num + 1, 0


def _looks_quoted(value: str) -> bool:
    inside = value[1:-1]
    return value[:1] == value[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', "")


# JSON.


def json_rows(
    path: str,
    text: str,
    columns: Mapping[str, str],
    limits: Limits = DEFAULT_LIMITS,
    format: str = "jsonl",
) -> Iterator[Row]:
    """The objects of a text with one JSON object per line ("jsonl"), or of one array ("json").

    Numbers keep the spelling of the file, true and false are labels of that name.
    """
    replaced = 0
    for number, record in json_objects(path, text, limits, format):
        values = {}
        for option, name in columns.items():
            value = record.get(name)
            if isinstance(value, bool):
                value = str(value).lower()
            is_missing = value is None or (isinstance(value, float) and math.isnan(value))
            if is_missing and option == "label_column" and name in record:
                value = ""  # The reader tells what to do about missing labels, as in a table.
            if not isinstance(value, str):
                found = "no field" if name not in record else f"{_kind(value)} in field"
                raise ValueError(
                    f"{path}:{number}: {found} {name!r} ({option}). The fields of this line are "
                    f"{quoted(record)}. Correct or remove the row, or name a field that holds a "
                    f"string with --set=data.{option}=..."
                )
            values[option] = replace_surrogates(value)
            replaced += values[option] != value
        yield number, values
    if replaced:
        logging.warning("%s: %d field(s) held half a UTF-16 pair, now U+FFFD", path, replaced)


def json_objects(
    path: str, text: str, limits: Limits, format: str = "jsonl"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of `json_rows`, with the line in which each starts."""
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=float)
    each = "Each line must be one whole object" if format == "jsonl" else "Each item is an object"
    parse = _json_lines if format == "jsonl" else _json_array
    number = 1
    try:
        for number, record in parse(path, text, limits, decoder):
            if not isinstance(record, dict):
                raise ValueError(
                    f"{path}:{number}: a JSON {type(record).__name__}, not an object. {each}, "
                    'such as {"text": "...", "label": "..."}.'
                )
            yield number, record
    except _JSONError as error:
        raise ValueError(
            f"{path}:{error.line}: not JSON ({error}). {each}, such as "
            '{"text": "...", "label": "..."}.'
        ) from error.__cause__


class _JSONError(Exception):
    def __init__(self, line: int, cause: Exception | str):
        super().__init__(str(cause))
        self.line = line


def _json_lines(path: str, text: str, limits: Limits, decoder: json.JSONDecoder):
    for number, line in enumerate(text.split("\n"), start=1):
        limits.check_row(line, f"{path}:{number}")
        if line.strip():
            try:
                record = decoder.decode(line)
            except (ValueError, RecursionError) as error:
                raise _JSONError(number, error) from error
            yield number, record


def _json_array(path: str, text: str, limits: Limits, decoder: json.JSONDecoder):
    place, line = text.find("[") + 1, 1
    counted = 0
    while True:
        place = _BLANK.match(text, place).end()
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            break
        try:
            record, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _JSONError(line, error) from error
        limits.check_row(text[place:end], f"{path}:{line}")
        yield line, record
        place = _BLANK.match(text, end).end()
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            raise _JSONError(line, "behind the item that starts here stands no comma")


def _kind(value: object) -> str:
    if isinstance(value, float):  # finite numbers were left as they are spelled
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return {type(None): "null", list: "an array", dict: "an object"}[type(value)]
