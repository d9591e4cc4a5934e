"""What each REST request means: method, path and body in, an answer out. No sockets here.

Paths, answers and errors are those of TensorFlow Serving, whose core answers them behind gRPC:
so here, where `inference` and `classification` do all the work.
"""

import dataclasses
import math
import re
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from export.server.api.classification import classify_on, regress_on
from export.server.api.inference import (
    DEFAULT_SIGNATURE,
    acquire_spec,
    invalid,
    model_metadata,
    model_status,
    predict_on,
)
from export.server.metrics import Metrics
from export.server.rest.answers import Answer, error_answer, page, timed_out
from export.server.rest.json_reading import JsonError, read_json
from export.server.rest.json_tensors import fill_examples, fill_tensors, signature_name
from export.server.rest.json_writing import (
    classes_json,
    metadata_json,
    numbers_json,
    outputs_json,
    predictions_json,
    status_json,
)
from export.server.rest.limits import Budget, Limits, Share, TooLarge
from export.server.run.request_clock import due_in, run_seconds
from export.server.run.servable import Servable
from export.server.status import ServingError, unexpected

if TYPE_CHECKING:
    from export.server.models.manager import Manager

_PREFIX = re.compile(r"/v1/.*", re.IGNORECASE)
_WHICH = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_GET = re.compile(rf"/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?", re.IGNORECASE | re.ASCII)
# The characters of a path and a query (RFC 3986); others make no URI.
_URI = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?#]|%[0-9A-Fa-f]{2})*")
_MAX_INT64, _INT64_DIGITS = 2**63 - 1, 19
_GZIP = 16 + zlib.MAX_WBITS
_UNPACKED_AT_ONCE = 2**20

_CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")


class RestApi:
    """Answers REST requests.

    Args:
        manager: Manager. Lends the models.
        metrics: Metrics | None. Where requests are counted, and what `metrics_path` shows. None:
            no metrics, and nothing at that path.
        metrics_path: str.
        cors: bool. Whether browsers may ask from pages of other origins.
        limits: Limits | None. What a body may take, unpacked and read; None for the defaults.
        budget: Budget | None. The memory that all bodies share; a new one when None.

    Example:
        >>> RestApi(manager).answer("GET", "/v1/models/writer", b"").code
        200
    """

    def __init__(
        self,
        manager: "Manager",
        *,
        metrics: Metrics | None = None,
        metrics_path: str = "/monitoring/prometheus/metrics",
        cors: bool = False,
        limits: Limits | None = None,
        budget: Budget | None = None,
    ):
        self._manager = manager
        self._metrics = metrics
        self._metrics_path = metrics_path
        self._cors = cors
        self._limits = limits or Limits()
        self._budget = budget or Budget(self._limits.memory_bytes)

    def answer(
        self,
        method: str,
        target: str,
        body: bytes,
        encoding: str = "",
        deadline: float = math.inf,
    ) -> Answer:
        """Answers one request, whatever it is: errors are answers, too.

        Args:
            method: str. The HTTP method.
            target: str. The request target as it was sent, still escaped, with its query.
            body: bytes.
            encoding: str. The header Content-Encoding; `gzip` is undone.
            deadline: float. When, by time.monotonic(), nobody waits for the answer any more.
        """
        clock = _Clock(time.monotonic(), deadline)
        if method not in METHODS:
            return page(501)
        path = _local(target)
        if not _URI.fullmatch(path):
            return page(400)
        if self._metrics is not None and re.split("[?#]", path)[0] == self._metrics_path:
            return self._metrics_page(path)
        if not _PREFIX.fullmatch(path):
            return page(404)
        if method == "OPTIONS":
            cors = _CORS if self._cors else ()
            return Answer(200, b"", "text/html; charset=ISO-8859-1", cors)
        answer = self._api(method, path, body, encoding, clock)
        return dataclasses.replace(answer, headers=_CORS) if self._cors else answer

    def _metrics_page(self, path: str) -> Answer:
        if path != self._metrics_path:
            text = f"Unexpected path: {path}. Should be {self._metrics_path}"
            return Answer(400, text.encode(), "text/plain")
        return Answer(200, self._metrics.text().encode(), "text/plain")

    def _api(self, method: str, path: str, body: bytes, encoding: str, clock: "_Clock") -> Answer:
        found = {"POST": _POST, "GET": _GET}.get(method, re.compile("(?!)")).fullmatch(path)
        spec = model_pb2.ModelSpec()
        if found:
            name, version, label, what = found.groups()
            version = re.sub("^0+(?=.)", "", version or "")
            if len(version) > _INT64_DIGITS or (version and int(version) > _MAX_INT64):
                return Answer(400)  # TensorFlow Serving leaves the body of this one empty
            spec.name = _decoded(name or "")
            if version:
                spec.version.value = int(version)
            if label:
                spec.version_label = _decoded(label)
        try:
            if found and method == "POST" and what in _CALLS:
                return self._infer(what, spec, body, encoding, clock)
            if found and method == "GET":
                return _ok(self._describe(spec, what == "metadata"))
            raise invalid(f"Malformed request: {method} {path}")
        except ServingError as error:
            return error_answer(error)

    def _describe(self, spec: model_pb2.ModelSpec, metadata: bool) -> str:
        if not spec.name:
            raise invalid("Missing model name in request.")
        if not metadata:
            request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return status_json(model_status(self._manager, request))
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        return metadata_json(model_metadata(self._manager, request))

    def _infer(
        self,
        method: str,
        spec: model_pb2.ModelSpec,
        body: bytes,
        encoding: str,
        clock: "_Clock",
    ) -> Answer:
        status = grpc.StatusCode.OK
        try:
            clock.check()  # it may have waited for long
            with due_in(clock.left()), Share(self._budget) as share:
                if "gzip" in encoding:
                    body = _unpacked(body, self._limits.unpacked_bytes, share)
                text = self._call(method, spec, body, share)
            clock.check()
            return _ok(text)
        except ServingError as error:
            status = error.code
            return error_answer(error)
        except Exception:  # noqa: BLE001  a request must not bring the server down, whatever it is
            status = grpc.StatusCode.INTERNAL
            return error_answer(unexpected(f"REST {method} of {spec.name} failed"))
        finally:
            if self._metrics is not None:
                seconds = time.monotonic() - clock.begin
                self._metrics.record(spec.name, status.name, "REST", seconds, api=method)

    def _call(self, method: str, spec: model_pb2.ModelSpec, body: bytes, share: Share) -> str:
        make_request, run, show = _CALLS[method]

        def admit(elements: int) -> None:
            if elements > self._limits.elements:
                raise TooLarge(
                    f"the body has {elements} JSON elements; {self._limits.elements} are allowed"
                )
            share.take(elements * self._limits.element_bytes)

        try:
            parsed = read_json(body, admit)
            spec.signature_name = signature_name(parsed)
            request = make_request(model_spec=spec)
            if method != "predict":  # the body says all, so its errors come before the model's
                fill_examples(parsed, request.input)
            with acquire_spec(self._manager, spec) as servable:
                rows = method == "predict" and _fill_predict(servable, parsed, request)
                del parsed  # the run needs its memory
                response = run(servable, request)
        except JsonError as error:
            raise invalid(str(error)) from error
        if self._metrics is not None:
            self._metrics.record_runtime(spec.name, run_seconds(), api=method.capitalize())
        return predictions_json(response.outputs) if rows else show(response)


def _outputs(response: predict_pb2.PredictResponse) -> str:
    return outputs_json(response.outputs)


_CALLS: dict[str, tuple[type[Message], Callable, Callable[[Message], str]]] = {
    "predict": (predict_pb2.PredictRequest, predict_on, _outputs),
    "classify": (
        classification_pb2.ClassificationRequest,
        classify_on,
        lambda response: classes_json(response.result),
    ),
    "regress": (
        regression_pb2.RegressionRequest,
        regress_on,
        lambda response: numbers_json(response.result),
    ),
}


def _fill_predict(
    servable: Servable, body: Mapping[str, object], request: predict_pb2.PredictRequest
) -> bool:
    asked = request.model_spec.signature_name
    signature = servable.signatures.get(asked or DEFAULT_SIGNATURE)
    if signature is None:
        name = asked or DEFAULT_SIGNATURE
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    return fill_tensors(body, signature.inputs, asked, request.inputs)


def _ok(text: str) -> Answer:
    return Answer(200, text.encode("utf-8", "surrogateescape"))


def _local(target: str) -> str:
    """The path and query of a request target, which a proxy's client sends as a whole URL."""
    if target.startswith("/"):
        return target
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*", "", target) or "/"


def _decoded(text: str) -> str:
    return urllib.parse.unquote_to_bytes(text).decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class _Clock:
    begin: float
    deadline: float

    def left(self) -> float | None:
        return None if self.deadline == math.inf else self.deadline - time.monotonic()

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise timed_out()


def _unpacked(body: bytes, most: int, share: Share) -> bytes:
    reader, pieces, size = zlib.decompressobj(_GZIP), [], 0
    try:
        while body and not reader.eof:
            pieces.append(reader.decompress(body, _UNPACKED_AT_ONCE))
            body = reader.unconsumed_tail
            size += len(pieces[-1])
            if size > most:
                raise TooLarge(f"the body is larger than {most} bytes once decompressed")
            share.take(len(pieces[-1]))
        pieces.append(reader.flush())
    except zlib.error:
        return b""  # as TensorFlow Serving does, which then says that the document is empty
    return b"".join(pieces) if reader.eof else b""
