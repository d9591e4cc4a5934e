"""Models to serve, and their versions in storage."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf
from absl import logging

_MAX_VERSION = 2**63 - 1

Policy = Callable[[Sequence[int]], Sequence[int]]


def latest(count: int = 1) -> Policy:
    """Serves the `count` newest versions, one at least; the default, with one."""
    return lambda versions: versions[-max(count, 1) :]


def every_version() -> Policy:
    """Serves all versions there are."""
    return lambda versions: versions


def specific(numbers: Sequence[int]) -> Policy:
    """Serves those of these versions that are there."""
    wanted = frozenset(numbers)
    return lambda versions: [number for number in versions if number in wanted]


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
        check_base_path(self.name, self.base_path)


def check_base_path(name: str, base_path: str) -> None:
    """Raises ValueError when the base path of a model is neither absolute nor a URI."""
    if not os.path.isabs(base_path) and "://" not in base_path:
        raise ValueError(
            f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}"
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


class BasePaths:
    """What the last look at the base path of each model found: model -> version -> folder."""

    def __init__(self):
        self.found: dict[str, dict[int, str]] = {}
        self._told: dict[str, str] = {}

    def look(self, model: ServedModel) -> None:
        """Looks again. Storage that is away for a while changes nothing, so nothing is unloaded."""
        try:
            found = find_versions(model.base_path)
        except tf.errors.OpError as error:
            self._tell(model, f"cannot list {model.base_path}: {error.message}")
            return
        if found is None:
            self._tell(model, _waiting_message(model, "which does not exist"))
            return
        self.found[model.name] = found
        if not found:
            self._tell(model, _waiting_message(model, "whose folders are not named by a number"))
        else:
            self._told.pop(model.name, None)

    def _tell(self, model: ServedModel, message: str) -> None:
        if self._told.get(model.name) != message:  # once, not at every look
            logging.warning("%s", message)
            self._told[model.name] = message


def _waiting_message(model: ServedModel, why: str) -> str:
    """What to tell an operator whose base path holds no version yet."""
    return (
        f"no versions of model {model.name} found in {model.base_path}, {why}: "
        f"waiting for one; write a SavedModel to {os.path.join(model.base_path, '1')}"
    )
