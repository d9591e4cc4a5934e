"""Rows of files: CSV, TSV, JSON, TFRecord, Parquet, Hugging Face data sets; columns by name.

CSV and JSON by Python's own modules: pandas, pyarrow and datasets read 48 MB of CSV in 2.1, 0.4 and
1.0 s where this takes 4.0, but none names file, line and column of a mistake, or limits a row's
size. The packages for Parquet (`pyarrow`) and data sets (`datasets`) are not installed with us.
"""

import csv
import difflib
import importlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode

from absl import logging
from google.protobuf.message import DecodeError

from trainers.data.config import DataConfig, Limits
from trainers.data.text import open_bytes, plain_name, replace_surrogates, unify_line_ends

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
_NUMBER = re.compile(r"-?[0-9]{1,6}")
_BLANK = re.compile(r"\s*")


class Number(str):
    """A number of JSON as the file spells it, which a table may take for a text."""


def _spelled(number: str) -> str | float:
    """A `Number`; 1e999, which no float holds, is infinite."""
    value = float(number)
    return Number(number) if math.isfinite(value) else value


_JSON = json.JSONDecoder(parse_int=Number, parse_float=_spelled, parse_constant=float)
_ROWS_AT_ONCE = 1000
# Of a TFRecord: the length (8 bytes) and its checksum, then the content, then its checksum.
_RECORD_HEADER, _RECORD_FOOTER = 12, 4
_CHUNK_BYTES = 1 << 20
Row = tuple[int, dict[str, str]]  # (line or number of the row, {option that names a column: value})
Columns = Mapping[str, str]  # option that names a column -> name or number


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
    by_name = table_format(path) if format == "auto" or path.startswith(HUGGING_FACE) else format
    if by_name in (*FORMATS, "hfds"):
        return by_name
    what = "cannot tell its format from its name" if by_name is None else f"no rows in {format!r}"
    raise ValueError(
        f"{path}: {what}. Name it with --set=data.format=..., one of {', '.join(FORMATS)}; or "
        "choose other files with --set=data.pattern=...."
    )


def is_number(column: str) -> bool:
    """Whether a column is given by a number."""
    return _NUMBER.fullmatch(column) is not None


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names) or "none"


def find_column(
    column: str, names: Sequence[str] | None, width: int, option: str, place: str
) -> int:
    """The place of a column that is given by name or by number, of which a name comes first."""
    count = 0 if names is None else names.count(column)
    if names is not None and count == 1:
        return names.index(column)
    if not count and is_number(column) and -width <= int(column) < width:
        return int(column) % width
    have = _quoted(names) if names is not None else f"0 to {width - 1} (no names)"
    close = difflib.get_close_matches(column, names or (), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{place}: {count or 'no'} column{'s' if count else ''} {column!r} ({option}).{hint} The "
        f"columns are {have}. Choose one with --set=data.{option}=..., by name or number from 0; a "
        "file without a line of names is read if all columns are given by number."
    )


# Text: CSV, TSV and JSON.


def text_rows(
    path: str, text: str, format: str, columns: Columns, data: DataConfig
) -> Iterator[Row]:
    """The rows of a text of one of the `FORMATS` that are no `STORED` ones."""
    if format in ("jsonl", "json"):
        yield from _json_rows(path, text, format, columns, data.limits)
        return
    # Fields of TSV are in no quotes unless `quotes` says so: real ones hold lone quotes.
    header, quotes, separator = data.header, data.quotes, data.separator
    if header == "auto":
        header = "none" if all(map(is_number, columns.values())) else "first"
    quotes = format == "csv" if quotes is None else quotes
    separator = ("tab" if format == "tsv" else "comma") if separator == "auto" else separator
    if separator not in SEPARATORS:
        raise ValueError(
            f"data.separator={separator!r} does not separate the columns of a table: use 'auto' "
            f"or one of {', '.join(SEPARATORS)}."
        )
    names, width, places, in_quotes = None, None, {}, 0
    for line, row in split_rows(path, text, SEPARATORS[separator], quotes, data.limits):
        if width is None:
            width = len(row)
            names = [name.strip() for name in row] if header == "first" else None
            for option, name in columns.items():
                places[option] = find_column(name, names, width, option, f"{path}:{line}")
            if header == "first":
                continue
        if len(row) != width:
            fix = "A text must not hold a tab or line break (unless in quotes, with quotes=True)."
            if quotes:
                fix = 'A text with a comma or line break needs quotes around it: "a, b".'
            have = f"{width}{f' ({_quoted(names)})' if names else ''}"
            raise ValueError(f"{path}:{line}: {len(row)} column(s), but the file has {have}. {fix}")
        values = {option: row[place] for option, place in places.items()}
        in_quotes += not quotes and any(map(_looks_quoted, values.values()))
        yield line, values
    if in_quotes:
        message = (
            '%s: %d row(s) hold fields in quotes with "" in them, which are read as they stand. '
            "If quotes enclose fields in this file, read it with quotes=True"
        )
        logging.warning(message, path, in_quotes)


def split_rows(
    path: str, text: str, delimiter: str, quotes: bool, limits: Limits
) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row of a CSV or TSV text, with the line in which it starts."""
    line, size = 1, 0  # where the row starts, and how much of it was read

    def lines() -> Iterator[str]:
        nonlocal size
        for part in io.StringIO(text, newline="\n"):  # text.py made all line ends so
            size += len(part)
            limits.check("row_bytes", part if size == len(part) else size, f"{path}:{line}")
            yield part

    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
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


def _json_rows(path, text, format, columns, limits) -> Iterator[Row]:
    """Rows of JSON objects; true and false are labels of that name."""
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
                kind = {list: "an array", dict: "an object"}.get(type(value)) or json.dumps(value)
                found = "no field" if name not in record else f"{kind} in field"
                raise ValueError(
                    f"{path}:{number}: {found} {name!r} ({option}). The fields of this line are "
                    f"{_quoted(record)}. Correct or remove the row, or name a field that holds a "
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
    """The objects of a text, one a line ("jsonl") or in one array ("json"), with their lines."""
    for number, record in (_json_lines if format == "jsonl" else _json_array)(path, text, limits):
        if not isinstance(record, dict):
            what = f"a JSON {type(record).__name__}, not an object"
            raise _not_json(path, number, what, format)
        # As {"translation": {"en": "...", "es": "..."}}: the fields of an object by "name.field".
        inner = {
            f"{name}.{field}": value
            for name, fields in record.items()
            if isinstance(fields, dict)
            for field, value in fields.items()
        }
        yield number, {**inner, **record} if inner else record


def _not_json(path: str, line: int, what: str, format: str) -> ValueError:
    each = "Each line must be one whole object" if format == "jsonl" else "Each item is an object"
    such = 'such as {"text": "...", "label": "..."} or, of a chat, {"messages": [...]}.'
    return ValueError(f"{path}:{line}: {what}. {each}, {such}")


def _json_lines(path: str, text: str, limits: Limits) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        limits.check("row_bytes", line, f"{path}:{number}")
        if line.strip():
            try:
                record = _JSON.decode(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, number, f"not JSON ({error})", "jsonl") from error
            yield number, record


def _json_array(path: str, text: str, limits: Limits) -> Iterator[tuple[int, Any]]:
    place, line, counted = text.find("[") + 1, 1, 0
    while True:
        place = _BLANK.match(text, place).end()
        line, counted = line + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            return
        try:
            record, end = _JSON.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, line, f"not JSON ({error})", "json") from error
        limits.check("row_bytes", text[place:end], f"{path}:{line}")
        yield line, record
        place = _BLANK.match(text, end).end()
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            missing = "not JSON (behind the item that starts here stands no comma)"
            raise _not_json(path, line, missing, "json")


# Stored rows: Parquet, TFRecord and Hugging Face data sets.


def stored_rows(
    path: str, format: str, columns: Columns, limits: Limits, start=0, stop: int | None = None
) -> Iterator[Row]:
    """The rows of a file of one of the `STORED` formats; `start` and `stop` as `read_pieces`."""
    read = {"parquet": _parquet_rows, "tfrecord": _tfrecord_rows, "hfds": _hugging_face_rows}
    return read[format](path, columns, limits, start, stop)


def stored_sample(path: str, format: str, count: int) -> tuple[list[str], list[list[str]]]:
    """Column names and the first `count` rows of a file or data set, every value as text."""
    if format == "tfrecord":
        rows = []
        for record in _tfrecords(path).take(count):
            features = _tensorflow().train.Example.FromString(record.numpy()).features.feature
            rows.append({name: _shown(feature) for name, feature in features.items()})
        names = sorted({name for row in rows for name in row})
        return names, [[row.get(name, "") for name in names] for row in rows]
    if format == "parquet":
        table = _parquet_file(path)
        batch = next(table.iter_batches(count), table.schema_arrow.empty_table())
    else:
        batch = open_dataset(path).with_format("arrow")[:count]
    columns = [
        ["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns
    ]
    return batch.schema.names, [list(row) for row in zip(*columns)]


def _shown(feature: Any) -> str:
    values = getattr(feature, feature.WhichOneof("kind") or "bytes_list").value
    first = values[0] if len(values) == 1 else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)


def row_group_sizes(path: str) -> list[int]:
    """Bytes of each row group of a Parquet file, decompressed."""
    metadata = _parquet_file(path).metadata
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]


def open_dataset(address: str) -> Any:
    """The `datasets.Dataset` of an address `hfds://PATH?split=train&name=CONFIG`."""
    path, _, query = address.removeprefix(HUGGING_FACE).partition("?")
    options = dict(parse_qsl(query))
    known = {"name", "split", "revision", "data_dir"}
    if not path or set(options) - known:
        raise ValueError(
            f"{address}: write {HUGGING_FACE}OWNER/NAME?{urlencode({'split': 'train'})}; further "
            f"options are {', '.join(sorted(known))}."
        )
    try:
        return _optional("datasets", address).load_dataset(path, **{"split": "train", **options})
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{address}: datasets cannot load it: {error}") from error


def _hugging_face_rows(path, columns, limits, start, stop):
    dataset = open_dataset(path)
    names = _column_names(dataset.column_names, columns, path)
    # As Arrow has them: a row becomes a Python string when its turn comes, not a thousand at once.
    dataset = dataset.select_columns(sorted(set(names.values()))).with_format("arrow")
    stop = len(dataset) if stop is None else stop
    for first in range(start, stop, _ROWS_AT_ONCE):
        rows = dataset[first : min(first + _ROWS_AT_ONCE, stop)]
        yield from _arrow_rows(rows, first, path, names, limits)


def _parquet_rows(path, columns, limits, start, stop):
    names = _column_names(_parquet_file(path).schema_arrow.names, columns, path)
    wanted = sorted(set(names.values()))
    # A dictionary stays one: of a few bytes it could make many copies of a long text.
    table = _parquet_file(path, read_dictionary=wanted)
    groups = [table.metadata.row_group(index) for index in range(table.num_row_groups)]
    index = sum(group.num_rows for group in groups[:start])
    try:
        for number, group in enumerate(groups[start:stop], start):
            parts = map(group.column, range(group.num_columns))
            parts = [part for part in parts if part.path_in_schema.split(".")[0] in wanted]
            size = sum(part.total_uncompressed_size for part in parts)
            limits.check("source_bytes", size, path)
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[number], columns=wanted):
                yield from _arrow_rows(batch, index, path, names, limits)
                index += len(batch)
    except (OSError, importlib.import_module("pyarrow").ArrowException) as error:
        raise ValueError(f"{path}: broken Parquet file near row {index}: {error}") from error


def _parquet_file(path: str, **options: Any):
    arrow = _optional("pyarrow", path)
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path, **options)
    except arrow.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file, or broken: {error}") from error


def _column_names(names: list[str], columns: Columns, path: str) -> dict[str, str]:
    return {
        option: names[find_column(column, names, len(names), option, path)]
        for option, column in columns.items()
    }


def _arrow_rows(rows: Any, first: int, path: str, names: dict[str, str], limits: Limits):
    """The values of Arrow columns, a dict a row, each with its number."""
    arrays = {option: rows[name] for option, name in names.items()}
    for index in range(len(rows)):
        where, values = f"{path}, row {first + index}", {}
        for option, array in arrays.items():
            values[option] = _stored_text(array[index].as_py(), where, names[option], option)
            limits.check("row_bytes", values[option], where)
        yield first + index, values


def _tensorflow() -> ModuleType:
    """Loaded with the first TFRecord: tables are read, and their mistakes told, without it."""
    return importlib.import_module("tensorflow")


def _tfrecords(path: str) -> Any:
    if plain_name(path) != path and not path.endswith(".gz"):
        raise ValueError(f"{path}: TFRecord files may be plain or .gz; decompress it first.")
    return _tensorflow().data.TFRecordDataset(path, "GZIP" if path.endswith(".gz") else "")


def _tfrecord_rows(path, columns, limits, start, stop):
    records, index, errors = iter(_tfrecords(path)), 0, _tensorflow().errors
    with open_bytes(path) as content:
        while True:
            where = f"{path}, record {index}"
            _check_record(content, where, limits)
            try:
                record = next(records, None)
            except (errors.DataLossError, errors.OutOfRangeError) as error:
                raise ValueError(
                    f"{path}: broken TFRecord file behind record {index - 1}: {error.message}"
                ) from error
            if record is None:
                return
            yield index, _features(record.numpy(), where, columns)
            index += 1


def _check_record(content: BinaryIO, where: str, limits: Limits) -> None:
    """Reads over the next record, whose size TensorFlow would allocate whatever it is."""
    header = content.read(_RECORD_HEADER)
    size = int.from_bytes(header[:8], "little")
    limits.check("row_bytes", size, where)
    left = size + _RECORD_FOOTER if header else 0
    while left and (chunk := content.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)


def _features(record: bytes, where: str, columns: Columns) -> dict[str, str]:
    try:
        features = _tensorflow().train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"{where}: no tf.train.Example ({error})") from error
    values = {}
    for option, name in columns.items():
        find_column(name, sorted(features), 0, option, where)  # by name only
        kind = features[name].WhichOneof("kind")
        kinds = ("bytes_list",) if option == "text_column" else ("bytes_list", "int64_list")
        found = getattr(features[name], kind).value if kind in kinds else ()
        if len(found) != 1:
            raise ValueError(
                f"{where}: feature {name!r} must be one string; it is {kind or 'empty'}"
            )
        values[option] = _stored_text(found[0], where, name, option)
    return values


def _stored_text(value: Any, where: str, column: str, option: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: {column!r} is not UTF-8: {error}") from error
    if option in ("label_column", "id_column"):  # numbers are labels too
        value = "" if value is None else value
        value = str(value).lower() if isinstance(value, bool) else value
        value = str(value) if isinstance(value, int | float) else value
    if not isinstance(value, str):
        is_number = isinstance(value, float) and not math.isfinite(value)
        what = "null" if value is None else value if is_number else type(value).__name__
        raise ValueError(
            f"{where}: {column!r} holds {what}, not text. Remove the row, or name a column of "
            f"strings with --set=data.{option}=..."
        )
    return unify_line_ends(value)


def _optional(package: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs `pip install {package}` ({error})") from error
