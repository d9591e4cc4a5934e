"""What a server responds. Strings are `bytes` everywhere: a model may write any."""

import dataclasses
from collections.abc import Mapping

import grpc
import numpy as np


@dataclasses.dataclass(frozen=True)
class _Served:
    model: str
    version: int | None
    signature: str


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction(_Served):
    """The response to Predict.

    Args:
        model, signature: str. What was run.
        version: int | None. None if the server does not say.
        outputs: Output name to array; strings are arrays of `bytes` objects.
    """

    outputs: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Classification(_Served):
    """The response to Classify.

    Args:
        model, version, signature: as for `Prediction`.
        classes: (B, C) `bytes` objects; b"" where the signature has no classes.
        scores: (B, C) float32; 0 where the signature has no scores.
    """

    classes: np.ndarray
    scores: np.ndarray

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        """The arrays under the names that they have in the signature."""
        return {"classes": self.classes, "scores": self.scores}


@dataclasses.dataclass(frozen=True, eq=False)
class Regression(_Served):
    """The response to Regress.

    Args:
        model, version, signature: as for `Prediction`.
        values: (B,) float32.
    """

    values: np.ndarray

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        """The array under the name that it has in the signature."""
        return {"outputs": self.values}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    Args:
        name: str. The tensor in the graph, as "serving_default_text:0".
        dtype: str. numpy's name, or "string", or TensorFlow's name for what numpy has not.
        shape: A size for each axis, None where any will do; None if the rank may be any, too.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Signature:
    """A signature of a model.

    Args:
        method_name: str. "tensorflow/serving/predict", ".../classify" or ".../regress".
        inputs, outputs: Name to `TensorInfo`.
        defaults: Input name to the value it has when it is left out.
    """

    method_name: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    defaults: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version of a model.

    Args:
        version: int.
        state: str. START, LOADING, AVAILABLE, UNLOADING or END.
        code: grpc.StatusCode. OK, or why the version ended.
        message: str. What went wrong; empty if nothing.
    """

    version: int
    state: str
    code: grpc.StatusCode
    message: str


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
        self._code, self._details = code, details
        self.server = server

    def code(self) -> grpc.StatusCode:
        """Why it failed, in gRPC's terms."""
        return self._code

    def details(self) -> str:
        """The server's message, or gRPC's own when the server was not reached."""
        return self._details

    def __str__(self) -> str:
        return f"{self._code.name}: {self._details} ({self.server})"
