"""Which versions of which models are served: a swap of versions fails no request."""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from export.model_folder import find_versions
from export.server.models.config import ServedModel
from export.server.models.loading import Loader
from export.server.run.servable import Servable
from export.server.status import LOG, ServingError, invalid

State = get_model_status_pb2.ModelVersionStatus
_LOOK_SECONDS = 0.1  # how soon a reload notices that its client went away
_FOREVER = threading.TIMEOUT_MAX / 2
_MOST_UNLOADS = 1000  # at one time, where there is no limit
# Models, and versions of one model, that are remembered once they are gone, the oldest first to go.
_MAX_ENDED = 1000


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often, and after what pause, a load that failed is tried again.

    Args:
        count: Tries after the first one; 0 gives up at once, a negative number never.
        seconds: Pause between two tries; none if it is negative.
    """

    count: int = 5
    seconds: float = 60.0


@dataclasses.dataclass(eq=False)
class Version:
    """One version: its state of ModelVersionStatus, its servable, and the tries to load it."""

    number: int
    state: int = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    users: int = 0
    tries: int = 0
    due: float = 0.0  # the next try
    is_loading: bool = False  # right now
    given_up: bool = False  # no more tries, until it goes away and comes back

    def is_due(self) -> bool:
        """Whether it is time to load it, for the first time or again."""
        if self.given_up or self.is_loading:
            return False
        waits = self.state == State.LOADING and time.monotonic() < self.due
        return not waits and self.state in (State.START, State.LOADING, State.END)


class Manager:
    """Keeps the wanted versions of some models loaded, and lends them to requests.

    Args:
        models: The models to serve; their names must differ, else ValueError is raised.
        poll_wait_seconds: Pause between two looks at the base paths; 0 looks only once.
        retries: What is done when a version does not load.
        loader: How versions are loaded: batched or not, with which warm-up.
        label_unavailable: Whether a label may be given to a version that is not loaded, as all are
            before the start. A label that exists can only move to one that is.
        load_threads: Versions that are loaded at one time; 0 loads one after the other.
        unload_threads: Versions that are unloaded at one time; 0 for no limit.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        poll_wait_seconds: float = 1.0,
        *,
        retries: Retries | None = None,
        loader: Loader | None = None,
        label_unavailable: bool = False,
        load_threads: int = 0,
        unload_threads: int = 0,
    ):
        self._first = _by_name(models)
        self._poll_wait_seconds = poll_wait_seconds
        self._retries, self.loader = retries or Retries(), loader or Loader()
        self._label_unavailable = label_unavailable
        # Their threads are no daemons: Python aborts the process when it ends while one of those
        # is inside TensorFlow.
        self._load_pool = futures.ThreadPoolExecutor(max(1, load_threads), "load")
        self._unload_pool = futures.ThreadPoolExecutor(unload_threads or _MOST_UNLOADS, "unload")
        # Guarded by _changed, which is notified when one of them changes.
        self._models: Mapping[str, ServedModel] = {}  # those that are wanted
        self._versions: dict[str, dict[int, Version]] = {}  # all that were ever seen
        self._awaited: set[str] = set()  # of the last configuration, until they answer or fail
        self._configuration = 0  # counts them
        self._changed = threading.Condition()
        # Of the polling thread: what the last look at each base path found, and what it logged.
        self._found: dict[str, dict[int, str]] = {}
        self._logged: dict[str, str] = {}
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_polling, name="versions", daemon=True)

    def start(self) -> None:
        """Begins to look for versions, in a thread; raises ServingError for labels too early."""
        self._configure(self._first)
        self._thread.start()

    def wait_until_available(self, timeout: float | None = None) -> bool:
        """Whether every model answers in time; ServingError when one does not load."""
        done = self._wait_until_settled(timeout)
        if done:
            self._raise_for("servable(s)", self._first)
        return done

    def reload(
        self,
        models: Sequence[ServedModel],
        is_cancelled: Callable[[], bool] = lambda: False,
        wait: bool = True,
    ) -> None:
        """Serves these models from now on, and no others; waits until the new ones answer.

        Raises ServingError: FAILED_PRECONDITION when a label may not be given (nothing is changed);
        UNKNOWN when a new model does not load (the others are served); DEADLINE_EXCEEDED, ABORTED
        or UNAVAILABLE when it was waited for in vain.
        """
        awaited, configuration = self._configure(_by_name(models), replaces=wait)
        self._wake.set()
        while wait and not self._wait_until_settled(_LOOK_SECONDS, configuration):
            if self._stopping.is_set():
                raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            if is_cancelled():
                raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._raise_for("model(s)", awaited)

    def stop(self, timeout: float | None = None) -> bool:
        """Stops polling, unloads everything once no request holds it; whether that was in time."""
        end = None if timeout is None else time.monotonic() + timeout

        def waited(for_none: Callable[[Version], bool]) -> bool:
            left = None if end is None else max(0.0, end - time.monotonic())
            with self._changed:
                return self._changed.wait_for(
                    lambda: not any(for_none(v) for _, v in self._every_version()), left
                )

        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        loaded = waited(lambda version: version.is_loading)
        for name, version in self._every_version():
            if version.state == State.AVAILABLE:
                self._start_unloading(name, version)
        unloaded = waited(lambda version: version.state == State.UNLOADING)
        done = loaded and unloaded and not self._thread.is_alive()
        if done:  # else a second stop may have more to unload
            self._load_pool.shutdown(wait=False)
            self._unload_pool.shutdown(wait=False)
        return done

    @contextlib.contextmanager
    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Lends a version, by default the newest available one: it stays loaded meanwhile."""
        with self._changed:
            if label is not None:
                labels = self._models[name].labels if name in self._models else {}
                if label not in labels:
                    raise invalid(f"Unrecognized servable version label: {label}")
                version = labels[label]
            if version is None:
                found, request = self._newest_available(name), f"Latest({name})"
            else:
                found = self._versions.get(name, {}).get(version)
                request = f"Specific({name}, {version})"
            if found is None or found.state != State.AVAILABLE:
                raise ServingError(
                    grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}"
                )
            found.users += 1
        try:
            yield found.servable
        finally:
            with self._changed:
                found.users -= 1
                if not found.users:
                    self._changed.notify_all()

    def versions_of(self, name: str) -> list[Version]:
        """The versions of one model that are remembered, newest first."""
        with self._changed:
            versions = self._versions.get(name, {}).values()
            return sorted(versions, key=lambda version: -version.number)

    def names(self) -> list[str]:
        """The models that are wanted, and those that went and are remembered."""
        with self._changed:
            return sorted({*self._models, *self._versions})

    def available_versions(self) -> list[tuple[str, int]]:
        """Name and version of all that answers requests."""
        every = self._every_version()
        return sorted((name, v.number) for name, v in every if v.state == State.AVAILABLE)

    def _configure(
        self, models: Mapping[str, ServedModel], replaces: bool = False
    ) -> tuple[set[str], int]:
        """Takes other models as the wanted ones; returns the names to wait for, and a number.

        What `replaces` ends the wait for an earlier configuration, also for an equal one: each that
        waits holds a thread.
        """
        with self._changed:
            self._check_labels(models)
            pending = {name for name in self._awaited if not self._is_settled(name)}
            self._awaited = {n for n in models if n not in self._models or n in pending}
            if replaces or self._models != models:
                self._configuration += 1
                self._changed.notify_all()
            self._models = models
            return self._awaited, self._configuration

    def _check_labels(self, models: Mapping[str, ServedModel]) -> None:
        for name, model in models.items():
            given = self._models[name].labels if name in self._models else {}
            for label, number in sorted(model.labels.items()):
                free = self._label_unavailable and given.get(label, number) == number
                version = self._versions.get(name, {}).get(number)
                if not free and (version is None or version.state != State.AVAILABLE):
                    raise ServingError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {name}, "
                        "which is not currently available for inference",
                    )

    def _wait_until_settled(self, timeout: float | None, configuration: int | None = None) -> bool:
        """Waits until each awaited model has a version that answers, or none that will."""

        def is_replaced() -> bool:
            return configuration not in (None, self._configuration)

        with self._changed:
            done = self._changed.wait_for(
                lambda: is_replaced() or all(map(self._is_settled, self._awaited)), timeout
            )
            if is_replaced():
                raise ServingError(
                    grpc.StatusCode.ABORTED,
                    "a newer configuration came before the models of this one could be served",
                )
            return done

    def _raise_for(self, what: str, names: Iterable[str]) -> None:
        """Raises ServingError, UNKNOWN, when some of these models do not load."""
        with self._changed:
            failed = [(name, version) for name in sorted(names) if (version := self._failed(name))]
        if failed:
            items = [
                f"{{{{name: {name} version: {version.number}}} due to error: {version.error}}}, "
                for name, version in failed
            ]
            message = f"{len(items)} {what} did not become available: {{{''.join(items)}}}"
            raise ServingError(grpc.StatusCode.UNKNOWN, message)

    def _is_settled(self, name: str) -> bool:
        return bool(self._newest_available(name) or self._failed(name))

    def _newest_available(self, name: str) -> Version | None:
        versions = self._versions.get(name, {})
        available = [v for v in versions.values() if v.state == State.AVAILABLE]
        return max(available, key=lambda version: version.number, default=None)

    def _failed(self, name: str) -> Version | None:
        """A version that does not load, of a model of which no version answers or will soon."""
        versions = self._versions.get(name, {})
        if any(version.state in (State.LOADING, State.AVAILABLE) for version in versions.values()):
            return None
        return next((versions[n] for n in sorted(versions) if versions[n].given_up), None)

    def _every_version(self) -> list[tuple[str, Version]]:
        with self._changed:
            return [(name, v) for name, found in self._versions.items() for v in found.values()]

    def _set(self, version: Version, **changes: object) -> None:
        with self._changed:
            for field, value in changes.items():
                setattr(version, field, value)
            self._changed.notify_all()

    def _keep_polling(self) -> None:
        next_look = 0.0
        while not self._stopping.is_set():
            with self._changed:
                models = self._models
            now = time.monotonic()
            for model in models.values():
                # Models that came with a reload are not made to wait for the next look.
                if now >= next_look or model.name not in self._found:
                    self._look(model)
                self._update(model.name, model)
            for name in {*self._versions, *self._found, *self._logged} - {*models}:
                self._found.pop(name, None)
                self._logged.pop(name, None)
                self._update(name, None)
            self._forget_ended(models)
            if now >= next_look:
                next_look = now + (self._poll_wait_seconds or _FOREVER)
            retries = [
                version.due
                for _, version in self._every_version()
                if version.state == State.LOADING and not version.is_loading
            ]
            self._wake.wait(max(0.0, min([next_look, *retries]) - time.monotonic()))
            self._wake.clear()

    def _look(self, model: ServedModel) -> None:
        """Looks for versions. Storage that is away for a while changes nothing."""
        path, problem = model.base_path, ""
        try:
            found = find_versions(path)
            if not found:
                no_number = "whose folders are not named by a number"
                problem = (
                    f"no versions of model {model.name} found in {path}, "
                    f"{'which does not exist' if found is None else no_number}: "
                    f"waiting for one; write a SavedModel to {os.path.join(path, '1')}"
                )
        except tf.errors.OpError as error:
            found, problem = None, f"cannot list {path}: {error.message}"
        if found is not None:
            self._found[model.name] = found
        if problem and self._logged.get(model.name) != problem:  # once, not at every look
            LOG.warning("%s", problem)
        self._logged[model.name] = problem

    def _update(self, name: str, model: ServedModel | None) -> None:
        """Loads what is wanted of a model, then unloads what is not."""
        if model is not None and name not in self._found:
            return  # its base path was never seen; what an earlier one held goes on
        found = self._found.get(name, {})
        wanted = {*model.policy(sorted(found))} if model is not None else set()
        for number in sorted(wanted, reverse=True):  # the newest is wanted soonest
            with self._changed:
                version = self._versions.setdefault(name, {}).setdefault(number, Version(number))
            if version.is_due():
                if version.state != State.LOADING:  # it forgets an earlier life
                    version.tries, version.error = 0, None
                self._set(version, state=State.LOADING, tries=version.tries + 1, is_loading=True)
                self._load_pool.submit(self._load, name, version, found[number])
        versions = self.versions_of(name)
        available = {v.number for v in versions if v.state == State.AVAILABLE}
        # One that takes their place must have come before the last of the others goes.
        ready = not wanted or wanted & available
        for version in versions:
            if version.number in wanted or version.is_loading:
                continue
            version.given_up = False  # should it come back, it is another one
            if version.state == State.LOADING:
                self._set(version, state=State.END)
            elif version.state == State.AVAILABLE and ready:
                self._start_unloading(name, version)

    def _forget_ended(self, models: Mapping[str, ServedModel]) -> None:
        """Bounds what is remembered of versions, and of models, that are gone."""
        with self._changed:
            for versions in self._versions.values():
                ended = [v for v in versions.values() if v.state == State.END]
                for version in ended[: max(0, len(versions) - _MAX_ENDED)]:
                    if not version.given_up:
                        del versions[version.number]
            gone = [
                name
                for name, versions in self._versions.items()
                if name not in models and all(v.state == State.END for v in versions.values())
            ]
            for name in gone[: max(0, len(gone) - _MAX_ENDED)]:
                del self._versions[name]

    def _load(self, name: str, version: Version, path: str) -> None:
        begin, number = time.monotonic(), version.number
        try:
            if self._stopping.is_set():
                self._set(version, state=State.END, is_loading=False)
                return
            version.servable, records = self.loader.load(name, number, path)
        except ServingError as error:
            self._note_failure(name, version, path, error)
        else:
            self._set(version, state=State.AVAILABLE, error=None, is_loading=False)
            seconds = time.monotonic() - begin
            LOG.info(
                "loaded %s version %d from %s in %.1f s, %d warm-up requests",
                *(name, number, path, seconds, records),
            )
        self._wake.set()

    def _note_failure(self, name: str, version: Version, path: str, error: ServingError) -> None:
        count, seconds = self._retries.count, self._retries.seconds
        given_up = 0 <= count < version.tries
        more = "given up, until the version goes away and comes back"
        if not given_up:
            most = count if count >= 0 else "any number"
            more = f"trying again in {seconds:g} s, {version.tries} of {most}"
        where = f"model {name} version {version.number} at {path}"
        LOG.error("%s", f"{where} does not load: {error}; {more}")
        known = version.error is not None and version.error.message == error.message
        if error.__cause__ is not None and not known:  # once
            LOG.error("what the loader raised:", exc_info=error.__cause__)
        self._set(
            version,
            state=State.END if given_up else State.LOADING,
            error=error,
            given_up=given_up,
            due=time.monotonic() + max(0.0, seconds),
            is_loading=False,
        )

    def _start_unloading(self, name: str, version: Version) -> None:
        self._set(version, state=State.UNLOADING)
        # In a thread, so that a long request on an old version delays no other model.
        self._unload_pool.submit(self._unload, name, version)

    def _unload(self, name: str, version: Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.users == 0)
            servable, version.servable = version.servable, None
        servable.close()
        del servable  # the graph goes now, not after the version is said to be gone
        self._set(version, state=State.END)
        LOG.info("unloaded %s version %d", name, version.number)


def _by_name(models: Sequence[ServedModel]) -> dict[str, ServedModel]:
    named = {model.name: model for model in models}
    if len(named) != len(models):
        raise ValueError(f"model names must differ; got {[model.name for model in models]}")
    return named
