"""Which models a ModelServerConfig asks for, from a file, from flags or from a request."""

import threading
from collections.abc import Callable

from tensorflow_serving.apis import model_management_pb2
from tensorflow_serving.config import model_server_config_pb2

from export.server.config_files import read_text_proto
from export.server.models.manager import Manager
from export.server.models.versions import Policy, ServedModel, every_version, latest, specific
from export.server.status import LOG, ServingError, invalid

ModelServerConfig = model_server_config_pb2.ModelServerConfig
_PLATFORM = "tensorflow"


def single_model_config(name: str, base_path: str) -> ModelServerConfig:
    """The configuration that `--model_name` and `--model_base_path` stand for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=_PLATFORM)
    return config


def models_of(config: ModelServerConfig) -> list[ServedModel]:
    """The models of a configuration.

    Raises ServingError, INVALID_ARGUMENT, for what TensorFlow Serving refuses and in its words: a
    name that is there twice, a relative base path, a platform other than `tensorflow`.
    """
    models = _listed(config)
    _check_platforms(config)
    return models


def reload(
    manager: Manager,
    config: ModelServerConfig,
    is_cancelled: Callable[[], bool] = lambda: False,
    wait: bool = True,
) -> None:
    """Serves the models of this configuration from now on; `wait` as in `Manager.reload`.

    Nothing is changed when the configuration is at fault: raises as `models_of` then.
    """
    if config.WhichOneof("config") is None:
        LOG.info("the model configuration is empty: nothing is changed")
        return
    models = _listed(config)
    manager.check_labels(models)  # in this order, so that of two faults the same one is named
    _check_platforms(config)
    manager.reload(models, is_cancelled, wait)


def handle_reload(
    manager: Manager,
    request: model_management_pb2.ReloadConfigRequest,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> model_management_pb2.ReloadConfigResponse:
    """Answers HandleReloadConfigRequest, once the new models can be asked.

    The increase of a metric that was asked for is 0, as it is in TensorFlow Serving for all that a
    reload does not count; this server has no metric that a reload changes.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    reload(manager, request.config, is_cancelled)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    for name in request.metric_names:
        response.metric.add(name=name, int64_value_increase=0)
    return response


class ConfigFilePoller:
    """Reads the file of `--model_config_file` again and again, and reloads what it says.

    A file that does not parse, or that the manager refuses, is logged and changes nothing.
    """

    def __init__(self, path: str, manager: Manager, seconds: float):
        self._path, self._manager, self._seconds = path, manager, seconds
        self._stopping = threading.Event()
        self._logged = ""
        self._thread = threading.Thread(target=self._keep_polling, name="config", daemon=True)

    def start(self) -> None:
        """Begins, in a thread of its own; the first look is after the pause."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the looking, and waits until a reload that runs is over or given up."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep_polling(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                # Without a wait, so that a file that is corrected is read while models are missing.
                reload(self._manager, read_text_proto(self._path, ModelServerConfig), wait=False)
                self._logged = ""
            except ServingError as error:
                message = f"the models of {self._path} are not served: {error}"
                if not self._stopping.is_set() and message != self._logged:  # once
                    LOG.error("%s", message)
                self._logged = message


def _listed(config: ModelServerConfig) -> list[ServedModel]:
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("custom_model_config is not supported: give a model_config_list")
    entries, names = config.model_config_list.config, set()
    for entry in entries:
        if entry.name in names:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        names.add(entry.name)
    try:
        return [
            ServedModel(
                entry.name,
                entry.base_path,
                _policy(entry.model_version_policy),
                dict(entry.version_labels),
            )
            for entry in entries
        ]
    except ValueError as error:  # a base path
        raise invalid(str(error)) from error


def _check_platforms(config: ModelServerConfig) -> None:
    fields = "ModelServerConfig::model_type (deprecated)", "ModelServerConfig::model_platform"
    for entry in config.model_config_list.config:
        problem = ""
        if entry.model_type and entry.model_platform:
            problem = f"Illegal setting both {fields[0]} and {fields[1]}"
        elif not entry.model_type and not entry.model_platform:
            problem = f"Illegal setting neither {fields[0]} nor {fields[1]}"
        elif entry.model_type == model_server_config_pb2.OTHER:
            problem = f"Illegal setting {fields[0]} to OTHER"
        if problem:
            raise invalid(f"{problem}, model name is {entry.name}")
        if entry.model_platform not in ("", _PLATFORM):
            raise invalid(
                f"Model {entry.name} requests unsupported platform {entry.model_platform}"
            )


def _policy(policy) -> Policy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return every_version()
    if choice == "specific":
        return specific(policy.specific.versions)
    return latest(policy.latest.num_versions)
