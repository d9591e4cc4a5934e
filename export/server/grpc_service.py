"""TensorFlow Serving's gRPC services, on a manager of models."""

import dataclasses
import functools
import time
from collections.abc import Callable
from concurrent import futures

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from tensorflow_serving.apis import (
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from export.server.api import classification, inference
from export.server.metrics import Metrics
from export.server.models import config as model_config
from export.server.models.manager import Manager
from export.server.run.request_clock import due_in, run_seconds
from export.server.run.servable import ServingError
from export.server.status import unexpected

_PREDICTION = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
_MODEL = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
SERVICES = (_PREDICTION.full_name, _MODEL.full_name)
# What tells of the server's state is answered though all threads of requests are busy. For the
# process, not for a server: grpc_health keeps its pool on a class.
STATUS_THREADS = futures.ThreadPoolExecutor(4, thread_name_prefix="status")
# A reload waits until its models answer, and ends when the next one comes.
_RELOAD_THREADS = futures.ThreadPoolExecutor(4, thread_name_prefix="reload")
_THREADS = {"GetModelStatus": STATUS_THREADS, "HandleReloadConfigRequest": _RELOAD_THREADS}
_MAX_MESSAGE = 1024  # bytes; TensorFlow Serving cuts longer ones, HTTP/2 headers being bounded


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, manager: Manager, metrics: Metrics | None):
        self._manager, self._metrics = manager, metrics

    def Predict(self, request, context):  # noqa: N802  the name is the protocol's
        return self._answer("Predict", inference.predict, request, context)

    def Classify(self, request, context):  # noqa: N802
        return self._answer("Classify", classification.classify, request, context)

    def Regress(self, request, context):  # noqa: N802
        return self._answer("Regress", classification.regress, request, context)

    def MultiInference(self, request, context):  # noqa: N802
        return self._answer("MultiInference", classification.multi_inference, request, context)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return answer(inference.model_metadata, self._manager, request, context)

    def _answer(self, api: str, call: Callable, request, context: grpc.ServicerContext):
        """Answers, and counts the request and its time."""

        def timed(manager: Manager, request):
            status, begin = "UNKNOWN", time.monotonic()
            try:
                response = call(manager, request)
                status = "OK"
                return response
            except ServingError as error:
                status = error.code.name
                raise
            finally:
                name, seconds = _model_name(request), time.monotonic() - begin
                self._metrics.record(name, status, "GRPC", seconds, api=api)
                if status == "OK":
                    self._metrics.record_runtime(name, run_seconds(), api=api)

        return answer(timed if self._metrics else call, self._manager, request, context)


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, manager: Manager, reloads: bool):
        self._manager, self._reloads = manager, reloads

    def GetModelStatus(self, request, context):  # noqa: N802
        return answer(inference.model_status, self._manager, request, context)

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        def call(manager: Manager, request):
            if not self._reloads:
                raise ServingError(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "this server takes no configuration over gRPC (--noallow_reload_over_grpc)",
                )
            return model_config.handle_reload(manager, request, lambda: not context.is_active())

        return answer(call, self._manager, request, context)


def add_services(
    server: grpc.Server, manager: Manager, metrics: Metrics | None = None, reloads: bool = True
) -> None:
    """Adds PredictionService and ModelService to a gRPC server.

    Args:
        server: Not started yet.
        manager: What is asked.
        metrics: Metrics | None. What counts the predictions.
        reloads: bool. Whether HandleReloadConfigRequest is answered, or refused.
    """
    for service, servicer in (
        (_PREDICTION, _PredictionService(manager, metrics)),
        (_MODEL, _ModelService(manager, reloads)),
    ):
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                _in_threads(getattr(servicer, method.name), _THREADS.get(method.name)),
                request_deserializer=functools.partial(_read, GetMessageClass(method.input_type)),
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in service.methods
        }
        handler = grpc.method_handlers_generic_handler(service.full_name, handlers)
        server.add_generic_rpc_handlers((handler,))


def _in_threads(behavior: Callable, threads: futures.ThreadPoolExecutor | None) -> Callable:
    """The same, run by these threads; None: by those of the server."""
    if threads is None:
        return behavior

    def call(request, context):
        return behavior(request, context)

    call.experimental_thread_pool = threads
    return call


@dataclasses.dataclass(frozen=True)
class _Unreadable:
    """Stands for a message that is none of its kind."""

    reason: str


def _read(kind: type[Message], message: bytes) -> Message | _Unreadable:
    # Not the generated add_..._to_server: where a reader raises, gRPC ends the call twice, keeps
    # all of it for ever (20 kB a call), and logs a traceback.
    try:
        return kind.FromString(message)
    except DecodeError as error:
        return _Unreadable(f"the message is no {kind.DESCRIPTOR.full_name}: {error}")


def answer(call: Callable, manager: Manager, request, context: grpc.ServicerContext):
    """Runs `call(manager, request)`; a ServingError becomes the status of the RPC."""
    remaining = context.time_remaining()
    if not context.is_active() or (remaining is not None and remaining <= 0):
        # The client gave up while the request was waiting for a thread: nobody reads the answer.
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    if isinstance(request, _Unreadable):
        context.abort(grpc.StatusCode.INTERNAL, request.reason)
    try:
        with due_in(remaining):
            return call(manager, request)
    except ServingError as error:
        code, message = error.code, error.message
    except Exception:  # noqa: BLE001  no exception of Python reaches a client
        error = unexpected("a gRPC request failed")
        code, message = error.code, error.message
    return context.abort(code, truncated(message))


def truncated(message: str) -> str:
    """Cuts a message to what TensorFlow Serving sends: 1,024 bytes and a mark."""
    encoded = message.encode("utf-8", "backslashreplace")
    if len(encoded) <= _MAX_MESSAGE:
        return encoded.decode()
    return encoded[:_MAX_MESSAGE].decode(errors="ignore") + "...TRUNCATED"


def _model_name(request) -> str:
    spec = getattr(request, "model_spec", None)
    if spec is None:  # MultiInference
        spec = request.tasks[0].model_spec if request.tasks else None
    return spec.name if spec is not None else ""
