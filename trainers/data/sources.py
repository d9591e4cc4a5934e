"""Where training text comes from: files, folders, globs, addresses, data sets, named corpora.

`read_documents` turns a source into documents of clean text. How files are found is told in
`files.py`, how bytes become text in `decoding.py`, how files become documents in `pieces.py`; all
are the same for every source.
"""

import dataclasses
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from absl import logging

from trainers.data.decoding import check_encoding
from trainers.data.files import (
    File,
    check_invalid,
    find_data_dir,
    find_files,
    find_published,
    walk,
)
from trainers.data.limits import DEFAULT_LIMITS, Limits
from trainers.data.pieces import Meter, Reading, read_pieces
from trainers.data.records import HUGGING_FACE, looks_binary

_TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/"
    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt"
)
_TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_WIKITEXT2 = (
    "https://raw.githubusercontent.com/pytorch/examples/"
    "77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2/"
)
_WIKITEXT2_SHA256 = {
    "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
}

_NOT_LIBRARY = frozenset(
    ["test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"]
    + ["__pycache__"]
)


@dataclass(frozen=True)
class Document:
    """One text of a corpus; `name` says where it is from (a path, or a path and line)."""

    name: str
    text: str


@dataclass(frozen=True)
class NamedSource:
    """A corpus known by name: one line about it, its licence, how to find its files, how they
    are split."""

    about: str
    licence: str
    find: Callable[[str | None], list[File]]
    # None: as the caller asks.
    split: Literal["files", "lines", "poems", "articles"] | None = None


def read_documents(
    source: str,
    *,
    data_dir: str | None = None,
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
    split: Literal["files", "lines", "rows"] = "files",
    max_bytes: int | None = None,
    pattern: str | None = None,
    format: str = "auto",
    text_column: str = "text",
    header: Literal["auto", "first", "none"] = "auto",
    quotes: bool | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Document]:
    """Reads the documents of `source`, always in the same order (sorted by path).

    Args:
        source: a file, a folder (all files in it, recursively, without hidden ones), a glob
            (`**` recurses), a key of `NAMED_SOURCES`, an address `https://...#sha256=HEX` (kept
            in the cache), or a Hugging Face data set `hfds://OWNER/NAME?split=train` (needs the
            package `datasets`). Files ending in .gz and .zst are decompressed.
        data_dir: where relative paths are looked for after the working directory, and named
            corpora before anything else. Default: the environment variable ZOO_DATA.
        encoding: of the files; any Python text encoding. Named corpora are UTF-8.
        invalid: "replace" or "strict": what becomes of invalid bytes (rule 3 of decoding.py).
        split: "files" makes a document of each file, "lines" of each line that is not blank,
            "rows" of each row's `text_column`.
        max_bytes: reads at most this many (uncompressed) bytes, then stops; a character, and
            under "lines" a line, cut by the limit is left out. Default: no limit.
        pattern: which files of a folder or glob to read, by file name, such as "*.txt"
            (matches input.txt.gz too). Default: all.
        format: of rows: "auto" (by the file's name), "jsonl", "csv", "tsv", "parquet" (needs the
            package `pyarrow`) or "tfrecord" (of `tf.train.Example`).
        text_column: field, column or feature that holds the text. Defaults to "text".
        header, quotes: of CSV and TSV; see `tables.read_labeled`.
        limits: of the text in all, a row, and a download.

    Raises FileNotFoundError, listing the paths tried, if nothing is there; ValueError, naming
    the file, for text that cannot be read, and for unknown option values.

    Example: `read_documents("python_stdlib", max_bytes=1_000_000)[0].name`
    """
    reading = Reading(encoding, invalid, split, format, text_column, header, quotes, limits)
    return list(
        iterate_documents(source, reading, data_dir=data_dir, max_bytes=max_bytes, pattern=pattern)
    )


def iterate_documents(
    source: str,
    reading: Reading,
    *,
    data_dir: str | None = None,
    max_bytes: int | None = None,
    pattern: str | None = None,
) -> Iterator[Document]:
    """The documents of `read_documents` one at a time.

    Example: `next(iterate_documents("python_stdlib", Reading()))`
    """
    if max_bytes is not None and max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes}: use a positive number, or None for no limit.")
    files, reading = find_source(source, reading, data_dir=data_dir, pattern=pattern)
    documents, empty, remaining, before = 0, [], max_bytes, 0
    for file in files:
        if remaining == 0:
            logging.info("%s: stopped at max_bytes=%d before %s", source, max_bytes, file.path)
            break
        meter, parts, found = Meter(), [], False
        for piece in read_pieces(file, reading, meter, limit=remaining):
            reading.limits.check_source(before + meter.bytes, file.path)
            parts.append(piece.text)
            found = found or bool(piece.text)
            if piece.is_last and any(parts):
                documents += 1
                yield Document(piece.name, "".join(parts))
            if piece.is_last:
                parts = []
        before += meter.bytes
        if remaining is not None:
            remaining = max(remaining - meter.bytes, 0)
        if not found and reading.split == "files":
            empty.append(file.path)
    if not documents:
        raise ValueError(
            f"{source}: no text in {len(files)} file(s), the first is {files[0].path}. "
            "Point the source at files that are not empty, or raise max_bytes."
        )
    if empty:
        logging.warning("%s: skipped %d empty file(s), such as %s", source, len(empty), empty[0])


def find_source(
    source: str, reading: Reading, *, data_dir: str | None = None, pattern: str | None = None
) -> tuple[list[File], Reading]:
    """The files of a source, and how they are read: a named corpus knows that itself.

    Raises as `read_documents`, before anything is read.

    Example: `files, reading = find_source("wikitext2", Reading())`
    """
    check_invalid(reading.invalid)
    if reading.split not in ("files", "lines", "rows"):
        raise ValueError(f"split={reading.split!r}: use 'files', 'lines' or 'rows'.")
    check_encoding(reading.encoding)
    data_dir = find_data_dir(data_dir)
    named = NAMED_SOURCES.get(source)
    if named:
        split = named.split or reading.split
        return named.find(data_dir), dataclasses.replace(reading, encoding="utf-8", split=split)
    if source.startswith(("https://", "http://")):
        files = [_address(source, data_dir, reading.limits)]
    elif source.startswith(HUGGING_FACE):
        files = [File(source, source)]
    else:
        files = find_files(source, data_dir, pattern, NAMED_SOURCES)
    for file in files:
        if reading.split != "rows" and looks_binary(file.path):
            raise ValueError(
                f"{file.path}: holds rows, not text. Read one column of them with "
                "--set=data.split=rows and --set=data.text_column=NAME."
            )
    return files, reading


def _address(source: str, data_dir: str | None, limits: Limits) -> File:
    url, _, fragment = source.partition("#")
    checksum = re.fullmatch("sha256=([0-9a-f]{64})", fragment.lower())
    if checksum is None:
        raise ValueError(
            f"{source}: an address needs the checksum of its file: {url}#sha256=HEX, 64 digits. "
            "`sha256sum FILE` prints it."
        )
    try:
        name = os.path.basename(unquote(urlsplit(url).path))
    except ValueError as error:  # such as a "[" in the host
        raise ValueError(f"{source}: no address ({error}).") from error
    if name in ("", ".", ".."):
        raise ValueError(
            f"{source}: the address names no file, so its format is not known. Write one that ends "
            "with a file name: https://HOST/PATH/FILE#sha256=HEX; or download it and give its path."
        )
    # The checksum in the name: files of the same name from two addresses stay apart.
    folder = f"downloads/{checksum[1][:16]}"
    return find_published(os.path.join(folder, name), url, checksum[1], data_dir, limits)


def _tinyshakespeare(data_dir: str | None) -> list[File]:
    name = "tinyshakespeare/input.txt"
    return [find_published(name, _TINYSHAKESPEARE_URL, _TINYSHAKESPEARE_SHA256, data_dir)]


def _wikitext2(*names: str) -> Callable[[str | None], list[File]]:
    def find(data_dir: str | None) -> list[File]:
        return [
            find_published(
                f"wikitext2/{name}", _WIKITEXT2 + name, _WIKITEXT2_SHA256[name], data_dir
            )
            for name in names
        ]

    return find


def _chinese_poetry(data_dir: str | None) -> list[File]:
    name = "chinese_poetry/poems.tsv"
    path = os.path.abspath(os.path.join(data_dir or "", name))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: not found{'' if data_dir else ' (data_dir is not set)'}. This file has no "
            "download address: write it from the JSON files of "
            "https://github.com/chinese-poetry/chinese-poetry, one poem per line as title TAB "
            f"author TAB body, at DATA_DIR/{name}, or pass the path of your own text as source."
        )
    return [File(name, path)]


def _python_stdlib(data_dir: str | None) -> list[File]:
    folder = sysconfig.get_path("stdlib")
    files = [
        File(os.path.relpath(path, folder), path)
        for path in walk(folder, excluded=_NOT_LIBRARY)
        # _sysconfigdata*.py is generated: it holds the paths of the machine that built Python.
        if path.endswith(".py") and not os.path.basename(path).startswith("_sysconfigdata")
        if os.path.getsize(path)  # Some __init__.py are empty, which is nothing to warn about.
    ]
    if not files:
        raise FileNotFoundError(
            f"{folder}: no *.py files; this Python keeps its library elsewhere. Pass a folder."
        )
    return files


NAMED_SOURCES: dict[str, NamedSource] = {
    "tinyshakespeare": NamedSource(
        "Shakespeare's plays, 1.1 MB of English", "public domain", _tinyshakespeare
    ),
    "chinese_poetry": NamedSource(
        "8646 classical Chinese poems", "MIT", _chinese_poetry, split="poems"
    ),
    # Articles, not lines: a held-out document then shares no article with the training text.
    "wikitext2": NamedSource(
        "120 Wikipedia articles, both parts",
        "CC BY-SA 3.0",
        _wikitext2("valid.txt", "test.txt"),
        "articles",
    ),
    "wikitext2/valid": NamedSource(
        "60 of them", "CC BY-SA 3.0", _wikitext2("valid.txt"), "articles"
    ),
    "wikitext2/test": NamedSource(
        "the other 60", "CC BY-SA 3.0", _wikitext2("test.txt"), "articles"
    ),
    "python_stdlib": NamedSource(
        "the running Python's own library, about 10 MB", "PSF-2.0", _python_stdlib
    ),
}
