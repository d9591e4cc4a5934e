"""Requests on a manager of models: which servable is meant, and what is known of models."""

from contextlib import AbstractContextManager

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from export.server.api.classification import classify, multi_inference, regress
from export.server.api.inference import predict
from export.server.models.manager import Manager
from export.server.run.servable import Servable
from export.server.status import RequestClock, ServingError, invalid

INFERENCE = {
    "Predict": predict,
    "Classify": classify,
    "Regress": regress,
    "MultiInference": multi_inference,
}


def infer(api: str, manager: Manager, request, clock: RequestClock | None = None):
    """Answers a request of INFERENCE on the servable that it asks for.

    Raises ServingError, with the code and message of TensorFlow Serving for the same request.
    """
    if api == "MultiInference":  # several signatures on one input
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
    else:
        _require_spec(request)
        spec = request.model_spec
    with acquire(manager, spec) as servable:
        return INFERENCE[api](servable, request, clock)


def acquire(manager: Manager, spec: model_pb2.ModelSpec) -> AbstractContextManager[Servable]:
    """A context with the servable that a model_spec means; raises when there is none."""
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return manager.acquire(
        spec.name,
        version=spec.version.value if choice == "version" else None,
        label=spec.version_label if choice == "version_label" else None,
    )


def model_metadata(
    manager: Manager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers GetModelMetadata: the one field there is, `signature_def`."""
    _require_spec(request)
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with acquire(manager, request.model_spec) as servable:
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response.metadata["signature_def"].Pack(signatures)
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
    return response


def model_status(
    manager: Manager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers GetModelStatus: one version, or all that were ever seen, newest first.

    A version label is ignored, as TensorFlow Serving ignores it.
    """
    _require_spec(request)
    spec = request.model_spec
    statuses = manager.statuses(spec.name)
    if spec.WhichOneof("version_choice") == "version":
        statuses = [status for status in statuses if status.number == spec.version.value]
        missing = f"Could not find version {spec.version.value} of model {spec.name}"
    else:
        missing = f"Could not find any versions of model {spec.name}"
    if not statuses:
        raise ServingError(grpc.StatusCode.NOT_FOUND, missing)
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        answer = response.model_version_status.add(version=status.number, state=status.state)
        answer.status.SetInParent()
        if status.error:
            answer.status.error_code = status.error.code.value[0]
            answer.status.error_message = status.error.message
    return response


def _require_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
