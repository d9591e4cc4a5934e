"""Where training text comes from: files, folders, globs, gzip, and named corpora.

`read_documents` turns a source into documents of clean text. How files are found is told in
`files.py`, how bytes become text in `decoding.py`; both are the same for every source.
"""

import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from absl import logging

from trainers.data.decoding import check_encoding, decode, read_bytes
from trainers.data.files import (
    File,
    check_invalid,
    find_data_dir,
    find_files,
    find_published,
    walk,
)

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
# Articles start at " = Title = " between blank lines; " = = Part = = " is a part of one. Without
# the blank lines, formulas of two articles would look like titles.
_WIKITEXT_TITLE = re.compile(r"(?:\A|(?<=^ \n)) = [^=\n]+ = \n(?= \n)", re.MULTILINE)

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
    """A corpus known by name: one line about it, how to find its files, how they are split."""

    about: str
    find: Callable[[str | None], list[File]]
    # None: as the caller asks.
    split: Literal["files", "lines", "poems", "articles"] | None = None


def read_documents(
    source: str,
    *,
    data_dir: str | None = None,
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
    split: Literal["files", "lines"] = "files",
    max_bytes: int | None = None,
    pattern: str | None = None,
) -> list[Document]:
    """Reads the documents of `source`, always in the same order (sorted by path).

    Args:
        source: a file, a folder (all files in it, recursively, without hidden ones), a glob
            (`**` recurses), or a key of `NAMED_SOURCES`. Files ending in .gz are decompressed.
        data_dir: where relative paths are looked for after the working directory, and named
            corpora before anything else. Default: the environment variable ZOO_DATA.
        encoding: of the files; any Python text encoding. Named corpora are UTF-8.
        invalid: "replace" or "strict": what becomes of invalid bytes (rule 3 of decoding.py).
        split: "files" makes a document of each file, "lines" of each line that is not blank.
        max_bytes: reads at most this many (uncompressed) bytes, then stops; a character, and
            under "lines" a line, cut by the limit is left out. Default: no limit.
        pattern: which files of a folder or glob to read, by file name, such as "*.txt"
            (matches input.txt.gz too). Default: all.

    Raises FileNotFoundError, listing the paths tried, if nothing is there; ValueError, naming
    the file, for text that cannot be read, and for unknown option values.

    Example: `read_documents("python_stdlib", max_bytes=1_000_000)[0].name`
    """
    check_invalid(invalid)
    if split not in ("files", "lines"):
        raise ValueError(f"split={split!r}: use 'files' or 'lines'.")
    if max_bytes is not None and max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes}: use a positive number, or None for no limit.")
    data_dir = find_data_dir(data_dir)
    named = NAMED_SOURCES.get(source)
    if named:
        files, encoding, split = named.find(data_dir), "utf-8", named.split or split
    else:
        files = find_files(source, data_dir, pattern, NAMED_SOURCES)
    check_encoding(encoding)

    documents, empty = [], []
    remaining = max_bytes
    for file in files:
        if remaining == 0:
            logging.info("%s: stopped at max_bytes=%d before %s", source, max_bytes, file.path)
            break
        content, is_cut = read_bytes(file.path, remaining)
        if remaining is not None:
            remaining -= len(content)
        text = decode(content, is_cut, file.path, encoding, invalid)
        if text:
            documents.extend(_SPLITS[split](file, text, is_cut))
        else:
            empty.append(file.path)
    if not documents:
        raise ValueError(
            f"{source}: no text in {len(files)} file(s), the first is {files[0].path}. "
            "Point the source at files that are not empty, or raise max_bytes."
        )
    if empty:
        logging.warning("%s: skipped %d empty file(s), such as %s", source, len(empty), empty[0])
    return documents


def _whole(file: File, text: str, is_cut: bool) -> Iterator[Document]:
    yield Document(file.name, text)


def _lines(file: File, text: str, is_cut: bool) -> Iterator[Document]:
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if is_cut else lines, start=1):
        if line.strip():
            yield Document(f"{file.name}:{number}", line)


def _poems(file: File, text: str, is_cut: bool) -> Iterator[Document]:
    """One document per line `title TAB author TAB body`: title, author and body on own lines."""
    for document in _lines(file, text, is_cut):
        if document.text.count("\t") != 2:
            raise ValueError(
                f"{file.path}: {document.name} has {document.text.count(chr(9))} tabs, expected 2: "
                "title TAB author TAB body. Fix or remove the line."
            )
        yield Document(document.name, document.text.replace("\t", "\n"))


def _articles(file: File, text: str, is_cut: bool) -> Iterator[Document]:
    """One document per article of WikiText, named by the line its title is in."""
    starts = [match.start() for match in _WIKITEXT_TITLE.finditer(text)]
    for start, end in zip(starts, starts[1:] + [len(text)]):
        yield Document(f"{file.name}:{text.count(chr(10), 0, start) + 1}", text[start:end])


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


_SPLITS: dict[str, Callable[[File, str, bool], Iterator[Document]]] = {
    "files": _whole,
    "lines": _lines,
    "poems": _poems,
    "articles": _articles,
}

NAMED_SOURCES: dict[str, NamedSource] = {
    "tinyshakespeare": NamedSource("Shakespeare's plays, 1.1 MB of English", _tinyshakespeare),
    "chinese_poetry": NamedSource("8646 classical Chinese poems", _chinese_poetry, split="poems"),
    # Articles, not lines: a held-out document then shares no article with the training text.
    "wikitext2": NamedSource(
        "120 Wikipedia articles, both parts", _wikitext2("valid.txt", "test.txt"), "articles"
    ),
    "wikitext2/valid": NamedSource("60 of them", _wikitext2("valid.txt"), "articles"),
    "wikitext2/test": NamedSource("the other 60", _wikitext2("test.txt"), "articles"),
    "python_stdlib": NamedSource("the running Python's own library, about 10 MB", _python_stdlib),
}
