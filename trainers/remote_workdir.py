"""A workdir in an object store, such as `gs://bucket/run`: a local folder, and a copy kept there.

Everything is written to the local folder, which is quick and atomic, and then copied by
`tf.io.gfile`: after each checkpoint and at the end. Files whose presence says that others are whole
(`checkpoints/*.json`, `config.json`, `report.md`) come last, so that a reader, or the run that goes
on elsewhere, never finds half of something.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging

from trainers.workdir import WorkdirError
from zoo.weights.locations import download, temporary_folder

_SCHEME = "://"
# Later names are copied later.
_LAST = ("config.json", "report.md")
# Of one machine or one moment: files under way, and the lock.
_LOCAL = (".partial-", ".lock")


def is_remote(workdir: str | Path) -> bool:
    """Whether a --workdir names an object store."""
    return isinstance(workdir, str) and _SCHEME in workdir


class RemoteWorkdir:
    """A remote folder and its local copy.

    One process at a time may train there: an object store has no locks.

    Args:
        remote: str, such as "gs://bucket/run".
        local: Path, an empty folder.

    Raises:
        WorkdirError: no such file system, or no access.

    Example: `RemoteWorkdir("gs://bucket/run", Path("/tmp/run")).download()`
    """

    def __init__(self, remote: str, local: Path):
        self.remote = remote.rstrip("/")
        self.local = local
        self._copied: dict[str, tuple[int, int]] = {}

    def download(self) -> None:
        """Copies what is there; nothing if there is nothing yet."""
        with self._told("read"):
            for relative, path in download(self.remote, self.local):
                self._copied[relative] = _state(path)
        logging.info("%s: %d files read", self.remote, len(self._copied))

    def upload(self) -> None:
        """Copies what is new or changed since, then removes what is no longer there."""
        files = {
            str(path.relative_to(self.local)): path
            for path in self.local.rglob("*")
            if path.is_file() and not path.name.startswith(_LOCAL)
        }
        with self._told("written"):
            for relative in sorted(files, key=_order):
                try:
                    state = _state(files[relative])
                    if self._copied.get(relative) == state:
                        continue
                    target = f"{self.remote}/{relative}"
                    tf.io.gfile.makedirs(target.rpartition("/")[0])
                    # A copy to a name of its own and a rename would be two copies in such a store,
                    # where a file appears whole or not at all.
                    tf.io.gfile.copy(str(files[relative]), target, overwrite=True)
                except (FileNotFoundError, tf.errors.NotFoundError):
                    continue  # dropped meanwhile, as an old checkpoint
                self._copied[relative] = state
            for relative in [*self._copied]:
                if relative not in files:
                    with contextlib.suppress(tf.errors.NotFoundError):
                        tf.io.gfile.remove(f"{self.remote}/{relative}")
                    del self._copied[relative]

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0]
            raise WorkdirError(
                f"--workdir={self.remote} cannot be {done}: {reason}. Check the name, the network "
                "and the credentials of this machine; the same command goes on from the last "
                "checkpoint there"
            ) from error


def local_copy(remote: str) -> RemoteWorkdir:
    """A remote workdir with what it holds in a local folder, removed when this process ends.

    Raises:
        WorkdirError: it cannot be read.
    """
    workdir = RemoteWorkdir(remote, temporary_folder())
    workdir.download()
    return workdir


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _order(relative: str) -> tuple[bool, int, str]:
    is_progress = relative.startswith("checkpoints/") and relative.endswith(".json")
    last = _LAST.index(relative) + 1 if relative in _LAST else 0
    return is_progress, last, relative
