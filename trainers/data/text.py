"""Bytes of files to clean text: compression, encodings, and large files in blocks of lines."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import dataclasses
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard
from absl import logging

MAX_INVALID_FRACTION = 0.01
BLOCK_BYTES = 1 << 22
# How far from a wanted place a line break is looked for that no token reaches across.
LOOK_BYTES = 1 << 16
# Of a Zstandard file: 4 bytes may unpack to 128 KiB, and a chunk is unpacked whole.
_ZSTANDARD_CHUNK = 1 << 10
# Suffix -> what the format is called, and the program that checks a file of it.
_COMPRESSED = {
    ".gz": ("gzip", "gzip"),
    ".zst": ("Zstandard", "zstd"),
    ".bz2": ("bzip2", "bzip2"),
    ".xz": ("xz", "xz"),
}
_SURROGATES = re.compile("[\ud800-\udfff]")
# A line break with no blank beside it: byte-pair and WordPiece tokenizers never join across it.
_LONE_BREAK = re.compile(rb"\S\n(?=\S)")
# Encodings in which byte 10 is a line break and never a part of another character.
_KEEP_LINES = re.compile(
    r"utf-8(-sig)?|ascii|iso8859.*|cp\d+|koi8.*|mac.*|gb2312|gbk|gb18030|big5.*|shift_jis.*|euc_.*"
    r"|tis-620|johab"
)


def _suffix(path: str) -> str | None:
    return next((suffix for suffix in _COMPRESSED if path.endswith(suffix)), None)


def is_compressed(path: str) -> bool:
    """Whether `open_bytes` decompresses this file: its name says so."""
    return _suffix(path) is not None


def plain_name(path: str) -> str:
    """`path` without the suffix of its compression: `a.jsonl` of `a.jsonl.zst`."""
    return path.removesuffix(_suffix(path) or "")


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """The content of a file, decompressed (all its members or frames) by its suffix, in passing."""
    suffix = _suffix(path)
    with contextlib.ExitStack() as stack:
        file: BinaryIO = stack.enter_context(open(path, "rb"))
        if suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif suffix == ".zst":
            file = stack.enter_context(io.BufferedReader(_ZstandardReader(file)))
        elif suffix == ".bz2":
            file = stack.enter_context(bz2.BZ2File(file))
        elif suffix == ".xz":
            file = stack.enter_context(lzma.LZMAFile(file))
        try:
            yield file
        except (EOFError, OSError, zlib.error, zstandard.ZstdError, lzma.LZMAError) as error:
            # Damage that gzip and bz2 find is an OSError without a number; others are the disk's.
            if suffix is None or (isinstance(error, OSError) and error.errno is not None):
                raise
            kind, program = _COMPRESSED[suffix]
            raise ValueError(
                f"{path}: broken {kind} file ({error}). Fetch it again; `{program} -t` checks it."
            ) from error


class _ZstandardReader(io.RawIOBase):
    """Frames one after another. zstandard's own stream_reader takes a truncated file for whole."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._frame = None
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._pending:
            chunk = self._file.read(_ZSTANDARD_CHUNK)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("it ends before the end of its last frame")
                return 0
            self._pending = memoryview(self._decompress(chunk))
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _decompress(self, chunk: bytes) -> bytes:
        parts = []
        while chunk:
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(self._frame.decompress(chunk))
            chunk = b""
            if self._frame.eof:
                chunk, self._frame = self._frame.unused_data, None
        return b"".join(parts)


def check_encoding(encoding: str) -> None:
    """Refuses what is no name of a Python text encoding."""
    try:
        codecs.getincrementaldecoder(encoding)
        b"a".decode(encoding, "replace")  # Also refuses codecs that are not text, such as hex.
    except (LookupError, UnicodeError) as error:
        raise ValueError(
            f"unknown text encoding {encoding!r}. Use a Python codec name, for example "
            "--set=data.encoding=utf-8 (or utf-16, latin-1, cp1252, gb18030, big5, shift_jis)."
        ) from error


def decode(
    content: bytes | bytearray,
    is_cut: bool,
    path: str,
    encoding: str,
    invalid: str,
    offset: int = 0,
) -> str:
    """The text of a file's `content`: one rule for every source.

    1. Bytes are read in the declared encoding; nothing is guessed.
    2. A byte order mark is removed; CRLF and lone CR become LF.
    3. Invalid bytes become U+FFFD with one warning (`invalid="replace"`), or are an error with
       their position ("strict").
    4. A NUL byte (unless UTF-16 or UTF-32), or more than 1 % invalid characters, is refused: it is
       binary, or in another encoding, and would only teach noise.

    Args:
        content: bytes of the file `path`, or a block of it that begins at `offset`.
        is_cut: True if the file goes on; a character cut in two at the end is then left out.
    """

    def decoded(errors: str) -> str:
        # Incremental, because final=False leaves out a character that max_bytes cut in two.
        return codecs.getincrementaldecoder(encoding)(errors).decode(content, final=not is_cut)

    is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if not is_wide and (place := content.find(b"\0")) >= 0:
        raise ValueError(_refusal(path, encoding, content, f"NUL byte at offset {offset + place}"))
    try:
        text = decoded("strict")
    except UnicodeDecodeError as error:
        position = f"byte 0x{content[error.start]:02x} at offset {offset + error.start}"
        if invalid == "strict":
            before = _unify(content[: error.start].decode(encoding, "replace"))
            line = f"line {before.count(chr(10)) + 1}{f' from {offset} on' if offset else ''}"
            raise ValueError(
                f"{path}: not valid {encoding}: {position}, {line}. "
                "Declare the encoding (--set=data.encoding=...) or use invalid='replace'."
            ) from error
        text = decoded("replace")
        count = text.count("\ufffd") - decoded("ignore").count("\ufffd")
        if count > MAX_INVALID_FRACTION * len(text):
            share = f"{count} of {len(text)} characters invalid, first {position}"
            raise ValueError(_refusal(path, encoding, content, share)) from error
        logging.warning(
            "%s: %d invalid character(s) for %s became U+FFFD, the first is %s",
            path,
            count,
            encoding,
            position,
        )
    except UnicodeError as error:  # No position: "UTF-16 stream does not start with BOM".
        raise ValueError(_refusal(path, encoding, content, str(error))) from error
    return _unify(text if offset else text.removeprefix("\ufeff"))


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD, one for one, for halves of UTF-16 pairs, which JSON can escape."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _unify(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refusal(path: str, encoding: str, content: bytes, reason: str) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        fix = "It starts with a UTF-16 byte order mark: use --set=data.encoding=utf-16."
    else:
        fix = (
            "Declare its encoding (--set=data.encoding=latin-1, utf-16-le, gb18030, ...), or "
            "leave it out with --set=data.pattern=..., such as *.txt."
        )
    return f"{path}: binary or not {encoding}: {reason}. {fix}"


@dataclasses.dataclass(frozen=True)
class Block:
    """A stretch of a file."""

    content: bytes | bytearray
    offset: int  # where it begins in the (decompressed) file
    is_cut: bool  # whether the file goes on behind it where reading had to stop
    is_last: bool  # whether it is the last of what was asked for


def keeps_lines(encoding: str) -> bool:
    """Whether a file in `encoding` may be cut at byte 10 without knowing what comes before it."""
    name = codecs.lookup(encoding).name
    return _KEEP_LINES.fullmatch(name) is not None and "\n".encode(encoding) in (
        b"\n",
        codecs.BOM_UTF8 + b"\n",
    )


def read_blocks(
    path: str,
    *,
    start: int = 0,
    stop: int | None = None,
    limit: int | None = None,
    whole: bool = False,
    block_bytes: int | None = None,
    check_size: Callable[[int], None] = lambda size: None,
) -> Iterator[Block]:
    """The bytes of a file from `start` to `stop`, in blocks that end behind a line break.

    A line longer than `block_bytes` makes its block longer; an empty range gives one empty block.

    Args:
        path: compressed files are unpacked, and skipped up to `start` by reading.
        start: first byte. stop: byte behind the last, None for the end of the file.
        limit: reads at most so many bytes; then the last block may end anywhere.
        whole: one block, whatever its size.
        block_bytes: about how long a block is. Default: `BLOCK_BYTES`.
        check_size: called with the size of a block that has no line end yet; raises to refuse.
    """
    block_bytes = block_bytes or BLOCK_BYTES
    with open_bytes(path) as file:
        _skip(file, path, start)
        remaining = None if stop is None else stop - start
        is_limited = limit is not None and (remaining is None or limit < remaining)
        remaining = limit if is_limited else remaining
        buffer, offset = bytearray(), start
        while True:
            wanted = block_bytes if remaining is None else min(block_bytes, remaining)
            chunk = file.read(wanted) if wanted else b""
            buffer += chunk
            if remaining is not None:
                remaining -= len(chunk)
            if not chunk or remaining == 0:
                break
            # A short file stays one block: only a read that gets nothing tells that it ended.
            if len(buffer) < block_bytes:
                continue
            cut = 0 if whole else _last_line_end(buffer)
            if cut:
                yield Block(bytes(buffer[:cut]), offset, False, False)
                offset += cut
                del buffer[:cut]
            else:
                check_size(len(buffer))
        if stop is not None and not is_limited and remaining:
            raise ValueError(
                f"{path}: ends {remaining} byte(s) before {stop}, where it went on earlier. The "
                "file has changed: restore it, or prepare it anew in another folder."
            )
        # The buffer itself: a copy of a whole file would hold it twice.
        yield Block(buffer, offset, is_limited and bool(file.read(1)), True)


def read_bytes(path: str, limit: int | None) -> tuple[bytes | bytearray, bool]:
    """The first `limit` bytes of a file (None: all), and whether there was more."""
    block = next(read_blocks(path, limit=limit, whole=True))
    return block.content, block.is_cut


def line_start(path: str, position: int) -> int:
    """The first place to cut a file, from `position` on; its size if there is none.

    A line break between characters that are not blank is preferred, if there is one close by.
    """
    begin = max(position - 2, 0)
    with open_bytes(path) as file:
        _skip(file, path, begin)
        buffer = file.read(LOOK_BYTES)
        for match in _LONE_BREAK.finditer(buffer):
            if begin + match.end() >= position:
                return begin + match.end()
        searched = max(position - 1 - begin, 0)  # a break just before `position` counts
        while (place := buffer.find(b"\n", searched)) < 0:
            begin += len(buffer)
            searched = 0
            buffer = file.read(LOOK_BYTES)
            if not buffer:
                return begin
        return begin + place + 1


def content_size(path: str) -> int:
    """Bytes of a file's content, counted by reading it if it is compressed."""
    with open_bytes(path) as file:
        if not is_compressed(path):
            return file.seek(0, 2)
        return sum(map(len, iter(lambda: file.read(BLOCK_BYTES), b"")))


def _skip(file: BinaryIO, path: str, count: int) -> None:
    if not is_compressed(path):
        file.seek(count)
        return
    while count:
        chunk = file.read(min(count, BLOCK_BYTES))
        if not chunk:
            return
        count -= len(chunk)


def _last_line_end(buffer: bytearray) -> int:
    """Behind the last line break, a lone one if there is one near the end; 0 without any."""
    near = max(len(buffer) - LOOK_BYTES, 0)
    last = 0
    for match in _LONE_BREAK.finditer(buffer, near):
        last = match.end()
    return last or buffer.rfind(b"\n") + 1
