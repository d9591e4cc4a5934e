"""Documents of running text: whole files, their lines, poems, articles, or a column of rows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Literal

from absl import logging

from trainers.data.config import DEFAULT_LIMITS, Limits
from trainers.data.records import stored_rows
from trainers.data.rows import (
    HUGGING_FACE,
    STORED,
    delimited_rows,
    json_rows,
    row_format,
    table_format,
)
from trainers.data.sources import (
    NAMED_SOURCES,
    File,
    check_invalid,
    find_address,
    find_data_dir,
    find_files,
)
from trainers.data.text import Block, check_encoding, decode, keeps_lines, read_blocks

# Articles start at " = Title = " between blank lines; " = = Part = = " is a part of one. Without
# the blank lines, formulas of two articles would look like titles.
_WIKITEXT_TITLE = re.compile(r"(?:\A|(?<=^ \n)) = [^=\n]+ = \n(?= \n)", re.MULTILINE)
_COLUMN = "text_column"  # what messages call the option that names the field


@dataclasses.dataclass(frozen=True)
class Document:
    """One text of a corpus; `name` says where it is from (a path, or a path and line)."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """How files become documents; the fields are those of `trainers.data.config.DataConfig`."""

    encoding: str = "utf-8"
    invalid: Literal["replace", "strict"] = "replace"
    split: Literal["files", "lines", "rows", "poems", "articles"] = "files"
    format: str = "auto"
    text_column: str = "text"
    header: Literal["auto", "first", "none"] = "auto"
    quotes: bool | None = None
    limits: Limits = DEFAULT_LIMITS
    separator: str = "auto"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text of the document `name`, which ends with it if `is_last`; a large one has several."""

    name: str
    text: str
    is_last: bool = True


@dataclasses.dataclass
class Meter:
    """Counts what was read; `bytes` are those of the decompressed files."""

    bytes: int = 0
    is_cut: bool = False


def read_documents(
    source: str,
    *,
    data_dir: str | None = None,
    max_bytes: int | None = None,
    pattern: str | None = None,
    **reading,
) -> list[Document]:
    """Reads the documents of `source`, always in the same order (sorted by path).

    Args:
        source: a file, a folder (all files in it, recursively, without hidden ones), a glob
            (`**` recurses), a key of `NAMED_SOURCES`, an address `https://...#sha256=HEX` (kept
            in the cache), or a Hugging Face data set `hfds://OWNER/NAME?split=train` (needs the
            package `datasets`). Files ending in .gz, .zst, .bz2 and .xz are decompressed.
        data_dir: where relative paths are looked for after the working directory, and named
            corpora before anything else. Default: the environment variable ZOO_DATA.
        max_bytes: reads at most this many (uncompressed) bytes, then stops; a character, and
            under "lines" a line, cut by the limit is left out. Default: no limit.
        pattern: which files of a folder or glob to read, by file name, such as "*.txt"
            (matches input.txt.gz too). Default: all.
        reading: fields of `Reading`: encoding, invalid ("replace" or "strict"), split ("files"
            makes a document of each file, "lines" of each line that is not blank, "rows" of each
            row's `text_column`), format, text_column, header, quotes, separator, limits.
    """
    if max_bytes is not None and max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes}: use a positive number, or None for no limit.")
    files, reading = find_source(source, Reading(**reading), data_dir=data_dir, pattern=pattern)
    documents, empty, remaining, before = [], [], max_bytes, 0
    for file in files:
        if remaining == 0:
            logging.info("%s: stopped at max_bytes=%d before %s", source, max_bytes, file.path)
            break
        meter, parts, has_text = Meter(), [], False
        for piece in read_pieces(file, reading, meter, limit=remaining):
            reading.limits.check_source(before + meter.bytes, file.path)
            parts.append(piece.text)
            has_text = has_text or bool(piece.text)
            if piece.is_last:
                if any(parts):
                    documents.append(Document(piece.name, "".join(parts)))
                parts = []
        before += meter.bytes
        if remaining is not None:
            remaining = max(remaining - meter.bytes, 0)
        if not has_text and reading.split == "files":
            empty.append(file.path)
    if not documents:
        raise ValueError(
            f"{source}: no text in {len(files)} file(s), the first is {files[0].path}. "
            "Point the source at files that are not empty, or raise max_bytes."
        )
    if empty:
        logging.warning("%s: skipped %d empty file(s), such as %s", source, len(empty), empty[0])
    return documents


def find_source(
    source: str, reading: Reading, *, data_dir: str | None = None, pattern: str | None = None
) -> tuple[list[File], Reading]:
    """The files of a source, and how they are read: a named corpus knows that itself."""
    check_invalid(reading.invalid)
    if reading.split not in ("files", "lines", "rows"):
        raise ValueError(f"split={reading.split!r}: use 'files', 'lines' or 'rows'.")
    check_encoding(reading.encoding)
    data_dir = find_data_dir(data_dir)
    if named := NAMED_SOURCES.get(source):
        split = named.split or reading.split
        return named.find(data_dir), dataclasses.replace(reading, encoding="utf-8", split=split)
    if source.startswith(("https://", "http://")):
        files = [find_address(source, data_dir, reading.limits)]
    elif source.startswith(HUGGING_FACE):
        files = [File(source, source)]
    else:
        files = find_files(source, data_dir, pattern, NAMED_SOURCES)
    for file in files:
        if reading.split != "rows" and table_format(file.path) in STORED:
            raise ValueError(
                f"{file.path}: holds rows, not text. Read one column of them with "
                "--set=data.split=rows and --set=data.text_column=NAME."
            )
    return files, reading


def read_pieces(
    file: File,
    reading: Reading,
    meter: Meter,
    *,
    start: int = 0,
    stop: int | None = None,
    limit: int | None = None,
) -> Iterator[Piece]:
    """The documents of a file in order; empty ones and blank lines are none.

    `start` and `stop` limit it to bytes of text and JSON lines, row groups of a Parquet file, or
    rows of a Hugging Face data set; `limit` to so many bytes. `meter` counts what was read.
    """
    format = row_format(file.path, reading.format) if reading.split == "rows" else None
    limits = reading.limits
    if format in STORED:
        columns = {_COLUMN: reading.text_column}
        for number, row in stored_rows(file.path, format, columns, start, stop, limits):
            text = row[_COLUMN]
            meter.bytes += len(text.encode("utf-8", "replace"))
            if text:
                yield Piece(f"{file.name}:{number}", text)
        return
    in_blocks = reading.split in ("files", "lines") or format == "jsonl"
    whole = not (in_blocks and keeps_lines(reading.encoding))
    check = limits.check_source if whole or reading.split == "files" else limits.check_row
    blocks = read_blocks(
        file.path,
        start=start,
        stop=stop,
        limit=limit,
        whole=whole,
        check_size=lambda size: check(size, file.path),
    )
    make = _rows if format else _SPLITS[reading.split]
    lines = 0  # before the block
    for block in blocks:
        meter.bytes += len(block.content)
        meter.is_cut = block.is_cut
        text = decode(
            block.content, block.is_cut, file.path, reading.encoding, reading.invalid, block.offset
        )
        yield from make(_Place(file, reading, format, block, start, lines), text)
        lines += text.count("\n")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a block's text stands: `lines` of it lie between `start` and the block."""

    file: File
    reading: Reading
    format: str | None
    block: Block
    start: int
    lines: int

    def name(self, number: int) -> str:
        """Of line `number` of the block, from 1. Lines of a later part are counted from there."""
        part = f"@{self.start}" if self.start else ""
        return f"{self.file.name}{part}:{self.lines + number}"


def _whole(place: _Place, text: str) -> Iterator[Piece]:
    yield Piece(place.file.name, text, place.block.is_last)


def _lines(place: _Place, text: str) -> Iterator[Piece]:
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if place.block.is_cut else lines, start=1):
        place.reading.limits.check_row(line, f"{place.file.path}: {place.name(number)}")
        if line.strip():
            yield Piece(place.name(number), line)


def _poems(place: _Place, text: str) -> Iterator[Piece]:
    """One document per line `title TAB author TAB body`: title, author and body on own lines."""
    for poem in _lines(place, text):
        if poem.text.count("\t") != 2:
            raise ValueError(
                f"{place.file.path}: {poem.name} has {poem.text.count(chr(9))} tabs, expected 2: "
                "title TAB author TAB body. Fix or remove the line."
            )
        yield Piece(poem.name, poem.text.replace("\t", "\n"))


def _articles(place: _Place, text: str) -> Iterator[Piece]:
    """One document per article of WikiText, named by the line its title is in."""
    starts = [match.start() for match in _WIKITEXT_TITLE.finditer(text)]
    for start, end in zip(starts, starts[1:] + [len(text)]):
        yield Piece(f"{place.file.name}:{text.count(chr(10), 0, start) + 1}", text[start:end])


def _rows(place: _Place, text: str) -> Iterator[Piece]:
    reading, path = place.reading, place.file.path
    if place.block.is_cut:
        text = text[: text.rfind("\n") + 1]
    columns = {_COLUMN: reading.text_column}
    if place.format in ("jsonl", "json"):
        try:
            rows = list(json_rows(path, text, columns, reading.limits, place.format))
        except ValueError:
            if not place.block.offset:
                raise
            # Blank lines in place of those before the block: now the message counts from the top.
            before = read_blocks(path, stop=place.block.offset)
            text = "\n" * sum(block.content.count(b"\n") for block in before) + text
            rows = json_rows(path, text, columns, reading.limits)
    else:
        how = (reading.header, reading.quotes, reading.limits, reading.separator)
        rows = delimited_rows(path, text, place.format, columns, *how)
    for number, row in rows:
        if row[_COLUMN]:
            yield Piece(place.name(number), row[_COLUMN])


_SPLITS: dict[str, Callable[[_Place, str], Iterator[Piece]]] = {
    "files": _whole,
    "lines": _lines,
    "poems": _poems,
    "articles": _articles,
}
