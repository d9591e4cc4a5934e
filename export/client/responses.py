"""What a server responds, and how it is read. Strings are `bytes`: a model may write any."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import message

from export import INIT_OP
from export.client.messages import DATA_TYPE, MODEL_STATE, SignatureDefMap
from export.tensors import DTYPES, decode_tensor

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """The response to Predict."""

    model: str
    version: int | None  # None if the server does not say
    signature: str
    outputs: dict[str, np.ndarray]  # by their names in the signature; strings are `bytes` objects


class Answer(Prediction):
    """The response to a conversation."""

    @property
    def content(self) -> str:
        """What the assistant says; U+FFFD for bytes that are no UTF-8."""
        return self.outputs["content"][0].decode("utf-8", "replace")

    @property
    def finish_reason(self) -> str:
        """ "stop" at its end or at a stop string, "length" at `max_new_tokens`."""
        return self.outputs["finish_reason"][0].decode()


class Classification(Prediction):
    """The response to Classify."""

    @property
    def classes(self) -> np.ndarray:
        """(B, C) `bytes` objects; b"" where the signature has no classes."""
        return self.outputs["classes"]

    @property
    def scores(self) -> np.ndarray:
        """(B, C) float32; 0 where the signature has no scores."""
        return self.outputs["scores"]


class Regression(Prediction):
    """The response to Regress."""

    @property
    def values(self) -> np.ndarray:
        """(B,) float32."""
        return self.outputs["outputs"]


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature."""

    name: str  # the tensor in the graph, as "serving_default_text:0"
    dtype: str  # numpy's name, or "string", or TensorFlow's name for what numpy has not
    # A size for each axis, None where any will do; None if the rank may be any, too.
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Signature:
    """A signature of a model."""

    method_name: str  # "tensorflow/serving/predict", ".../classify" or ".../regress"
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    defaults: Mapping[str, np.ndarray]  # of the inputs that may be left out


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version of a model."""

    version: int
    state: str  # START, LOADING, AVAILABLE, UNLOADING or END
    code: grpc.StatusCode  # OK, or why the version ended
    message: str  # what went wrong; empty if nothing


class RequestError(grpc.RpcError):
    """A request that was refused, did not get through, or was not answered in time.

    It is a `grpc.RpcError`, with `code()` and `details()`, from both clients; the error that gRPC
    itself raised is its `__cause__`.

    Example:
        try:
            client.predict("nosuch", {})
        except RequestError as error:
            print(error.code().name, error.details(), error.server)
            # NOT_FOUND Servable not found for request: Latest(nosuch) localhost:8500
    """

    def __init__(self, code: grpc.StatusCode, details: str, server: str):
        super().__init__(code, details, server)
        self._code, self._details, self.server = code, details, server

    def code(self) -> grpc.StatusCode:
        """Why it failed, in gRPC's terms."""
        return self._code

    def details(self) -> str:
        """The server's message, or gRPC's own when the server was not reached."""
        return self._details

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details} ({self.server})"


def answer(response: Any) -> Answer:
    """Of a PredictResponse of the signature `chat`."""
    found = prediction(response)
    return Answer(found.model, found.version, found.signature, found.outputs)


def prediction(response: Any) -> Prediction:
    """Of a PredictResponse; the arrays may be written to."""
    arrays = {
        name: np.require(decode_tensor(proto), requirements="W")
        for name, proto in response.outputs.items()
    }
    return Prediction(*_served(response.model_spec), arrays)


def classification(spec: message.Message, result: message.Message) -> Classification:
    """Of a ModelSpec and a ClassificationResult."""
    table = [row.classes for row in result.classifications]
    classes = np.array([[one.label.encode() for one in row] for row in table], dtype=object)
    scores = np.array([[one.score for one in row] for row in table], np.float32)
    return Classification(*_served(spec), {"classes": classes, "scores": scores})


def regression(spec: message.Message, result: message.Message) -> Regression:
    """Of a ModelSpec and a RegressionResult."""
    values = np.array([one.value for one in result.regressions], np.float32)
    return Regression(*_served(spec), {"outputs": values})


def several(response: Any, names: Iterable[str]) -> dict[str, Classification | Regression]:
    """Of a MultiInferenceResponse, by the names of the signatures in the order of the request."""
    found: dict[str, Classification | Regression] = {}
    for name, result in zip(names, response.results, strict=True):
        if result.WhichOneof("result") == "regression_result":
            found[name] = regression(result.model_spec, result.regression_result)
        else:
            found[name] = classification(result.model_spec, result.classification_result)
    return found


def signatures(response: Any) -> dict[str, Signature]:
    """Of a GetModelMetadataResponse, by name."""
    found = SignatureDefMap()
    response.metadata["signature_def"].Unpack(found)
    return {
        name: Signature(
            definition.method_name,
            {key: _tensor_info(info) for key, info in definition.inputs.items()},
            {key: _tensor_info(info) for key, info in definition.outputs.items()},
            {key: decode_tensor(proto) for key, proto in definition.defaults.items()},
        )
        for name, definition in found.signature_def.items()
        if name != INIT_OP
    }


def statuses(response: Any) -> list[VersionStatus]:
    """Of a GetModelStatusResponse."""
    return [
        VersionStatus(
            one.version,
            MODEL_STATE.values_by_number[one.state].name,
            _CODES.get(one.status.error_code, grpc.StatusCode.UNKNOWN),
            one.status.error_message,
        )
        for one in response.model_version_status
    ]


def _served(spec: message.Message) -> tuple[str, int | None, str]:
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.signature_name


def _tensor_info(info: message.Message) -> TensorInfo:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    dtype, named = DTYPES.get(info.dtype), DATA_TYPE.values_by_number.get(info.dtype)
    name = named.name.removeprefix("DT_").lower() if named else f"dtype {info.dtype}"
    return TensorInfo(info.name, name if dtype is None or dtype.kind == "O" else dtype.name, shape)
