"""The HTTP server in front of `routes`: one thread speaks HTTP with all clients, a pool works."""

import asyncio
import errno
import logging
import math
import socket
import threading
import time
from collections.abc import Mapping
from concurrent import futures

import grpc
from absl import logging as absl_logging
from tornado import httputil, iostream, netutil, web
from tornado.httpserver import HTTPServer

from export.server.metrics import Metrics
from export.server.models.manager import Manager
from export.server.rest.options import Memory, MemoryShare, RestOptions, TooLarge
from export.server.rest.routes import (
    PHRASES,
    Answer,
    Request,
    RestApi,
    error_answer,
    error_page,
)
from export.server.status import RequestClock, ServingError, timed_out, unexpected

_BACKLOG = 1024
_SWEEP_SECONDS = 0.1
_OVERDUE_SECONDS = 0.25
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# So many times the allowed body are read and thrown away: a client reads the answer only once it
# has sent all. Beyond, the connection ends at once.
_DISCARDED_BODIES = 8
_LENGTH_DIGITS = 18
_CHUNK_LINE_BYTES = 4096


class RestServer:
    """Serves the models of a manager, which the caller starts and stops, over HTTP."""

    def __init__(self, manager: Manager, options: RestOptions, host: str, metrics: Metrics):
        self.port, self.limits = options.port, options.limits
        self.memory = Memory(options.limits.memory_bytes)
        self._api = RestApi(manager, options, metrics)
        # One address, as the gRPC server takes: localhost may stand for two.
        self._host = host.strip("[]")
        self.timeout = options.timeout_ms / 1000 if options.timeout_ms > 0 else None
        self._threads = options.max_threads
        self._lock = threading.Lock()  # guards the number of admitted requests
        self._admitted = 0
        # Of the thread that serves: requests that are open, and connections without one, the
        # longest idle first.
        self.exchanges: set[_Exchange] = set()
        self.idle: dict[iostream.IOStream, None] = {}
        self.stopping = False  # connections end with their next answer
        self._thread: threading.Thread | None = None
        self._executor = futures.ThreadPoolExecutor(self._threads, thread_name_prefix="rest")

    def start(self, grpc: Mapping[str, object] | None = None) -> None:
        """Listens; raises OSError when the port is in use, or may not be listened on.

        `grpc` is what the page says of the gRPC port beside this one.
        """
        if self._api.page is not None:
            self._api.page.grpc = grpc or {}
        try:
            sockets = netutil.bind_sockets(self.port, self._host, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(
                f"cannot listen on {self._host}:{self.port} for REST: port {self.port} is in use "
                f"(another server?) or not allowed; choose another one, or 0 for any that is free "
                f"({error})"
            ) from error
        self.port = sockets[0].getsockname()[1]
        self._max_connections = self.limits.open_connections()
        # Its warnings are about clients, not about this server, as often as a client likes.
        logging.getLogger("tornado").setLevel(logging.ERROR)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(sockets)), name="http", daemon=True
        )
        self._thread.start()

    def stop(self, grace: float) -> bool:
        """Takes no more requests; whether those that run finished within `grace` seconds."""
        if self._thread is None:
            return True
        self._grace, self.stopping = grace, True
        self._thread.join()
        self._thread = None
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            return not self._admitted

    async def _serve(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        application = web.Application(
            [(r".*", _Exchange, {"server": self})], log_function=lambda _: None
        )
        engine = HTTPServer(
            application,
            max_header_size=self.limits.header_bytes,
            idle_connection_timeout=self.limits.idle_seconds,
            max_body_size=_DISCARDED_BODIES * self.limits.body_bytes,
        )
        while not self.stopping:
            for listening in sockets:  # again, where no file was left
                loop.add_reader(listening, self._accept, listening, engine)
            self._sweep()
            await asyncio.sleep(_SWEEP_SECONDS)
        for listening in sockets:
            loop.remove_reader(listening)
            listening.close()
        end = time.monotonic() + self._grace
        while (self.exchanges or self._admitted) and time.monotonic() < end:
            while self._drop_idlest():
                pass
            self._sweep()
            await asyncio.sleep(0.01)
        await engine.close_all_connections()

    def _accept(self, listening: socket.socket, engine: HTTPServer) -> None:
        """Takes the connections that wait; where there is no room, the idlest one makes it."""
        for _ in range(_BACKLOG):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                if self._drop_idlest():
                    continue
                absl_logging.log_every_n_seconds(
                    absl_logging.ERROR, "REST takes no connection: %s", 60, error
                )
                asyncio.get_running_loop().remove_reader(listening)  # until the next sweep
                return
            full = len(self.idle) + len(self.exchanges) >= self._max_connections
            if full and not self._drop_idlest():
                connection.close()
                continue
            self.idle[stream := _Stream(connection, self)] = None
            engine.handle_stream(stream, address)

    def _drop_idlest(self) -> bool:
        if not self.idle:
            return False
        next(iter(self.idle)).close()
        return True

    def _sweep(self) -> None:
        for exchange in list(self.exchanges):
            exchange.sweep(time.monotonic())

    async def answer(self, request: Request, gone: asyncio.Future) -> Answer:
        """Has a request answered in a thread; `gone` ends when the client goes."""
        with self._lock:
            full = self._admitted >= self._threads + self.limits.queued
            self._admitted += not full
        if full:
            request.memory.release()
            message = "the queue of requests is full; try again later"
            return error_answer(ServingError(grpc.StatusCode.UNAVAILABLE, message))
        work = self._executor.submit(self._api.answer, request)
        work.add_done_callback(lambda _: self._finished(request.memory))
        waiting = asyncio.wrap_future(work)
        # The work minds the deadline itself. This is for what cannot: it waits for a thread, or
        # reads a large body.
        seconds = None if self.timeout is None else self.timeout + _OVERDUE_SECONDS
        await asyncio.wait((waiting, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        waiting.cancel()  # ends the work, too, if it still waits for a thread
        return error_answer(timed_out())

    def _finished(self, memory: MemoryShare) -> None:
        memory.release()
        with self._lock:
            self._admitted -= 1


class _Stream(iostream.IOStream):
    """A connection whose chunk extensions and trailers, legal in RFC 9112, Tornado does not see."""

    def __init__(self, connection: socket.socket, server: RestServer):
        super().__init__(connection)
        self._server = server
        self._ended = False  # the trailers are read, and the empty line after them

    def close(self, exc_info=False) -> None:
        self._server.idle.pop(self, None)
        super().close(exc_info)

    # Tornado's server calls it for the size of a chunk, and for nothing else.
    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> asyncio.Future:
        return asyncio.ensure_future(self._chunk_size(delimiter))

    def read_bytes(self, num_bytes: int, partial: bool = False) -> asyncio.Future:
        if not self._ended:
            return super().read_bytes(num_bytes, partial)
        self._ended = False
        line = asyncio.get_running_loop().create_future()
        line.set_result(b"\r\n")
        return line

    async def _chunk_size(self, delimiter: bytes) -> bytes:
        line = await self._line(delimiter, _CHUNK_LINE_BYTES)
        size = line.partition(b";")[0].strip(b" \t")
        if size and not size.strip(b"0"):
            left = self._server.limits.header_bytes
            while trailer := await self._line(delimiter, left):
                left -= len(trailer) + len(delimiter)
            self._ended = True
        return size + delimiter

    async def _line(self, delimiter: bytes, most: int) -> bytes:
        line = (await super().read_until(delimiter, max(most, len(delimiter))))[: -len(delimiter)]
        if b"\r" in line or b"\n" in line:
            raise httputil.HTTPInputError("a line break within a line")
        return line


@web.stream_request_body
class _Exchange(web.RequestHandler):
    """Receives a request within the limits, has it answered, sends the answer."""

    def initialize(self, server: RestServer) -> None:
        self._server, self._limits = server, server.limits
        self._stream = self.request.connection.stream
        self._body, self._memory = bytearray(), MemoryShare(server.memory)
        self._refusal: Answer | None = None
        self._moved = 0  # bytes of the body that came, then bytes of the answer that go
        self._due: float | None = None  # the client's time is over then; None while we work
        self._gone = asyncio.get_running_loop().create_future()

    def prepare(self) -> None:
        """Takes note of the request; a body that is announced as too large is refused here."""
        self._server.exchanges.add(self)
        self._server.idle.pop(self._stream, None)
        self._due = time.monotonic() + self._limits.body_seconds
        length = self.request.headers.get("Content-Length", "").lstrip("0")
        size = 0  # Tornado refuses what is no number
        if length.isascii() and length.isdigit():
            size = int(length) if len(length) <= _LENGTH_DIGITS else math.inf
        if size > self._limits.body_bytes:
            self._refusal = error_answer(self._too_large())
            unread = size > _DISCARDED_BODIES * self._limits.body_bytes
            if unread or "Expect" in self.request.headers:
                self._send(self._refusal)

    def _too_large(self) -> ServingError:
        return TooLarge(f"the body is larger than {self._limits.body_bytes} bytes")

    def data_received(self, chunk: bytes) -> None:
        """Keeps a piece of the body, or throws it away once the request is refused."""
        self._moved += len(chunk)
        if self._refusal is not None:
            return
        try:
            if self._moved > self._limits.body_bytes:
                raise self._too_large()
            self._memory.take(len(chunk))
            self._body += chunk
        except ServingError as error:
            self._refusal = error_answer(error)
            self._drop_body()

    async def respond(self) -> None:
        """The request is whole."""
        self._due, answer = None, self._refusal
        if answer is None:
            sent, clock = self.request, RequestClock(self._server.timeout)
            encoding = sent.headers.get("Content-Encoding", "")
            body = bytes(self._body)
            request = Request(
                sent.method, sent.uri, body, encoding, clock, self._memory, sent.host_name
            )
            # The memory is now the work's to give back.
            self._body, self._memory = bytearray(), MemoryShare(self._server.memory)
            try:
                answer = await self._server.answer(request, self._gone)
            except Exception:  # noqa: BLE001  no request may end without an answer
                answer = error_answer(unexpected(f"REST {sent.method} {sent.uri!r} failed"))
        if not self._gone.done():
            self._send(answer)

    get = post = head = put = delete = options = patch = respond

    def on_connection_close(self) -> None:
        """The client went away."""
        super().on_connection_close()
        self._done()

    def sweep(self, now: float) -> None:
        """Ends the connection of a client that is slower than the limits allow."""
        if self._due is not None and now > self._due + self._moved / self._limits.bytes_a_second:
            self._stream.close()
            self._done()

    def set_default_headers(self) -> None:
        """None but what an answer has, and the date."""
        self.clear_header("Server")

    def compute_etag(self) -> None:
        """None: no answer may become 304."""

    def write_error(self, status_code: int, **_) -> None:
        """Answers a method that Tornado does not hand on."""
        self._send(error_page(501 if status_code == 405 else 500))

    def _done(self) -> None:
        self._server.exchanges.discard(self)
        self._drop_body()
        if not self._stream.closed():
            self._server.idle[self._stream] = None
        if not self._gone.done():
            self._gone.set_result(None)

    def _drop_body(self) -> None:
        self._memory.release()
        self._body = bytearray()

    def _send(self, answer: Answer) -> None:
        close = answer.close or self._refusal is not None or self._server.stopping
        self.set_status(answer.code, PHRASES[answer.code])
        headers = [("Content-Type", answer.content_type), *answer.headers]
        for name, value in [*headers, *[("Connection", "close")] * close]:
            self.set_header(name, value)
        self.write(answer.body)
        self._moved, self._due = len(answer.body), time.monotonic() + self._limits.body_seconds
        self.finish().add_done_callback(lambda _: self._sent(close))

    def _sent(self, close: bool) -> None:
        self._done()
        if close:
            self._stream.close()
