"""Sources: text arrives exactly, and every bad input is told by file, place and fix."""

import functools
import gzip
import hashlib
import http.server
import os
import random
import threading
from pathlib import Path

import pytest

from trainers.data import corpus
from trainers.data.config import DataConfig, Limits
from trainers.data.corpus import Document
from trainers.data.sources import download, find_published

SHARED = os.environ.get("ZOO_DATA")
CHINESE = "睿化著鸿明。缇管一阳生。"


@pytest.fixture(autouse=True)
def _no_outside_data(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def read_documents(source, data_dir=None, **options):
    return corpus.read_documents(source, DataConfig(train=source, **options), data_dir)


def read(tmp_path, content, name="input.txt", **options):
    path = tmp_path / name
    path.write_bytes(content)
    return read_documents(str(path), **options)


def error(tmp_path, content, name="input.txt", **options):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content, name, **options)
    assert name in str(caught.value)
    return str(caught.value)


# Decoding.


@pytest.mark.parametrize(
    "content, encoding, text",
    [
        (b"a\r\nb\rc\nd\r", "utf-8", "a\nb\nc\nd\n"),
        ("\ufeff".encode() + b"hello", "utf-8", "hello"),
        (CHINESE.encode("gb18030"), "gb18030", CHINESE),
        ("\ufeffhé\r\n".encode("utf-16-le"), "utf-16", "hé\n"),
        ("\ufeffhé".encode("utf-16-be"), "utf-16-be", "hé"),
        (("é" * 3).encode("latin-1"), "latin-1", "ééé"),
        ("kept \ufffd".encode(), "utf-8", "kept \ufffd"),
    ],
)
@pytest.mark.parametrize("invalid", ["replace", "strict"])
def test_valid_text_is_read_exactly(tmp_path, warnings, content, encoding, text, invalid):
    documents = read(tmp_path, content, encoding=encoding, invalid=invalid)
    assert documents == [Document("input.txt", text)]
    assert not warnings


def test_a_few_invalid_bytes_are_replaced_with_one_warning(tmp_path, warnings):
    content = b"x" * 500 + b"\xff" + "\ufffd".encode() + b"y" * 500 + b"\xe5"
    (document,) = read(tmp_path, content)
    assert document.text == "x" * 500 + "\ufffd\ufffd" + "y" * 500 + "\ufffd"
    (warning,) = warnings
    assert "input.txt: 2 invalid" in warning and "0xff at offset 500" in warning


def test_strict_refuses_one_invalid_byte_and_says_where(tmp_path):
    message = error(tmp_path, b"ok\r\nok\r" + b"x" * 500 + b"\xff", invalid="strict")
    assert "0xff at offset 507, line 3" in message and "--set=data.encoding" in message


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"text\0more", "NUL byte at offset 4"),
        (random.Random(0).randbytes(64) + b"\0", "NUL byte"),
        ("café".encode("latin-1"), "1 of 4 characters invalid, first byte 0xe9 at offset 3"),
        ("\ufeffhello".encode("utf-16-le"), "--set=data.encoding=utf-16"),
        ("\ufeffhello".encode("utf-16-be"), "--set=data.encoding=utf-16"),
        (CHINESE.encode("utf-16"), "--set=data.encoding=utf-16"),
        (CHINESE.encode("gb18030"), "--set=data.encoding="),
    ],
)
def test_binary_and_wrong_encodings_are_refused(tmp_path, content, expected):
    message = error(tmp_path, content)
    assert expected in message and "binary or not utf-8" in message


def test_utf16_without_a_byte_order_mark_needs_its_byte_order(tmp_path):
    assert "utf-16-le" in error(tmp_path, "hi".encode("utf-16-le"), encoding="utf-16")


@pytest.mark.parametrize("encoding", ["utf8000", "hex", "rot13", "undefined", "idna"])
def test_an_unknown_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(ValueError, match=f"{encoding}.*data.encoding=utf-8"):
        read(tmp_path, b"text", encoding=encoding)


def test_empty_files_are_skipped_but_an_empty_source_is_an_error(tmp_path, warnings):
    for empty in (b"", "\ufeff".encode()):
        assert "no text" in error(tmp_path, empty)
    assert "no text" in error(tmp_path, b" \n\n", split="lines")
    (tmp_path / "a.txt").write_bytes(b"text")
    warnings.clear()
    assert [d.name for d in read_documents(str(tmp_path))] == ["a.txt", "input.txt"]
    (tmp_path / "input.txt").write_bytes(b"")
    (tmp_path / "z.txt").write_bytes(b"")
    assert [d.name for d in read_documents(str(tmp_path))] == ["a.txt"]
    assert len(warnings) == 1 and "skipped 2 empty file(s)" in warnings[0]
    assert str(tmp_path / "input.txt") in warnings[0]


# Finding files.


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/code.py", ".hidden.txt", ".git/x.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n{name} 2\n")
    (root / "sub" / "z.txt.gz").write_bytes(gzip.compress(b"packed"))
    return root


def names(*args, **options):
    return [document.name for document in read_documents(*args, **options)]


def test_folders_globs_and_patterns(tree, monkeypatch):
    every = ["a.txt", "b.txt", "sub/c.txt", "sub/code.py", "sub/z.txt.gz"]
    assert names(str(tree)) == every
    assert names(str(tree), pattern="*.txt") == [name for name in every if name != "sub/code.py"]
    assert names("tree", data_dir=str(tree.parent)) == every
    assert names("tree/*.txt", data_dir=str(tree.parent)) == ["tree/a.txt", "tree/b.txt"]
    assert names("sub/**/c*", data_dir=str(tree), pattern="*.py") == ["sub/code.py"]
    assert names(str(tree / "?.txt")) == [str(tree / "a.txt"), str(tree / "b.txt")]
    monkeypatch.setenv("ZOO_DATA", str(tree))
    assert names("sub/c.txt") == ["c.txt"]
    monkeypatch.chdir(tree / "sub")
    assert names("c.txt") == ["c.txt"]
    (tree / "sub" / "a.txt").write_text("the working directory comes first")
    assert read_documents("a.txt")[0].text.startswith("the working")
    (tree / "[1]*.txt").write_text("a name that looks like a glob")
    assert names(str(tree / "[1]*.txt")) == ["[1]*.txt"]


def test_lines_and_max_bytes(tree):
    lines = read_documents(str(tree), split="lines", pattern="?.txt")
    assert lines[:2] == [Document("a.txt:1", "a.txt"), Document("a.txt:2", "a.txt 2")]
    assert len(lines) == 7
    # Each file has 14 bytes ("a.txt\na.txt 2\n").
    cut = read_documents(str(tree), max_bytes=17)
    assert [d.text for d in cut] == ["a.txt\na.txt 2\n", "b.t"]
    assert [d.text for d in read_documents(str(tree), max_bytes=14)] == ["a.txt\na.txt 2\n"]
    cut = read_documents(str(tree), split="lines", max_bytes=22)
    assert [d.text for d in cut] == ["a.txt", "a.txt 2", "b.txt"]


@pytest.mark.parametrize("max_bytes", range(3, 9))
def test_max_bytes_cuts_between_characters(tmp_path, max_bytes, warnings):
    (document,) = read(tmp_path, CHINESE.encode(), max_bytes=max_bytes, invalid="strict")
    assert document.text == CHINESE[: max_bytes // 3]
    assert not warnings


@pytest.mark.parametrize("source", ["nowhere.txt", "no/*.txt", "folder"])
def test_a_missing_source_names_every_path_tried(tmp_path, monkeypatch, source):
    (tmp_path / "data").mkdir()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        read_documents(source, data_dir="data", pattern="*.md")
    for expected in (tmp_path / source, tmp_path / "data" / source, "tinyshakespeare", "*.md"):
        assert str(expected) in str(caught.value)


# Named sources and downloads.


def test_the_python_library_is_there_and_stable():
    documents = read_documents("python_stdlib")
    assert documents == read_documents("python_stdlib", encoding="latin-1")
    found = [document.name for document in documents]
    assert {"argparse.py", "json/decoder.py"} < set(found) and found == sorted(found)
    assert not [name for name in found if {"test", "tests", "site-packages"} & {*name.split("/")}]
    assert sum(len(document.text) for document in documents) > 5_000_000


def test_poems(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"poems\.tsv.*github\.com.*DATA_DIR"):
        read_documents("chinese_poetry", data_dir=str(tmp_path))
    (tmp_path / "chinese_poetry").mkdir()
    path = tmp_path / "chinese_poetry" / "poems.tsv"
    path.write_text(f"导引\t和岘\t{CHINESE}\n六州\t和岘\t严夜警\n", encoding="utf-8")
    first, second = read_documents("chinese_poetry", data_dir=str(tmp_path))
    assert first == Document("chinese_poetry/poems.tsv:1", f"导引\n和岘\n{CHINESE}")
    assert second.text == "六州\n和岘\n严夜警"
    path.write_text("a\tb\tc\na\tb\n")
    with pytest.raises(ValueError, match=r"poems\.tsv:2 has 1 tabs"):
        read_documents("chinese_poetry", data_dir=str(tmp_path))


def test_wikitext_articles(tmp_path):
    parts = tmp_path / "wikitext2"
    parts.mkdir()
    # Titles stand between blank lines: a formula within a text is none.
    first = " = One = \n \n = 1 <unk> = \n text \n = 2 <unk> = \n \n = = Part = = \n \n more \n"
    (parts / "valid.txt").write_text(f" \n{first} \n = Two = \n \n end \n")
    (parts / "test.txt").write_text(" \n = Three = \n \n last \n")
    documents = read_documents("wikitext2", data_dir=str(tmp_path), split="lines")
    assert [d.name for d in documents] == [
        "wikitext2/valid.txt:2",
        "wikitext2/valid.txt:12",
        "wikitext2/test.txt:2",
    ]
    assert documents[0].text == first + " \n" and documents[1].text == " = Two = \n \n end \n"
    assert read_documents("wikitext2/valid", data_dir=str(tmp_path)) == documents[:2]
    assert read_documents("wikitext2/test", data_dir=str(tmp_path)) == documents[2:]


@pytest.mark.skipif(not SHARED, reason="ZOO_DATA names no folder with the corpora")
def test_wikitext_has_60_articles_in_each_part():
    for part in ("valid", "test"):
        documents = read_documents(f"wikitext2/{part}", data_dir=SHARED)
        text = (Path(SHARED) / "wikitext2" / f"{part}.txt").read_text(encoding="utf-8")
        assert len(documents) == 60 and "".join(d.text for d in documents) == text[2:]


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.txt"
    path.write_bytes(b"to be or not to be\n" * 9000)
    return path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_published_file_is_local_or_downloaded_once(tmp_path, published):
    url, checksum = published
    name = "tinyshakespeare/input.txt"
    file = find_published(name, url, checksum, None)
    assert Path(file.path).read_text().startswith("to be")
    assert os.listdir(tmp_path / "cache" / "tinyshakespeare") == ["input.txt"]
    assert find_published(name, "file:///gone", checksum, None) == file
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / name).write_text("mine")
    assert read_documents("tinyshakespeare", data_dir=str(tmp_path))[0].text == "mine"


def test_download_over_http_reports_progress(tmp_path, published, capsys):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        path = str(tmp_path / "new" / "file.txt")
        download(f"{address}/published.txt", path, published[1], Limits())
        with pytest.raises(OSError, match=r"gone\.txt: download failed.*404.*put it at"):
            download(f"{address}/gone.txt", f"{tmp_path}/new/gone.txt", published[1], Limits())
        server.shutdown()
    assert os.path.getsize(path) == 171_000
    assert os.listdir(tmp_path / "new") == ["file.txt"]
    captured = capsys.readouterr()
    assert "171k/171k" in captured.err and not captured.out


def test_a_wrong_checksum_leaves_nothing(tmp_path, published, warnings):
    url, checksum = published
    path = tmp_path / "cache" / "file.txt"
    with pytest.raises(OSError, match=r"download failed \(nonnumeric port"):
        download("http://host:port/file.txt", str(path), checksum, Limits())
    with pytest.raises(ValueError, match="expected 0000"):
        download(url, str(path), "0000", Limits())
    assert os.listdir(tmp_path / "cache") == []
    path.write_text("damaged in the cache")
    download(url, str(path), checksum.upper(), Limits())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum
    assert "downloading again" in warnings[0]
