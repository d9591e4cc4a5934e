"""Prepared data: TFRecord shards of token ids, the index beside them, and reading any stretch.

    index.json                        what is there, with checksums; written last
    tokenizer/tokenizer.json          what made the ids
    train-00003-of-00016.tfrecord     shards; unit 3 of the work wrote this one
    validation-00003-of-00016.tfrecord

A record is a `tf.train.Example` with the feature `token_ids`: little-endian uint16 (int32 for
vocabularies above 65,536) in one byte string. All records of a shard but the last hold
`record_tokens` ids, so token t lies in record t // record_tokens, whose place is known. The shards
of a split, one after another, are one stream of tokens; `end_id` follows each document.

Sizes are checked when the data are opened, and so is every byte of up to a gigabyte; in more each
record is checked against its CRC-32C as it is read, and `TokenShards.check` then names the shard.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from trainers.data.sources import find_data_dir
from zoo.config import ConfigError, config_dataclass, from_dict, to_dict
from zoo.files import file_sha256, replacing, write_json
from zoo.tokenizers import Tokenizer, load_tokenizer

INDEX_FILE = "index.json"
TOKENIZER_FOLDER = "tokenizer"
FEATURE = "token_ids"
_FRAME_BYTES = 8 + 4 + 4  # of a TFRecord: length, its checksum, and the record's
_BATCHES_AT_ONCE = 16
_CHUNK_RECORDS = 512
_HASHED_BYTES = 1 << 30  # about a second
Split = Literal["train", "validation"]


class DamagedShard(ValueError):
    """A shard is not what was written."""


@config_dataclass
class Shard:
    """A file of records, with its SHA-256 in hex."""

    file: str
    unit: int  # of the work, which wrote it
    split: Split
    tokens: int
    records: int
    bytes: int
    sha256: str
    documents: int  # a document counts where it ends
    characters: int


@config_dataclass
class Index:
    """What a prepared folder holds."""

    tokenizer: str  # kind of what made the ids
    fingerprint: str
    vocabulary_size: int
    end_id: int
    ends: bool  # whether end_id follows each document; it does not in a corpus of one
    dtype: Literal["uint16", "int32"]
    record_tokens: int
    shards: tuple[Shard, ...]  # in the order of the stream
    settings: dict[str, Any]  # a PrepareConfig
    sources: tuple[dict[str, Any], ...]  # the files that were read
    format: Literal["keras-lm-zoo tokens"] = "keras-lm-zoo tokens"
    format_version: Literal[1] = 1

    def split(self, name: Split) -> tuple[Shard, ...]:
        """The shards of a split."""
        return tuple(shard for shard in self.shards if shard.split == name)


def token_dtype(vocabulary_size: int) -> Literal["uint16", "int32"]:
    """The narrowest type of ids that the format has for a vocabulary."""
    return "uint16" if vocabulary_size <= 1 << 16 else "int32"


def record_bytes(id_bytes: int) -> int:
    """Length in the file of a record whose ids take `id_bytes`."""
    return _FRAME_BYTES + len(_example_prefix(id_bytes)) + id_bytes


@functools.lru_cache(maxsize=1024)
def _example_prefix(id_bytes: int) -> bytes:
    """What stands before the ids in the serialized `tf.train.Example`; nothing stands behind."""
    ids = bytes(id_bytes)
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[ids]))
    example = tf.train.Example(features=tf.train.Features(feature={FEATURE: feature}))
    serialized = example.SerializeToString(deterministic=True)
    if not serialized.endswith(ids):
        raise AssertionError("protobuf no longer writes the value last")
    return serialized[: len(serialized) - id_bytes]


def write_index(folder: Path, index: Index) -> None:
    """Writes `index.json` with its own checksum; a reader never sees half of it."""
    values = to_dict(index)
    write_json(folder / INDEX_FILE, {**values, "checksum": _checksum(values)}, indent=1)


def read_index(folder: Path) -> Index:
    """The index of a prepared folder."""
    path = folder / INDEX_FILE
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
        checksum = values.pop("checksum", None)
        index = from_dict(Index, values, where=str(path))
    except (ConfigError, ValueError, TypeError) as error:
        raise DamagedShard(f"{path}: no index of prepared data ({error}); restore it") from error
    if checksum != _checksum(to_dict(index)):
        raise DamagedShard(f"{path}: edited or damaged, its checksum differs; restore it")
    return index


def _checksum(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class ShardWriter:
    """What `writing_shard` yields; `shard` is there when the block has ended."""

    def __init__(self, records: tf.io.TFRecordWriter, dtype: str, record_tokens: int):
        self.shard: Shard | None = None
        self.tokens = self.characters = self.documents = self.records = self.bytes = 0
        self._file, self._record_tokens = records, record_tokens
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    def add(self, ids: np.ndarray, characters: int, documents: int) -> None:
        """Puts ids behind those that are there, and counts what they were made of."""
        self.tokens += len(ids)
        self.characters += characters
        self.documents += documents
        self._pending.append(ids)
        self._waiting += len(ids)
        self._write(self._waiting // self._record_tokens * self._record_tokens)

    def flush(self) -> None:
        """Writes what is left, as a shorter record."""
        self._write(self._waiting)

    def _write(self, count: int) -> None:
        if not count:
            return
        ids = np.concatenate(self._pending)
        for start in range(0, count, self._record_tokens):
            stop = min(start + self._record_tokens, count)
            stored = np.ascontiguousarray(ids[start:stop], self._dtype).tobytes()
            self._file.write(_example_prefix(len(stored)) + stored)
            self.records += 1
            self.bytes += record_bytes(len(stored))
        self._pending, self._waiting = [ids[count:]], len(ids) - count


@contextlib.contextmanager
def writing_shard(
    path: Path, unit: int, split: Split, dtype: str, record_tokens: int
) -> Iterator[ShardWriter]:
    """Writes one shard, which appears under its name when the block ends well."""
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
        if size != writer.bytes:
            raise OSError(f"{path}: {size} of {writer.bytes} bytes written; disk full?")
        digest = file_sha256(temporary)
    if not writer.tokens:
        path.unlink()
        return
    made = (writer.tokens, writer.records, size, digest, writer.documents, writer.characters)
    writer.shard = Shard(path.name, unit, split, *made)


class TokenShards:
    """The token stream of a split, `len()` tokens, read in TensorFlow's graph."""

    # A Python function in a pipeline would wait for the interpreter's lock, and hang a process
    # that ends while a batch is under way.

    def __init__(self, folder: Path, index: Index, split: Split):
        self._folder, self._shards = folder, index.split(split)
        self._dtype = tf.as_dtype(index.dtype)
        self._record_tokens = index.record_tokens
        tokens = np.array([shard.tokens for shard in self._shards], np.int64)
        self._ends = np.cumsum(tokens)
        self._begins = self._ends - tokens
        # Absolute: the process may change its working directory.
        self._paths = [str(folder.absolute() / shard.file) for shard in self._shards]
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
        """Stretches of the stream (rows, length), each read from its place; starts are (rows,)."""

        def one(starts):
            return tf.data.Dataset.from_tensor_slices(tf.reshape(starts, [-1]))

        # Some batches at once: making a dataset of the places of each costs as much as reading it.
        several = starts.batch(_BATCHES_AT_ONCE)
        single = several.flat_map(plain(one)).flat_map(plain(lambda s: self.window(s, length)))
        windows = single.batch(rows, drop_remainder=True)
        return windows.apply(tf.data.experimental.assert_cardinality(starts.cardinality()))

    def window(self, start: tf.Tensor, length: int) -> tf.data.Dataset:
        """A dataset of the one stretch at `start`, int32 (length,); 0 behind the end."""
        last, size = len(self._shards) - 1, self._record_tokens
        place = tf.minimum(start, len(self) - 1)
        shard = tf.searchsorted(tf.constant(self._ends), place[None], side="right")[0]
        first = place - tf.gather(tf.constant(self._begins), shard)
        left = tf.gather(tf.constant(self._ends), shard) - place
        record, skipped = first // size, first % size
        ends = np.minimum(self._ends - 1 + length, len(self)) - 1
        reached = np.searchsorted(self._ends, ends, side="right")
        shards = int(max(reached - np.arange(len(self._ends)))) + 1  # of any window, at most
        # Behind the last shard comes the last again, whose ids are cut off below.
        files = tf.minimum(shard + tf.range(shards), last)
        offset = record * record_bytes(size * self._dtype.size)
        records = (skipped + length - 1) // size + 1
        beyond = (skipped + left - 1) // size + 1 + (length - 1) // size + shards
        data = tf.data.experimental.from_variant(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(tf.constant(self._paths), files),
                compression_type="",
                buffer_size=0,
                byte_offsets=tf.pad([offset], [[0, shards - 1]]),
            ),
            tf.TensorSpec([], tf.string),
        )
        count = tf.where(left >= length, records, beyond)

        def stretch(stored):
            ids = tf.pad(self._ids(stored)[skipped:], [[0, length]])[:length]
            real = start + tf.range(length, dtype=tf.int64) < len(self)
            return tf.ensure_shape(tf.where(real, ids, 0), [length])

        return data.take(count).batch(count).map(plain(stretch))

    def _ids(self, stored: tf.Tensor) -> tf.Tensor:
        """The ids of records, int32, one after another."""
        feature = {FEATURE: tf.io.FixedLenFeature([], tf.string)}
        ids = tf.strings.reduce_join(tf.io.parse_example(stored, feature)[FEATURE])
        return tf.cast(tf.io.decode_raw(ids, self._dtype), tf.int32)

    def chunks(self) -> Iterator[np.ndarray]:
        """The whole stream in order, in int32 arrays."""
        stored = tf.data.TFRecordDataset(self._paths).batch(_CHUNK_RECORDS)
        try:
            yield from stored.map(plain(self._ids)).as_numpy_iterator()
        except tf.errors.DataLossError:
            self.check()
            raise

    def check(self) -> None:
        """Reads every byte."""
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
    """`function` without autograph, which takes most of the tracing time and finds nothing here."""
    return tf.autograph.experimental.do_not_convert(function)


# A stream of token ids, in memory or in shards.
TokenStream = np.ndarray | TokenShards


class Prepared(NamedTuple):
    """A prepared folder, opened."""

    folder: Path
    index: Index
    tokenizer: Tokenizer
    train: TokenShards
    validation: TokenShards


def find_prepared(source: str, data_dir: str | None = None) -> Path | None:
    """The prepared folder that a source names, None if it names none."""
    for base in (Path(), Path(find_data_dir(data_dir) or "")):
        path = base / Path(source).expanduser()
        if (path / INDEX_FILE).is_file() and (path / TOKENIZER_FOLDER).is_dir():
            return path
    return None


def open_prepared(folder: Path, tokenizer: Tokenizer | None = None) -> Prepared:
    """Opens a prepared folder."""
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
    """Reads every byte of a prepared folder, however large."""
    prepared = open_prepared(folder)
    prepared.train.check()
    prepared.validation.check()
    return prepared.index
