"""Which models to serve, and of each which versions: from Python, or from a ModelServerConfig."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from tensorflow_serving.config import model_server_config_pb2

from export.server.status import invalid

ModelServerConfig = model_server_config_pb2.ModelServerConfig
PLATFORM = "tensorflow"
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
        name: The name clients ask for.
        base_path: The folder whose subfolders 1, 2, ... are the versions; ValueError if relative.
        policy: From the versions present, ascending, those to serve. Defaults to the newest one.
        labels: Names by which clients may ask for a version.

    Example:
        >>> model = ServedModel("writer", "/models/writer", every_version(), {"stable": 1})
    """

    name: str
    base_path: str
    policy: Policy = dataclasses.field(default_factory=latest, compare=False)
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not os.path.isabs(self.base_path) and "://" not in self.base_path:
            raise ValueError(
                f"Expected model {self.name} to have an absolute path or URI; "
                f"got base_path()={self.base_path}"
            )


def models_of(config: ModelServerConfig) -> list[ServedModel]:
    """The models of a configuration; ServingError for what TensorFlow Serving refuses."""
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("custom_model_config is not supported: give a model_config_list")
    models: dict[str, ServedModel] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        policy = entry.model_version_policy
        choices = {"all": every_version(), "specific": specific(policy.specific.versions)}
        choice = choices.get(policy.WhichOneof("policy_choice"), latest(policy.latest.num_versions))
        labels = dict(entry.version_labels)
        try:
            models[entry.name] = ServedModel(entry.name, entry.base_path, choice, labels)
        except ValueError as error:  # a base path
            raise invalid(str(error)) from error
    kind, platform = (f"ModelServerConfig::model_{w}" for w in ("type (deprecated)", "platform"))
    for entry in config.model_config_list.config:
        setting = f"{kind} to OTHER" if entry.model_type == model_server_config_pb2.OTHER else ""
        if bool(entry.model_type) == bool(entry.model_platform):
            both = bool(entry.model_type)
            setting = f"both {kind} and {platform}" if both else f"neither {kind} nor {platform}"
        if setting:
            raise invalid(f"Illegal setting {setting}, model name is {entry.name}")
        if entry.model_platform not in ("", PLATFORM):
            raise invalid(
                f"Model {entry.name} requests unsupported platform {entry.model_platform}"
            )
    return list(models.values())
