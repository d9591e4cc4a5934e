"""The format of prepared data: TFRecord shards of token ids, and the index beside them.

    index.json                        what is there, with checksums; written last
    tokenizer/tokenizer.json          what made the ids
    train-00003-of-00016.tfrecord     shards; unit 3 of the work wrote this one
    validation-00003-of-00016.tfrecord

A record is a `tf.train.Example` with one feature, `token_ids`: little-endian uint16 (int32 for
vocabularies above 65,536) in one byte string. All records of a shard but the last hold
`record_tokens` ids and so have the same length: token t of a shard lies in record
t // record_tokens, which starts at byte (t // record_tokens) x `record_bytes(record_tokens)`. The
shards of a split, one after another, are one stream of tokens; `end_id` follows each document.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf

from zoo.config import STRICT, ConfigError, from_dict, to_dict
from zoo.files import replacing

INDEX_FILE = "index.json"
TOKENIZER_FOLDER = "tokenizer"
FEATURE = "token_ids"
FORMAT = "keras-lm-zoo tokens"
FORMAT_VERSION = 1
RECORD_TOKENS = 1024
_FRAME_BYTES = 8 + 4 + 4  # of a TFRecord: length, its checksum, and the record's
Split = Literal["train", "validation"]


class DamagedShard(ValueError):
    """A shard is not what was written."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
        file: its name. unit: int, the unit of work that wrote it. split: "train", "validation".
        tokens, records, bytes: int, how much there is. sha256: of the file, hex.
        documents, characters: int, whose tokens these are; a document counts where it ends.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    file: str
    unit: int
    split: Split
    tokens: int
    records: int
    bytes: int
    sha256: str
    documents: int
    characters: int


@dataclasses.dataclass(frozen=True)
class Index:
    """What a prepared folder holds.

    Attributes:
        tokenizer, fingerprint: kind and fingerprint of what made the ids.
        vocabulary_size, end_id: int, of it. ends: bool, whether end_id follows each document; it
            does not in a corpus of one.
        dtype: "uint16" or "int32". record_tokens: int, ids of a record.
        shards: all of them, in the order of the stream.
        settings: how it was prepared, a dict of `trainers.data.prepare`. sources: its files.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    tokenizer: str
    fingerprint: str
    vocabulary_size: int
    end_id: int
    ends: bool
    dtype: Literal["uint16", "int32"]
    record_tokens: int
    shards: tuple[Shard, ...]
    settings: dict[str, Any]
    sources: tuple[dict[str, Any], ...]
    format: Literal["keras-lm-zoo tokens"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION

    def split(self, name: Split) -> tuple[Shard, ...]:
        """The shards of a split."""
        return tuple(shard for shard in self.shards if shard.split == name)


def token_dtype(vocabulary_size: int) -> Literal["uint16", "int32"]:
    """The narrowest type of ids that the format has for a vocabulary."""
    return "uint16" if vocabulary_size <= 1 << 16 else "int32"


def record_bytes(id_bytes: int) -> int:
    """Length in the file of a record whose ids take `id_bytes`."""
    return _FRAME_BYTES + len(example_prefix(id_bytes)) + id_bytes


@functools.lru_cache(maxsize=1024)
def example_prefix(id_bytes: int) -> bytes:
    """What stands before the ids in the serialized `tf.train.Example`; nothing stands behind."""
    ids = bytes(id_bytes)
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[ids]))
    example = tf.train.Example(features=tf.train.Features(feature={FEATURE: feature}))
    serialized = example.SerializeToString(deterministic=True)
    if not serialized.endswith(ids):
        raise AssertionError("protobuf no longer writes the value last")
    return serialized[: len(serialized) - id_bytes]


def example_of(ids: bytes) -> bytes:
    """The `tf.train.Example` of a record."""
    return example_prefix(len(ids)) + ids


def write_index(folder: Path, index: Index) -> None:
    """Writes `index.json` with its own checksum; a reader never sees half of it."""
    values = to_dict(index)
    with replacing(folder / INDEX_FILE) as temporary:
        text = json.dumps({**values, "checksum": _checksum(values)}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_index(folder: Path) -> Index:
    """The index of a prepared folder.

    Raises:
        DamagedShard: it is not the index that was written. OSError: it cannot be read.

    Example: `read_index(Path("prepared")).split("train")[0].tokens`
    """
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


def as_stored(ids: np.ndarray, dtype: str) -> bytes:
    """Ids as the bytes of a record."""
    return np.ascontiguousarray(ids, np.dtype(dtype).newbyteorder("<")).tobytes()
