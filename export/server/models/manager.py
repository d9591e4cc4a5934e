"""Which versions of which models are served: polls, loads, swaps, unloads.

A version is a folder named by a number below the model's base path. A new one is loaded and warmed
beside the old one, takes its place, and only then is the old one let go, once the requests that
hold it are done. So a swap fails no request.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import grpc
from absl import logging

from export.server.models.loading import Loader
from export.server.models.models import BasePaths, ServedModel
from export.server.models.served_versions import ServedVersions, by_name
from export.server.models.versions import Retries, State, Version, VersionStatus
from export.server.run.servable import Servable, ServingError

_LOOK_SECONDS = 0.1  # how soon a reload notices that its client went away


class Manager:
    """Keeps the wanted versions of some models loaded, and lends them to requests.

    Args:
        models: The models to serve; their names must differ.
        poll_wait_seconds: float. Pause between two looks at the base paths; 0 looks only once.
        retries: Retries. What is done when a version does not load.
        loader: Loader. How versions are loaded: batched or not, with which warm-up.
        label_unavailable: bool. Whether a label may be given to a version that is not loaded, as
            all are before the start. A label that exists can only move to one that is.

    Raises:
        ValueError: two models have one name.

    Example:
        >>> manager = Manager([ServedModel("writer", "/models/writer")])
        >>> manager.start()
        >>> manager.wait_until_available(timeout=60)
        True
        >>> with manager.acquire("writer") as servable:
        ...     print(servable.version)
        >>> manager.stop()
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        poll_wait_seconds: float = 1.0,
        *,
        retries: Retries | None = None,
        loader: Loader | None = None,
        label_unavailable: bool = False,
    ):
        self._first = by_name(models)
        self._poll_wait_seconds = poll_wait_seconds
        self._retries, self._loader = retries or Retries(), loader or Loader()
        self._served = ServedVersions(label_unavailable)
        self._base_paths = BasePaths()
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_polling, name="versions", daemon=True)

    def start(self) -> None:
        """Begins to look for versions, in a thread of its own; returns at once.

        Raises:
            ServingError: FAILED_PRECONDITION, there are labels, and `label_unavailable` is off.
        """
        self._served.configure(self._first)
        self._thread.start()

    def wait_until_available(self, timeout: float | None = None) -> bool:
        """Waits until every model has a version that answers requests.

        Returns:
            Whether that came true before `timeout` seconds were over.

        Raises:
            ServingError: UNKNOWN, a model does not load; the message tells why.
        """
        done = self._served.wait_until_settled(timeout)
        if done:
            self._served.raise_for("servable(s)", self._first)
        return done

    def reload(
        self,
        models: Sequence[ServedModel],
        is_cancelled: Callable[[], bool] = lambda: False,
        wait: bool = True,
    ) -> None:
        """Serves these models from now on, and no others; waits until the new ones answer.

        A new model that has no version yet is waited for until another reload comes, which takes
        the place of this one. Models that go are unloaded without a wait.

        Args:
            models: The models; their names must differ.
            is_cancelled: Asked while waiting: whether nobody waits for this reload any more.
            wait: bool. Whether to wait at all; what does not load is logged in any case.

        Raises:
            ServingError: FAILED_PRECONDITION when a label may not be given (nothing is changed);
                UNKNOWN when a new model does not load (the others are served); DEADLINE_EXCEEDED
                when it is cancelled; ABORTED when another reload took its place; UNAVAILABLE when
                the manager stops.
            ValueError: two models have one name.
        """
        wanted = by_name(models)
        awaited, configuration = self._served.configure(wanted)
        self._wake.set()
        while wait and not self._served.wait_until_settled(_LOOK_SECONDS, configuration):
            if self._stopping.is_set():
                raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            if is_cancelled():
                raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._served.raise_for("model(s)", awaited)

    def check_labels(self, models: Sequence[ServedModel]) -> None:
        """Raises ServingError, FAILED_PRECONDITION, when `reload` would refuse a label."""
        self._served.check_labels(models)

    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> AbstractContextManager[Servable]:
        """Lends a servable: it stays loaded until the context ends.

        Args:
            name: str. The model.
            version: int | None. A version, else the newest one that is available.
            label: str | None. A version by its label.

        Raises:
            ServingError: as the context begins, NOT_FOUND when it is not served, INVALID_ARGUMENT
                for an unknown label.
        """
        return self._served.acquire(name, version, label)

    def statuses(self, name: str) -> list[VersionStatus]:
        """What became of every version of a model that was ever seen, newest first."""
        return self._served.statuses(name)

    def available_versions(self) -> list[tuple[str, int]]:
        """Name and version of all that answers requests."""
        return self._served.available()

    def stop(self, timeout: float | None = None) -> bool:
        """Stops polling and unloads everything, once no request holds it any more.

        Returns:
            Whether all is unloaded; False when a load or a request took longer than `timeout`
            seconds more, which leaves what it uses loaded.
        """
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(left())
        versions = [(name, v) for name in self._served.names() for v in self._served.of_model(name)]
        for name, version in versions:
            if version.state == State.AVAILABLE:
                self._start_unloading(name, version)
        done = self._served.wait_for(
            lambda: not any(version.state == State.UNLOADING for _, version in versions), left()
        )
        return done and not self._thread.is_alive()

    # What follows runs in the thread, but for the unloading.

    def _keep_polling(self) -> None:
        next_look = 0.0
        while not self._stopping.is_set():
            models, now = self._served.models, time.monotonic()
            for model in models.values():
                # Models that came with a reload are not made to wait for the next look.
                if now >= next_look or model.name not in self._base_paths.found:
                    self._base_paths.look(model)
                self._update(model.name, model)
            for name in {*self._served.names(), *self._base_paths.found} - {*models}:
                self._base_paths.found.pop(name, None)
                self._update(name, None)
            if now >= next_look:
                next_look = now + (self._poll_wait_seconds or threading.TIMEOUT_MAX / 2)
            self._wake.wait(max(0.0, min(next_look - time.monotonic(), self._seconds_to_retry())))
            self._wake.clear()

    def _seconds_to_retry(self) -> float:
        versions = [v for name in self._served.names() for v in self._served.of_model(name)]
        pauses = [version.seconds_to_retry() for version in versions]
        return min((p for p in pauses if p is not None), default=threading.TIMEOUT_MAX / 2)

    def _update(self, name: str, model: ServedModel | None) -> None:
        """Loads what is wanted of a model, then unloads what is not."""
        if model is not None and name not in self._base_paths.found:
            return  # its base path was never seen; what an earlier one held goes on
        found = self._base_paths.found.get(name, {})
        wanted = {*model.policy(sorted(found))} if model is not None else set()
        for number in sorted(wanted, reverse=True):  # the newest is wanted soonest
            if self._stopping.is_set():
                return
            self._load(name, number, found[number])
        versions = self._served.of_model(name)
        # One that takes their place must have come before the last of the others goes.
        ready = not wanted or any(
            v.state == State.AVAILABLE for v in versions if v.number in wanted
        )
        for version in versions:
            if version.number in wanted:
                continue
            version.given_up = False  # should it come back, it is another one
            if version.state == State.LOADING:
                self._served.set_state(version, State.END, version.failure)
            elif version.state == State.AVAILABLE and ready:
                self._start_unloading(name, version)

    def _load(self, name: str, number: int, path: str) -> None:
        version = self._served.get_or_add(name, number)
        if not version.is_due():
            return
        version.begin()
        self._served.set_state(version, State.LOADING)
        begin = time.monotonic()
        try:
            version.servable, records = self._loader.load(name, number, path)
        except ServingError as error:
            self._failed(name, version, path, error)
            return
        self._served.set_state(version, State.AVAILABLE)
        seconds = time.monotonic() - begin
        logging.info(
            "loaded %s version %d from %s in %.1f s, %d warm-up requests",
            *(name, number, path, seconds, records),
        )

    def _failed(self, name: str, version: Version, path: str, error: ServingError) -> None:
        retry = version.try_again(self._retries)
        if retry:
            more = f"trying again in {self._retries.seconds:g} s, {retry} of {self._retries.count}"
        else:
            more = "given up, until the version goes away and comes back"
        message = f"model {name} version {version.number} at {path} does not load: {error}; {more}"
        logging.error("%s", message)
        if error.__cause__ is not None and (
            version.failure is None or version.failure.message != error.message
        ):
            logging.error("what the loader raised:", exc_info=error.__cause__)  # once
        version.failure = error
        if not retry:
            self._served.set_state(version, State.END, error)

    def _start_unloading(self, name: str, version: Version) -> None:
        self._served.set_state(version, State.UNLOADING)
        # In a thread, so that a long request on an old version delays no other model. Not a daemon:
        # Python aborts the process when it ends while such a thread is inside TensorFlow.
        threading.Thread(target=self._unload, args=(name, version)).start()

    def _unload(self, name: str, version: Version) -> None:
        servable = self._served.take_unused(version)
        servable.close()
        del servable  # the graph goes now, not after the version is said to be gone
        self._served.set_state(version, State.END)
        logging.info("unloaded %s version %d", name, version.number)
