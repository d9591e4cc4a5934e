"""Opening files as bytes: plain, gzip (.gz) and Zstandard (.zst)."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

SUFFIXES = (".gz", ".zst")
# Of a Zstandard file: 4 bytes may unpack to 128 KiB, and a chunk is unpacked whole.
_CHUNK_BYTES = 1 << 10


def is_compressed(path: str) -> bool:
    """Whether `open_bytes` decompresses this file: its name says so."""
    return path.endswith(SUFFIXES)


def plain_name(path: str) -> str:
    """`path` without the suffix of its compression: `a.jsonl` of `a.jsonl.zst`."""
    return path.removesuffix(".gz").removesuffix(".zst") if is_compressed(path) else path


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """The content of a file, decompressed where the name ends in .gz or .zst.

    Several gzip members or Zstandard frames, one after another, are one content.

    Raises ValueError, naming the file, if what is read of it is truncated or damaged; OSError if
    it cannot be opened.

    Example: `with open_bytes("/data/input.txt.zst") as file: start = file.read(100)`
    """
    kind = "gzip" if path.endswith(".gz") else "Zstandard"
    with contextlib.ExitStack() as stack:
        file: BinaryIO = stack.enter_context(open(path, "rb"))
        if path.endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif path.endswith(".zst"):
            file = stack.enter_context(io.BufferedReader(_ZstandardReader(file)))
        try:
            yield file
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            program = "gzip" if kind == "gzip" else "zstd"
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
            chunk = self._file.read(_CHUNK_BYTES)
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
