"""HTTP answers: the codes that errors become, and the bodies that tell of them."""

import dataclasses

import grpc

from export.server.rest.json_writing import error_json
from export.server.rest.limits import TooLarge
from export.server.status import ServingError

JSON = "application/json"
_HTTP_CODES = {
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}  # all others: 500
# As libevent, the HTTP engine of TensorFlow Serving, words them.
PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Request Entity Too Large",
    429: "Client Error",
    499: "Client Error",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Time-out",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer; `close` ends the connection after it."""

    code: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


def error_answer(error: ServingError) -> Answer:
    """The answer that tells of an error; the HTTP code follows from the error's own."""
    body = error_json(error.message).encode("utf-8", "surrogateescape")
    code = 413 if isinstance(error, TooLarge) else _HTTP_CODES.get(error.code.name, 500)
    return Answer(code, body)


def page(code: int) -> Answer:
    """The small HTML page of libevent, TensorFlow Serving's HTTP engine, for what is no API."""
    title = PHRASES[code]
    text = (
        f"<HTML><HEAD>\n<TITLE>{code} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n"
        "</BODY></HTML>\n"
    )
    return Answer(code, text.encode(), "text/html", close=True)


def unavailable(message: str) -> Answer:
    """The answer of a server that has too much to do."""
    return error_answer(ServingError(grpc.StatusCode.UNAVAILABLE, message))


def timed_out() -> ServingError:
    """The error for what took too long, in TensorFlow's words."""
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
