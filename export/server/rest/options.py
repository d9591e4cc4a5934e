"""How the REST API is served, and what its clients may take: sizes, times, connections, memory."""

import dataclasses
import os
import resource
import threading

import grpc

from export.server.status import ServingError

_FEWEST_CONNECTIONS = 16


@dataclasses.dataclass(frozen=True)
class Limits:
    """What REST clients may take of a server."""

    header_bytes: int = 2**16  # request line and headers; more ends the connection
    body_bytes: int = 2**28  # more is answered with 413
    unpacked_bytes: int = 100 * 2**20  # of a gzip body, as TensorFlow Serving; more: 413
    elements: int = 2**23  # commas and opening brackets of a large JSON body; more: 413
    element_bytes: int = 64  # of memory that is counted for each of them
    memory_bytes: int = 2**30  # bodies, unpacked ones and elements at one time; more: 503
    # Open at one time. A further one takes the place of the one that has been idle longest, or is
    # closed when all are busy. Never more than half of the files that the process may still open.
    connections: int = 1024
    queued: int = 1024  # requests that wait for a thread; more: 503
    idle_seconds: float = 50.0  # for the headers, and between two requests of a connection
    body_seconds: float = 50.0  # for a body, or to take an answer, when no rate is kept
    bytes_a_second: float = 10_000.0  # the rate that gives a body, or an answer, more time

    def open_connections(self) -> int:
        """`connections`, or fewer where the process may not open so many files."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most == resource.RLIM_INFINITY:
            return self.connections
        free = most - len(os.listdir("/dev/fd"))
        return min(self.connections, max(_FEWEST_CONNECTIONS, free // 2))


@dataclasses.dataclass(frozen=True)
class RestOptions:
    """The REST API beside the gRPC services.

    Args:
        port: 0 takes a free one; `Server.rest_port` has it, once started.
        timeout_ms: What takes longer is answered with 504; 0 and less: no limit.
        max_threads: Requests that run at one time. Defaults to those of `Server`.
        cors: Whether browsers may ask from pages of other origins.
        metrics_path: Where Prometheus finds the metrics; empty for no metrics.
        page: Whether there is a page at /, and what it needs below /page/.
        limits: What clients may take.
    """

    port: int = 8501
    timeout_ms: int = 30000
    max_threads: int | None = None
    cors: bool = False
    metrics_path: str = ""
    page: bool = True
    limits: Limits = dataclasses.field(default_factory=Limits)


class TooLarge(ServingError):
    """A request that asks for more than one request may take."""

    def __init__(self, message: str):
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


class Memory:
    """Bytes that all requests share; safe to use from many threads."""

    def __init__(self, size: int):
        self.size, self.used, self.lock = size, 0, threading.Lock()


class MemoryShare:
    """What one request takes of the memory."""

    def __init__(self, memory: Memory):
        self._memory, self._taken = memory, 0

    def take(self, size: int) -> None:
        """Counts bytes; raises ServingError, UNAVAILABLE, when there are too many."""
        with self._memory.lock:
            if self._memory.used + size > self._memory.size:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    "too many large requests at one time; try again later",
                )
            self._memory.used += size
        self._taken += size

    def release(self) -> None:
        """Gives everything back."""
        with self._memory.lock:
            self._memory.used -= self._taken
        self._taken = 0
