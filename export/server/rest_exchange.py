"""One HTTP request and its answer on Tornado's engine, and the engine that counts connections."""

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
from absl import logging
from tornado import httputil, iostream
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer

from export.server.rest_answers import PHRASES, Answer, error_answer, unavailable
from export.server.status import ServingError

if TYPE_CHECKING:
    from export.server.rest import RestServer

# So many times the allowed body are read and thrown away: a client reads the answer only once it
# has sent all. Beyond, the connection ends at once.
PATIENCE = 8


class Engine(HTTPServer):
    """Tornado's server with a bound on its connections, of which it can close the idle ones."""

    def initialize(self, server: "RestServer", **options) -> None:
        """As HTTPServer's; all requests go to `server`."""
        super().initialize(_Exchanges(server), **options)
        self._most = server.limits.connections
        self._streams: set[iostream.IOStream] = set()

    def handle_stream(self, stream: iostream.IOStream, address: tuple) -> None:
        """Takes a connection, or closes it when there are too many."""
        if len(self._streams) >= self._most:
            stream.close()
            return
        self._streams.add(stream)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: HTTP1ServerConnection) -> None:
        """Forgets a connection."""
        self._streams.discard(server_conn.stream)
        super().on_close(server_conn)

    def close_idle(self, busy: set[iostream.IOStream]) -> None:
        """Closes the connections that wait for a request."""
        for stream in self._streams - busy:
            stream.close()


class _Exchanges(httputil.HTTPServerConnectionDelegate):
    def __init__(self, server: "RestServer"):
        self._server = server

    def start_request(self, server_conn, request_conn: HTTP1Connection) -> "Exchange":
        return Exchange(self._server, request_conn)


class Exchange(httputil.HTTPMessageDelegate):
    """Receives a request within the limits, has it answered, sends the answer."""

    def __init__(self, server: "RestServer", connection: HTTP1Connection):
        self.connection = connection
        self._server = server
        self._chunks: list[bytes] = []
        self._held = 0  # bytes in the chunks
        self._refusal: Answer | None = None
        self._moved = 0  # bytes of the body that came, then bytes of the answer that go
        self._due: float | None = None  # when to lose patience; None while the server works

    def headers_received(self, start_line, headers: httputil.HTTPHeaders) -> None:
        """Takes note of the request; a body that is announced as too large is refused here."""
        self._method, self._target = start_line.method, start_line.path
        self._encoding = headers.get("Content-Encoding", "")
        self._gone = asyncio.get_running_loop().create_future()
        self._due = time.monotonic() + self._server.limits.body_seconds
        self._server.exchanges.add(self)
        length = headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() else 0
        if size > self._server.limits.body_bytes:
            self._refuse_size()
            if "Expect" in headers or size > PATIENCE * self._server.limits.body_bytes:
                self._send(self._refusal)

    def data_received(self, chunk: bytes) -> None:
        """Keeps a piece of the body, or throws it away once the request is refused."""
        self._moved += len(chunk)
        if self._refusal is not None:
            return
        if self._moved > self._server.limits.body_bytes:
            self._refuse_size()
        elif not self._server.hold(len(chunk)):
            self._server.hold(-len(chunk))
            self._refuse(unavailable("too many large requests at one time; try again later"))
        else:
            self._held += len(chunk)
            self._chunks.append(chunk)

    def finish(self) -> None:
        """The request is whole."""
        self._due = None
        self.connection.set_close_callback(self.done)
        if self._refusal is not None:
            self._send(self._refusal)
        else:
            self._task = asyncio.create_task(self._respond())

    def on_connection_close(self) -> None:
        """The client went away before its request was whole."""
        self.done()

    def late(self, now: float) -> bool:
        """Whether the client is slower than the limits allow."""
        return self._due is not None and (
            now > self._due + self._moved / self._server.limits.bytes_a_second
        )

    def done(self) -> None:
        """Forgets the request: it is answered, or nobody waits for the answer."""
        self._server.exchanges.discard(self)
        self._drop()
        if not self._gone.done():
            self._gone.set_result(None)

    def _drop(self) -> None:
        self._chunks.clear()
        self._server.hold(-self._held)
        self._held = 0

    def _refuse_size(self) -> None:
        message = f"the body is larger than {self._server.limits.body_bytes} bytes"
        self._refuse(
            error_answer(ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, message), code=413)
        )

    def _refuse(self, answer: Answer) -> None:
        self._refusal = answer
        self._drop()

    async def _respond(self) -> None:
        body = b"".join(self._chunks)
        self._chunks.clear()
        held, self._held = self._held, 0  # from here on the work counts it
        try:
            answer = await self._server.answer(
                (self._method, self._target, body, self._encoding), held, self._gone
            )
        except Exception as error:  # noqa: BLE001  no request may end without an answer
            logging.exception("REST %s %s failed", self._method, self._target)
            message = f"{type(error).__name__}: {error}"
            answer = error_answer(ServingError(grpc.StatusCode.INTERNAL, message))
        if not self._gone.done():
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        close = answer.close or self._refusal is not None or self._server.stopping
        headers = httputil.HTTPHeaders({"Content-Type": answer.content_type})
        for name, value in answer.headers:
            headers.add(name, value)
        if self._method != "HEAD":
            headers["Content-Length"] = str(len(answer.body))
        if close:
            headers["Connection"] = "close"
        body = b"" if self._method == "HEAD" else answer.body
        self._moved = len(body)
        self._due = time.monotonic() + self._server.limits.body_seconds
        start = httputil.ResponseStartLine("HTTP/1.1", answer.code, PHRASES[answer.code])
        written = self.connection.write_headers(start, headers, body)
        self.connection.finish()
        written.add_done_callback(lambda _: self._sent(close))

    def _sent(self, close: bool) -> None:
        self.done()
        if close and self.connection.stream is not None:
            self.connection.stream.close()
