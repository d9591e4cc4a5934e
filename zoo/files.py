"""Files and folders of a model or a run: written whole or not at all, hashed, locked, and never
outside of their folder.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PARTIAL = ".partial-"
_LOCK_FILE = ".lock"


class BundleError(ValueError):
    """A model's folder is missing, unfinished, damaged, or of a kind that cannot be read."""


@contextlib.contextmanager
def blaming(where: object, *kinds: type[Exception]) -> Iterator[None]:
    """Makes ValueErrors of the block, and further `kinds`, BundleErrors that name `where`."""
    caught: tuple[type[Exception], ...] = (ValueError, *kinds)
    try:
        yield
    except BundleError:
        raise
    except caught as error:
        reason = " ".join(str(error).split())[:1000]  # Keras writes paragraphs
        named = reason.startswith(str(where))
        raise BundleError(reason if named else f"{where}: {reason}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path that takes the place of `path`, whole, when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is atomic only within one file system. Keras looks at suffixes.
    descriptor, name = tempfile.mkstemp(prefix=_PARTIAL, suffix=f"-{path.name}", dir=path.parent)
    os.close(descriptor)
    os.chmod(name, 0o644)  # mkstemp's 0600 would hide the file from a server's user
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(
    path: str | os.PathLike[str], content: Any, indent: int | None = None, ensure_ascii: bool = True
) -> None:
    """Writes a file of JSON; a reader never sees half of it."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=indent, ensure_ascii=ensure_ascii)
        temporary.write_text(text + "\n", encoding="utf-8")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes out while the block runs: BlockingIOError."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK_FILE, "a") as lock:  # closing it unlocks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.rglob(f"{_PARTIAL}*"):  # of a killed process: nobody else writes here
            if path.is_file():
                path.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def claimed_folder(
    folder: Path, marker: str, holds: str, option: str, doing: str, error: type[ValueError]
) -> Iterator[None]:
    """`locked_folder` for a command that is `doing` something; an `error` names the `option` whose
    folder is in use, cannot be written, or has files but for those beside a `marker`.
    """
    where = f"{option}={folder}"
    # A process killed before its marker was written leaves no files of its own.
    if folder.is_dir() and not (folder / marker).is_file() and (foreign := own_files(folder)):
        shown = ", ".join(foreign[:3]) + (", ..." if foreign[3:] else "")
        raise error(f"{where} is not empty ({shown}) and holds no {holds}: choose another")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise error(f"{where}: another process is {doing} there") from None
        except OSError as cause:
            raise error(f"{where} cannot be written: {cause.strerror}; choose another") from cause
        yield


def own_files(folder: Path) -> list[str]:
    """Sorted names in a folder, but for those that `replacing` and `locked_folder` make."""
    return sorted(n for n in os.listdir(folder) if n != _LOCK_FILE and not n.startswith(_PARTIAL))


def inside(folder: str | os.PathLike[str], *names: str, where: str | Path | None = None) -> Path:
    """A path in a model's folder, there or not; a BundleError, blaming `where`, if outside.

    Whoever made a model decides what its files name: "../other", an absolute name or a link could
    have anything on this machine read as part of the model, and then exported.
    """
    folder = Path(folder)
    path = folder.joinpath(*names)
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, U+0000 in a name
        raise BundleError(f"{where or path}: {names[-1]!r:.80} is no path ({error})") from None
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise BundleError(f"{path}: a pipe, socket or device; a model is read from files")
    # Files in the Hub's cache are links from repository/snapshots/revision/ to repository/blobs/.
    caches = (above.parent for above in root.parents if above.name == "snapshots")
    if target.is_relative_to(root) or target.parent in [cache / "blobs" for cache in caches]:
        return path
    if where is not None and not path.is_symlink():
        raise BundleError(
            f"{where}: {'/'.join(names)!r:.80} leads out of {folder}; a model is read from its own "
            "folder only"
        )
    raise BundleError(
        f"{path}: a link to {target}, out of {folder}; a model is read from its own folder only. "
        "If you trust it, put a copy in place of the link."
    )


def existing(folder: Path, *names: str, advice: str) -> Path:
    """The path of a file as `inside` gives it; if it is not there, a BundleError with `advice`."""
    path = inside(folder, *names)
    if not path.is_file():
        raise BundleError(f"{path}: no such file. {advice}")
    return path


def check_links(folder: Path) -> None:
    """Raises BundleError if any link below a folder leads out of it, for readers not our own."""
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(where, name)):
                inside(folder, os.path.relpath(os.path.join(where, name), folder))
