"""Requests to TensorFlow Serving, and how their responses are read; the clients send them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import grpc
import numpy as np
from google.protobuf import message

from export import INIT_OP
from export.client.messages import (
    DATA_TYPE,
    METHODS,
    MODEL_STATE,
    Example,
    Method,
    SignatureDefMap,
)
from export.client.responses import (
    Classification,
    Prediction,
    Regression,
    Signature,
    TensorInfo,
    VersionStatus,
)
from export.tensors import DTYPES, as_array, decode_tensor, encode_tensor

Response = TypeVar("Response")
# A version's number, or one of the labels that the server gives to versions.
Version = int | str | None
Task = Literal["classify", "regress"]
# An example's features, each a value or several; or a serialized tf.Example, or the message.
Row: TypeAlias = Mapping[str, Any] | bytes | message.Message

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True)
class Request(Generic[Response]):
    """A message, the method it is for, and what makes a typed response of the message back."""

    method: Method
    message: message.Message
    read: Callable[[Any], Response]


def predict(
    model: str, inputs: Mapping[str, Any], signature: str, version: Version, outputs: Sequence[str]
) -> Request[Prediction]:
    """The request of `Client.predict`."""
    sent = METHODS["Predict"].request(output_filter=outputs)
    _set_spec(sent.model_spec, model, version, signature)
    for name, value in inputs.items():
        try:
            array = as_array(value)
            encode_tensor(array, sent.inputs[name], as_content=array.dtype.kind != "O")
        except ValueError as error:
            raise ValueError(f"input {name}: {error}") from error

    def read(response: Any) -> Prediction:
        arrays = {
            name: np.require(decode_tensor(proto), requirements="W")
            for name, proto in response.outputs.items()
        }
        return Prediction(*_served(response.model_spec), arrays)

    return Request(METHODS["Predict"], sent, read)


def classify(
    model: str, examples: Iterable[Row], signature: str, version: Version
) -> Request[Classification]:
    """The request of `Client.classify`."""
    return _of_examples("Classify", _classification, model, examples, signature, version)


def regress(
    model: str, examples: Iterable[Row], signature: str, version: Version
) -> Request[Regression]:
    """The request of `Client.regress`."""
    return _of_examples("Regress", _regression, model, examples, signature, version)


def _of_examples(
    name: str,
    read: Callable[[Any, Any], Any],
    model: str,
    examples: Iterable[Row],
    signature: str,
    version: Version,
) -> Request[Any]:
    sent = METHODS[name].request()
    _set_spec(sent.model_spec, model, version, signature)
    _add_examples(sent.input, examples)
    return Request(METHODS[name], sent, lambda reply: read(reply.model_spec, reply.result))


def multi_inference(
    model: str, examples: Iterable[Row], signatures: Mapping[str, Task], version: Version
) -> Request[dict[str, Classification | Regression]]:
    """The request of `Client.multi_inference`."""
    sent = METHODS["MultiInference"].request()
    for name, task in signatures.items():
        added = sent.tasks.add(method_name=f"tensorflow/serving/{task}")
        _set_spec(added.model_spec, model, version, name)
    _add_examples(sent.input, examples)

    def read(response: Any) -> dict[str, Classification | Regression]:
        found: dict[str, Classification | Regression] = {}
        for name, result in zip(signatures, response.results, strict=True):
            if result.WhichOneof("result") == "regression_result":
                found[name] = _regression(result.model_spec, result.regression_result)
            else:
                found[name] = _classification(result.model_spec, result.classification_result)
        return found

    return Request(METHODS["MultiInference"], sent, read)


def signatures(model: str, version: Version) -> Request[dict[str, Signature]]:
    """The request of `Client.signatures`."""
    sent = METHODS["GetModelMetadata"].request(metadata_field=["signature_def"])
    _set_spec(sent.model_spec, model, version)

    def read(response: Any) -> dict[str, Signature]:
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

    return Request(METHODS["GetModelMetadata"], sent, read)


def status(model: str, version: Version) -> Request[list[VersionStatus]]:
    """The request of `Client.status`."""
    sent = METHODS["GetModelStatus"].request()
    _set_spec(sent.model_spec, model, version)

    def read(response: Any) -> list[VersionStatus]:
        return [
            VersionStatus(
                one.version,
                MODEL_STATE.values_by_number[one.state].name,
                _CODES.get(one.status.error_code, grpc.StatusCode.UNKNOWN),
                one.status.error_message,
            )
            for one in response.model_version_status
        ]

    return Request(METHODS["GetModelStatus"], sent, read)


def reload(config: str) -> Request[None]:
    """The request of `Client.reload`."""
    from google.protobuf import text_format  # here: few send this, and it takes a while to import

    sent = METHODS["HandleReloadConfigRequest"].request()
    try:
        text_format.Parse(config, sent.config)
    except text_format.ParseError as error:
        raise ValueError(f"this is no ModelServerConfig in text form: {error}") from error
    # A config that the server refuses is a status of the call, as all else that it refuses.
    return Request(METHODS["HandleReloadConfigRequest"], sent, lambda response: None)


def build_example(row: Row) -> message.Message:
    """A row as a tf.Example.

    Strings become a bytes_list (str as UTF-8), integers and truth values an int64_list, other
    numbers a float_list. Raises ValueError for anything else.
    """
    if isinstance(row, message.Message):
        row = row.SerializeToString()  # TensorFlow's too
    if isinstance(row, bytes):
        try:
            return Example.FromString(row)
        except message.DecodeError as error:
            raise ValueError(f"these {len(row)} bytes are no tf.Example") from error
    if not isinstance(row, Mapping):
        raise ValueError(
            f"a row is a mapping of features, a tf.Example or its bytes, not {type(row).__name__}"
        )
    example = Example()
    for name, feature in row.items():
        try:
            _set_feature(example.features.feature[name], feature)
        except ValueError as error:
            raise ValueError(f"feature {name}: {error}") from error
    return example


def _set_feature(feature: message.Message, value: Any) -> None:
    values = [value] if isinstance(value, str | bytes) else np.asarray(value, object).ravel()
    kinds = {_kind(one) for one in values}
    if kinds == {"int64_list", "float_list"}:
        kinds = {"float_list"}
    if len(kinds) > 1:
        raise ValueError("strings and numbers are mixed")
    for kind in kinds:
        getattr(feature, kind).value.extend(map(_CONVERTERS[kind], values))


def _kind(value: object) -> str:
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    raise ValueError(f"{value!r} is neither a string nor a number")


_KINDS = {
    "bytes_list": str | bytes,
    "int64_list": bool | int | np.integer | np.bool_,
    "float_list": float | np.floating,
}
_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "bytes_list": lambda value: value.encode() if isinstance(value, str) else value,
    "int64_list": int,
    "float_list": float,
}


def _add_examples(request_input: message.Message, examples: Iterable[Row]) -> None:
    if isinstance(examples, Mapping | bytes | message.Message):
        raise ValueError("examples are a list of rows; this is one row")
    for number, row in enumerate(examples):
        try:
            request_input.example_list.examples.append(build_example(row))
        except ValueError as error:
            raise ValueError(f"example {number}: {error}") from error


def _set_spec(spec: message.Message, model: str, version: Version, signature: str = "") -> None:
    spec.name, spec.signature_name = model, signature
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version


def _served(spec: message.Message) -> tuple[str, int | None, str]:
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.signature_name


def _classification(spec: message.Message, result: message.Message) -> Classification:
    table = [row.classes for row in result.classifications]
    classes = np.array([[one.label.encode() for one in row] for row in table], dtype=object)
    scores = np.array([[one.score for one in row] for row in table], np.float32)
    return Classification(*_served(spec), classes, scores)


def _regression(spec: message.Message, result: message.Message) -> Regression:
    values = np.array([one.value for one in result.regressions], np.float32)
    return Regression(*_served(spec), values)


def _tensor_info(info: message.Message) -> TensorInfo:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    dtype, named = DTYPES.get(info.dtype), DATA_TYPE.values_by_number.get(info.dtype)
    if dtype is not None and dtype.kind != "O":
        return TensorInfo(info.name, dtype.name, shape)
    name = named.name.removeprefix("DT_").lower() if named else f"dtype {info.dtype}"
    return TensorInfo(info.name, name, shape)
