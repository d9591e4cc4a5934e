"""Rows of JSON lines, CSV, TFRecord, Parquet and data sets: exact, and told by file, row, field."""

import gzip
import json
import sys

import pytest
import tensorflow as tf
import zstandard

from trainers.data import corpus
from trainers.data import text as text_module
from trainers.data.config import DataConfig
from trainers.data.corpus import Document

TEXTS = ["first", "zwei\nLinien", "трети €", "四"]


def read_documents(source, data_dir=None, **options):
    return corpus.read_documents(source, DataConfig(train=source, **options), data_dir)


def rows(path, **options):
    return read_documents(str(path), split="rows", **options)


def example(**features):
    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))

    named = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_records(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json.gz", "t.ndjson.zst"])
def test_json_lines(tmp_path, name):
    content = "\n".join(json.dumps({"id": 1, "body": text}) for text in [*TEXTS, ""]).encode()
    packers = {".gz": gzip.compress, ".zst": zstandard.compress}
    path = tmp_path / name
    path.write_bytes(packers.get(path.suffix, lambda content: content)(content))
    documents = rows(path, text_column="body")
    assert documents == [Document(f"{name}:{n}", text) for n, text in enumerate(TEXTS, 1)]
    with pytest.raises(ValueError, match=r"t\..*:1: no field 'text' \(text_column\).*'id', 'body'"):
        rows(path)
    # A file of rows is text where rows are not asked for, as ever.
    assert read_documents(str(path))[0].text.encode() == content


def test_lines_are_counted_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 40)
    lines = [json.dumps({"text": f"text {number}"}) for number in range(30)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines))
    assert [d.name for d in rows(path)] == [f"t.jsonl:{number}" for number in range(1, 31)]
    assert [d.text for d in rows(path, max_bytes=45)] == ["text 0", "text 1"]
    lines[20] = "{"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"t\.jsonl:21: not JSON"):
        rows(path)
    text = tmp_path / "t.txt"
    text.write_text("\n".join(f"line {number}" for number in range(30)))
    found = read_documents(str(text), split="lines")
    assert found == [Document(f"t.txt:{n + 1}", f"line {n}") for n in range(30)]
    assert read_documents(str(text))[0].text == text.read_text()


def test_csv_and_tsv(tmp_path):
    (tmp_path / "t.csv").write_text('id,body\n1,"a, ""b""\nc"\n2,d\n')
    assert [d.text for d in rows(tmp_path / "t.csv", text_column="body")] == ['a, "b"\nc', "d"]
    assert [d.name for d in rows(tmp_path / "t.csv", text_column="1")] == [
        "t.csv:1",
        "t.csv:2",
        "t.csv:4",
    ]
    (tmp_path / "t.txt").write_text("a\tb\n")
    options = {"format": "tsv", "text_column": "1", "header": "none"}
    assert rows(tmp_path / "t.txt", **options) == [Document("t.txt:1", "b")]
    with pytest.raises(ValueError, match=r"t\.txt: cannot tell its format.*csv, tsv, jsonl"):
        rows(tmp_path / "t.txt")
    with pytest.raises(ValueError, match=r"no rows in 'folders'"):
        rows(tmp_path / "t.txt", format="folders")


def test_tfrecords(tmp_path):
    path = tmp_path / "t.tfrecord"
    write_records(path, [example(text=[text.encode()], id=3) for text in TEXTS])
    assert rows(path) == [Document(f"t.tfrecord:{n}", text) for n, text in enumerate(TEXTS)]
    packed = tmp_path / "t.tfrecords.gz"
    write_records(packed, [example(text=[b"a"])], "GZIP")
    assert [d.text for d in rows(packed)] == ["a"]
    with pytest.raises(ValueError, match=r"record 0: no column 'body'.*'id', 'text'"):
        rows(path, text_column="body")
    with pytest.raises(ValueError, match=r"record 0: feature 'id' must be one string.*int64"):
        rows(path, text_column="id")
    with pytest.raises(ValueError, match=r"t\.tfrecord: holds rows, not text.*split=rows"):
        read_documents(str(path))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.tfrecord: broken TFRecord file behind record 2"):
        rows(path)
    path.write_bytes(content[:-30])
    with pytest.raises(ValueError, match=r"broken TFRecord file behind record 2"):
        rows(path)
    write_records(path, [example(text=[b"\xff"])])
    with pytest.raises(ValueError, match=r"record 0: 'text' is not UTF-8"):
        rows(path)
    nan = tf.train.Feature(float_list=tf.train.FloatList(value=[float("nan")]))
    features = tf.train.Features(feature={"text": nan})
    write_records(path, [tf.train.Example(features=features).SerializeToString()])
    with pytest.raises(ValueError, match=r"record 0: feature 'text' must be one string.*float"):
        rows(path)
    write_records(path, [b"\xff no example"])
    with pytest.raises(ValueError, match=r"record 0: no tf\.train\.Example"):
        rows(path)


def test_packages_that_are_not_installed_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"t\.parquet: reading it needs `pip install pyarrow`"):
        rows(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"hfds://me/mine: .*`pip install datasets`"):
        read_documents("hfds://me/mine", split="rows")
    with pytest.raises(ValueError, match=r"hfds://me/mine\?part=1: write hfds://OWNER/NAME"):
        read_documents("hfds://me/mine?part=1", split="rows")
    with pytest.raises(ValueError, match=r"holds rows, not text"):
        read_documents("hfds://me/mine")


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    table = arrow.table({"body": [*TEXTS, ""], "id": [1, 2, 3, 4, 5]})
    parquet.write_table(table, path, row_group_size=2)
    assert [d.text for d in rows(path, text_column="body")] == TEXTS
    with pytest.raises(ValueError, match=r"t\.parquet: no column 'text'.*'body', 'id'"):
        rows(path)
    with pytest.raises(ValueError, match=r"row 0: 'id' holds int, not text"):
        rows(path, text_column="id")
    assert [d.text for d in rows(path, text_column="0")] == TEXTS
    for values, told in (([None, "a"], "null"), ([float("nan"), 1.0], "nan"), ([1e999], "inf")):
        parquet.write_table(arrow.table({"text": values}), tmp_path / "n.parquet")
        with pytest.raises(ValueError, match=rf"row 0: 'text' holds {told}, not text"):
            rows(tmp_path / "n.parquet")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"t\.parquet: not a Parquet file, or broken"):
        rows(path)


def test_a_data_set_by_name(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"body": text}) for text in TEXTS]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines))
    address = f"hfds://{tmp_path / 'set'}?split=train"
    assert [d.text for d in rows(address, text_column="body")] == TEXTS
    with pytest.raises(ValueError, match=r"no column 'text'.*'body'"):
        rows(address)
    with (tmp_path / "set" / "train.jsonl").open("a") as file:
        file.write('\n{"body": null}\n')
    with pytest.raises(ValueError, match=r"row 4: 'body' holds null, not text"):
        rows(address, text_column="0")
    with pytest.raises(ValueError, match=r"hfds://.*nowhere.*cannot load it"):
        rows(f"hfds://{tmp_path}/nowhere")


def test_an_address_needs_its_checksum(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DATA", raising=False)
    with pytest.raises(ValueError, match=r"needs the checksum of its file.*sha256sum"):
        read_documents("https://host/a.txt")
    checksum = hashlib.sha256(b"text").hexdigest()
    kept = tmp_path / "cache" / "downloads" / checksum[:16] / "a.txt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"text")  # as a download leaves it: then the address is not asked again
    for digits in (checksum, checksum.upper()):
        assert read_documents(f"https://host/a.txt#sha256={digits}")[0].text == "text"
    with pytest.raises(ValueError, match=r"needs the checksum"):
        read_documents(f"https://host/a.txt#sha256={'x' * 64}")
    for address in ("https://host", "https://host/", "https://host/a/", "https://host/a/.."):
        with pytest.raises(ValueError, match=rf"{address}#.*names no file.*HOST/PATH/FILE"):
            read_documents(f"{address}#sha256={checksum}")
    with pytest.raises(ValueError, match=r"no address"):
        read_documents(f"https://[host/a.txt#sha256={checksum}")
