"""Finding data: files, folders, globs, addresses, published files, and corpora by name."""

import fnmatch
import glob
import hashlib
import http.client
import os
import re
import sysconfig
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from absl import logging
from tqdm import tqdm

from trainers.data.config import DataConfig, Limits
from trainers.data.text import decode, plain_name, read_bytes
from zoo.files import file_sha256, replacing

ADDRESSES = ("https://", "http://")
GITHUB = "https://raw.githubusercontent.com/"
_NOT_LIBRARY = frozenset(
    ["test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"]
    + ["__pycache__"]
)


class File(NamedTuple):
    """A file to read: `name` is what its documents are called, `path` is absolute."""

    name: str
    path: str


def find_data_dir(data_dir: str | None) -> str | None:
    """The folder with named data: `data_dir`, else the environment variable ZOO_DATA, else None."""
    return data_dir or os.environ.get("ZOO_DATA") or None


def find_files(
    source: str, data: DataConfig, data_dir: str | None, names: Iterable[str] = ()
) -> list[File]:
    """The files of an address, path, folder (not hidden ones) or glob, sorted; `names` are those of
    corpora, for the message.
    """
    if source.startswith(ADDRESSES):
        return [find_address(source, data_dir, data.limits)]
    data_dir, pattern = find_data_dir(data_dir), data.pattern
    source = os.path.expanduser(source)
    tried = []
    for base in [".", data_dir] if data_dir and not os.path.isabs(source) else ["."]:
        base = os.path.abspath(base)
        path = os.path.normpath(os.path.join(base, source))
        tried.append(path)
        if os.path.isfile(path):
            return [File(os.path.basename(path), path)]
        if os.path.isdir(path):
            files = [File(os.path.relpath(found, path), found) for found in _walk(path)]
        else:
            found = sorted(glob.glob(source, root_dir=base, recursive=True))
            files = [File(name, os.path.join(base, name)) for name in found]
        if files := [file for file in files if _matches(file.path, pattern)]:
            return files
    names = ", ".join(names)
    raise FileNotFoundError(
        f"data source {source!r}: no file{f' matching {pattern!r}' if pattern else ''} at "
        f"{' or '.join(tried)}. Pass a file, a folder, a glob (quoted)"
        f"{f', or one of {names}' if names else ''}; relative paths are also tried under data_dir."
    )


def _walk(folder: str, excluded: frozenset[str] = frozenset()) -> list[str]:
    """The paths of all files in `folder`, sorted, without hidden ones and `excluded` folders."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in excluded and name[0] != "."]
        found.extend(os.path.join(parent, name) for name in files if name[0] != ".")
    return sorted(found)


def _matches(path: str, pattern: str | None) -> bool:
    names = {os.path.basename(name) for name in (path, plain_name(path))}
    return os.path.isfile(path) and (pattern is None or bool(fnmatch.filter(names, pattern)))


def read_files(files: Iterable[File], data: DataConfig) -> Iterator[tuple[File, str]]:
    """Each file with its text (`text.decode`); an empty file has the text ""."""
    limit = left = data.limits.source_bytes
    for file in files:
        content, is_cut = read_bytes(file.path, left)
        if is_cut:
            data.limits.check("source_bytes", limit + 1, file.path)
        left = None if left is None else left - len(content)
        yield file, decode(content, False, file.path, data.encoding, data.invalid)


def find_published(
    name: str, url: str, sha256: str, data_dir: str | None, limits: Limits | None = None
) -> File:
    """The file `name` under `data_dir`, or downloaded into ZOO_CACHE (~/.cache/keras_lm_zoo)."""
    local = os.path.abspath(os.path.join(data_dir or "", name))
    if not data_dir or not os.path.isfile(local):
        cache = os.path.expanduser(os.environ.get("ZOO_CACHE") or "~/.cache/keras_lm_zoo")
        local = os.path.join(os.path.abspath(cache), name)
        download(url, local, sha256, limits or Limits())
    return File(name, local)


def find_unpublished(name: str, data_dir: str | None, how: str) -> File:
    """The file `name` under `data_dir`; FileNotFoundError says how to make it."""
    path = os.path.abspath(os.path.join(data_dir or "", name))
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: not found{'' if data_dir else ' (data_dir is not set)'}. This file has no "
            f"download address of its own: {how}"
        )
    return File(name, path)


def download(url: str, path: str, sha256: str, limits: Limits) -> None:
    """Downloads `url` to `path`, whole and verified, unless a file with this checksum is there."""
    # Not keras.utils.get_file: it writes straight to the target (an interrupted or wrong
    # download stays there under its final name for another process to read), and it moves to
    # /tmp in silence when the cache is not writable.
    sha256 = sha256.lower()
    if os.path.exists(path):
        if file_sha256(path) == sha256:
            return
        logging.warning("%s: checksum is not %s, downloading again", path, sha256)
    with replacing(path) as partial:
        digest = hashlib.sha256()
        with open(partial, "wb") as file:
            for block in _downloaded(url, path, limits):
                file.write(block)
                digest.update(block)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{url}: sha256 is {digest.hexdigest()}, expected {sha256}; the download was "
                "deleted. Try again; if it repeats, the file has changed or a proxy alters it."
            )


def _downloaded(url: str, path: str, limits: Limits) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            announced = response.headers.get("Content-Length") or ""
            # Digits of any number are no size: such a header tells nothing.
            total = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
            limits.check("download_bytes", total, url)
            done = 0
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"downloading {url}") as bar:
                while block := response.read(1 << 16):
                    done += len(block)
                    limits.check("download_bytes", done, url)
                    bar.update(len(block))
                    yield block
    # URLError, HTTPError and timeouts are all OSErrors.
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"{url}: download failed ({error}). Fetch it on another machine and put it at {path}, "
            "or under data_dir."
        ) from error


def find_address(source: str, data_dir: str | None, limits: Limits) -> File:
    """The file of an address `https://HOST/PATH/FILE#sha256=HEX`, downloaded once."""
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


# Running text that is known by name.


class NamedSource(NamedTuple):
    """A corpus known by name: how to find its files, and what its documents are."""

    find: Callable[[str | None], list[File]]
    split: str | None = None  # of `DataConfig`; None: as asked


def _published(folder: str, address: str, **files: str) -> Callable[[str | None], list[File]]:
    """How to find texts that lie at one address on GitHub, given as name -> sha256."""
    return lambda data_dir: [
        find_published(f"{folder}/{name}.txt", f"{GITHUB}{address}/{name}.txt", sha256, data_dir)
        for name, sha256 in files.items()
    ]


def _wikitext2(**files: str) -> NamedSource:
    repository = "pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
    address = f"{repository}/word_language_model/data/wikitext-2"
    # Articles, not lines: a held-out document then shares no article with the training text.
    return NamedSource(_published("wikitext2", address, **files), "articles")


def _chinese_poetry(data_dir: str | None) -> list[File]:
    name = "chinese_poetry/poems.tsv"
    how = (
        "write it from the JSON files of https://github.com/chinese-poetry/chinese-poetry, one "
        f"poem per line as title TAB author TAB body, at DATA_DIR/{name}, or pass the path of your "
        "own text as source."
    )
    return [find_unpublished(name, data_dir, how)]


def _python_stdlib(data_dir: str | None) -> list[File]:
    folder = sysconfig.get_path("stdlib")
    files = [
        File(os.path.relpath(path, folder), path)
        for path in _walk(folder, excluded=_NOT_LIBRARY)
        # _sysconfigdata*.py is generated: it holds the paths of the machine that built Python.
        if path.endswith(".py") and not os.path.basename(path).startswith("_sysconfigdata")
        if os.path.getsize(path)  # Some __init__.py are empty, which is nothing to warn about.
    ]
    if not files:
        raise FileNotFoundError(
            f"{folder}: no *.py files; this Python keeps its library elsewhere. Pass a folder."
        )
    return files


_VALID = {"valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"}
_TEST = {"test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"}
NAMED_SOURCES: dict[str, NamedSource] = {
    # Shakespeare's plays, 1.1 MB of English; public domain.
    "tinyshakespeare": NamedSource(
        _published(
            "tinyshakespeare",
            "karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare",
            input="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        )
    ),
    # 8646 classical Chinese poems; MIT.
    "chinese_poetry": NamedSource(_chinese_poetry, "poems"),
    # 120 Wikipedia articles, 60 in each part; CC BY-SA 3.0.
    "wikitext2": _wikitext2(**_VALID, **_TEST),
    "wikitext2/valid": _wikitext2(**_VALID),
    "wikitext2/test": _wikitext2(**_TEST),
    # The running Python's own library, about 10 MB; PSF-2.0.
    "python_stdlib": NamedSource(_python_stdlib),
}
