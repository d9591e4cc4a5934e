"""What REST clients may take of the server: sizes, times, connections, and memory together."""

import dataclasses
import os
import resource
import threading

import grpc

from export.server.status import ServingError

_FEWEST_CONNECTIONS = 16


@dataclasses.dataclass(frozen=True)
class Limits:
    """What clients may take of a RestServer.

    Args:
        header_bytes: int. Size of the request line and headers; more ends the connection.
        body_bytes: int. Size of a body; more is answered with 413.
        unpacked_bytes: int. Size of a gzip body once unpacked (TensorFlow Serving's bound); more
            is answered with 413.
        elements: int. Commas and opening brackets of a JSON body; more is answered with 413.
        element_bytes: int. Memory that is counted for each of them.
        memory_bytes: int. Bodies, unpacked bodies and their elements at one time; more is answered
            with 503.
        connections: int. Open connections. A further one takes the place of the one that has been
            idle longest, or is closed when all are busy. Never more than half of the files that
            the process may still open.
        queued: int. Requests that wait for a thread; more is answered with 503.
        idle_seconds: float. Time for the headers, and between two requests of a connection.
        body_seconds: float. Time for a body, or to take an answer, when no rate is kept.
        bytes_a_second: float. The rate that gives a body, or an answer, more time.
    """

    header_bytes: int = 2**16
    body_bytes: int = 2**28
    unpacked_bytes: int = 100 * 2**20
    elements: int = 2**23
    element_bytes: int = 64
    memory_bytes: int = 2**30
    connections: int = 1024
    queued: int = 1024
    idle_seconds: float = 50.0
    body_seconds: float = 50.0
    bytes_a_second: float = 10_000.0

    def open_connections(self) -> int:
        """`connections`, or fewer where the process may not open so many files."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most == resource.RLIM_INFINITY:
            return self.connections
        free = most - len(os.listdir("/dev/fd"))
        return min(self.connections, max(_FEWEST_CONNECTIONS, free // 2))


class TooLarge(ServingError):
    """A request that asks for more than one request may take."""

    def __init__(self, message: str):
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


class Memory:
    """Bytes that all requests share; safe to use from many threads."""

    def __init__(self, size: int):
        self._size, self.used = size, 0
        self._lock = threading.Lock()

    def add(self, size: int) -> bool:
        """Counts bytes, or gives them back; False, and not counted, when there are too many."""
        with self._lock:
            fits = self.used + size <= self._size
            self.used += size if fits else 0
            return fits


class MemoryShare:
    """What one request takes of the memory."""

    def __init__(self, memory: Memory):
        self._memory, self._taken = memory, 0

    def take(self, size: int) -> None:
        """Counts bytes; raises ServingError, UNAVAILABLE, when there are too many."""
        if not self._memory.add(size):
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE, "too many large requests at one time; try again later"
            )
        self._taken += size

    def release(self) -> None:
        """Gives everything back."""
        self._memory.add(-self._taken)
        self._taken = 0
