"""The text of one file, document by document, a large document in pieces.

What `sources.read_documents` puts together for memory and `trainers.data.prepare` streams to
shards.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Literal

from trainers.data.blocks import Block, keeps_lines, read_blocks
from trainers.data.decoding import decode
from trainers.data.files import File
from trainers.data.limits import DEFAULT_LIMITS, Limits
from trainers.data.records import STREAMED, read_records, record_format
from trainers.data.rows import delimited_rows, json_rows

# Articles start at " = Title = " between blank lines; " = = Part = = " is a part of one. Without
# the blank lines, formulas of two articles would look like titles.
_WIKITEXT_TITLE = re.compile(r"(?:\A|(?<=^ \n)) = [^=\n]+ = \n(?= \n)", re.MULTILINE)
_COLUMN = "text_column"  # what messages call the option that names the field


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


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text of a document.

    Attributes:
        name: where the document is from: a path, or a path and line.
        text: str. is_last: bool, whether the document ends with it.
    """

    name: str
    text: str
    is_last: bool = True


@dataclasses.dataclass
class Meter:
    """Counts what was read; `bytes` are those of the decompressed files."""

    bytes: int = 0
    is_cut: bool = False


def read_pieces(
    file: File,
    reading: Reading,
    meter: Meter,
    *,
    start: int = 0,
    stop: int | None = None,
    limit: int | None = None,
) -> Iterator[Piece]:
    """The documents of a file, or of a part of it, in order; empty ones and blank lines are none.

    Args:
        file: File. reading: Reading. meter: Meter, told what was read.
        start, stop: bytes of text and JSON lines, row groups of a Parquet file, rows of a
            Hugging Face data set; None reads to the end.
        limit: of the bytes.

    Raises ValueError, naming file, place and fix, for what cannot be read.

    Example: `[p.text for p in read_pieces(File("a", "/a.txt"), Reading(split="lines"), Meter())]`
    """
    format = record_format(file.path, reading.format) if reading.split == "rows" else None
    if format in STREAMED:
        column, limits = reading.text_column, reading.limits
        for where, text in read_records(file, format, column, start, stop, limits):
            meter.bytes += len(text.encode("utf-8", "replace"))
            if text:
                yield Piece(f"{file.name}:{where}", text)
        return
    in_blocks = reading.split in ("files", "lines") or format == "jsonl"
    whole = not (in_blocks and keeps_lines(reading.encoding))
    limits = reading.limits
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
        place = _Place(file, reading, format, block, start, lines)
        yield from make(place, text)
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
    """One document per row of a CSV, TSV or JSON-lines file."""
    reading, path = place.reading, place.file.path
    if place.block.is_cut:
        text = text[: text.rfind("\n") + 1]
    columns = {_COLUMN: reading.text_column}
    if place.format == "jsonl":
        try:
            rows = list(json_rows(path, text, columns, reading.limits))
        except ValueError:
            if not place.block.offset:
                raise
            # Blank lines in place of those before the block: now the message counts from the top.
            text = "\n" * _lines_before(place) + text
            rows = json_rows(path, text, columns, reading.limits)
    else:
        how = (reading.header, reading.quotes, reading.limits)
        rows = delimited_rows(path, text, place.format, columns, *how)
    for number, row in rows:
        if row[_COLUMN]:
            yield Piece(place.name(number), row[_COLUMN])


def _lines_before(place: _Place) -> int:
    before = read_blocks(place.file.path, stop=place.block.offset)
    return sum(block.content.count(b"\n") for block in before)


_SPLITS: dict[str, Callable[[_Place, str], Iterator[Piece]]] = {
    "files": _whole,
    "lines": _lines,
    "poems": _poems,
    "articles": _articles,
}
