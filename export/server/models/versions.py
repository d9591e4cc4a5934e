"""Models to serve, their versions in storage, and what became of each version."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from export.server.run.servable import Servable
from export.server.status import ServingError

State = get_model_status_pb2.ModelVersionStatus
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
        >>> model = ServedModel("writer", "/models/writer", every_version(), {"stable": 1})
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


def missing_versions(model: ServedModel) -> str:
    """Tells an operator why the base path of a model holds no version yet."""
    exists = tf.io.gfile.isdir(model.base_path)
    why = "whose folders are not named by a number" if exists else "which does not exist"
    return (
        f"no versions of model {model.name} found in {model.base_path}, {why}: "
        f"waiting for one; write a SavedModel to {os.path.join(model.base_path, '1')}"
    )


@dataclasses.dataclass
class VersionStatus:
    """What became of one version: a state of ModelVersionStatus and, after a failure, why."""

    number: int
    state: int = State.START
    error: ServingError | None = None


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often, and after what pause, a load that failed is tried again.

    Args:
        count: int. Tries after the first one; 0 gives up at once, a negative number never, as in
            TensorFlow Serving.
        seconds: float. Pause between two tries; none if it is negative.
    """

    count: int = 5
    seconds: float = 60.0


class Version(VersionStatus):
    """A status with the servable itself, its users, and the tries to load it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.servable: Servable | None = None
        self.users = 0
        self.failure: ServingError | None = None  # of the last try to load, while there are more
        self.given_up = False  # no more tries, until it goes away and comes back
        self.is_loading = False  # right now; the state LOADING includes the pauses
        self._tries = 0
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether it is time to load it, for the first time or again."""
        if self.given_up or self.is_loading:
            return False
        if self.state == State.LOADING:
            return time.monotonic() >= self._due
        return self.state in (State.START, State.END)

    def begin_try(self) -> None:
        """Counts a try to load it, and forgets an earlier life."""
        if self.state != State.LOADING:
            self._tries, self.failure = 0, None
        self._tries += 1
        self.is_loading = True

    def plan_retry(self, retries: Retries) -> int:
        """Plans the next try after a failure: which retry it will be; 0 when there is none."""
        self._due = time.monotonic() + max(0.0, retries.seconds)
        self.given_up = 0 <= retries.count < self._tries
        return 0 if self.given_up else self._tries

    def seconds_to_retry(self) -> float | None:
        """How long until the next try; None when none is planned."""
        if self.state != State.LOADING or self.given_up or self.is_loading:
            return None
        return max(0.0, self._due - time.monotonic())


def not_available(what: str, failed: Iterable[tuple[str, Version]]) -> str:
    """TensorFlow Serving's words for models that were waited for in vain.

    `what` is `servable(s)` at the start, `model(s)` at a reload; `failed` has a version of each.
    """
    items = [
        f"{{{{name: {name} version: {version.number}}} due to error: {version.error}}}, "
        for name, version in failed
    ]
    return f"{len(items)} {what} did not become available: {{{''.join(items)}}}"
