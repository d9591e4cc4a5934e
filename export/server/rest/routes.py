"""What each REST request means: method, path and body in, an answer out, as TensorFlow Serving."""

import contextlib
import re
import urllib.parse
import zlib
from collections.abc import Iterator
from http.client import responses
from typing import NamedTuple

from tensorflow_serving.apis import classification_pb2, model_pb2, predict_pb2, regression_pb2

from export import DEFAULT_SIGNATURE
from export.server.api.requests import INFERENCE, acquire, model_metadata, model_status
from export.server.metrics import Metrics
from export.server.models.manager import Manager
from export.server.rest import json_writing
from export.server.rest.json_reading import read_json
from export.server.rest.json_tensors import fill_examples, fill_tensors, signature_name
from export.server.rest.options import MemoryShare, RestOptions, TooLarge
from export.server.rest.page import HEADERS, Page
from export.server.status import RequestClock, ServingError, invalid, unexpected

_WHICH = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PATHS = {
    "POST": re.compile(rf"(?ai)/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)"),
    "GET": re.compile(rf"(?ai)/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?"),
}
# The characters of a path and a query (RFC 3986); others make no URI.
_URI = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?#]|%[0-9A-Fa-f]{2})*")
_MAX_INT64, _INT64_DIGITS = 2**63 - 1, 19
_GZIP = 16 + zlib.MAX_WBITS
_UNPACKED_AT_ONCE = 2**20
_MOST_SHOWN = 2**20  # bytes of a request that the page writes for other clients
_REQUESTS = {
    "predict": predict_pb2.PredictRequest,
    "classify": classification_pb2.ClassificationRequest,
    "regress": regression_pb2.RegressionRequest,
}
_CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
_HTTP_CODES = {
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
    **responses,
    413: "Request Entity Too Large",
    429: "Client Error",
    499: "Client Error",
    504: "Gateway Time-out",
}


class Request(NamedTuple):
    """A request as it was sent: `target` still escaped, with its query, `encoding` of the body."""

    method: str
    target: str
    body: bytes
    encoding: str
    clock: RequestClock
    memory: MemoryShare
    host: str  # the server's, as the client calls it


class Answer(NamedTuple):
    """An HTTP answer; `close` ends the connection after it."""

    code: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


def error_answer(error: ServingError) -> Answer:
    """The answer that describes an error; the HTTP code follows from the error's own."""
    body = json_writing.error_json(error.message).encode("utf-8", "surrogateescape")
    code = 413 if isinstance(error, TooLarge) else _HTTP_CODES.get(error.code.name, 500)
    return Answer(code, body)


def error_page(code: int) -> Answer:
    """The small HTML page of libevent, TensorFlow Serving's HTTP engine, for what is no API."""
    title = PHRASES[code]
    text = (
        f"<HTML><HEAD>\n<TITLE>{code} {title}</TITLE>\n</HEAD><BODY>\n<H1>{title}</H1>\n"
        "</BODY></HTML>\n"
    )
    return Answer(code, text.encode(), "text/html", close=True)


class RestApi:
    """Answers REST requests on the models of a manager."""

    def __init__(self, manager: Manager, options: RestOptions, metrics: Metrics):
        self._manager, self._options, self._metrics = manager, options, metrics
        self.page = Page(manager) if options.page else None

    def answer(self, request: Request) -> Answer:
        """Answers one request, whatever it is: errors are answers, too."""
        target, metrics_path = request.target, self._options.metrics_path
        if not target.startswith("/"):  # a proxy's client sends a whole URL
            target = re.sub(r"^[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*", "", target) or "/"
        if not _URI.fullmatch(target):
            return error_page(400)
        if metrics_path and re.split("[?#]", target)[0] == metrics_path:
            if target != metrics_path:
                text = f"Unexpected path: {target}. Should be {metrics_path}"
                return Answer(400, text.encode(), "text/plain")
            return Answer(200, self._metrics.text().encode(), "text/plain")
        if target[:4].lower() != "/v1/":
            return self._try_page(request, target)
        if request.method == "OPTIONS":
            answer = Answer(200, b"", "text/html; charset=ISO-8859-1")
        else:
            answer = self._try_call(request._replace(target=target))
        return answer._replace(headers=_CORS) if self._options.cors else answer

    def _try_page(self, request: Request, target: str) -> Answer:
        found = None
        if self.page is not None and request.method == "GET":
            found = self.page.find(re.split("[?#]", target)[0])
        elif self.page is not None and request.method == "POST" and target.startswith("/page/v1/"):
            target = target.removeprefix("/page")
            answer = self._try_call(request._replace(target=target), shows=True)
            return answer._replace(headers=HEADERS)
        return error_page(404) if found is None else Answer(200, *found, HEADERS)

    def _try_call(self, request: Request, shows: bool = False) -> Answer:
        try:
            return self._call(request, shows)
        except ServingError as error:
            return error_answer(error)
        except Exception:  # noqa: BLE001  no exception of Python reaches a client
            return error_answer(unexpected(f"REST {request.method} {request.target!r} failed"))

    def _call(self, request: Request, shows: bool) -> Answer:
        """Answers a request; one that `shows` is not answered but written for other clients."""
        malformed = invalid(f"Malformed request: {request.method} {request.target}")
        path = _PATHS.get(request.method)
        found = path.fullmatch(request.target) if path else None
        if found is None:
            raise malformed
        name, version, label, what = found.groups()
        version = re.sub("^0+(?=.)", "", version or "")
        if len(version) > _INT64_DIGITS or (version and int(version) > _MAX_INT64):
            return Answer(400)  # TensorFlow Serving leaves the body of this one empty
        spec = model_pb2.ModelSpec(name=_decoded(name or ""))
        if version:
            spec.version.value = int(version)
        if label:
            spec.version_label = _decoded(label)
        if request.method == "GET":
            if not spec.name:
                raise invalid("Missing model name in request.")
            if what == "metadata":
                text = json_writing.metadata_json(model_metadata(self._manager, spec))
            else:
                text = json_writing.proto_json(model_status(self._manager, spec))
        elif what not in _REQUESTS:  # in capitals
            raise malformed
        elif shows:
            with self._read(what, spec, request) as (_, asked, _):
                if asked.ByteSize() > _MOST_SHOWN:
                    raise TooLarge(f"requests above {_MOST_SHOWN} bytes are not shown")
                text = self.page.snippets(what, asked, request.host)
        else:
            with self._metrics.counting(spec.name, "REST", what, request.clock):
                text = self._infer(what, spec, request)
        return Answer(200, text.encode("utf-8", "surrogateescape"))

    @contextlib.contextmanager
    def _read(self, method: str, spec: model_pb2.ModelSpec, sent: Request) -> Iterator[tuple]:
        """A context with the servable, the request as gRPC has it, and whether it is in rows."""
        limits, body = self._options.limits, sent.body

        def admit(elements: int) -> None:
            if elements > limits.elements:
                raise TooLarge(
                    f"the body has {elements} JSON elements; {limits.elements} are allowed"
                )
            sent.memory.take(elements * limits.element_bytes + len(body))  # the text, too

        sent.clock.check()  # it may have waited for long
        if "gzip" in sent.encoding:
            body = _unpacked(body, limits.unpacked_bytes, sent.memory)
        parsed = read_json(body, admit)
        spec.signature_name = signature_name(parsed)
        request = _REQUESTS[method](model_spec=spec)
        in_rows = False
        if method != "predict":  # the body says all, so its errors come before the model's
            fill_examples(parsed, request.input)
        with acquire(self._manager, spec) as servable:
            if method == "predict":
                name = spec.signature_name or DEFAULT_SIGNATURE
                if name not in servable.signatures:
                    raise invalid(f'Serving signature name: "{name}" not found in signature def')
                inputs = servable.signatures[name].inputs
                in_rows = fill_tensors(parsed, inputs, spec.signature_name, request.inputs)
            del parsed  # the run needs its memory
            yield servable, request, in_rows

    def _infer(self, method: str, spec: model_pb2.ModelSpec, sent: Request) -> str:
        with self._read(method, spec, sent) as (servable, request, in_rows):
            response = INFERENCE[method.capitalize()](servable, request, sent.clock)
        if method != "predict":
            text = json_writing.results_json(response.result)
        else:
            write = json_writing.predictions_json if in_rows else json_writing.outputs_json
            text = write(response.outputs)
        sent.clock.check()
        return text


def _decoded(text: str) -> str:
    return urllib.parse.unquote_to_bytes(text).decode("utf-8", "backslashreplace")


def _unpacked(body: bytes, most: int, memory: MemoryShare) -> bytes:
    reader, pieces, size = zlib.decompressobj(_GZIP), [], 0
    try:
        while body and not reader.eof:
            pieces.append(reader.decompress(body, _UNPACKED_AT_ONCE))
            body = reader.unconsumed_tail
            size += len(pieces[-1])
            if size > most:
                raise TooLarge(f"the body is larger than {most} bytes once decompressed")
            memory.take(len(pieces[-1]))
        pieces.append(reader.flush())
    except zlib.error:
        return b""  # as TensorFlow Serving does, which then says that the document is empty
    return b"".join(pieces) if reader.eof else b""
