"""Reading prepared data: a token stream in shards, any stretch of it, without loading it.

    prepared = open_prepared(Path("prepared"))
    starts = tf.data.Dataset.from_tensors(np.array([0, 5000]))
    prepared.train.windows(starts, rows=2, length=65)  # a dataset of one int32 (2, 65)

Sizes are checked when the data are opened, and so is every byte of up to a gigabyte. In more than
that each record is checked against its CRC-32C as it is read, so a flipped bit stops training;
`TokenShards.check` then names the shard, as `verify` does at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainers.data.files import find_data_dir
from trainers.data.shard_format import (
    FEATURE,
    INDEX_FILE,
    TOKENIZER_FOLDER,
    DamagedShard,
    Index,
    Shard,
    Split,
    read_index,
    record_bytes,
)
from zoo.files import file_sha256
from zoo.tokenizers import Tokenizer, load_tokenizer

_BATCHES_AT_ONCE = 16
_CHUNK_RECORDS = 512
_HASHED_BYTES = 1 << 30  # about a second


class TokenShards:
    """The token stream of a split. `len()` is its tokens.

    Reading happens in TensorFlow's graph: a Python function in a pipeline would wait for the
    interpreter's lock, and hang a process that ends while a batch is under way.

    Args:
        folder: Path of the prepared data. index: Index. split: "train" or "validation".

    Attributes:
        fingerprint: digest of the tokens, without reading them.
        documents, characters: int, behind the tokens.

    Raises:
        DamagedShard: a shard is missing, or has another size.
    """

    def __init__(self, folder: Path, index: Index, split: Split):
        self._folder, self._shards = folder, index.split(split)
        self._dtype = tf.as_dtype(index.dtype)
        self._record_tokens = index.record_tokens
        tokens = np.array([shard.tokens for shard in self._shards], np.int64)
        self._ends = np.cumsum(tokens)
        self._begins = self._ends - tokens
        # Absolute: the process may change its working directory.
        self._paths = [str(folder.absolute() / shard.file) for shard in self._shards]
        self.documents = sum(shard.documents for shard in self._shards)
        self.characters = sum(shard.characters for shard in self._shards)
        digest = hashlib.sha256(index.fingerprint.encode())
        for shard in self._shards:
            digest.update(f"{shard.sha256} {shard.tokens}\n".encode())
            self._check_size(shard)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        """Tokens of the stream."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def windows(self, starts: tf.data.Dataset, rows: int, length: int) -> tf.data.Dataset:
        """Stretches of the stream, each read from its place.

        Args:
            starts: dataset of int64 (rows,), each at least 0. rows: int. length: int, tokens of
                each stretch.

        Returns:
            Dataset of int32 (rows, length); 0 beyond the end of the stream. Iterating raises
            tf.errors.DataLossError for a record that is not what was written; `check` tells which.
        """

        def one(starts):
            return tf.data.Dataset.from_tensor_slices(tf.reshape(starts, [-1]))

        def window(start):
            return self.window(start, length)

        # Some batches at once: making a dataset of the places of each costs as much as reading it.
        several = starts.batch(_BATCHES_AT_ONCE)
        single = several.flat_map(plain(one)).flat_map(plain(window))
        windows = single.batch(rows, drop_remainder=True)
        return windows.apply(tf.data.experimental.assert_cardinality(starts.cardinality()))

    def window(self, start: tf.Tensor, length: int) -> tf.data.Dataset:
        """A dataset of the one stretch at `start`, int32 (length,), as `windows` gives it."""
        last, size = len(self._shards) - 1, self._record_tokens
        place = tf.minimum(start, len(self) - 1)
        shard = tf.searchsorted(tf.constant(self._ends), place[None], side="right")[0]
        first = place - tf.gather(tf.constant(self._begins), shard)
        left = tf.gather(tf.constant(self._ends), shard) - place
        record, skipped = first // size, first % size
        # Behind the last shard comes the last again, whose ids are cut off below.
        files = tf.minimum(shard + tf.range(self._reach(length)), last)
        offsets = tf.pad(
            [record * record_bytes(size * self._dtype.size)], [[0, self._reach(length) - 1]]
        )
        records = (skipped + length - 1) // size + 1
        beyond = (skipped + left - 1) // size + 1 + (length - 1) // size + self._reach(length)
        data = tf.data.experimental.from_variant(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(tf.constant(self._paths), files),
                compression_type="",
                buffer_size=0,
                byte_offsets=offsets,
            ),
            tf.TensorSpec([], tf.string),
        )
        count = tf.where(left >= length, records, beyond)

        def stretch(stored):
            ids = tf.pad(self._ids(stored)[skipped:], [[0, length]])[:length]
            real = start + tf.range(length, dtype=tf.int64) < len(self)
            return tf.ensure_shape(tf.where(real, ids, 0), [length])

        return data.take(count).batch(count).map(plain(stretch))

    def _reach(self, length: int) -> int:
        """The most files that a window lies in."""
        ends = np.minimum(self._ends - 1 + length, len(self)) - 1
        reached = np.searchsorted(self._ends, ends, side="right")
        return int(max(reached - np.arange(len(self._ends)))) + 1

    def _ids(self, stored: tf.Tensor) -> tf.Tensor:
        """The ids of records, int32, one after another."""
        feature = {FEATURE: tf.io.FixedLenFeature([], tf.string)}
        ids = tf.strings.reduce_join(tf.io.parse_example(stored, feature)[FEATURE])
        return tf.cast(tf.io.decode_raw(ids, self._dtype), tf.int32)

    def chunks(self) -> Iterator[np.ndarray]:
        """The whole stream in order, in int32 arrays.

        Raises:
            DamagedShard: a record is not what was written.
        """
        stored = tf.data.TFRecordDataset(self._paths).batch(_CHUNK_RECORDS)
        try:
            yield from stored.map(plain(self._ids)).as_numpy_iterator()
        except tf.errors.DataLossError:
            self.check()
            raise

    def check(self) -> None:
        """Reads every byte.

        Raises:
            DamagedShard: a shard is not what was written; the message names it.
        """
        for shard in self._shards:
            self._check_size(shard)
            found = file_sha256(self._folder / shard.file)
            if found != shard.sha256:
                raise self._damaged(shard, f"its sha256 is {found}, not {shard.sha256}")

    def _check_size(self, shard: Shard) -> None:
        path = self._folder / shard.file
        if not path.is_file():
            raise self._damaged(shard, "the file is missing")
        if path.stat().st_size != shard.bytes:
            raise self._damaged(shard, f"{path.stat().st_size} bytes, not {shard.bytes}")

    def _damaged(self, shard: Shard, what: str) -> DamagedShard:
        return DamagedShard(
            f"{self._folder / shard.file}: damaged shard: {what}. Delete the file and run the same "
            "`python -m trainers.data.prepare` again: it makes only what is missing"
        )


def plain(function: Callable) -> Callable:
    """`function` without autograph, which finds nothing to convert in most, and takes its time."""
    return tf.autograph.experimental.do_not_convert(function)


# A stream of token ids, in memory or in shards.
TokenStream = np.ndarray | TokenShards


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared folder, opened.

    Attributes:
        folder: Path. index: Index. tokenizer: Tokenizer that made the ids.
        train, validation: TokenShards.
    """

    folder: Path
    index: Index
    tokenizer: Tokenizer
    train: TokenShards
    validation: TokenShards


def find_prepared(source: str, data_dir: str | None = None) -> Path | None:
    """The prepared folder that a source names, None if it names none.

    Args:
        source: path; a relative one is looked for in the working directory, then in `data_dir`.
        data_dir: Default: the environment variable ZOO_DATA.
    """
    data_dir = find_data_dir(data_dir)
    path = Path(source).expanduser()
    for base in (Path(), *([Path(data_dir)] if data_dir else [])):
        if (base / path / INDEX_FILE).is_file() and (base / path / TOKENIZER_FOLDER).is_dir():
            return base / path
    return None


def open_prepared(folder: Path, tokenizer: Tokenizer | None = None) -> Prepared:
    """Opens a prepared folder.

    Args:
        folder: Path. tokenizer: what a model reads with, which must have made the ids; None takes
            the folder's own.

    Raises:
        DamagedShard: the index or a shard is not what was written.
        ValueError: the ids are another tokenizer's; both fingerprints are named.

    Example: `len(open_prepared(Path("prepared")).train)`
    """
    index = read_index(folder)
    own = load_tokenizer(folder / TOKENIZER_FOLDER)
    for other, what in ((own, f"{folder / TOKENIZER_FOLDER} holds"), (tokenizer, "this run has")):
        if other is not None and other.fingerprint != index.fingerprint:
            raise ValueError(
                f"{folder}: its ids were made by a {index.tokenizer} tokenizer with fingerprint "
                f"{index.fingerprint}; {what} a {other.kind} tokenizer with {other.fingerprint}. "
                "Prepare the text with the tokenizer that the model has."
            )
    train, validation = (TokenShards(folder, index, split) for split in ("train", "validation"))
    if sum(shard.bytes for shard in index.shards) <= _HASHED_BYTES:
        train.check()
        validation.check()
    return Prepared(folder, index, own, train, validation)


def verify(folder: Path) -> Index:
    """Reads every byte of a prepared folder, however large.

    Raises:
        DamagedShard: a shard is not what was written.

    Example: `verify(Path("prepared")).shards`
    """
    prepared = open_prepared(folder)
    prepared.train.check()
    prepared.validation.check()
    return prepared.index
