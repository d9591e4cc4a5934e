"""Requests to TensorFlow Serving, and how their answers are read; sending them is for others."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import grpc
import numpy as np
from google.protobuf import message

from export.client.answers import (
    Classification,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
)
from export.client.examples import Row, build_example
from export.client.messages import DATA_TYPE, METHODS, MODEL_STATE, Method, SignatureDefMap
from export.tensors import DTYPES, as_array, decode_tensor, encode_tensor

Answer = TypeVar("Answer")
# A version's number, or one of the labels that the server gives to versions.
Version = int | str | None
Task = Literal["classify", "regress"]

_INIT_OP = "__saved_model_init_op"  # listed among the signatures, but not one to ask for
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True)
class Question(Generic[Answer]):
    """A request, the method it is for, and what makes a typed answer of the response."""

    method: Method
    request: message.Message
    read: Callable[[Any], Answer]


def predict(
    model: str,
    inputs: Mapping[str, Any],
    signature: str,
    version: Version,
    outputs: Sequence[str],
) -> Question[Prediction]:
    """The question of `Client.predict`."""
    method = METHODS["Predict"]
    request = method.request(output_filter=outputs)
    _specify(request.model_spec, model, version, signature)
    for name, value in inputs.items():
        try:
            array = as_array(value)
            encode_tensor(array, request.inputs[name], as_content=array.dtype.kind != "O")
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from error

    def read(response) -> Prediction:
        arrays = {
            name: np.require(decode_tensor(proto), requirements="W")
            for name, proto in response.outputs.items()
        }
        return Prediction(*_served(response.model_spec), arrays)

    return Question(method, request, read)


def classify(
    model: str, examples: Iterable[Row], signature: str, version: Version
) -> Question[Classification]:
    """The question of `Client.classify`."""
    method = METHODS["Classify"]
    request = method.request()
    _specify(request.model_spec, model, version, signature)
    _add(request.input, examples)
    return Question(
        method, request, lambda response: _classification(response.model_spec, response.result)
    )


def regress(
    model: str, examples: Iterable[Row], signature: str, version: Version
) -> Question[Regression]:
    """The question of `Client.regress`."""
    method = METHODS["Regress"]
    request = method.request()
    _specify(request.model_spec, model, version, signature)
    _add(request.input, examples)
    return Question(
        method, request, lambda response: _regression(response.model_spec, response.result)
    )


def multi_inference(
    model: str, examples: Iterable[Row], signatures: Mapping[str, Task], version: Version
) -> Question[dict[str, Classification | Regression]]:
    """The question of `Client.multi_inference`."""
    method = METHODS["MultiInference"]
    request = method.request()
    for name, task in signatures.items():
        added = request.tasks.add(method_name=f"tensorflow/serving/{task}")
        _specify(added.model_spec, model, version, name)
    _add(request.input, examples)

    def read(response) -> dict[str, Classification | Regression]:
        answers = {}
        for name, result in zip(signatures, response.results, strict=True):
            if result.WhichOneof("result") == "regression_result":
                answers[name] = _regression(result.model_spec, result.regression_result)
            else:
                answers[name] = _classification(result.model_spec, result.classification_result)
        return answers

    return Question(method, request, read)


def signatures(model: str, version: Version) -> Question[dict[str, Signature]]:
    """The question of `Client.signatures`."""
    method = METHODS["GetModelMetadata"]
    request = method.request(metadata_field=["signature_def"])
    _specify(request.model_spec, model, version)

    def read(response) -> dict[str, Signature]:
        found = SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return {
            name: Signature(
                definition.method_name,
                {key: _info(info) for key, info in definition.inputs.items()},
                {key: _info(info) for key, info in definition.outputs.items()},
                {key: decode_tensor(proto) for key, proto in definition.defaults.items()},
            )
            for name, definition in found.signature_def.items()
            if name != _INIT_OP
        }

    return Question(method, request, read)


def status(model: str, version: Version) -> Question[list[VersionStatus]]:
    """The question of `Client.status`."""
    method = METHODS["GetModelStatus"]
    request = method.request()
    _specify(request.model_spec, model, version)

    def read(response) -> list[VersionStatus]:
        return [
            VersionStatus(
                one.version,
                MODEL_STATE.values_by_number[one.state].name,
                _CODES.get(one.status.error_code, grpc.StatusCode.UNKNOWN),
                one.status.error_message,
            )
            for one in response.model_version_status
        ]

    return Question(method, request, read)


def reload(config: str) -> Question[None]:
    """The question of `Client.reload`."""
    from google.protobuf import text_format  # here: few ask this, and it takes a while to import

    method = METHODS["HandleReloadConfigRequest"]
    request = method.request()
    try:
        text_format.Parse(config, request.config)
    except text_format.ParseError as error:
        raise ValueError(f"this is no ModelServerConfig in text form: {error}") from error
    # A config that the server refuses is a status of the call, as all else that it refuses.
    return Question(method, request, lambda response: None)


def _specify(spec: message.Message, model: str, version: Version, signature: str = "") -> None:
    spec.name, spec.signature_name = model, signature
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version


def _served(spec: message.Message) -> tuple[str, int | None, str]:
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.signature_name


def _add(request_input: message.Message, examples: Iterable[Row]) -> None:
    if isinstance(examples, Mapping | bytes | message.Message):
        raise ValueError("examples are a list of rows; this is one row")
    for number, row in enumerate(examples):
        try:
            request_input.example_list.examples.append(build_example(row))
        except ValueError as error:
            raise ValueError(f"example {number}: {error}") from error


def _classification(spec: message.Message, result: message.Message) -> Classification:
    table = [row.classes for row in result.classifications]
    classes = np.array([[one.label.encode() for one in row] for row in table], dtype=object)
    scores = np.array([[one.score for one in row] for row in table], np.float32)
    return Classification(*_served(spec), classes, scores)


def _regression(spec: message.Message, result: message.Message) -> Regression:
    values = np.array([one.value for one in result.regressions], np.float32)
    return Regression(*_served(spec), values)


def _info(info: message.Message) -> TensorInfo:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorInfo(info.name, _dtype_name(info.dtype), shape)


def _dtype_name(number: int) -> str:
    """numpy's name of a DataType, "string" for strings, TensorFlow's for what numpy has not."""
    if number in DTYPES and DTYPES[number].kind != "O":
        return DTYPES[number].name
    value = DATA_TYPE.values_by_number.get(number)
    return value.name.removeprefix("DT_").lower() if value else f"dtype {number}"
