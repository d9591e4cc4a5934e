"""Rows of one CSV, TSV or JSON-lines text: the asked columns of each, by line number."""

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from trainers.data.columns import find_column, is_number, quoted
from trainers.data.decoding import replace_surrogates
from trainers.data.limits import DEFAULT_LIMITS, Limits

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
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Row]:
    """The rows of a CSV or TSV text; blank lines are none.

    Args:
        path: names the file in errors.
        text: of the file.
        format: "csv" or "tsv".
        columns: option -> column, by name or number: {"text_column": "review"}.
        header: "auto", "first", "none" or the columns' names; see `tables.read_labeled`.
        quotes: whether quotes enclose fields. Default: in CSV yes, in TSV no.
        limits: of a row.

    Raises ValueError, naming file and line, for a missing column, a row of another length than
    the header's, a row over the limit, and quotes that do not match.

    Example: `list(delimited_rows("a.csv", "text\\nhi\\n", "csv", {"text_column": "text"}))`
    """
    if isinstance(header, str) and header not in ("auto", "first", "none"):
        raise ValueError(f"header={header!r}: use 'auto', 'first', 'none' or a list of names.")
    if header == "auto":
        header = "none" if all(map(is_number, columns.values())) else "first"
    quotes = format == "csv" if quotes is None else quotes
    names = None if isinstance(header, str) else list(header)
    width = None if names is None else len(names)
    places = None if names is None else _places(columns, names, width, f"{path}:1")
    in_quotes = 0
    for line, row in _split(path, text, format, quotes, limits):
        if width is None:
            width = len(row)
            names = [name.strip() for name in row] if header == "first" else None
            places = _places(columns, names, width, f"{path}:{line}")
            if header == "first":
                continue
        if len(row) != width:
            raise ValueError(
                f"{path}:{line}: {len(row)} column(s), but the file has {width}"
                f"{f' ({quoted(names)})' if names else ''}. {_FIXES[format]}"
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


def json_rows(
    path: str, text: str, columns: Mapping[str, str], limits: Limits = DEFAULT_LIMITS
) -> Iterator[Row]:
    """The objects of a text with one JSON object per line; blank lines are none.

    Numbers keep the spelling of the file, true and false are labels of that name.

    Raises ValueError, naming file and line, for a line that is no JSON object or over the limit,
    a missing field, and a field that is neither a string, a finite number nor a boolean.

    Example: `list(json_rows("a.jsonl", '{"text": "hi"}', {"text_column": "text"}))`
    """
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=float)
    replaced = 0
    for number, line in enumerate(text.split("\n"), start=1):
        limits.check_row(line, f"{path}:{number}")
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


def _kind(value: object) -> str:
    if isinstance(value, float):  # finite numbers were left as they are spelled
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return {type(None): "null", list: "an array", dict: "an object"}[type(value)]


def _split(
    path: str, text: str, format: str, quotes: bool, limits: Limits
) -> Iterator[tuple[int, list[str]]]:
    line, size = 1, 0  # where the row starts, and how much of it was read

    def lines() -> Iterator[str]:
        nonlocal size
        for part in io.StringIO(text, newline="\n"):  # decoding.py made all line ends so
            size += len(part)
            limits.check_row(part if size == len(part) else size, f"{path}:{line}")
            yield part

    reader = csv.reader(
        lines(),
        delimiter=_DELIMITERS[format],
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


def _places(
    columns: Mapping[str, str], names: list[str] | None, width: int, place: str
) -> dict[str, int]:
    return {
        option: find_column(name, names, width, option, place) for option, name in columns.items()
    }


def _looks_quoted(value: str) -> bool:
    inside = value[1:-1]
    return value[:1] == value[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', "")
