"""TensorFlow Serving's messages and methods, without TensorFlow.

The modules that define them import all of TensorFlow, which takes seconds. Here they come from
`serving.binpb`, which `tools.client_descriptors` makes. They live in a pool of their own, so that
TensorFlow may be imported, before or after, with its messages of the same names.
"""

import dataclasses
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

DESCRIPTORS_FILE = Path(__file__).with_name("serving.binpb")
SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")

POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS_FILE.read_bytes()).file:
    POOL.AddSerializedFile(_file.SerializeToString())


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a service: its gRPC path, and the classes of its two messages."""

    path: str
    request: type[message.Message]
    response: type[message.Message]


def _message_class(name: str) -> type[message.Message]:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


Example = _message_class("tensorflow.Example")
SignatureDefMap = _message_class("tensorflow.serving.SignatureDefMap")
TensorProto = _message_class("tensorflow.TensorProto")
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
