"""Documents from files of records: TFRecord, Parquet, and Hugging Face data sets by name.

CSV, TSV and JSON lines, which are text, are read by `rows.py`. Parquet needs the package `pyarrow`
and Hugging Face data sets need `datasets`; neither is installed with this project.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode

import tensorflow as tf
from google.protobuf.message import DecodeError

from trainers.data.columns import find_column, quoted
from trainers.data.compressed import open_bytes, plain_name
from trainers.data.files import File
from trainers.data.limits import DEFAULT_LIMITS, Limits

HUGGING_FACE = "hfds://"
ROW_FORMATS = ("jsonl", "csv", "tsv", "parquet", "tfrecord")
# Formats that are no text; "hfds" is a data set by name.
STREAMED = ("parquet", "tfrecord", "hfds")
_EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
_ROWS_AT_ONCE = 1000
_OPTION = "text_column"  # what messages call the setting that names the column
# Of a TFRecord: the length (8 bytes) and its checksum, then the content, then its checksum.
_RECORD_HEADER, _RECORD_FOOTER = 12, 4
_CHUNK_BYTES = 1 << 20


def record_format(path: str, format: str = "auto") -> str:
    """The format of a file of records: as told, or by its extension.

    Raises ValueError, naming the file, if it cannot be told.

    Example: `record_format("a.jsonl.gz")` is `"jsonl"`.
    """
    if path.startswith(HUGGING_FACE):
        return "hfds"
    if format != "auto":
        if format not in ROW_FORMATS:
            raise ValueError(
                f"{path}: data.format={format!r} has no rows of text; use 'auto' or one of "
                f"{', '.join(ROW_FORMATS)}."
            )
        return format
    found = _EXTENSIONS.get(os.path.splitext(plain_name(path))[1].lower())
    if found is None:
        raise ValueError(
            f"{path}: cannot tell its format from its name. Name it with --set=data.format=..., "
            f"one of {', '.join(ROW_FORMATS)}; or choose other files with --set=data.pattern=...."
        )
    return found


def looks_binary(path: str) -> bool:
    """Whether a file's name says that it holds records that are no text."""
    extension = os.path.splitext(plain_name(path))[1].lower()
    return path.startswith(HUGGING_FACE) or _EXTENSIONS.get(extension) in STREAMED


def read_records(
    file: File,
    format: str,
    column: str,
    start: int,
    stop: int | None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[tuple[str, str]]:
    """The texts of a file of records, each with its place in the file.

    Args:
        file: File. format: one of `STREAMED`.
        column: feature of a `tf.train.Example`, column of a Parquet file or data set by name or
            number.
        start, stop: row groups of a Parquet file, rows of a data set. None: to the end.
        limits: of a record.

    Raises ValueError, naming file, place and field, for what cannot be read.
    """
    reader = {"parquet": _parquet, "tfrecord": _tfrecord, "hfds": _hugging_face}[format]
    return reader(file, column, start, stop, limits)


def row_group_sizes(path: str) -> list[int]:
    """Bytes of each row group of a Parquet file, decompressed."""
    metadata = _parquet_file(path).metadata
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]


def open_dataset(address: str) -> Any:
    """The `datasets.Dataset` of an address `hfds://PATH?split=train&name=CONFIG`.

    Raises ValueError if `datasets` is not installed, cannot load it, or the address names no split.
    """
    path, _, query = address.removeprefix(HUGGING_FACE).partition("?")
    options = dict(parse_qsl(query))
    known = {"name", "split", "revision", "data_dir"}
    if not path or set(options) - known:
        raise ValueError(
            f"{address}: write {HUGGING_FACE}OWNER/NAME?{urlencode({'split': 'train'})}; further "
            f"options are {', '.join(sorted(known))}."
        )
    datasets = _optional("datasets", address)
    options = {"split": "train", **options}
    try:
        return datasets.load_dataset(path, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{address}: datasets cannot load it: {error}") from error


def _hugging_face(file: File, column: str, start: int, stop: int | None, limits: Limits):
    dataset = open_dataset(file.path)
    names = dataset.column_names
    name = names[find_column(column, names, len(names), _OPTION, file.path)]
    # As Arrow has them: a row becomes a Python string when its turn comes, not a thousand at once.
    dataset = dataset.select_columns([name]).with_format("arrow")
    stop = len(dataset) if stop is None else stop
    for first in range(start, stop, _ROWS_AT_ONCE):
        rows = dataset[first : min(first + _ROWS_AT_ONCE, stop)].column(0)
        yield from _texts(rows, first, file.path, name, limits)


def _parquet(file: File, column: str, start: int, stop: int | None, limits: Limits):
    table = _parquet_file(file.path)
    names = table.schema_arrow.names
    name = names[find_column(column, names, len(names), _OPTION, file.path)]
    # A dictionary stays one: of a few bytes it could make many copies of a long text.
    table = _parquet_file(file.path, read_dictionary=[name])
    arrow = importlib.import_module("pyarrow")
    stop = table.num_row_groups if stop is None else stop
    metadata = table.metadata
    index = sum(metadata.row_group(group).num_rows for group in range(start))
    try:
        for group in range(start, stop):
            limits.check_source(_column_bytes(metadata.row_group(group), name), file.path)
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[name]):
                yield from _texts(batch.column(0), index, file.path, name, limits)
                index += len(batch)
    except (OSError, arrow.ArrowException) as error:
        raise ValueError(f"{file.path}: broken Parquet file near row {index}: {error}") from error


def _column_bytes(group: Any, name: str) -> int:
    """Unpacked bytes of a column in a row group of a Parquet file."""
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] == name
    )


def _texts(rows: Any, first: int, path: str, column: str, limits: Limits):
    """The values of an Arrow array, each with its number."""
    for index, value in enumerate(rows, start=first):
        where = f"{path}, row {index}"
        text = _text(value.as_py(), where, column)
        limits.check_row(text, where)
        yield str(index), text


def _parquet_file(path: str, **options: Any):
    arrow = _optional("pyarrow", path)
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path, **options)
    except arrow.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file, or broken: {error}") from error


def _tfrecord(file: File, column: str, start: int, stop: int | None, limits: Limits):
    if file.path.endswith(".zst"):
        raise ValueError(f"{file.path}: TFRecord files may be plain or .gz; decompress it first.")
    kind = "GZIP" if file.path.endswith(".gz") else ""
    records = iter(tf.data.TFRecordDataset(file.path, compression_type=kind))
    index = 0
    with open_bytes(file.path) as content:
        while True:
            where = f"{file.path}, record {index}"
            _check_record(content, where, limits)
            try:
                record = next(records, None)
            except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
                raise ValueError(
                    f"{file.path}: broken TFRecord file behind record {index - 1}: {error.message}"
                ) from error
            if record is None:
                return
            yield str(index), _feature(record.numpy(), where, column)
            index += 1


def _check_record(content: BinaryIO, where: str, limits: Limits) -> None:
    """Reads over the next record, whose size TensorFlow would allocate whatever it is."""
    header = content.read(_RECORD_HEADER)
    size = int.from_bytes(header[:8], "little")
    limits.check_row(size, where)
    left = size + _RECORD_FOOTER if header else 0
    while left and (chunk := content.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)


def _feature(record: bytes, where: str, name: str) -> str:
    example = tf.train.Example()
    try:
        example.ParseFromString(record)
    except DecodeError as error:
        raise ValueError(f"{where}: no tf.train.Example ({error})") from error
    features = example.features.feature
    if name not in features:
        raise ValueError(
            f"{where}: no column {name!r} ({_OPTION}). Features have names only, which are "
            f"{quoted(sorted(features))}. Choose one with --set=data.{_OPTION}=..."
        )
    values = features[name].bytes_list.value
    if len(values) != 1:
        kind = features[name].WhichOneof("kind")
        raise ValueError(f"{where}: feature {name!r} must be one string; it is {kind or 'empty'}")
    return _text(values[0], where, name)


def _text(value: Any, where: str, column: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: {column!r} is not UTF-8: {error}") from error
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"{where}: {column!r} holds {'null' if value is None else value}, not text. Remove the "
            "row, or name another column with --set=data.text_column=..."
        )
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: {column!r} holds {type(value).__name__}, not text. Name a column of strings "
            "with --set=data.text_column=..."
        )
    return value.replace("\r\n", "\n").replace("\r", "\n")


def _optional(package: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs `pip install {package}` ({error})") from error
