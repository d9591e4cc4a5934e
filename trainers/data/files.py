"""Finding files: paths, folders, globs, published files with a checksum; and reading their text.

Shared by `sources.py` (text) and `tables.py`, `conll.py` and `squad.py` (labelled data).
"""

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from trainers.data.compressed import plain_name
from trainers.data.decoding import check_encoding, decode, read_bytes
from trainers.data.download import download
from trainers.data.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True)
class File:
    """A file to read: `name` is what its documents are called, `path` is absolute."""

    name: str
    path: str


def find_files(
    source: str, data_dir: str | None, pattern: str | None = None, names: Iterable[str] = ()
) -> list[File]:
    """The files of a path, folder or glob, sorted; see `read_documents` for the arguments.

    Raises FileNotFoundError, listing the paths tried and the named data (`names`), if none.
    """
    data_dir = find_data_dir(data_dir)
    source = os.path.expanduser(source)
    tried = []
    for base in [".", data_dir] if data_dir and not os.path.isabs(source) else ["."]:
        base = os.path.abspath(base)
        path = os.path.normpath(os.path.join(base, source))
        tried.append(path)
        if os.path.isfile(path):
            return [File(os.path.basename(path), path)]
        if os.path.isdir(path):
            files = [File(os.path.relpath(found, path), found) for found in walk(path)]
        else:
            found = sorted(glob.glob(source, root_dir=base, recursive=True))
            files = [File(name, os.path.join(base, name)) for name in found]
        files = [
            file for file in files if os.path.isfile(file.path) and _matches(file.path, pattern)
        ]
        if files:
            return files
    names = ", ".join(names)
    raise FileNotFoundError(
        f"data source {source!r}: no file{f' matching {pattern!r}' if pattern else ''} at "
        f"{' or '.join(tried)}. Pass a file, a folder, a glob (quoted)"
        f"{f', or one of {names}' if names else ''}; relative paths are also tried under data_dir."
    )


def walk(folder: str, excluded: frozenset[str] = frozenset()) -> list[str]:
    """The paths of all files in `folder`, sorted, without hidden ones and `excluded` folders."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in excluded and name[0] != "."]
        found.extend(os.path.join(parent, name) for name in files if name[0] != ".")
    return sorted(found)


def _matches(path: str, pattern: str | None) -> bool:
    name = os.path.basename(path)
    return pattern is None or any(
        fnmatch.fnmatchcase(candidate, pattern) for candidate in (name, plain_name(name))
    )


def find_data_dir(data_dir: str | None) -> str | None:
    """The folder with named data: `data_dir`, else the environment variable ZOO_DATA, else None."""
    return data_dir or os.environ.get("ZOO_DATA") or None


def find_published(
    name: str, url: str, sha256: str, data_dir: str | None, limits: Limits = DEFAULT_LIMITS
) -> File:
    """The file `name` under `data_dir`; without one, `url`, downloaded once into the cache.

    Args:
        name: path under `data_dir`, and under the cache (ZOO_CACHE or ~/.cache/keras_lm_zoo).
        url: where it is published.
        sha256: hex, of the published file; a file under `data_dir` may be another.
        data_dir: folder, or None.
        limits: of the download.

    Raises what `download` raises.
    """
    local = os.path.abspath(os.path.join(data_dir or "", name))
    if not data_dir or not os.path.isfile(local):
        cache = os.path.expanduser(os.environ.get("ZOO_CACHE") or "~/.cache/keras_lm_zoo")
        local = os.path.join(os.path.abspath(cache), name)
        download(url, local, sha256, limits)
    return File(name, local)


def read_files(
    files: Iterable[File],
    *,
    encoding: str = "utf-8",
    invalid: Literal["replace", "strict"] = "replace",
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[tuple[File, str]]:
    """Each file with its text, by the rule of `decoding.py`; an empty file has the text "".

    Raises ValueError for unknown options and, naming the file, for text that cannot be read and
    for more text in all files than `limits` allow.

    Example: `[text for _, text in read_files(find_files("reviews", data_dir=None))]`
    """
    check_invalid(invalid)
    check_encoding(encoding)
    left = limits.source_bytes
    for file in files:
        content, is_cut = read_bytes(file.path, left)
        if is_cut:
            limits.check_source(limits.source_bytes + 1, file.path)
        left = None if left is None else left - len(content)
        yield file, decode(content, False, file.path, encoding, invalid)


def check_invalid(invalid: str) -> None:
    """Raises ValueError unless `invalid` is an option of `decoding.py`."""
    if invalid not in ("replace", "strict"):
        raise ValueError(f"invalid={invalid!r}: use 'replace' or 'strict'.")
