"""Blocks and compression: no byte lost, cuts where no token changes, damage told by file."""

import bz2
import gzip
import lzma
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import text as text_module
from trainers.data.config import DataConfig
from trainers.data.corpus import read_documents
from trainers.data.text import (
    content_size,
    keeps_lines,
    line_start,
    plain_name,
    read_blocks,
)

TEXT = "".join(f"line {number} \n\n  x\nyy\n" for number in range(60)).encode()


@pytest.fixture(scope="module")
def text_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    half = len(TEXT) // 2
    frames = [zstandard.compress(TEXT[:half]), zstandard.compress(TEXT[half:])]
    contents = {"t.txt": TEXT, "t.txt.gz": gzip.compress(TEXT), "t.txt.zst": b"".join(frames)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz", "t.txt.zst"])
def test_blocks_are_the_file_and_end_with_lines(text_files, name, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 50)
    found = list(read_blocks(text_files[name]))
    assert b"".join(block.content for block in found) == TEXT
    assert [block.is_last for block in found] == [False] * (len(found) - 1) + [True]
    assert not any(block.is_cut for block in found)
    offset = 0
    for block in found:
        assert block.offset == offset
        offset += len(block.content)
    # Every block holds a lone line break, so none is cut anywhere else.
    for block in found[:-1]:
        assert block.content[-1:] == b"\n" and not block.content[-2:-1].isspace()
        assert not TEXT[block.offset + len(block.content) :][:1].isspace()
    assert content_size(text_files[name]) == len(TEXT)
    assert read_documents(text_files[name], DataConfig(train="t"))[0].text.encode() == TEXT


@given(st.integers(0, len(TEXT)), st.integers(0, len(TEXT)), st.integers(1, 200))
def test_parts_of_a_file_follow_each_other(text_files, first, second, size):
    first, second = sorted((first, second))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "LOOK_BYTES", 16)
        patch.setattr(text_module, "BLOCK_BYTES", size)
        path = text_files["t.txt"]
        cuts = [line_start(path, first), line_start(path, second)]
        assert cuts == sorted(cuts) and all(cut >= at for cut, at in zip(cuts, (first, second)))
        parts = [(0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], None)]
        whole = b"".join(
            block.content
            for start, stop in parts
            for block in read_blocks(path, start=start, stop=stop)
        )
    assert whole == TEXT
    for cut in cuts:
        assert cut in (0, len(TEXT)) or TEXT[cut - 1 : cut] == b"\n"


def test_a_text_without_line_breaks_is_one_block(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 10)
    path = tmp_path / "t.txt"
    path.write_bytes(b"x" * 1000)
    assert [len(block.content) for block in read_blocks(str(path))] == [1000]
    assert line_start(str(path), 5) == 1000


def test_a_limit_may_cut_anywhere_and_says_so(text_files, monkeypatch):
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 50)
    for limit in (1, 7, 100, len(TEXT) - 1, len(TEXT), len(TEXT) + 1):
        for name in text_files:
            found = list(read_blocks(text_files[name], limit=limit))
            assert b"".join(block.content for block in found) == TEXT[:limit]
            assert found[-1].is_cut == (limit < len(TEXT))


def test_a_file_that_became_shorter_is_told(text_files):
    with pytest.raises(ValueError, match=r"t\.txt: ends 5 byte\(s\) before .*restore it"):
        list(read_blocks(text_files["t.txt"], stop=len(TEXT) + 5))


PACK = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", PACK)
def test_packed_files_are_read_or_told(tmp_path, suffix):
    content = random.Random(0).randbytes(3000).hex()
    packed, path = PACK[suffix](content.encode()), tmp_path / f"t.txt{suffix}"
    broken = [packed[:-20], packed[:-1], packed[:5], b"something else"]
    for bad in broken + [packed + b"junk!!"] * (suffix in (".gz", ".zst")):
        path.write_bytes(bad)
        for options in ({}, {"max_bytes": 10**6}):
            with pytest.raises(ValueError, match=rf"t\.txt\{suffix}: broken \w+ file.* -t"):
                read_documents(str(path), DataConfig(train="t", **options))
    path.write_bytes(packed)
    assert read_documents(str(path), DataConfig(train="t"))[0].text == content


def test_names_and_encodings():
    assert plain_name("a.jsonl.zst") == "a.jsonl" and plain_name("a.gzip") == "a.gzip"
    kept = ["utf-8", "utf-8-sig", "latin-1", "cp1252", "gb18030", "big5", "shift_jis", "euc-jp"]
    assert all(map(keeps_lines, kept))
    assert not any(map(keeps_lines, ["utf-16", "utf-32-le", "utf-7", "cp037", "hz", "iso2022_jp"]))
