"""TensorFlow Serving's messages and methods, without TensorFlow.

The modules that define them import all of TensorFlow, which takes seconds. Here they come from
`serving.binpb`, which `tools.client_descriptors` makes. They live in a pool of their own, so that
TensorFlow may be imported, before or after, with its messages of the same names.
"""

import dataclasses
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

DESCRIPTORS_FILE = Path(__file__).with_name("serving.binpb")


def _read() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS_FILE.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _read()


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a service: where it is asked, and the classes of its two messages."""

    path: str
    request: type[message.Message]
    response: type[message.Message]


def _message_class(name: str) -> type[message.Message]:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def _methods(service: str) -> dict[str, Method]:
    return {
        method.name: Method(
            f"/{service}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in POOL.FindServiceByName(service).methods
    }


Example = _message_class("tensorflow.Example")
SignatureDefMap = _message_class("tensorflow.serving.SignatureDefMap")
TensorProto = _message_class("tensorflow.TensorProto")
DATA_TYPE = POOL.FindEnumTypeByName("tensorflow.DataType")
MODEL_STATE = POOL.FindEnumTypeByName("tensorflow.serving.ModelVersionStatus.State")
SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
METHODS = {name: method for service in SERVICES for name, method in _methods(service).items()}
