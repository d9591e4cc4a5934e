"""Limits: what is too large is refused while it is read, with the setting that raises the limit."""

import contextlib
import functools
import gzip
import http.server
import json
import threading
import tracemalloc

import pytest
import zstandard

from trainers.data import conll, corpus, labeled
from trainers.data import text as text_module
from trainers.data.config import DataConfig, Limits
from trainers.data.sources import File, download

MEGABYTE = 1 << 20


def reader(read, *arguments, **fixed):
    """A reader as a function of a path and options of DataConfig."""
    return lambda path, **options: read(
        path, DataConfig(train=path, **fixed, **options), None, *arguments
    )


read_documents, rows = (reader(corpus.read_documents, split=split) for split in ("files", "rows"))
lines = reader(corpus.read_documents, split="lines")
table = reader(labeled.read_labeled, "embed")
READERS = {
    "a.txt": read_documents,
    "lines.txt": lines,
    "utf16.txt": reader(corpus.read_documents, split="lines", encoding="utf-16-le"),
    "a.jsonl": rows,
    "a.csv": rows,
    "b.jsonl": table,
    "b.csv": table,
    "b.tsv": table,
    "a.conll": reader(conll.read_tagged),
    "a.json": reader(labeled.read_questions),
}
# How a file begins, a row, how a long one begins.
ROWS = {
    ".jsonl": (b"", b'{"text": "a"}\n', b'{"text": "'),
    ".csv": (b"text\n", b"a\n", b'"'),
    ".tsv": (b"text\n", b"a\n", b""),
}


def parts(name):
    return ROWS.get(name[name.index(".") :], (b"", b"a b c O\n", b""))


@functools.cache
def packed_rows(packed, row):
    pack = functools.partial(gzip.compress, compresslevel=1)
    return {".gz": pack, ".zst": zstandard.compress}[packed](row * (24 * MEGABYTE // len(row)))


@pytest.mark.parametrize(
    ("name", "packed"), [*((name, ".gz") for name in READERS), ("a.txt", ".zst")]
)
def test_a_file_that_unpacks_to_more_than_the_limit(tmp_path, monkeypatch, name, packed):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 1 << 16)
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(packed_rows(packed, parts(name)[1]))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"262,144 bytes.*data\.limits\.source_bytes=.*null"):
            READERS[name](str(path), limits=Limits(source_bytes=1 << 18))
        assert tracemalloc.get_traced_memory()[1] < 16 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_few_bytes_of_zstandard_unpack_step_by_step(tmp_path):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(bytes(512 * MEGABYTE)))  # 17 kB
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"data\.limits\.source_bytes"):
            read_documents(str(path), limits=Limits(source_bytes=MEGABYTE))
        assert tracemalloc.get_traced_memory()[1] < 100 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_the_limit_is_for_all_files_of_a_source(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(b"word " * 999 + b"w O\n\n")
    for read in (read_documents, reader(conll.read_tagged)):
        assert read(str(tmp_path), limits=Limits(source_bytes=15_000))
        with pytest.raises(ValueError, match=r"c\.txt: more than 14,999 bytes"):
            read(str(tmp_path), limits=Limits(source_bytes=14_999))
    assert len(read_documents(str(tmp_path), max_bytes=99, limits=Limits(source_bytes=99))) == 1


@pytest.mark.parametrize("name", [n for n in READERS if n not in ("a.txt", "a.json", "utf16.txt")])
def test_a_row_that_does_not_end(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 4096)
    path = tmp_path / name
    start, row, long = parts(name)
    path.write_bytes(start + row + long + "\u00e9 ".encode() * 20_000)  # 60 kB, 40,000 characters
    with pytest.raises(ValueError, match=rf"{name}.*a row .*50,000 bytes.*data\.limits\.row_bytes"):
        READERS[name](str(path), limits=Limits(row_bytes=50_000))
    path.write_bytes(start + row * 2000)
    assert READERS[name](str(path), limits=Limits(row_bytes=50))


def test_what_is_read_in_pieces_may_be_larger_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 4096)
    path = tmp_path / "a.txt"
    reading = DataConfig(train="a", limits=Limits(source_bytes=10_000))
    path.write_bytes(b"to be or not\n" * 2000)
    sizes = []
    pieces = list(corpus.read_pieces(File("a.txt", str(path)), reading, sizes.append))
    assert (
        len(pieces) > 5
        and sum(sizes) == 26_000
        and "".join(piece.text for piece in pieces) == path.read_text()
    )
    path.write_bytes(b"to be or not " * 2000)  # no line end: nothing to cut at
    with pytest.raises(ValueError, match=r"a\.txt: more than 10,000 bytes"):
        list(corpus.read_pieces(File("a.txt", str(path)), reading, sizes.append))
    assert text_module.line_start(str(path), 5000) == 26_000


def test_a_record_is_measured_before_it_is_read(tmp_path):
    import tensorflow as tf

    for packed, kind in (("", ""), (".gz", "GZIP")):
        path = tmp_path / f"a.tfrecord{packed}"
        with tf.io.TFRecordWriter(str(path), kind) as writer:
            for text in (b"a", b"b" * 5000):
                feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
                features = tf.train.Features(feature={"text": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
        assert len(rows(str(path))) == 2
        with pytest.raises(ValueError, match=r"record 1: a row .*4,000 bytes.*row_bytes"):
            rows(str(path), limits=Limits(row_bytes=4000))
    # The length alone: nothing of 2^60 bytes is there.
    path.with_suffix("").write_bytes((1 << 60).to_bytes(8, "little") + bytes(8))
    with pytest.raises(ValueError, match=r"record 0: a row .*row_bytes"):
        rows(str(path.with_suffix("")))


def test_a_parquet_file_of_few_bytes(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    # One long text many times: a dictionary makes a small file of it.
    parquet.write_table(arrow.table({"text": ["a", *["b" * 100_000] * 500]}), path)
    with pytest.raises(ValueError, match=r"row 1: a row .*row_bytes"):
        rows(str(path), limits=Limits(row_bytes=50_000))
    with pytest.raises(ValueError, match=r"a\.parquet: more than 1,048,576 bytes.*source_bytes"):
        rows(str(path), limits=Limits(source_bytes=MEGABYTE))
    assert len(rows(str(path), text_column="0")) == 501


def test_a_data_set_of_long_rows(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    text = "\n".join(json.dumps({"id": "1", "text": "b" * size}) for size in (1, 500))
    (tmp_path / "set" / "train.jsonl").write_text(text)
    address = f"hfds://{tmp_path / 'set'}?split=train"
    assert len(rows(address, text_column="-1", limits=Limits(row_bytes=500))) == 2
    with pytest.raises(ValueError, match=r"row 1: a row .*row_bytes"):
        rows(address, limits=Limits(row_bytes=499))


@contextlib.contextmanager
def serving(respond):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the client has left
                respond(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.txt"
        server.shutdown()


@pytest.mark.parametrize("announced", [None, str(1 << 40), "9" * 5000, "many"])
def test_a_download_that_does_not_end(tmp_path, announced):
    def respond(handler):
        handler.send_response(200)
        if announced:
            handler.send_header("Content-Length", announced)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    with serving(respond) as address:
        path = tmp_path / "cache" / "a.txt"
        with pytest.raises(ValueError, match=r"a\.txt: .*1,000,000 bytes.*limits\.download_bytes"):
            download(address, str(path), "0" * 64, Limits(download_bytes=1_000_000))
    assert list(path.parent.iterdir()) == []


def test_a_limit_must_be_positive():
    with pytest.raises(ValueError, match=r"row_bytes must be at least 1"):
        Limits(row_bytes=0)
    Limits(None, None, None).check("source_bytes", 1 << 60, "a.txt")
