"""Texts with labels from tables of any format, a folder per label, or plain lines.

1. Texts are kept as they stand, empty ones too (with a warning); whitespace around a label is
   dropped. A row without a label is an error, and so is one whose label is NaN or infinite, as
   programs write a number that is missing: nothing is guessed or left out in silence.
2. CSV is read by the rules of quotes: commas, quotes ("" within quotes) and line breaks may stand
   in a field. TSV is not: real ones hold lone quotes; `quotes=True` is for those that mean them.
3. A column is given by its name, or by its number from 0 (from the end: -1); JSON has names only.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from absl import logging

from trainers.data.config import DEFAULT_LIMITS, Limits
from trainers.data.examples import LabeledTexts, label_numbers, warn_blank
from trainers.data.records import stored_rows
from trainers.data.rows import (
    FORMATS,
    HUGGING_FACE,
    STORED,
    Row,
    delimited_rows,
    is_number,
    json_rows,
    table_format,
)
from trainers.data.sources import File, find_files, read_files

_FORMATS = (*FORMATS, "folders", "lines")
# How C, Python, NumPy, pandas, R and JSON spell numbers that are none.
_NOT_FINITE = frozenset(
    sign + name
    for sign in ("", "-", "+")
    for name in ("nan", "NaN", "NAN", "inf", "Inf", "INF", "infinity", "Infinity")
)


def read_labeled(
    source: str,
    *,
    data_dir: str | None = None,
    pattern: str | None = None,
    format: str = "auto",
    text_column: str | int = "text",
    pair_column: str | int | None = None,
    label_column: str | int | None = "label",
    id_column: str | int | None = None,
    header: Literal["auto", "first", "none"] | Sequence[str] = "auto",
    quotes: bool | None = None,
    separator: str = "auto",
    numeric_labels: bool = False,
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
    limits: Limits = DEFAULT_LIMITS,
) -> LabeledTexts:
    """Reads texts, or pairs of texts, with their labels.

    Args:
        source: a file, folder or glob, as in `documents.read_documents`; compressed too. Every file
            of a table has its own header. Or a Hugging Face data set, hfds://OWNER/NAME.
        data_dir: where relative paths are looked for after the working directory.
        pattern: which files of a folder or glob, such as "*.csv". Default: all.
        format: "csv", "tsv", "jsonl" (an object per line), "json" (an array of them), "parquet",
            "tfrecord", "folders" (a text per file, labelled by the name of its folder) or "lines"
            (a text per line that is not blank, no labels). "auto" goes by the extension; files of
            other extensions in folders are "folders".
        text_column, pair_column, label_column: of the (first) text, the second, the label; None
            has none. Columns do not matter in "folders" and "lines".
        id_column: only checked: ids that repeat are counted in a warning, all rows are kept.
        header: "first" if the first line names the columns, "none" if there are no names, or the
            names themselves for a file without them. "auto" is "none" if all columns are given
            by number, else "first".
        quotes: whether quotes enclose fields. Default: in CSV yes, in TSV no.
        separator: of CSV and TSV: "auto", "comma", "tab", "semicolon" or "pipe".
        numeric_labels: labels must be finite numbers.
        encoding, invalid: how bytes are read, see `text.decode`.
        limits: of all files together, and of a row.

    Raises FileNotFoundError if nothing is there; ValueError, naming file, line, column and fix,
    for everything that cannot be read as asked.
    """
    columns = {
        "text_column": text_column,
        "pair_column": pair_column,
        "label_column": label_column,
        "id_column": id_column,
    }
    columns = {option: str(name) for option, name in columns.items() if name is not None}
    if source.startswith(HUGGING_FACE):
        files, format = [File(source, source)], "hfds"
    else:
        files = find_files(source, data_dir, pattern)
        format = _format(source, files, format, columns)
    if format == "folders":
        _check_folders(files)

    def rows_of_files() -> Iterator[tuple[File, Iterator[Row]]]:
        if format in STORED:
            for file in files:
                yield file, stored_rows(file.path, format, columns, limits=limits)
            return
        for file, text in read_files(files, encoding=encoding, invalid=invalid, limits=limits):
            if format == "folders":
                row = {"text_column": text, "label_column": _folder(file)}
                rows = iter([(1, {option: row[option] for option in columns if option in row})])
            elif format == "lines":
                lines = enumerate(text.split("\n"), start=1)
                rows = ((number, {"text_column": line}) for number, line in lines if line.strip())
            elif format in ("jsonl", "json"):
                rows = json_rows(file.path, text, columns, limits, format)
            else:
                how = (header, quotes, limits, separator)
                rows = delimited_rows(file.path, text, format, columns, *how)
            yield file, rows

    values: dict[str, list[str]] = {option: [] for option in columns}
    where, without_rows, size = [], [], 0
    for file, rows in rows_of_files():
        before = len(where)
        for line, row in rows:
            where.append(f"{file.name}:{line}")
            for option, value in row.items():
                values[option].append(value)
            if format in STORED:
                size += sum(map(len, row.values()))
                limits.check_source(size, file.path)
            if format in ("folders", "lines"):
                limits.check_row(row["text_column"], f"{file.path}:{line}")
            if "label_column" in row and format != "folders":
                _check_label(row["label_column"].strip(), label_column, f"{file.path}:{line}")
        if len(where) == before:
            without_rows.append(file.path)
    if header == "auto" and format in ("csv", "tsv") and all(map(is_number, columns.values())):
        _warn_header(values, where)
    return _checked(source, values, where, without_rows, numeric_labels)


def _check_label(label: str, column: str | int, place: str) -> None:
    if not label:
        raise ValueError(
            f"{place}: no label in column {column!r}. Fill it in, remove the row, or read the text "
            "as unlabelled with label_column=None."
        )
    if label in _NOT_FINITE:
        raise ValueError(
            f"{place}: the label in column {column!r} is {label!r}, not a finite number and not a "
            "class. Fill it in or remove the row; a class that is really called so needs another "
            "name."
        )


def _checked(source, values, where, without_rows, numeric_labels) -> LabeledTexts:
    if not where:
        raise ValueError(
            f"{without_rows[0]}: no examples; {len(without_rows)} file(s) are empty or have only "
            "a header. Point the source at files with examples."
        )
    if without_rows:
        first = without_rows[0]
        logging.warning("%s: %d file(s) have no rows, such as %s", source, len(without_rows), first)
    labels = values.get("label_column")
    if labels is not None:
        labels = [label.strip() for label in labels]
        if numeric_labels:
            label_numbers(labels, where)
    warn_blank(f"{source}: text", values["text_column"], where)
    # A text may really be "nan", so it is kept.
    places = [place for text, place in zip(values["text_column"], where) if text in _NOT_FINITE]
    if places:
        logging.warning(
            "%s: %d text(s) are NaN or infinite as numbers are written, the first at %s. They are "
            "kept; remove rows whose text is missing",
            source,
            len(places),
            places[0],
        )
    if "pair_column" in values:
        warn_blank(f"{source}: second text", values["pair_column"], where)
    counts = Counter(values.get("id_column", ()))
    repeated = [f"{name!r} ({count} times)" for name, count in counts.items() if count > 1]
    if repeated:
        logging.warning(
            "%s: %d id(s) stand in several rows: %s. All rows are kept; remove copies that should "
            "not count twice",
            source,
            len(repeated),
            ", ".join(repeated[:3]),
        )
    return LabeledTexts(values["text_column"], values.get("pair_column"), labels, where)


def _warn_header(values: dict[str, list[str]], where: list[str]) -> None:
    """Columns by number say that there are no names, and the first line may hold some all the same.

    Then it is an example, of a class that no other has.
    """
    first, *others = values.get("label_column") or [""]
    if first and others and first not in others and len(set(others)) < len(others):
        logging.warning(
            "%s: no other row has the label %r. If this line names the columns, set "
            "--set=data.header=first (columns by number: it is read as an example)",
            where[0],
            first,
        )


def _format(source: str, files: list[File], format: str, columns: dict[str, str]) -> str:
    if format == "auto":
        found = {table_format(file.path): file.path for file in files}
        if len(found) == 1 and None not in found:
            (format,) = found
        elif set(found) == {None} and any(os.sep in file.name for file in files):
            format = "folders"
        elif set(found) == {None} and "label_column" not in columns:
            format = "lines"
        else:
            raise ValueError(
                f"{source}: cannot tell the format of {' and '.join(found.values())}. Choose files "
                'with --set=data.pattern=..., such as "*.csv", or name the format with '
                f"--set=data.format=..., one of {', '.join(_FORMATS)}."
            )
    if format not in _FORMATS:
        raise ValueError(f"format={format!r}: use 'auto' or one of {', '.join(_FORMATS)}.")
    if format == "lines" and "label_column" in columns:
        raise ValueError(
            f"{source}: a file of lines has no labels. Read it as unlabelled text with "
            "label_column=None, or give a CSV, TSV or JSONL file."
        )
    if format in ("lines", "folders") and (extra := {"pair_column", "id_column"} & set(columns)):
        raise ValueError(
            f"{source}: format {format!r} has one text per example and nothing else, so there is "
            f"no {' or '.join(sorted(extra))}. Use a CSV, TSV or JSONL file."
        )
    return format


def _folder(file: File) -> str:
    return os.path.basename(os.path.dirname(file.path))


def _check_folders(files: list[File]) -> None:
    """Label folders stand side by side: of `aclImdb` itself, train and test would become one."""
    parents = {os.path.dirname(os.path.dirname(file.path)): file.path for file in files}
    if len(parents) > 1:
        first, second = sorted(parents.values())[:2]
        raise ValueError(
            f"{first} and {second}: the folders of the labels must stand side by side, "
            "LABEL/FILE. Choose the files with a glob, such as 'train/[np]*/*.txt'."
        )
