"""Models to serve, and their versions in storage."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

_MAX_VERSION = 2**63 - 1

Policy = Callable[[Sequence[int]], Sequence[int]]


def latest(count: int = 1) -> Policy:
    """Serves the `count` newest versions; the default, with one."""
    return lambda versions: versions[-count:]


def every_version() -> Policy:
    """Serves all versions there are."""
    return lambda versions: versions


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model to serve.

    Args:
        name: str. The name clients ask for.
        base_path: str. The absolute folder whose subfolders 1, 2, ... are the versions.
        policy: Policy. From the versions present, ascending, those to serve. Defaults to the
            newest one.
        labels: Mapping[str, int]. Names by which clients may ask for a version.

    Raises:
        ValueError: the base path is not absolute.

    Example:
        >>> ServedModel("writer", "/models/writer")
        >>> ServedModel("writer", "/models/writer", every_version(), {"stable": 1, "canary": 2})
    """

    name: str
    base_path: str
    policy: Policy = dataclasses.field(default_factory=latest)
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not os.path.isabs(self.base_path) and "://" not in self.base_path:
            raise ValueError(
                f"Expected model {self.name} to have an absolute path or URI; "
                f"got base_path()={self.base_path}"
            )


def find_versions(base_path: str) -> dict[int, str] | None:
    """Version number -> folder, for all in the base path; None when there is no such path.

    Names that are not digits only, as those of folders still being written, are passed over.

    Raises:
        tf.errors.OpError: the storage cannot be read.
    """
    if not tf.io.gfile.isdir(base_path):
        return None
    found: dict[int, str] = {}
    # Of two spellings of a number, as 5 and 0005, the shorter one is served: it comes last.
    for entry in sorted(tf.io.gfile.listdir(base_path), key=len, reverse=True):
        folder = entry.rstrip("/")  # object stores list folders with a slash
        path = os.path.join(base_path, folder)
        named = folder.isascii() and folder.isdigit() and int(folder) <= _MAX_VERSION
        if named and tf.io.gfile.isdir(path):
            found[int(folder)] = path
    return found


def waiting_message(model: ServedModel, why: str) -> str:
    """What to tell an operator whose base path holds no version yet."""
    return (
        f"no versions of model {model.name} found in {model.base_path}, {why}: "
        f"waiting for one; write a SavedModel to {os.path.join(model.base_path, '1')}"
    )
