"""A server that starts and stops: models, the gRPC port, and the REST port beside it."""

import dataclasses
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Self

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE

from export.server.grpc_service import SERVICES, Health, add_reflection, add_services
from export.server.metrics import Metrics
from export.server.models.config import ServedModel
from export.server.models.loading import Loader
from export.server.models.manager import Manager
from export.server.rest.http import RestServer
from export.server.rest.options import RestOptions
from export.server.status import LOG

_CHANNEL_ARGUMENTS = {
    # Without this a second server on the port would start, and get half of the requests.
    "grpc.so_reuseport": 0,
    "grpc.max_receive_message_length": 2**31 - 1,  # what protobuf can read, as TensorFlow Serving
    "grpc.max_send_message_length": -1,
    "grpc.max_metadata_size": 2**14,
    # A connection that says nothing keeps a file open for so long: gRPC's own limit is 2 minutes.
    "grpc.server_handshake_timeout_ms": 10_000,
}
_GRACE_SECONDS = 60.0
_UNLOAD_SECONDS = 10.0
_MAX_BATCHING_THREADS = 256
# Of a batch where each version's own file says how it is batched: what `export` writes. Threads
# beyond two batches cost more than they give: with 256 for batches of 32, 256 clients waited twice
# as long (p99), and a request took a fifth more CPU.
_USUAL_ROWS = 32


class Server:
    """Serves models over gRPC, and over REST when asked to, from this process.

    Args:
        models: The models to serve; their names must differ.
        host: The address to listen on. Defaults to loopback, where TensorFlow Serving takes all
            addresses: who may ask is for the operator to say.
        port: 0 takes a free one; `self.port` has it, once started.
        max_threads: Requests that run at one time. Defaults to 4 per CPU, 16 at least; with
            batching two batches at least, because a request that waits holds its thread.
        max_queued: Requests that wait for a thread; a further one is RESOURCE_EXHAUSTED.
        credentials: TLS, from `config_files.read_credentials`.
        socket_path: A UNIX domain socket to listen on, too; never with TLS.
        channel_arguments: Further arguments of gRPC, or other values for those set here.
        health: Whether to serve grpc.health.v1.Health.
        reflection: Whether to serve gRPC reflection, by which clients can list the services.
        reloads: Whether who reaches the gRPC port may change what is served.
        rest: The REST API; None for none.
        manager: Further arguments are those of `Manager`.

    Example:
        with Server([ServedModel("writer", "/models/writer")], port=0) as server:
            channel = grpc.insecure_channel(f"localhost:{server.port}")
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        host: str = "127.0.0.1",
        port: int = 8500,
        max_threads: int | None = None,
        max_queued: int = 1024,
        credentials: grpc.ServerCredentials | None = None,
        socket_path: str = "",
        channel_arguments: Mapping[str, int | str] | None = None,
        health: bool = False,
        reflection: bool = False,
        reloads: bool = True,
        rest: RestOptions | None = None,
        **manager,
    ):
        self.manager = Manager(models, **manager)
        self.port = port
        # gRPC is content with one of the addresses of a name; with ::1 alone free, localhost would
        # start beside the server that has the port on 127.0.0.1.
        self._host = "127.0.0.1" if host == "localhost" else host
        usual_threads = _usual_threads(self.manager.loader)
        self._threads, self._max_queued = max_threads or usual_threads, max_queued
        self._credentials, self._socket_path = credentials, socket_path
        self._channel_arguments = {**_CHANNEL_ARGUMENTS, **(channel_arguments or {})}
        self._serves_health, self._reflection, self._reloads = health, reflection, reloads
        self._metrics = Metrics(lambda name: bool(self.manager.versions_of(name)))
        self._rest_server: RestServer | None = None
        if rest is not None:
            rest = dataclasses.replace(rest, max_threads=rest.max_threads or usual_threads)
            self._rest_server = RestServer(self.manager, rest, self._host, self._metrics)
        self._server: grpc.Server | None = None
        self._health: Health | None = None

    @property
    def rest_port(self) -> int | None:
        """The port of the REST API; None when there is none."""
        return None if self._rest_server is None else self._rest_server.port

    def start(self, cancelled: threading.Event | None = None) -> bool:
        """Loads the models, then listens: a port that answers is a server that is ready.

        Waits for models that have no version yet; False when it was `cancelled`, and is to be
        stopped. Raises ServingError for a model that does not load, OSError for a port in use.
        """
        try:
            self.manager.start()
            while not self.manager.wait_until_available(timeout=0.2):
                if cancelled is not None and cancelled.is_set():
                    return False
            self._listen()
        except BaseException:
            self.stop(grace=0)
            raise
        return True

    def _listen(self) -> None:
        server = grpc.server(
            futures.ThreadPoolExecutor(self._threads, thread_name_prefix="request"),
            options=list(self._channel_arguments.items()),
            maximum_concurrent_rpcs=self._threads + self._max_queued,
        )
        add_services(server, self.manager, self._metrics, self._reloads)
        names = [*SERVICES]
        if self._serves_health:
            self._health = Health(server)
            names.append(HEALTH_SERVICE)
        if self._reflection:
            add_reflection(server, names)
        address = f"{self._host}:{self.port}"
        try:
            if self._credentials is not None:
                self.port = server.add_secure_port(address, self._credentials)
            else:
                self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {address}: port {self.port} is in use (another server?) or not "
                "allowed, or the certificate does not fit the key; choose another port, or 0 for "
                "any that is free"
            ) from error
        if self._socket_path:
            if os.path.lexists(self._socket_path):  # a socket goes, as in TensorFlow Serving
                if not stat.S_ISSOCK(os.lstat(self._socket_path).st_mode):
                    raise OSError(f"cannot listen at {self._socket_path}: there is something else")
                os.unlink(self._socket_path)
            try:
                server.add_insecure_port(f"unix:{self._socket_path}")
            except RuntimeError as error:
                raise OSError(f"cannot listen at {self._socket_path}: {error}") from error
        if self._rest_server is not None:
            tls = self._credentials is not None
            grpc_port = {"port": self.port, "tls": tls, "reflection": self._reflection}
            self._rest_server.start(grpc_port)
        server.start()
        self._server = server

    def stop(self, grace: float = _GRACE_SECONDS) -> bool:
        """Lets requests that run finish for `grace` seconds, unloads; whether all finished."""
        if self._health is not None:
            self._health.shut_down()
        stopped = None if self._server is None else self._server.stop(grace)
        finished = self._rest_server is None or self._rest_server.stop(grace)
        if stopped is not None:
            stopped.wait()
        self._server = None
        finished = self.manager.stop(timeout=_UNLOAD_SECONDS) and finished
        if not finished:
            LOG.error("a request or a load still runs after the stop: abandoned")
        return finished

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def _usual_threads(loader: Loader) -> int:
    usual = max(16, 4 * (os.cpu_count() or 1))
    if loader.batching is None:
        return usual
    rows = _USUAL_ROWS if loader.per_model_batching else loader.batching.max_batch_size
    return max(usual, min(2 * rows, _MAX_BATCHING_THREADS))
