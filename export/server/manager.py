"""Which versions of which models are served: polls, loads, swaps, unloads.

A version is a folder named by a number below the model's base path. A new one is loaded and warmed
beside the old one, takes its place, and only then is the old one let go, once the requests that
hold it are done. So a swap fails no request.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence

import grpc
import tensorflow as tf
from absl import logging
from tensorflow_serving.apis import get_model_status_pb2

from export.server.models import ServedModel, find_versions, waiting_message
from export.server.servable import Servable, ServingError
from export.server.warmup import warm_up

State = get_model_status_pb2.ModelVersionStatus


@dataclasses.dataclass
class VersionStatus:
    """What became of one version: a state of ModelVersionStatus and, after a failure, why."""

    number: int
    state: int = State.START
    error: ServingError | None = None


class _Version(VersionStatus):
    """A status with the servable it tells of, and how many requests are using it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.servable: Servable | None = None
        self.users = 0
        self.failure: ServingError | None = None  # of the last try to load, while there are more


class Manager:
    """Keeps the wanted versions of some models loaded, and lends them to requests.

    Args:
        models: The models to serve; their names must differ.
        poll_wait_seconds: float. Pause between two looks at the base paths; 0 looks only once.

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

    def __init__(self, models: Sequence[ServedModel], poll_wait_seconds: float = 1.0):
        self._models = {model.name: model for model in models}
        if len(self._models) != len(models):
            raise ValueError(f"model names must differ; got {[model.name for model in models]}")
        self._poll_wait_seconds = poll_wait_seconds
        self._versions: dict[str, dict[int, _Version]] = {name: {} for name in self._models}
        self._changed = threading.Condition()  # guards all versions; notified when one changes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_polling, name="versions", daemon=True)
        self._fatal = ""
        self._told: dict[str, str] = {}

    def start(self) -> None:
        """Begins to look for versions, in a thread of its own; returns at once."""
        self._thread.start()

    def wait_until_available(self, timeout: float | None = None) -> bool:
        """Waits until every model has a version that answers requests.

        Returns:
            Whether that came true before `timeout` seconds were over.

        Raises:
            RuntimeError: a version that was there when the manager started does not load.
        """

        def settled() -> bool:
            return bool(self._fatal) or all(map(self._newest, self._versions))

        with self._changed:
            done = self._changed.wait_for(settled, timeout)
            if self._fatal:
                raise RuntimeError(self._fatal)
            return done

    @contextlib.contextmanager
    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Lends a servable: it stays loaded until the context ends.

        Args:
            name: str. The model.
            version: int | None. A version, else the newest one that is available.
            label: str | None. A version by its label.

        Raises:
            ServingError: NOT_FOUND when it is not served, INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            labels = self._models[name].labels if name in self._models else {}
            if label not in labels:
                raise ServingError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {label}",
                )
            version = labels[label]
        with self._changed:
            if version is None:
                found, request = self._newest(name), f"Latest({name})"
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
                self._changed.notify_all()

    def statuses(self, name: str) -> list[VersionStatus]:
        """What became of every version of a model that was ever seen, newest first."""
        with self._changed:
            versions = self._versions.get(name, {})
            return [
                VersionStatus(number, versions[number].state, versions[number].error)
                for number in sorted(versions, reverse=True)
            ]

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
        if self._thread.ident is not None:
            self._thread.join(left())
        with self._changed:
            versions = [(n, v) for n, all_of_n in self._versions.items() for v in all_of_n.values()]
        for name, version in versions:
            if version.state == State.AVAILABLE:
                self._start_unloading(name, version)
        with self._changed:
            done = self._changed.wait_for(
                lambda: not any(version.state == State.UNLOADING for _, version in versions), left()
            )
        return done and not self._thread.is_alive()

    def _newest(self, name: str) -> _Version | None:
        versions = self._versions.get(name, {})
        available = [n for n, version in versions.items() if version.state == State.AVAILABLE]
        return versions[max(available)] if available else None

    def _keep_polling(self) -> None:
        first = True
        while not self._stopping.is_set() and not self._fatal:
            for model in self._models.values():
                if not self._stopping.is_set():
                    self._poll(model, first)
            first = False
            if not self._poll_wait_seconds:
                return
            self._stopping.wait(self._poll_wait_seconds)

    def _poll(self, model: ServedModel, first: bool) -> None:
        try:
            found = find_versions(model.base_path)
        except tf.errors.OpError as error:
            # What is loaded keeps serving: storage that is away for a while must not stop it.
            self._tell(model, f"cannot list {model.base_path}: {error.message}")
            return
        if found is None:
            self._tell(model, waiting_message(model, "which does not exist"))
            return
        if not found:
            self._tell(model, waiting_message(model, "whose folders are not named by a number"))
        else:
            self._told.pop(model.name, None)
        wanted = model.policy(sorted(found))
        for number in wanted:
            self._load(model, number, found[number], fatal=first)
        with self._changed:
            versions = list(self._versions[model.name].values())
            # Nothing goes before all that is to take its place has come.
            ready = all(v.state == State.AVAILABLE for v in versions if v.number in wanted)
        for version in versions:
            if version.number in wanted:
                continue
            if version.state == State.LOADING:
                self._set_state(version, State.END, version.failure)  # given up: gone, or outdated
            elif version.state == State.AVAILABLE and ready:
                self._start_unloading(model.name, version)

    def _load(self, model: ServedModel, number: int, path: str, fatal: bool) -> None:
        with self._changed:
            version = self._versions[model.name].get(number)
            if version is None or version.state == State.END:
                version = self._versions[model.name][number] = _Version(number)
            elif version.state != State.LOADING:  # LOADING here: it failed at the last poll
                return
        self._set_state(version, State.LOADING)
        begin = time.monotonic()
        servable = None
        try:
            servable = Servable(model.name, number, path)
            records = warm_up(servable)
        except Exception as error:  # noqa: BLE001  whatever a damaged file may raise
            if servable is not None:
                servable.close()
            self._failed(model, version, path, error, fatal)
            return
        version.servable = servable
        self._set_state(version, State.AVAILABLE)
        seconds = time.monotonic() - begin
        logging.info(
            "loaded %s version %d from %s in %.1f s, %d warm-up requests",
            *(model.name, number, path, seconds, records),
        )

    def _failed(
        self, model: ServedModel, version: _Version, path: str, error: Exception, fatal: bool
    ) -> None:
        known = isinstance(error, ServingError)
        failure = error if known else ServingError(grpc.StatusCode.UNKNOWN, str(error))
        message = f"model {model.name} version {version.number} at {path} does not load: {failure}"
        if version.failure is None or version.failure.message != failure.message:  # once
            logging.error("%s%s", message, "" if fatal else "; trying again at each poll")
            if not known:
                logging.error("what the loader raised:", exc_info=error)
        version.failure = failure
        if fatal:
            self._set_state(version, State.END, failure)
            with self._changed:
                self._fatal = message
                self._changed.notify_all()

    def _start_unloading(self, name: str, version: _Version) -> None:
        self._set_state(version, State.UNLOADING)
        # In a thread, so that a long request on an old version delays no other model. Not a daemon:
        # Python aborts the process when it ends while such a thread is inside TensorFlow.
        threading.Thread(target=self._unload, args=(name, version)).start()

    def _unload(self, name: str, version: _Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.users == 0)
            servable, version.servable = version.servable, None
        servable.close()
        del servable  # the graph goes now, not after the version is said to be gone
        self._set_state(version, State.END)
        logging.info("unloaded %s version %d", name, version.number)

    def _set_state(self, version: _Version, state: int, error: ServingError | None = None) -> None:
        with self._changed:
            version.state, version.error = state, error
            self._changed.notify_all()

    def _tell(self, model: ServedModel, message: str) -> None:
        if self._told.get(model.name) != message:  # once, not at every poll
            logging.warning("%s", message)
            self._told[model.name] = message
