"""TensorFlow Serving's messages and methods, without the seconds of importing TensorFlow."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

DESCRIPTORS_FILE = Path(__file__).with_name("serving.binpb")  # by tools.client_descriptors
SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")

# Its own: TensorFlow may be imported, before or after, with its messages of the same names.
POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS_FILE.read_bytes()).file:
    POOL.AddSerializedFile(_file.SerializeToString())

# A version's number, or one of the labels that the server gives to versions.
Version: TypeAlias = int | str | None
# An example's features, each a value or several; or a serialized tf.Example, or the message.
Row: TypeAlias = Mapping[str, Any] | bytes | message.Message


class Method(NamedTuple):
    """A method of a service: its gRPC path, and the classes of its two messages."""

    path: str
    request: type[message.Message]
    response: type[message.Message]


Example, SignatureDefMap, TensorProto = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"tensorflow.{name}"))
    for name in ("Example", "serving.SignatureDefMap", "TensorProto")
)
DATA_TYPE = POOL.FindEnumTypeByName("tensorflow.DataType")
MODEL_STATE = POOL.FindEnumTypeByName("tensorflow.serving.ModelVersionStatus.State")
METHODS = {
    method.name: Method(
        f"/{service}/{method.name}",
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
    for service in SERVICES
    for method in POOL.FindServiceByName(service).methods
}

_FEATURES: dict[str, tuple[Any, Any]] = {  # list of a tf.train.Feature -> types, how written
    "bytes_list": (str | bytes, lambda one: one.encode() if isinstance(one, str) else one),
    "float_list": (float | np.floating, float),  # of integers, too, that are beside floats
    "int64_list": (bool | int | np.integer | np.bool_, int),
}


def set_spec(spec: message.Message, model: str, version: Version, signature: str = "") -> None:
    """Writes a ModelSpec."""
    spec.name, spec.signature_name = model, signature
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version


def add_examples(request_input: message.Message, examples: Iterable[Row]) -> None:
    """Writes rows into an Input; ValueError names the row that is no example."""
    if isinstance(examples, Mapping | bytes | message.Message):
        raise ValueError("examples are a list of rows; this is one row")
    for number, row in enumerate(examples):
        try:
            request_input.example_list.examples.append(build_example(row))
        except ValueError as error:
            raise ValueError(f"example {number}: {error}") from error


def build_example(row: Row) -> message.Message:
    """A row as a tf.Example; ValueError for values that are neither strings nor numbers."""
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
    for name, value in row.items():
        feature = example.features.feature[name]
        values = [value] if isinstance(value, str | bytes) else np.asarray(value, object).ravel()
        kinds = set()
        for one in values:
            kind = next((kind for kind in _FEATURES if isinstance(one, _FEATURES[kind][0])), None)
            if kind is None:
                raise ValueError(f"feature {name}: {one!r} is neither a string nor a number")
            kinds.add(kind)
        if "bytes_list" in kinds and len(kinds) > 1:
            raise ValueError(f"feature {name}: strings and numbers are mixed")
        if kinds:
            kind = next(kind for kind in _FEATURES if kind in kinds)
            getattr(feature, kind).value.extend(map(_FEATURES[kind][1], values))
    return example
