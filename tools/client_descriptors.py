"""Makes `client/serving.binpb`, the description of TensorFlow Serving's messages for the client.

    python -m tools.client_descriptors

It is a FileDescriptorSet: the two services' files and all that these import, as the installed
tensorflow-serving-api and tensorflow packages have them. Options of files, such as Java's package
names, are left out. `grpcurl -protoset export/client/serving.binpb` reads it, too.
"""

from pathlib import Path

from google.protobuf import descriptor_pb2

from zoo.files import replacing

# Not from export.client, whose import needs the file.
_FILE = Path(__file__).parent.parent / "export/client/serving.binpb"


def describe() -> descriptor_pb2.FileDescriptorSet:
    """The files, each after those that it imports."""
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file):
        if file.name in found:
            return
        for imported in file.dependencies:
            add(imported)
        found[file.name] = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
        found[file.name].ClearField("options")

    add(prediction_service_pb2.DESCRIPTOR)
    add(model_service_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


def main() -> None:
    """Writes the file."""
    with replacing(_FILE) as temporary:
        temporary.write_bytes(describe().SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
