"""Requests on a manager of models: which servable is meant, what is known of models, reloads."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec

from export.server.api.classification import classify, multi_inference, regress
from export.server.api.inference import predict
from export.server.models.config import models_of
from export.server.models.manager import Manager, State
from export.server.run.servable import Servable
from export.server.status import ServingError, invalid

INFERENCE = {
    "Predict": predict,
    "Classify": classify,
    "Regress": regress,
    "MultiInference": multi_inference,
}


def acquire(manager: Manager, spec: ModelSpec) -> AbstractContextManager[Servable]:
    """A context with the servable that a model_spec means; raises when there is none."""
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return manager.acquire(
        spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def model_metadata(manager: Manager, spec: ModelSpec, fields: Sequence[str] = ("signature_def",)):
    """Answers GetModelMetadata: the one field there is, `signature_def`."""
    if not fields:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with acquire(manager, spec) as servable:
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response.metadata["signature_def"].Pack(signatures)
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
    return response


def model_status(manager: Manager, spec: ModelSpec):
    """Answers GetModelStatus: one version, or all, newest first; a version label is ignored."""
    versions, missing = manager.versions_of(spec.name), "any versions"
    if spec.WhichOneof("version_choice") == "version":
        versions = [version for version in versions if version.number == spec.version.value]
        missing = f"version {spec.version.value}"
    if not versions:
        message = f"Could not find {missing} of model {spec.name}"
        raise ServingError(grpc.StatusCode.NOT_FOUND, message)
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in versions:
        answer = response.model_version_status.add(version=version.number, state=version.state)
        answer.status.SetInParent()
        if version.error and version.state == State.END:
            answer.status.error_code = version.error.code.value[0]
            answer.status.error_message = version.error.message
    return response


def reload_config(
    manager: Manager, request: ReloadConfigRequest, is_cancelled: Callable[[], bool] = lambda: False
) -> ReloadConfigResponse:
    """Answers HandleReloadConfigRequest, once the new models can be asked."""
    if request.config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    manager.reload(models_of(request.config), is_cancelled)
    response = ReloadConfigResponse()
    response.status.SetInParent()
    for name in request.metric_names:  # a reload changes none of this server's
        response.metric.add(name=name, int64_value_increase=0)
    return response


def required_spec(request) -> ModelSpec:
    """The model_spec of a request; raises when there is none."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec
