"""The gRPC surface: TensorFlow Serving's services, and a server that starts and stops."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Self

import grpc
from absl import logging
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from export.server import classification, inference
from export.server.manager import Manager
from export.server.models import ServedModel
from export.server.servable import ServingError

_MAX_MESSAGE = 1024  # bytes; TensorFlow Serving cuts longer ones, HTTP/2 headers being bounded
_OPTIONS = (
    # Without this a second server on the port would start, and get half of the requests.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
_GRACE_SECONDS = 60.0
_UNLOAD_SECONDS = 10.0


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, manager: Manager):
        self._manager = manager

    def Predict(self, request, context):  # noqa: N802  the name is the protocol's
        return answer(inference.predict, self._manager, request, context)

    def Classify(self, request, context):  # noqa: N802
        return answer(classification.classify, self._manager, request, context)

    def Regress(self, request, context):  # noqa: N802
        return answer(classification.regress, self._manager, request, context)

    def MultiInference(self, request, context):  # noqa: N802
        return answer(classification.multi_inference, self._manager, request, context)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return answer(inference.model_metadata, self._manager, request, context)


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, manager: Manager):
        self._manager = manager

    def GetModelStatus(self, request, context):  # noqa: N802
        return answer(inference.model_status, self._manager, request, context)


def answer(call: Callable, manager: Manager, request, context: grpc.ServicerContext):
    """Runs `call(manager, request)`; a ServingError becomes the status of the RPC."""
    remaining = context.time_remaining()
    if not context.is_active() or (remaining is not None and remaining <= 0):
        # The client gave up while the request was waiting for a thread: nobody reads the answer.
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    try:
        return call(manager, request)
    except ServingError as error:
        context.abort(error.code, truncated(error.message))


def truncated(message: str) -> str:
    """Cuts a message to what TensorFlow Serving sends: 1,024 bytes and a mark."""
    encoded = message.encode()
    if len(encoded) <= _MAX_MESSAGE:
        return message
    return encoded[:_MAX_MESSAGE].decode(errors="ignore") + "...TRUNCATED"


class Server:
    """Serves models over gRPC, from this process.

    Args:
        models: The models to serve.
        host: str. The address to listen on. Defaults to all, as TensorFlow Serving.
        port: int. 0 takes a free one; `self.port` tells which, once started.
        max_threads: int | None. Requests that run at one time. Defaults to 4 per CPU, 16 at least.
        poll_wait_seconds: float. Pause between two looks for new versions; 0 looks only once.

    Raises:
        ValueError: two models have one name.

    Example:
        >>> with Server([ServedModel("writer", "/models/writer")], port=0) as server:
        ...     channel = grpc.insecure_channel(f"localhost:{server.port}")
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        host: str = "0.0.0.0",
        port: int = 8500,
        max_threads: int | None = None,
        poll_wait_seconds: float = 1.0,
    ):
        self.manager = Manager(models, poll_wait_seconds)
        self.port = port
        # gRPC is content with one of the addresses of a name; with ::1 alone free, localhost would
        # start beside the server that has the port on 127.0.0.1.
        self._host = "127.0.0.1" if host == "localhost" else host
        self._threads = max_threads or max(16, 4 * (os.cpu_count() or 1))
        self._server: grpc.Server | None = None

    def start(self, cancelled: threading.Event | None = None) -> bool:
        """Loads the models, then listens: a port that answers is a server that is ready.

        Waits as long as a model has no version.

        Args:
            cancelled: Set from elsewhere to give up waiting.

        Returns:
            Whether the server is listening; False when it was cancelled.

        Raises:
            RuntimeError: a model that is there does not load.
            OSError: the port is in use, or may not be listened on.
        """
        self.manager.start()
        try:
            while not self.manager.wait_until_available(timeout=0.2):
                if cancelled is not None and cancelled.is_set():
                    self.manager.stop()
                    return False
            self._listen()
        except BaseException:
            self.manager.stop()
            raise
        return True

    def _listen(self) -> None:
        executor = futures.ThreadPoolExecutor(self._threads, thread_name_prefix="request")
        server = grpc.server(executor, options=_OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(self.manager), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(self.manager), server
        )
        address = f"{self._host}:{self.port}"
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {address}: port {self.port} is in use (another server?) or not "
                "allowed; choose another one, or 0 for any that is free"
            ) from error
        server.start()
        self._server = server

    def stop(self, grace: float = _GRACE_SECONDS) -> bool:
        """Takes no more requests, lets those that run finish for `grace` seconds, unloads.

        Returns:
            Whether all requests finished; False leaves threads behind that still run them.
        """
        if self._server is not None:
            self._server.stop(grace).wait()
            self._server = None
        finished = self.manager.stop(timeout=_UNLOAD_SECONDS)
        if not finished:
            logging.error("a request or a load still runs after the stop: abandoned")
        return finished

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()
