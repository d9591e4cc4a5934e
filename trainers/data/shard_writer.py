"""Writing a shard of prepared token ids."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainers.data.shard_format import (
    RECORD_TOKENS,
    Shard,
    Split,
    as_stored,
    example_of,
    record_bytes,
)
from zoo.files import file_sha256, replacing


class ShardWriter:
    """What `writing_shard` yields.

    Attributes:
        shard: Shard, what was written, once the block has ended; None if there were no tokens,
            which leaves no file.
    """

    def __init__(self, records: tf.io.TFRecordWriter, dtype: str, record_tokens: int):
        self.shard: Shard | None = None
        self.tokens = self.characters = self.documents = self.records = 0
        self._file, self._dtype, self._record_tokens = records, dtype, record_tokens
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    def add(self, ids: np.ndarray, *, characters: int, documents: int) -> None:
        """Puts ids behind those that are there, and counts what they were made of."""
        self.tokens += len(ids)
        self.characters += characters
        self.documents += documents
        self._pending.append(ids)
        self._waiting += len(ids)
        if self._waiting >= self._record_tokens:
            self._write(self._waiting // self._record_tokens * self._record_tokens)

    def flush(self) -> None:
        """Writes what is left, as a shorter record."""
        if self._waiting:
            self._write(self._waiting)

    def _write(self, count: int) -> None:
        ids = np.concatenate(self._pending)
        for start in range(0, count, self._record_tokens):
            stop = min(start + self._record_tokens, count)
            self._file.write(example_of(as_stored(ids[start:stop], self._dtype)))
            self.records += 1
        self._pending, self._waiting = [ids[count:]], len(ids) - count

    def expected_bytes(self) -> int:
        """The size that the file must have after `flush`."""
        width = np.dtype(self._dtype).itemsize
        full, rest = divmod(self.tokens, self._record_tokens)
        last = record_bytes(rest * width) if rest else 0
        return full * record_bytes(self._record_tokens * width) + last


@contextlib.contextmanager
def writing_shard(
    path: Path, unit: int, split: Split, dtype: str, record_tokens: int = RECORD_TOKENS
) -> Iterator[ShardWriter]:
    """Writes one shard, which appears under its name when the block ends well.

    Args:
        path: of the shard. unit: int, see `Shard`. split: "train" or "validation".
        dtype: "uint16" or "int32". record_tokens: int, ids of a record.

    Raises:
        OSError: it cannot be written, such as on a full disk.

    Example:
        with writing_shard(Path("train-00000-of-00001.tfrecord"), 0, "train", "uint16") as writer:
            writer.add(np.array([1, 2, 3]), characters=3, documents=1)
    """
    with replacing(path) as temporary:
        records = tf.io.TFRecordWriter(str(temporary))
        try:
            writer = ShardWriter(records, dtype, record_tokens)
            yield writer
            writer.flush()
        except tf.errors.OpError as error:
            raise OSError(f"{path}: cannot be written: {error.message}") from error
        finally:
            records.close()
        size = temporary.stat().st_size
        # TensorFlow's writer does not tell every write that failed.
        if size != writer.expected_bytes():
            raise OSError(f"{path}: {size} of {writer.expected_bytes()} bytes written; disk full?")
        digest = file_sha256(temporary)
    if not writer.tokens:
        path.unlink()
        return
    writer.shard = Shard(
        file=path.name,
        unit=unit,
        split=split,
        tokens=writer.tokens,
        records=writer.records,
        bytes=size,
        sha256=digest,
        documents=writer.documents,
        characters=writer.characters,
    )
