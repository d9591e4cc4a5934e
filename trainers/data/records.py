"""Rows of files that are no text: TFRecord, Parquet, and Hugging Face data sets by name.

Parquet needs the package `pyarrow` and Hugging Face data sets need `datasets`; neither is installed
with this project.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode

import tensorflow as tf
from google.protobuf.message import DecodeError

from trainers.data.config import DEFAULT_LIMITS, Limits
from trainers.data.rows import HUGGING_FACE, Row, find_column, quoted
from trainers.data.text import open_bytes, plain_name

_ROWS_AT_ONCE = 1000
# Of a TFRecord: the length (8 bytes) and its checksum, then the content, then its checksum.
_RECORD_HEADER, _RECORD_FOOTER = 12, 4
_CHUNK_BYTES = 1 << 20


def stored_rows(
    path: str,
    format: str,
    columns: Mapping[str, str],
    start: int = 0,
    stop: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Row]:
    """The rows of a file of one of the `STORED` formats, numbered from 0."""
    read = {"parquet": _parquet, "tfrecord": _tfrecord, "hfds": _hugging_face}[format]
    return read(path, columns, start, stop, limits)


def stored_sample(path: str, format: str, count: int) -> tuple[list[str], list[list[str]]]:
    """Column names and the first `count` rows of a file or data set, every value as text."""
    if format == "tfrecord":
        with open_bytes(path):
            pass  # tells what is missing
        kind = "GZIP" if path.endswith(".gz") else ""
        rows = []
        for record in tf.data.TFRecordDataset(path, compression_type=kind).take(count):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            rows.append({name: _shown(feature) for name, feature in features.items()})
        names = sorted({name for row in rows for name in row})
        return names, [[row.get(name, "") for name in names] for row in rows]
    if format == "parquet":
        table = _parquet_file(path)
        batch = next(table.iter_batches(count), None)
    else:
        batch = open_dataset(path).with_format("arrow")[:count]
    if batch is None:
        return table.schema_arrow.names, []
    columns = [
        ["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns
    ]
    return batch.schema.names, [list(row) for row in zip(*columns)]


def _shown(feature: tf.train.Feature) -> str:
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
    datasets = _optional("datasets", address)
    try:
        return datasets.load_dataset(path, **{"split": "train", **options})
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{address}: datasets cannot load it: {error}") from error


def _hugging_face(path, columns, start, stop, limits):
    dataset = open_dataset(path)
    names = _column_names(dataset.column_names, columns, path)
    # As Arrow has them: a row becomes a Python string when its turn comes, not a thousand at once.
    dataset = dataset.select_columns(sorted(set(names.values()))).with_format("arrow")
    stop = len(dataset) if stop is None else stop
    for first in range(start, stop, _ROWS_AT_ONCE):
        rows = dataset[first : min(first + _ROWS_AT_ONCE, stop)]
        yield from _arrow_rows(rows, first, path, names, limits)


def _parquet(path, columns, start, stop, limits):
    table = _parquet_file(path)
    names = _column_names(table.schema_arrow.names, columns, path)
    wanted = sorted(set(names.values()))
    # A dictionary stays one: of a few bytes it could make many copies of a long text.
    table = _parquet_file(path, read_dictionary=wanted)
    arrow = importlib.import_module("pyarrow")
    stop = table.num_row_groups if stop is None else stop
    metadata = table.metadata
    index = sum(metadata.row_group(group).num_rows for group in range(start))
    try:
        for group in range(start, stop):
            limits.check_source(_column_bytes(metadata.row_group(group), wanted), path)
            for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=wanted):
                yield from _arrow_rows(batch, index, path, names, limits)
                index += len(batch)
    except (OSError, arrow.ArrowException) as error:
        raise ValueError(f"{path}: broken Parquet file near row {index}: {error}") from error


def _column_names(names: list[str], columns: Mapping[str, str], path: str) -> dict[str, str]:
    return {
        option: names[find_column(column, names, len(names), option, path)]
        for option, column in columns.items()
    }


def _column_bytes(group: Any, names: list[str]) -> int:
    """Unpacked bytes of columns in a row group of a Parquet file."""
    columns = (group.column(index) for index in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] in names
    )


def _arrow_rows(rows: Any, first: int, path: str, names: dict[str, str], limits: Limits):
    """The values of Arrow columns, a dict a row, each with its number."""
    arrays = {option: rows[name] for option, name in names.items()}
    for index in range(len(rows)):
        where, values = f"{path}, row {first + index}", {}
        for option, array in arrays.items():
            values[option] = _stored_text(array[index].as_py(), where, names[option], option)
            limits.check_row(values[option], where)
        yield first + index, values


def _parquet_file(path: str, **options: Any):
    arrow = _optional("pyarrow", path)
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path, **options)
    except arrow.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file, or broken: {error}") from error


def _tfrecord(path, columns, start, stop, limits):
    if plain_name(path) != path and not path.endswith(".gz"):
        raise ValueError(f"{path}: TFRecord files may be plain or .gz; decompress it first.")
    kind = "GZIP" if path.endswith(".gz") else ""
    records = iter(tf.data.TFRecordDataset(path, compression_type=kind))
    index = 0
    with open_bytes(path) as content:
        while True:
            where = f"{path}, record {index}"
            _check_record(content, where, limits)
            try:
                record = next(records, None)
            except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
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
    limits.check_row(size, where)
    left = size + _RECORD_FOOTER if header else 0
    while left and (chunk := content.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)


def _features(record: bytes, where: str, columns: Mapping[str, str]) -> dict[str, str]:
    example = tf.train.Example()
    try:
        example.ParseFromString(record)
    except DecodeError as error:
        raise ValueError(f"{where}: no tf.train.Example ({error})") from error
    features, values = example.features.feature, {}
    for option, name in columns.items():
        if name not in features:
            raise ValueError(
                f"{where}: no column {name!r} ({option}). Features have names only, which are "
                f"{quoted(sorted(features))}. Choose one with --set=data.{option}=..."
            )
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
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"{where}: {column!r} holds {'null' if value is None else value}, not text. Remove the "
            f"row, or name another column with --set=data.{option}=..."
        )
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: {column!r} holds {type(value).__name__}, not text. Name a column of strings "
            f"with --set=data.{option}=..."
        )
    return value.replace("\r\n", "\n").replace("\r", "\n")


def _optional(package: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs `pip install {package}` ({error})") from error
