"""The HTTP server in front of `rest_api`: Tornado's engine in a thread, requests in a pool.

One thread speaks HTTP with all clients, so that a slow one holds no other up; the work is done by
a bounded number of threads. What a client may take of memory and time is bounded, too.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import socket
import threading
import time
from concurrent import futures

from tornado import netutil

from export.server.manager import Manager
from export.server.metrics import Metrics
from export.server.rest_answers import Answer, error_answer, timed_out, unavailable
from export.server.rest_api import RestApi
from export.server.rest_exchange import PATIENCE, Engine, Exchange

_GRACE_SECONDS = 60.0
_START_SECONDS = 60.0
_BACKLOG = 1024
_SWEEP_SECONDS = 0.5
_OVERDUE_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Limits:
    """What clients may take of a RestServer.

    Args:
        header_bytes: int. Size of the request line and headers; more ends the connection.
        body_bytes: int. Size of a body; more is answered with 413.
        buffered_bytes: int. Size of all bodies held at one time; more is answered with 503.
        connections: int. Open connections; a further one is closed at once.
        queued: int. Requests that wait for a thread; more is answered with 503.
        idle_seconds: float. Time for the headers, and between two requests of a connection.
        body_seconds: float. Time for a body, or to take an answer, when no rate is kept.
        bytes_a_second: float. The rate that gives a body, or an answer, more time.
    """

    header_bytes: int = 2**16
    body_bytes: int = 2**28
    buffered_bytes: int = 2**30
    connections: int = 1024
    queued: int = 1024
    idle_seconds: float = 50.0
    body_seconds: float = 50.0
    bytes_a_second: float = 10_000.0


class RestServer:
    """Serves the models of a manager over HTTP, with TensorFlow Serving's REST API.

    Args:
        manager: Manager. Started and stopped by the caller.
        host: str. The address to listen on. Defaults to all, as TensorFlow Serving.
        port: int. 0 takes a free one; `self.port` tells which, once started.
        timeout_ms: int. What takes longer is answered with 504. 0 and less: no bound.
        max_threads: int | None. Requests that run at one time. Defaults to 4 per CPU, 16 at least.
        cors: bool. Whether browsers may ask from pages of other origins.
        metrics: Metrics | None. Counts the requests; None also leaves `metrics_path` empty.
        metrics_path: str. Where Prometheus finds the metrics.
        limits: Limits. What clients may take.

    Example:
        >>> server = RestServer(manager, host="localhost", port=0)
        >>> server.start()
        >>> urllib.request.urlopen(f"http://localhost:{server.port}/v1/models/writer").status
        200
        >>> server.stop()
        True
    """

    def __init__(
        self,
        manager: Manager,
        *,
        host: str = "127.0.0.1",
        port: int = 8501,
        timeout_ms: int = 30000,
        max_threads: int | None = None,
        cors: bool = False,
        metrics: Metrics | None = None,
        metrics_path: str = "/monitoring/prometheus/metrics",
        limits: Limits = Limits(),
    ):
        self.port = port
        self.limits = limits
        self._api = RestApi(manager, metrics=metrics, metrics_path=metrics_path, cors=cors)
        # One address, as the gRPC server takes: localhost may stand for two.
        self._host = "127.0.0.1" if host == "localhost" else host.strip("[]")
        self._timeout = timeout_ms / 1000 if timeout_ms > 0 else None
        self._threads = max_threads or max(16, 4 * (os.cpu_count() or 1))
        self._lock = threading.Lock()  # guards the two numbers
        self._admitted = 0
        self.buffered = 0
        self.exchanges: set[Exchange] = set()  # the requests at hand; of the thread that serves
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._executor: futures.ThreadPoolExecutor | None = None
        self._grace = _GRACE_SECONDS

    def start(self) -> None:
        """Listens.

        Raises:
            OSError: the port is in use, or may not be listened on.
        """
        try:
            sockets = netutil.bind_sockets(self.port, self._host, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(
                f"cannot listen on {self._host}:{self.port} for REST: port {self.port} is in use "
                f"(another server?) or not allowed; choose another one, or 0 for any that is free "
                f"({error})"
            ) from error
        self.port = sockets[0].getsockname()[1]
        # Its warnings tell of clients, not of this server, as often as a client likes.
        logging.getLogger("tornado").setLevel(logging.ERROR)
        self._executor = futures.ThreadPoolExecutor(self._threads, thread_name_prefix="rest")
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(sockets, ready)), name="http", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS):
            raise RuntimeError("the REST server's thread did not start")

    def stop(self, grace: float = _GRACE_SECONDS) -> bool:
        """Takes no more requests, and lets those that run finish for `grace` seconds.

        Returns:
            Whether all finished; False leaves threads behind that still run them.
        """
        if self._thread is None:
            return True
        self._grace = grace
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            return not self._admitted

    async def _serve(self, sockets: list[socket.socket], ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        engine = Engine(
            self,
            max_header_size=self.limits.header_bytes,
            idle_connection_timeout=self.limits.idle_seconds,
            max_body_size=PATIENCE * self.limits.body_bytes,
        )
        engine.add_sockets(sockets)
        ready.set()
        while not self._stopping.is_set():
            self._sweep()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _SWEEP_SECONDS)
        engine.stop()
        end = time.monotonic() + self._grace
        while (self.exchanges or self._admitted) and time.monotonic() < end:
            engine.close_idle({exchange.connection.stream for exchange in self.exchanges})
            self._sweep()
            await asyncio.sleep(0.01)
        await engine.close_all_connections()

    def _sweep(self) -> None:
        """Ends connections whose client neither sends nor takes what it should."""
        now = time.monotonic()
        for exchange in list(self.exchanges):
            if exchange.late(now):
                exchange.connection.close()
                exchange.done()

    @property
    def stopping(self) -> bool:
        """Whether connections end with their next answer."""
        return self._stopping.is_set()

    def hold(self, size: int) -> bool:
        """Counts bytes that are held, or, below zero, freed; False when there are too many."""
        with self._lock:
            self.buffered += size
            return self.buffered <= self.limits.buffered_bytes

    async def answer(self, request: tuple, held: int, gone: asyncio.Future) -> Answer:
        """Has a request answered in a thread.

        Args:
            request: tuple. The arguments of `RestApi.answer`, but for the deadline.
            held: int. Bytes that were counted for it, to be freed after the work.
            gone: Future. Ends when the client goes.
        """
        with self._lock:
            full = self._admitted >= self._threads + self.limits.queued
            self._admitted += not full
        if full:
            self.hold(-held)
            return unavailable("the queue of requests is full; try again later")
        end = math.inf if self._timeout is None else time.monotonic() + self._timeout
        work = self._executor.submit(self._api.answer, *request, deadline=end)
        work.add_done_callback(lambda _: self._finished(held))
        waiting = asyncio.wrap_future(work)
        # The work minds the deadline itself. This is for what cannot: it waits for a thread, or
        # reads a large body.
        patience = None if self._timeout is None else self._timeout + _OVERDUE_SECONDS
        either = {waiting, gone}
        try:
            await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:  # a stop may end the wait, too
            finished = waiting.done()
            waiting.cancel()  # ends the work, too, if it still waits for a thread
        return waiting.result() if finished else error_answer(timed_out())

    def _finished(self, held: int) -> None:
        self.hold(-held)
        with self._lock:
            self._admitted -= 1
