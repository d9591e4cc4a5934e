"""Bytes of files to clean text: compression, encodings, and large files in blocks of lines."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import zstandard
from absl import logging

MAX_INVALID_FRACTION = 0.01
BLOCK_BYTES = 1 << 22
# How far from a wanted place a line break is looked for that no token reaches across.
LOOK_BYTES = 1 << 16
# Of a Zstandard file: 4 bytes may unpack to 128 KiB, and a chunk is unpacked whole.
_ZSTANDARD_CHUNK = 1 << 10
_SURROGATES = re.compile("[\ud800-\udfff]")
# A line break with no blank beside it: byte-pair and WordPiece tokenizers never join across it.
_LONE_BREAK = re.compile(rb"\S\n(?=\S)")
# Encodings in which byte 10 is a line break and never a part of another character.
_KEEP_LINES = re.compile(
    r"utf-8(-sig)?|ascii|iso8859.*|cp\d+|koi8.*|mac.*|gb2312|gbk|gb18030|big5.*|shift_jis.*|euc_.*"
    r"|tis-620|johab"
)


class _ZstandardReader(io.RawIOBase):
    """Frames one after another. zstandard's own stream_reader takes a truncated file for whole."""

    def __init__(self, file: BinaryIO):
        self._file, self._frame, self._pending = file, None, io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not (count := self._pending.readinto(buffer)):
            chunk = self._file.read(_ZSTANDARD_CHUNK)
            if not chunk and self._frame is not None:
                raise EOFError("it ends before the end of its last frame")
            if not chunk:
                return 0
            parts = []
            while chunk:
                self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
                parts.append(self._frame.decompress(chunk))
                chunk = b""
                if self._frame.eof:
                    chunk, self._frame = self._frame.unused_data, None
            self._pending = io.BytesIO(b"".join(parts))
        return count


# Suffix -> what the format is called, the program that checks a file of it, and its reader.
_COMPRESSED: dict[str, tuple[str, str, Callable[[BinaryIO], BinaryIO]]] = {
    ".gz": ("gzip", "gzip", lambda file: gzip.GzipFile(fileobj=file)),
    ".zst": ("Zstandard", "zstd", lambda file: io.BufferedReader(_ZstandardReader(file))),
    ".bz2": ("bzip2", "bzip2", bz2.BZ2File),
    ".xz": ("xz", "xz", lzma.LZMAFile),
}


def _suffix(path: str) -> str:
    return next((suffix for suffix in _COMPRESSED if path.endswith(suffix)), "")


def is_compressed(path: str) -> bool:
    """Whether `open_bytes` decompresses this file: its name says so."""
    return bool(_suffix(path))


def plain_name(path: str) -> str:
    """`path` without the suffix of its compression: `a.jsonl` of `a.jsonl.zst`."""
    return path.removesuffix(_suffix(path))


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """The content of a file, decompressed (all its members or frames) by its suffix, in passing."""
    kind, program, unpack = _COMPRESSED.get(_suffix(path), ("", "", contextlib.nullcontext))
    with open(path, "rb") as raw, unpack(raw) as file:
        try:
            yield file
        except (EOFError, OSError, zlib.error, zstandard.ZstdError, lzma.LZMAError) as error:
            # Damage that gzip and bz2 find is an OSError without a number; others are the disk's.
            if not kind or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise ValueError(
                f"{path}: broken {kind} file ({error}). Fetch it again; `{program} -t` checks it."
            ) from error


def decode(
    content: bytes | bytearray, is_cut: bool, path: str, encoding: str, invalid: str, offset=0
) -> str:
    """The text of a file's `content`, or of a block at `offset`; noise to learn from is refused."""

    def decoded(errors: str) -> str:
        # Incremental, because final=False leaves out a character that max_bytes cut in two.
        return codecs.getincrementaldecoder(encoding)(errors).decode(content, final=not is_cut)

    def refusal(reason: str) -> ValueError:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            fix = "It starts with a UTF-16 byte order mark: use --set=data.encoding=utf-16."
        else:
            fix = (
                "Declare its encoding (--set=data.encoding=latin-1, utf-16-le, gb18030, ...), or "
                "leave it out with --set=data.pattern=..., such as *.txt."
            )
        return ValueError(f"{path}: binary or not {encoding}: {reason}. {fix}")

    is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if not is_wide and (place := content.find(b"\0")) >= 0:
        raise refusal(f"NUL byte at offset {offset + place}")
    try:
        text = decoded("strict")
    except UnicodeError as error:
        if "BOM" in str(error):  # UTF-16 or 32 without; a UnicodeDecodeError since Python 3.13
            raise refusal(str(error)) from error
        position = f"byte 0x{content[error.start]:02x} at offset {offset + error.start}"
        if invalid == "strict":
            before = unify_line_ends(content[: error.start].decode(encoding, "replace"))
            line = f"line {before.count(chr(10)) + 1}{f' from {offset} on' if offset else ''}"
            raise ValueError(
                f"{path}: not valid {encoding}: {position}, {line}. "
                "Declare the encoding (--set=data.encoding=...) or use invalid='replace'."
            ) from error
        text = decoded("replace")
        count = text.count("\ufffd") - decoded("ignore").count("\ufffd")
        if count > MAX_INVALID_FRACTION * len(text):
            share = f"{count} of {len(text)} characters invalid, first {position}"
            raise refusal(share) from error
        message = "%s: %d invalid character(s) for %s became U+FFFD, the first is %s"
        logging.warning(message, path, count, encoding, position)
    return unify_line_ends(text if offset else text.removeprefix("\ufeff"))


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD, one for one, for halves of UTF-16 pairs, which JSON can escape."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def unify_line_ends(text: str) -> str:
    """`text` with LF for CRLF and lone CR."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Block(NamedTuple):
    """A stretch of a file."""

    content: bytes | bytearray
    offset: int  # where it begins in the (decompressed) file
    is_cut: bool  # whether the file goes on behind it where reading had to stop
    is_last: bool  # whether it is the last of what was asked for


def keeps_lines(encoding: str) -> bool:
    """Whether a file in `encoding` may be cut at byte 10 without knowing what comes before it."""
    line_end = "\n".encode(encoding)
    known = _KEEP_LINES.fullmatch(codecs.lookup(encoding).name) is not None
    return known and line_end in (b"\n", codecs.BOM_UTF8 + b"\n")


def read_blocks(
    path: str,
    *,
    start: int = 0,
    stop: int | None = None,
    limit: int | None = None,
    whole: bool = False,
    check_size: Callable[[int], None] = lambda size: None,
) -> Iterator[Block]:
    """The bytes of a file from `start` to `stop`, in blocks that end behind a line break.

    Of about `BLOCK_BYTES`, or all in one (`whole`); `check_size` may refuse one that a long line
    makes longer. `limit` in place of `stop` may be beyond the end, and cut anywhere.
    """
    with open_bytes(path) as file:
        _skip(file, path, start)
        remaining = limit if stop is None else stop - start
        buffer, offset = bytearray(), start
        while True:
            wanted = BLOCK_BYTES if remaining is None else min(BLOCK_BYTES, remaining)
            chunk = file.read(wanted) if wanted else b""
            buffer += chunk
            if remaining is not None:
                remaining -= len(chunk)
            if not chunk or remaining == 0:
                break
            # A short file stays one block: only a read that gets nothing tells that it ended.
            if len(buffer) < BLOCK_BYTES:
                continue
            if cut := 0 if whole else _last_line_end(buffer):
                yield Block(bytes(buffer[:cut]), offset, False, False)
                offset += cut
                del buffer[:cut]
            else:
                check_size(len(buffer))
        if stop is not None and remaining:
            raise ValueError(
                f"{path}: ends {remaining} byte(s) before {stop}, where it went on earlier. The "
                "file has changed: restore it, or prepare it anew in another folder."
            )
        # The buffer itself: a copy of a whole file would hold it twice.
        yield Block(buffer, offset, limit is not None and bool(file.read(1)), True)


def read_bytes(path: str, limit: int | None) -> tuple[bytes | bytearray, bool]:
    """The first `limit` bytes of a file (None: all), and whether there was more."""
    block = next(read_blocks(path, limit=limit, whole=True))
    return block.content, block.is_cut


def line_start(path: str, position: int) -> int:
    """The first place to cut a file from `position` on, best at a lone break; else its size."""
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
    while count and (chunk := file.read(min(count, BLOCK_BYTES))):
        count -= len(chunk)


def _last_line_end(buffer: bytearray) -> int:
    """Behind the last line break, a lone one if there is one near the end; 0 without any."""
    lone = list(_LONE_BREAK.finditer(buffer, max(len(buffer) - LOOK_BYTES, 0)))
    return lone[-1].end() if lone else buffer.rfind(b"\n") + 1
