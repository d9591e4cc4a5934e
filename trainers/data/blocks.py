"""Files in blocks that end with a line, so that memory does not grow with them.

A text is cut where cutting changes no token, if there is such a place: after a line break with no
other blank beside it. Byte-pair and WordPiece tokenizers never join characters across it.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from trainers.data.compressed import is_compressed, open_bytes

BLOCK_BYTES = 1 << 22
_LOOK_BYTES = 1 << 16
_LONE_BREAK = re.compile(rb"\S\n(?=\S)")
# Encodings in which byte 10 is a line break and never a part of another character.
_KEEP_LINES = re.compile(
    r"utf-8(-sig)?|ascii|iso8859.*|cp\d+|koi8.*|mac.*|gb2312|gbk|gb18030|big5.*|shift_jis.*|euc_.*"
    r"|tis-620|johab"
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A stretch of a file.

    Attributes:
        content: bytes. offset: int, where it begins in the (decompressed) file.
        is_cut: bool, whether the file goes on behind it where reading was told to stop.
        is_last: bool, whether it is the last of what was asked for.
    """

    content: bytes
    offset: int
    is_cut: bool
    is_last: bool


def keeps_lines(encoding: str) -> bool:
    """Whether a file in `encoding` may be cut at byte 10 without knowing what comes before it.

    Example: `keeps_lines("utf-8") and not keeps_lines("utf-16")`
    """
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
        path: .gz and .zst are decompressed, and skipped up to `start` by reading.
        start: first byte. stop: byte behind the last, None for the end of the file.
        limit: reads at most so many bytes; then the last block may end anywhere.
        whole: one block, whatever its size.
        block_bytes: about how long a block is. Default: `BLOCK_BYTES`.
        check_size: told the size of a block that grows, having no line end; raises to refuse.

    Raises ValueError, naming the file, for broken compression and a file that ends before `stop`.

    Example: `[block.content for block in read_blocks("input.txt.gz")]`
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
        yield Block(bytes(buffer), offset, is_limited and bool(file.read(1)), True)


def line_start(path: str, position: int) -> int:
    """The first place to cut a file, from `position` on; its size if there is none.

    A line break between characters that are not blank is preferred, if there is one close by.
    The order of positions is the order of their places.

    Example: `line_start("input.txt", 1_000_000)`
    """
    begin = max(position - 2, 0)
    with open_bytes(path) as file:
        _skip(file, path, begin)
        buffer = file.read(_LOOK_BYTES)
        for match in _LONE_BREAK.finditer(buffer):
            if begin + match.end() >= position:
                return begin + match.end()
        searched = max(position - 1 - begin, 0)  # a break just before `position` counts
        while (place := buffer.find(b"\n", searched)) < 0:
            begin += len(buffer)
            searched = 0
            buffer = file.read(_LOOK_BYTES)
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
    near = max(len(buffer) - _LOOK_BYTES, 0)
    last = 0
    for match in _LONE_BREAK.finditer(buffer, near):
        last = match.end()
    return last or buffer.rfind(b"\n") + 1
