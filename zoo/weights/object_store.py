"""Folders in an object store, such as `gs://bucket/run`, read by TensorFlow's file systems."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from zoo.files import BundleError

# Of a training run, and not of the bundle that it wrote.
_NOT_OF_A_BUNDLE = ("checkpoints/", "tensorboard/")


def temporary_folder() -> Path:
    """A folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="object-store-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def download(remote: str, folder: Path, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Copies the files below a remote folder, one by one.

    Args:
        remote: such as "gs://bucket/run"; nothing is copied if there is no such folder.
        folder: Path, created.
        skip: beginnings of relative names that are left out.

    Yields:
        Relative name, and Path of the copy.

    Raises:
        tf.errors.OpError: no such file system, no access, no network.
    """
    remote = remote.rstrip("/")
    # Not isdir, to which a folder that cannot be reached is none.
    if not tf.io.gfile.exists(remote):
        return
    for where, _, names in tf.io.gfile.walk(remote):
        for name in names:
            source = f"{where.rstrip('/')}/{name}"
            relative = source.removeprefix(remote).lstrip("/")
            if relative.startswith(skip):
                continue
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            tf.io.gfile.copy(source, str(target), overwrite=True)
            yield relative, target


def download_bundle(remote: str) -> Path:
    """A local copy of a bundle in an object store, removed when this process ends.

    Raises:
        BundleError: nothing is there, or it cannot be read.

    Example: `download_bundle("gs://bucket/run")`
    """
    folder = temporary_folder()
    try:
        copied = [relative for relative, _ in download(remote, folder, _NOT_OF_A_BUNDLE)]
    except tf.errors.OpError as error:
        raise BundleError(
            f"{remote}: cannot be read: {error.message.splitlines()[0]}. Check the name, the "
            "network and the credentials of this machine."
        ) from error
    if not copied:
        raise BundleError(f"{remote}: no such folder. Give the --workdir of a training run.")
    return folder
