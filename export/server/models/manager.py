"""Which versions of which models are served: polls, loads, swaps, unloads, lends.

A new version is loaded and warmed beside the old one and takes its place; only then is the old one
let go, once the requests that hold it are done. So a swap fails no request.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures

import grpc
import tensorflow as tf

from export.model_folder import find_versions
from export.server.models.loading import Loader
from export.server.models.versions import (
    Retries,
    ServedModel,
    State,
    Version,
    VersionStatus,
    missing_versions,
    not_available,
)
from export.server.run.servable import Servable
from export.server.status import LOG, ServingError

_LOOK_SECONDS = 0.1  # how soon a reload notices that its client went away
_FOREVER = threading.TIMEOUT_MAX / 2
# Models, and versions of one model, that are remembered once they are gone, the oldest first to go.
_MAX_ENDED = 1000


class Manager:
    """Keeps the wanted versions of some models loaded, and lends them to requests.

    Args:
        models: The models to serve; their names must differ, else ValueError is raised.
        poll_wait_seconds: float. Pause between two looks at the base paths; 0 looks only once.
        retries: Retries. What is done when a version does not load.
        loader: Loader. How versions are loaded: batched or not, with which warm-up.
        label_unavailable: bool. Whether a label may be given to a version that is not loaded, as
            all are before the start. A label that exists can only move to one that is.
        load_threads: int. Versions that are loaded at one time; 0 loads one after the other.
        unload_threads: int. Versions that are unloaded at one time; 0 for no limit.
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
        self._load_pool, self._unload_pool = _pool(load_threads), _pool(unload_threads)
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

    # --- the life of the manager

    def start(self) -> None:
        """Begins to look for versions, in a thread of its own; returns at once.

        Raises ServingError, FAILED_PRECONDITION, for labels when `label_unavailable` is off.
        """
        self._configure(self._first)
        self._thread.start()

    def wait_until_available(self, timeout: float | None = None) -> bool:
        """Whether every model has a version that answers before `timeout` seconds are over.

        Raises ServingError, UNKNOWN, when a model does not load; the message says why.
        """
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

        A new model that has no version yet is waited for until another reload comes, which takes
        the place of this one, or `is_cancelled`. Models that go are unloaded without a wait.

        Raises ServingError: FAILED_PRECONDITION when a label may not be given (nothing is changed);
        UNKNOWN when a new model does not load (the others are served); DEADLINE_EXCEEDED when it is
        cancelled; ABORTED when another reload took its place; UNAVAILABLE when the manager stops.
        """
        awaited, configuration = self._configure(_by_name(models))
        self._wake.set()
        while wait and not self._wait_until_settled(_LOOK_SECONDS, configuration):
            if self._stopping.is_set():
                raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            if is_cancelled():
                raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._raise_for("model(s)", awaited)

    def stop(self, timeout: float | None = None) -> bool:
        """Stops polling and unloads everything, once no request holds it any more.

        False when a load or a request took longer than `timeout` seconds more, which leaves what it
        uses loaded.
        """
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(left())
        every = self._every_version()
        with self._changed:
            loaded = self._changed.wait_for(lambda: not any(v.is_loading for _, v in every), left())
        for name, version in every:
            if version.state == State.AVAILABLE:
                self._start_unloading(name, version)
        with self._changed:
            unloaded = self._changed.wait_for(
                lambda: not any(v.state == State.UNLOADING for _, v in every), left()
            )
        for pool in filter(None, (self._load_pool, self._unload_pool)):
            pool.shutdown(wait=False)
        return loaded and unloaded and not self._thread.is_alive()

    # --- questions of requests

    @contextlib.contextmanager
    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Lends a version, by default the newest available one: it stays loaded meanwhile.

        Raises ServingError as the context begins: NOT_FOUND when it is not served, INVALID_ARGUMENT
        for an unknown label.
        """
        with self._changed:
            found = self._find(name, version, label)
            found.users += 1
        try:
            yield found.servable
        finally:
            with self._changed:
                found.users -= 1
                if not found.users:
                    self._changed.notify_all()

    def statuses(self, name: str) -> list[VersionStatus]:
        """What became of every version of a model that is remembered, newest first."""
        with self._changed:
            versions = self._versions.get(name, {})
            return [
                VersionStatus(number, versions[number].state, versions[number].error)
                for number in sorted(versions, reverse=True)
            ]

    def available_versions(self) -> list[tuple[str, int]]:
        """Name and version of all that answers requests."""
        every = self._every_version()
        return sorted((name, v.number) for name, v in every if v.state == State.AVAILABLE)

    def versions_of(self, name: str) -> list[Version]:
        """The versions of one model that are remembered."""
        with self._changed:
            return list(self._versions.get(name, {}).values())

    def check_labels(self, models: Iterable[ServedModel]) -> None:
        """Raises ServingError, FAILED_PRECONDITION, for a label that may not be given."""
        with self._changed:
            for model in models:
                given = self._models[model.name].labels if model.name in self._models else {}
                for label, number in sorted(model.labels.items()):
                    free = self._label_unavailable and given.get(label, number) == number
                    version = self._versions.get(model.name, {}).get(number)
                    if not free and (version is None or version.state != State.AVAILABLE):
                        raise ServingError(
                            grpc.StatusCode.FAILED_PRECONDITION,
                            f"Request to assign label to version {number} of model {model.name}, "
                            "which is not currently available for inference",
                        )

    def _find(self, name: str, number: int | None, label: str | None) -> Version:
        if label is not None:
            labels = self._models[name].labels if name in self._models else {}
            if label not in labels:
                raise ServingError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {label}",
                )
            number = labels[label]
        if number is None:
            found, request = self._newest_available(name), f"Latest({name})"
        else:
            found = self._versions.get(name, {}).get(number)
            request = f"Specific({name}, {number})"
        if found is None or found.state != State.AVAILABLE:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}"
            )
        return found

    # --- configurations

    def _configure(self, models: Mapping[str, ServedModel]) -> tuple[set[str], int]:
        """Takes other models as the wanted ones; who waits for an older configuration gives up.

        Returns the names that are new or still awaited, and the configuration's number.
        """
        with self._changed:
            self.check_labels(models.values())
            pending = {name for name in self._awaited if not self._is_settled(name)}
            self._awaited = {n for n in models if n not in self._models or n in pending}
            old, new = (
                {name: (model.base_path, model.labels) for name, model in wanted.items()}
                for wanted in (self._models, models)
            )
            if old != new:
                self._configuration += 1
                self._changed.notify_all()
            self._models = dict(models)
            return self._awaited, self._configuration

    def _wait_until_settled(self, timeout: float | None, configuration: int | None = None) -> bool:
        """Waits until each awaited model has a version that answers, or none that will.

        Raises ServingError, ABORTED, when another configuration is wanted by now.
        """

        def replaced() -> bool:
            return configuration not in (None, self._configuration)

        with self._changed:
            done = self._changed.wait_for(
                lambda: replaced() or all(map(self._is_settled, self._awaited)), timeout
            )
            if replaced():
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
            raise ServingError(grpc.StatusCode.UNKNOWN, not_available(what, failed))

    def _is_settled(self, name: str) -> bool:
        return bool(self._newest_available(name) or self._failed(name))

    def _newest_available(self, name: str) -> Version | None:
        versions = self._versions.get(name, {})
        available = [n for n, version in versions.items() if version.state == State.AVAILABLE]
        return versions[max(available)] if available else None

    def _failed(self, name: str) -> Version | None:
        """A version that does not load, of a model of which no version answers or will soon."""
        versions = self._versions.get(name, {})
        if any(version.state in (State.LOADING, State.AVAILABLE) for version in versions.values()):
            return None
        return next((versions[n] for n in sorted(versions) if versions[n].given_up), None)

    def _set_state(self, version: Version, state: int, error: ServingError | None = None) -> None:
        with self._changed:
            version.state, version.error = state, error
            self._changed.notify_all()

    # --- the polling thread

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
            self._wake.wait(max(0.0, min(next_look - time.monotonic(), self._seconds_to_retry())))
            self._wake.clear()

    def _every_version(self) -> list[tuple[str, Version]]:
        with self._changed:
            return [(name, v) for name, found in self._versions.items() for v in found.values()]

    def _seconds_to_retry(self) -> float:
        pauses = [version.seconds_to_retry() for _, version in self._every_version()]
        return min((pause for pause in pauses if pause is not None), default=_FOREVER)

    def _look(self, model: ServedModel) -> None:
        """Looks for versions. Storage that is away for a while changes nothing."""
        try:
            found = find_versions(model.base_path)
            problem = "" if found else missing_versions(model)
        except tf.errors.OpError as error:
            found, problem = None, f"cannot list {model.base_path}: {error.message}"
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
            if self._stopping.is_set():
                return
            self._start_loading(name, number, found[number])
        versions = self.versions_of(name)
        # One that takes their place must have come before the last of the others goes.
        ready = not wanted or any(
            v.state == State.AVAILABLE for v in versions if v.number in wanted
        )
        for version in versions:
            if version.number in wanted or version.is_loading:
                continue
            version.given_up = False  # should it come back, it is another one
            if version.state == State.LOADING:
                self._set_state(version, State.END, version.failure)
            elif version.state == State.AVAILABLE and ready:
                self._start_unloading(name, version)

    def _forget_ended(self, models: Mapping[str, ServedModel]) -> None:
        """Bounds what is remembered of versions, and of models, that are gone."""
        with self._changed:
            for versions in self._versions.values():
                if len(versions) > _MAX_ENDED:
                    ended = [v for v in versions.values() if v.state == State.END]
                    for version in ended[: len(versions) - _MAX_ENDED]:
                        if not version.given_up:
                            del versions[version.number]
            gone = [
                name
                for name, versions in self._versions.items()
                if name not in models and all(v.state == State.END for v in versions.values())
            ]
            for name in gone[: max(0, len(gone) - _MAX_ENDED)]:
                del self._versions[name]

    # --- loading and unloading

    def _start_loading(self, name: str, number: int, path: str) -> None:
        with self._changed:
            version = self._versions.setdefault(name, {}).setdefault(number, Version(number))
        if not version.is_due():
            return
        version.begin_try()
        self._set_state(version, State.LOADING)
        if self._load_pool is None:
            self._load(name, version, path)
        else:
            self._load_pool.submit(self._load, name, version, path)

    def _load(self, name: str, version: Version, path: str) -> None:
        begin = time.monotonic()
        try:
            version.servable, records = self.loader.load(name, version.number, path)
        except ServingError as error:
            self._note_failure(name, version, path, error)
        else:
            version.is_loading = False
            self._set_state(version, State.AVAILABLE)
            seconds = time.monotonic() - begin
            LOG.info(
                "loaded %s version %d from %s in %.1f s, %d warm-up requests",
                *(name, version.number, path, seconds, records),
            )
        if self._load_pool is not None:
            self._wake.set()

    def _note_failure(self, name: str, version: Version, path: str, error: ServingError) -> None:
        retry = version.plan_retry(self._retries)
        if retry:
            count = self._retries.count if self._retries.count >= 0 else "any number"
            more = f"trying again in {self._retries.seconds:g} s, {retry} of {count}"
        else:
            more = "given up, until the version goes away and comes back"
        message = f"model {name} version {version.number} at {path} does not load: {error}; {more}"
        LOG.error("%s", message)
        if error.__cause__ is not None and (
            version.failure is None or version.failure.message != error.message
        ):
            LOG.error("what the loader raised:", exc_info=error.__cause__)  # once
        version.failure, version.is_loading = error, False
        if retry:
            self._set_state(version, State.LOADING)
        else:
            self._set_state(version, State.END, error)

    def _start_unloading(self, name: str, version: Version) -> None:
        self._set_state(version, State.UNLOADING)
        # In a thread, so that a long request on an old version delays no other model. Not a daemon:
        # Python aborts the process when it ends while such a thread is inside TensorFlow.
        if self._unload_pool is None:
            threading.Thread(target=self._unload, args=(name, version)).start()
        else:
            self._unload_pool.submit(self._unload, name, version)

    def _unload(self, name: str, version: Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.users == 0)
            servable, version.servable = version.servable, None
        servable.close()
        del servable  # the graph goes now, not after the version is said to be gone
        self._set_state(version, State.END)
        LOG.info("unloaded %s version %d", name, version.number)


def _pool(threads: int) -> futures.ThreadPoolExecutor | None:
    return futures.ThreadPoolExecutor(threads) if threads > 0 else None


def _by_name(models: Sequence[ServedModel]) -> dict[str, ServedModel]:
    named = {model.name: model for model in models}
    if len(named) != len(models):
        raise ValueError(f"model names must differ; got {[model.name for model in models]}")
    return named
