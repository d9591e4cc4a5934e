"""Shards: any stretch of the stream exactly, any flipped or missing byte told by shard."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data import pipeline
from trainers.data.prepare import shards
from trainers.data.prepare.shards import (
    FEATURE,
    DamagedShard,
    Index,
    find_prepared,
    open_prepared,
    read_index,
    record_bytes,
    token_dtype,
    verify,
    write_index,
    writing_shard,
)
from zoo.tokenizers import ByteTokenizer, CharacterTokenizer

SPLITS = ("train", "validation")


def write(folder, streams, record_tokens=5, dtype="uint16"):
    """A prepared folder whose shards hold these streams, {split: [ids of each shard]}."""
    tokenizer = ByteTokenizer()
    tokenizer.save(folder / "tokenizer")
    written = []
    for split in SPLITS:
        for number, ids in enumerate(streams[split]):
            path = folder / f"{split}-{number}.tfrecord"
            with writing_shard(path, number, split, dtype, record_tokens) as writer:
                for part in np.array_split(ids, 3):
                    writer.add(part, characters=len(part), documents=1)
            written += [] if writer.shard is None else [writer.shard]
    write_index(
        folder,
        Index(
            tokenizer="byte",
            fingerprint=tokenizer.fingerprint,
            vocabulary_size=257,
            end_id=256,
            ends=True,
            dtype=dtype,
            record_tokens=record_tokens,
            shards=tuple(written),
            settings={},
            sources=(),
        ),
    )
    return folder


def read_windows(stream, starts, length):
    """What `windows` gives for one batch of starts."""
    places = tf.data.Dataset.from_tensors(np.array(starts, np.int64))
    (windows,) = stream.windows(places, len(starts), length).as_numpy_iterator()
    return windows


def parts(ids):
    return {"train": [ids[:23], ids[23:30], ids[30:]], "validation": [np.arange(9)]}


@pytest.fixture
def prepared(tmp_path):
    """Three shards of 23, 7 and 40 tokens: their places in the stream; 9 tokens to validate on."""
    ids = np.arange(70, dtype=np.int32)
    return write(
        tmp_path / "out", {"train": [ids[:23], ids[23:30], ids[30:]], "validation": [ids[:9]]}
    )


# The format.


def test_any_tfrecord_reader_reads_the_ids(prepared):
    index = read_index(prepared)
    found = []
    for shard in index.split("train"):
        records = list(tf.data.TFRecordDataset(str(prepared / shard.file)).as_numpy_iterator())
        assert len(records) == shard.records
        assert os.path.getsize(prepared / shard.file) == shard.bytes
        for record in records:
            (value,) = (
                tf.train.Example.FromString(record).features.feature[FEATURE].bytes_list.value
            )
            found += np.frombuffer(value, "<u2").tolist()
        assert all(len(record) + 16 == record_bytes(10) for record in records[:-1])
    assert found == list(range(70))


def test_ids_that_need_more_room_get_it(tmp_path):
    assert (token_dtype(257), token_dtype(65_536), token_dtype(65_537)) == (
        "uint16",
        "uint16",
        "int32",
    )
    ids = np.array([0, 70_000, 2**31 - 1] * 5, np.int32)
    folder = write(tmp_path, {"train": [ids], "validation": [ids]}, dtype="int32")
    np.testing.assert_array_equal(read_windows(open_prepared(folder).train, [0], 15), [ids])


def test_a_shard_without_tokens_leaves_no_file(tmp_path):
    with writing_shard(tmp_path / "a.tfrecord", 0, "train", "uint16", 99) as writer:
        pass
    assert writer.shard is None and not os.listdir(tmp_path)


def test_a_failed_shard_leaves_no_file(tmp_path):
    with (
        pytest.raises(RuntimeError),
        writing_shard(tmp_path / "a", 0, "train", "uint16", 99) as writer,
    ):
        writer.add(np.arange(9000), characters=1, documents=1)
        raise RuntimeError
    assert not os.listdir(tmp_path)


def test_a_file_that_is_too_short_is_no_shard(tmp_path, monkeypatch):
    whole = shards.record_bytes
    monkeypatch.setattr(shards, "record_bytes", lambda id_bytes: whole(id_bytes) + 1)
    written = writing_shard(tmp_path / "a.tfrecord", 0, "train", "uint16", 10)
    with (
        pytest.raises(OSError, match=r"a\.tfrecord: .* bytes written; disk full"),
        written as writer,
    ):
        writer.add(np.arange(25), characters=1, documents=1)
    assert not os.listdir(tmp_path)


# Reading.


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any),
    st.integers(1, 7),
    st.lists(st.integers(0, 160), min_size=1, max_size=6),
    st.integers(1, 40),
)
def test_windows_are_stretches_of_the_stream(
    tmp_path_factory, sizes, record_tokens, starts, length
):
    ids = np.arange(sum(sizes), dtype=np.int32)
    folder = tmp_path_factory.mktemp("out")
    pieces = np.split(ids, np.cumsum(sizes)[:-1])
    write(folder, {"train": pieces, "validation": pieces[:1]}, record_tokens)
    train = open_prepared(folder).train
    assert len(train) == len(ids)
    padded = np.pad(ids, (0, 300))
    expected = [padded[start : start + length] for start in starts]
    np.testing.assert_array_equal(read_windows(train, starts, length), expected)
    np.testing.assert_array_equal(np.concatenate(list(train.chunks())), ids)


@pytest.mark.parametrize("segment", [1, 3])
def test_batches_are_those_of_the_stream_in_memory(prepared, segment):
    train = open_prepared(prepared).train

    def read(ids, **options):
        data = pipeline.training_windows(ids, 4, 5, 7, 3, 20, segment, **options)
        return [np.concatenate([part.numpy() for part in batch]) for batch in data]

    in_memory = read(np.arange(70, dtype=np.int32))
    for one, other in zip(in_memory, read(train), strict=True):
        np.testing.assert_array_equal(one, other)
    # Every host reads its rows of the same batch, whatever is read from.
    for ids in (train, np.arange(70, dtype=np.int32)):
        hosts = [read(ids, host=host, num_hosts=2) for host in range(2)]
        for whole, first, second in zip(in_memory, *hosts, strict=True):
            halves = [np.split(part, 2) for part in (first, second)]
            together = [np.concatenate(parts) for parts in zip(*halves)]
            np.testing.assert_array_equal(whole, np.concatenate(together))


@pytest.mark.parametrize("make", [pipeline.validation_windows, pipeline.validation_streams])
def test_validation_is_that_of_the_stream_in_memory(prepared, make):
    from_shards, from_memory = (
        make(ids, 3, 4)
        for ids in (open_prepared(prepared).validation, np.arange(9, dtype=np.int32))
    )
    for one, other in zip(from_shards, from_memory, strict=True):
        for part, expected in zip(one, other):
            np.testing.assert_array_equal(part, expected)


def test_a_prepared_folder_is_found(prepared, monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    assert find_prepared(str(prepared)) == prepared
    assert find_prepared("out", data_dir=str(prepared.parent)) == prepared
    monkeypatch.setenv("ZOO_DATA", str(prepared.parent))
    assert find_prepared("out") == prepared
    assert find_prepared(str(prepared.parent)) is None and find_prepared("tinyshakespeare") is None


# Damage.


@pytest.fixture(params=["length", "prefix", "ids", "checksum"])
def flipped(prepared, request):
    """The folder with one bit of a record flipped: tokens 35 to 39, in its last shard."""
    path = prepared / "train-2.tfrecord"
    content = bytearray(path.read_bytes())
    stride = record_bytes(10)
    places = {"length": 0, "prefix": 13, "ids": stride - 10, "checksum": stride - 1}
    content[stride + places[request.param]] ^= 4
    path.write_bytes(content)
    return prepared


def test_a_flipped_bit_names_the_shard(flipped):
    told = r"train-2\.tfrecord: damaged shard: its sha256 is .*prepare` again"
    with pytest.raises(DamagedShard, match=told):
        open_prepared(flipped)
    with pytest.raises(DamagedShard, match=told):
        verify(flipped)


def test_a_flipped_bit_stops_reading(flipped, monkeypatch):
    """What is too large to be read at opening is checked record by record."""
    monkeypatch.setattr(shards, "_HASHED_BYTES", 0)
    train = open_prepared(flipped).train
    np.testing.assert_array_equal(read_windows(train, [0, 30], 5)[1], np.arange(30, 35))
    with pytest.raises(tf.errors.DataLossError):
        read_windows(train, [34], 2)
    with pytest.raises(tf.errors.DataLossError):
        list(pipeline.training_windows(train, 4, 5, 0, 0, 20))
    with pytest.raises(DamagedShard, match=r"train-2\.tfrecord"):
        list(train.chunks())
    with pytest.raises(DamagedShard, match=r"train-2\.tfrecord"):
        verify(flipped)


def test_a_truncated_or_missing_shard_is_named(prepared):
    path = prepared / "validation-0.tfrecord"
    content = path.read_bytes()
    stream = open_prepared(prepared).validation
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedShard, match=rf"validation-0\.tfrecord.*{len(content) - 1} bytes"):
        open_prepared(prepared)
    with pytest.raises(tf.errors.DataLossError):
        read_windows(stream, [0], 9)
    path.unlink()
    with pytest.raises(DamagedShard, match=r"validation-0\.tfrecord.*the file is missing"):
        open_prepared(prepared)


def test_an_edited_index_is_refused(prepared):
    path = prepared / "index.json"
    text = path.read_text()
    values = json.loads(text)
    for broken in (
        text.replace('"tokens": 23', '"tokens": 24'),
        text[:-40],
        "[]",
        json.dumps({**values, "more": 1}),
        json.dumps({**values, "format_version": 2}),
    ):
        path.write_text(broken)
        with pytest.raises(DamagedShard, match=r"index\.json: .*restore it"):
            open_prepared(prepared)


def test_another_tokenizer_is_refused_by_both_fingerprints(prepared):
    own, other = ByteTokenizer().fingerprint, CharacterTokenizer("abc")
    both = re.compile(f"fingerprint {own}.*{other.fingerprint}")
    with pytest.raises(ValueError, match=both):
        open_prepared(prepared, other)
    other.save(prepared / "tokenizer")
    with pytest.raises(ValueError, match=both):
        open_prepared(prepared)


def test_the_fingerprint_follows_the_tokens(prepared, tmp_path):
    ids = np.arange(70, dtype=np.int32)
    same, other = (
        open_prepared(
            write(tmp_path / name, {"train": [ids[:23], ids[23:30], last], "validation": [ids[:9]]})
        )
        for name, last in (("same", ids[30:]), ("other", ids[30:] + 1))
    )
    first = open_prepared(prepared)
    assert first.train.fingerprint == same.train.fingerprint != other.train.fingerprint
    assert first.validation.fingerprint == other.validation.fingerprint
