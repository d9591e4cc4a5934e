"""The state of each version that was ever seen, and how a load that failed is tried again."""

import dataclasses
import time
from collections.abc import Iterable

from tensorflow_serving.apis import get_model_status_pb2

from export.server.run.servable import Servable, ServingError

State = get_model_status_pb2.ModelVersionStatus


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
        count: int. Tries after the first one; 0 gives up at once.
        seconds: float. Pause between two tries.

    Raises:
        ValueError: one of them is negative.
    """

    count: int = 5
    seconds: float = 60.0

    def __post_init__(self):
        if self.count < 0 or self.seconds < 0:
            raise ValueError(
                f"the number of load retries and their interval may not be negative; got {self}"
            )


class Version(VersionStatus):
    """A status with the servable it tells of, its users, and the tries to load it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.servable: Servable | None = None
        self.users = 0
        self.failure: ServingError | None = None  # of the last try to load, while there are more
        self.given_up = False  # no more tries, until it goes away and comes back
        self._tries = 0
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether it is time to load it, for the first time or again."""
        if self.given_up:
            return False
        if self.state == State.LOADING:  # it failed before: a load itself is not interrupted
            return time.monotonic() >= self._due
        return self.state in (State.START, State.END)

    def begin(self) -> None:
        """Forgets an earlier life, and counts a try."""
        if self.state != State.LOADING:
            self._tries, self.failure = 0, None
        self._tries += 1

    def try_again(self, retries: Retries) -> int:
        """Plans the next try after a failure: which retry it will be; 0 when there is none."""
        self._due = time.monotonic() + retries.seconds
        self.given_up = self._tries > retries.count
        return 0 if self.given_up else self._tries

    def seconds_to_retry(self) -> float | None:
        """How long until the next try; None when none is planned."""
        if self.state != State.LOADING or self.given_up:
            return None
        return max(0.0, self._due - time.monotonic())


def not_available(what: str, failed: Iterable[tuple[str, Version]]) -> str:
    """TensorFlow Serving's words for models that were waited for in vain.

    Args:
        what: str. `servable(s)` at the start, `model(s)` at a reload.
        failed: The models' names, and a version of each that does not load.
    """
    items = [
        f"{{{{name: {name} version: {version.number}}} due to error: {version.error}}}, "
        for name, version in failed
    ]
    return f"{len(items)} {what} did not become available: {{{''.join(items)}}}"
