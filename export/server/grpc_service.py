"""The gRPC services: TensorFlow Serving's on a manager of models, health, and reflection."""

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from tensorflow_serving.apis import model_pb2, model_service_pb2, prediction_service_pb2

from export.server.api import requests
from export.server.metrics import Metrics
from export.server.models.manager import Manager
from export.server.status import RequestClock, ServingError, unexpected

_SERVICES = (
    prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"],
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
)
SERVICES = tuple(service.full_name for service in _SERVICES)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
# Questions about the server's state are answered though all threads of requests are busy.
_STATUS_THREADS = futures.ThreadPoolExecutor(4, thread_name_prefix="status")
_THREADS = {
    "GetModelStatus": _STATUS_THREADS,
    "Check": _STATUS_THREADS,
    # A reload waits until its models answer, and ends when the next one comes.
    "HandleReloadConfigRequest": futures.ThreadPoolExecutor(4, thread_name_prefix="reload"),
    # One more than may be open: it refuses the others at once, before they count as requests.
    "ServerReflectionInfo": futures.ThreadPoolExecutor(17, thread_name_prefix="reflection"),
}
_MAX_REFLECTIONS = 16  # a stream may stay idle
_NOTIFY_SECONDS = 1.0
_MAX_MESSAGE = 1024  # bytes; TensorFlow Serving cuts longer ones, HTTP/2 headers being bounded


def add_services(server: grpc.Server, manager: Manager, metrics: Metrics, reloads: bool) -> None:
    """Adds PredictionService and ModelService to a gRPC server that is not started yet."""

    def infer(api: str, request, clock: RequestClock, _):
        several = api == "MultiInference"  # signatures on one input
        asked = request.tasks if several else [request]
        spec = asked[0].model_spec if asked else model_pb2.ModelSpec()
        with metrics.counting(spec.name, "GRPC", api, clock):
            if not several:
                requests.required_spec(request)
            with requests.acquire(manager, spec) as servable:
                return requests.INFERENCE[api](servable, request, clock)

    def reload(request, _, context: grpc.ServicerContext):
        if not reloads:
            raise ServingError(
                grpc.StatusCode.PERMISSION_DENIED,
                "this server takes no configuration over gRPC (--noallow_reload_over_grpc)",
            )
        return requests.reload_config(manager, request, lambda: not context.is_active())

    calls = {
        **{api: functools.partial(infer, api) for api in requests.INFERENCE},
        "GetModelMetadata": lambda request, *_: requests.model_metadata(
            manager, requests.required_spec(request), request.metadata_field
        ),
        "GetModelStatus": lambda request, *_: requests.model_status(
            manager, requests.required_spec(request)
        ),
        "HandleReloadConfigRequest": reload,
    }
    for service in _SERVICES:
        _add(
            server,
            service,
            {m.name: functools.partial(answer, calls[m.name]) for m in service.methods},
        )


# Not that of grpc_health: it sends to watches while it holds a lock that gRPC's own thread needs
# when one of them ends, so a stop could hang.
class Health:
    """grpc.health.v1.Health: SERVING for the server and each service, until it is shut down."""

    def __init__(self, server: grpc.Server):
        self._status = health_pb2.HealthCheckResponse.SERVING
        self._watches: set[Callable] = set()
        _add(
            server, _HEALTH, {"Check": functools.partial(answer, self._check), "Watch": self._watch}
        )

    def shut_down(self) -> None:
        """Says NOT_SERVING, also to those that watch; returns soon, whatever they do."""
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        thread = threading.Thread(target=self._notify, name="health", daemon=True)
        thread.start()
        thread.join(_NOTIFY_SECONDS)

    def _notify(self) -> None:
        for send in list(self._watches):
            send(health_pb2.HealthCheckResponse(status=self._status))

    def _check(self, request, *_):
        if request.service not in ("", *SERVICES):
            raise ServingError(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self._status)

    def _watch(self, request, context, send_response_callback):
        if isinstance(request, DecodeError):
            context.abort(grpc.StatusCode.INTERNAL, str(request))
        if request.service not in ("", *SERVICES):
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            send_response_callback(health_pb2.HealthCheckResponse(status=unknown))
            return
        self._watches.add(send_response_callback)
        context.add_callback(lambda: self._watches.discard(send_response_callback))
        send_response_callback(health_pb2.HealthCheckResponse(status=self._status))

    _watch.experimental_non_blocking = True  # it holds no thread


def add_reflection(server: grpc.Server, services: list[str]) -> None:
    """Adds gRPC reflection, by which clients can list these services and itself."""
    servicer = reflection.ReflectionServicer([*services, reflection.SERVICE_NAME])
    free = threading.BoundedSemaphore(_MAX_REFLECTIONS)

    def readable(received: Iterator) -> Iterator:
        for request in received:
            if isinstance(request, DecodeError):
                raise ServingError(grpc.StatusCode.INTERNAL, str(request))
            yield request

    def reflect(received, context):
        if not free.acquire(blocking=False):
            message = f"{_MAX_REFLECTIONS} reflection streams are open, and no more are served"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        try:
            yield from servicer.ServerReflectionInfo(readable(received), context)
            return
        except ServingError as error:
            failure = error
        except Exception:
            if not context.is_active():  # the client left
                raise
            failure = unexpected("a reflection request failed")
        finally:
            free.release()
        context.abort(failure.code, failure.message)

    _add(server, _REFLECTION, {"ServerReflectionInfo": reflect})


def _add(server: grpc.Server, service, behaviors: dict[str, Callable]) -> None:
    # Not the generated add_..._to_server: where a reader raises, gRPC ends the call twice, keeps
    # all of it for ever (20 kB a call), and logs a traceback.
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers = {}
    for name, behavior in behaviors.items():
        method = service.methods_by_name[name]
        if name in _THREADS:
            behavior.experimental_thread_pool = _THREADS[name]
        handlers[name] = kinds[method.client_streaming, method.server_streaming](
            behavior,
            request_deserializer=functools.partial(_read, GetMessageClass(method.input_type)),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    handler = grpc.method_handlers_generic_handler(service.full_name, handlers)
    server.add_generic_rpc_handlers((handler,))


def _read(kind: type[Message], message: bytes) -> Message | DecodeError:
    try:
        return kind.FromString(message)
    except DecodeError as error:  # returned: `_add` says why nothing may be raised here
        return DecodeError(f"the message is no {kind.DESCRIPTOR.full_name}: {error}")


def answer(call: Callable, request, context: grpc.ServicerContext):
    """Runs `call(request, clock, context)`; a ServingError becomes the status of the RPC."""
    remaining = context.time_remaining()
    if not context.is_active() or (remaining is not None and remaining <= 0):
        # The client gave up while the request was waiting for a thread: nobody reads the answer.
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    if isinstance(request, DecodeError):
        context.abort(grpc.StatusCode.INTERNAL, str(request))
    try:
        return call(request, RequestClock(remaining), context)
    except ServingError as error:
        failure = error
    except Exception:  # noqa: BLE001  no exception of Python reaches a client
        failure = unexpected("a gRPC request failed")
    return context.abort(failure.code, truncated(failure.message))


def truncated(message: str) -> str:
    """Cuts a message to what TensorFlow Serving sends: 1,024 bytes and a mark."""
    encoded = message.encode("utf-8", "backslashreplace")
    if len(encoded) <= _MAX_MESSAGE:
        return encoded.decode()
    return encoded[:_MAX_MESSAGE].decode(errors="ignore") + "...TRUNCATED"
