"""The table behind the manager: which models are wanted, what became of each of their versions."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import grpc

from export.server.models.models import ServedModel
from export.server.models.versions import State, Version, VersionStatus, not_available
from export.server.run.servable import Servable, ServingError


class ServedVersions:
    """Wanted models, their versions and labels, safe to use from many threads.

    Args:
        label_unavailable: bool. Whether a label may be given to a version that is not loaded.
            A label that exists can only move to one that is.
    """

    def __init__(self, label_unavailable: bool = False):
        self._label_unavailable = label_unavailable
        self._models: Mapping[str, ServedModel] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._awaited: set[str] = set()  # of the last configuration, until they answer or fail
        self._configuration = 0  # counts them
        self._changed = threading.Condition()  # guards all the above; notified when it changes

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """The models that are wanted."""
        with self._changed:
            return self._models

    def names(self) -> set[str]:
        """The names of all models of which a version was ever seen."""
        with self._changed:
            return set(self._versions)

    def of_model(self, name: str) -> list[Version]:
        """The versions of one model that were ever seen."""
        with self._changed:
            return list(self._versions.get(name, {}).values())

    def get_or_add(self, name: str, number: int) -> Version:
        """One version, in the state START if it was never seen."""
        with self._changed:
            return self._versions.setdefault(name, {}).setdefault(number, Version(number))

    def set_state(self, version: Version, state: int, error: ServingError | None = None) -> None:
        """Moves a version on, and wakes who waits for that."""
        with self._changed:
            version.state, version.error = state, error
            self._changed.notify_all()

    def configure(self, models: Mapping[str, ServedModel]) -> tuple[set[str], int]:
        """Takes another set of models as the wanted ones; who waits for an older set is told.

        Returns:
            The names of those that are new, or were still awaited, and the configuration's number.

        Raises:
            ServingError: as `check_labels`; then nothing is changed.
        """
        with self._changed:
            self.check_labels(models.values())
            pending = {name for name in self._awaited if not self._settled(name)}
            self._awaited = {n for n in models if n not in self._models or n in pending}
            if _places(models) != _places(self._models):
                self._configuration += 1
                self._changed.notify_all()
            self._models = dict(models)
            return self._awaited, self._configuration

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

    @contextlib.contextmanager
    def acquire(self, name: str, version: int | None, label: str | None) -> Iterator[Servable]:
        """Lends a servable, as `Manager.acquire` says."""
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
            found, request = self._newest(name), f"Latest({name})"
        else:
            found = self._versions.get(name, {}).get(number)
            request = f"Specific({name}, {number})"
        if found is None or found.state != State.AVAILABLE:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}"
            )
        return found

    def statuses(self, name: str) -> list[VersionStatus]:
        """What became of every version of a model that was ever seen, newest first."""
        with self._changed:
            versions = self._versions.get(name, {})
            return [
                VersionStatus(number, versions[number].state, versions[number].error)
                for number in sorted(versions, reverse=True)
            ]

    def available(self) -> list[tuple[str, int]]:
        """Name and version of all that answers requests."""
        with self._changed:
            return [
                (name, number)
                for name, versions in sorted(self._versions.items())
                for number in sorted(versions)
                if versions[number].state == State.AVAILABLE
            ]

    def wait_until_settled(self, timeout: float | None, configuration: int | None = None) -> bool:
        """Waits until each awaited model has a version that answers, or none that will.

        Returns:
            Whether that came true before `timeout` seconds were over.

        Raises:
            ServingError: ABORTED, models other than those of `configuration` are wanted now.
        """

        def replaced() -> bool:
            return configuration not in (None, self._configuration)

        with self._changed:
            done = self._changed.wait_for(
                lambda: replaced() or all(map(self._settled, self._awaited)), timeout
            )
            if replaced():
                raise ServingError(
                    grpc.StatusCode.ABORTED,
                    "a newer configuration came before the models of this one could be served",
                )
            return done

    def raise_for(self, what: str, names: Iterable[str]) -> None:
        """Raises ServingError, UNKNOWN, when some of these models do not load."""
        with self._changed:
            failed = [(name, version) for name in sorted(names) if (version := self._failed(name))]
        if failed:
            raise ServingError(grpc.StatusCode.UNKNOWN, not_available(what, failed))

    def take_unused(self, version: Version) -> Servable:
        """Waits until nobody uses a version, and takes its servable out."""
        with self._changed:
            self._changed.wait_for(lambda: version.users == 0)
            servable, version.servable = version.servable, None
        return servable

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until a change of state makes the condition true."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _settled(self, name: str) -> bool:
        return bool(self._newest(name) or self._failed(name))

    def _newest(self, name: str) -> Version | None:
        versions = self._versions.get(name, {})
        available = [n for n, version in versions.items() if version.state == State.AVAILABLE]
        return versions[max(available)] if available else None

    def _failed(self, name: str) -> Version | None:
        """A version that does not load, of a model of which no version answers or will soon."""
        versions = self._versions.get(name, {})
        if any(version.state in (State.LOADING, State.AVAILABLE) for version in versions.values()):
            return None
        return next((versions[n] for n in sorted(versions) if versions[n].given_up), None)


def _places(models: Mapping[str, ServedModel]) -> dict[str, tuple[str, Mapping[str, int]]]:
    return {name: (model.base_path, model.labels) for name, model in models.items()}


def by_name(models: Sequence[ServedModel]) -> dict[str, ServedModel]:
    """Name -> model; raises ValueError when two have one name."""
    named = {model.name: model for model in models}
    if len(named) != len(models):
        raise ValueError(f"model names must differ; got {[model.name for model in models]}")
    return named
