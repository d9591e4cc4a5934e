"""The server's configuration files: protos in text form.

Three of their messages are not in the tensorflow-serving-api package. They are declared here, with
the names and numbers of TensorFlow Serving's protos.
"""

from typing import TypeVar

import grpc
import tensorflow as tf
from absl import logging
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
    text_format,
    wrappers_pb2,
)

from export.server.status import ServingError

_Message = TypeVar("_Message", bound=message.Message)

_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_WRAPPED = {"Int64Value", "StringValue", "BoolValue"}
# Message -> field -> (number, type): a scalar, a wrapper, or another message of the package.
_DECLARED = {
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "thread_pool_name": (5, "StringValue"),
        "allowed_batch_sizes": (6, "repeated int64"),
        "pad_variable_length_inputs": (7, "bool"),
        "enable_large_batch_splitting": (8, "BoolValue"),
        "max_execution_batch_size": (9, "Int64Value"),
    },
    "SSLConfig": {
        "server_key": (1, "string"),
        "server_cert": (2, "string"),
        "custom_ca": (3, "string"),
        "client_verify": (4, "bool"),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
}


def _declare() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="export/server/text_protos.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _DECLARED.items():
        declared = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            repeated, scalar = kind.startswith("repeated "), kind.removeprefix("repeated ")
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = declared.field.add(name=field_name, number=number, label=label)
            if kind in _WRAPPED or kind in _DECLARED:
                package = "google.protobuf" if kind in _WRAPPED else _PACKAGE
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                field.type = getattr(_Field, f"TYPE_{scalar.upper()}")
    # A pool of their own: a later tensorflow-serving-api may bring them into the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _declare()


def _message_class(name: str) -> type[message.Message]:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


BatchingParametersProto = _message_class("BatchingParameters")
SSLConfigProto = _message_class("SSLConfig")
MonitoringConfigProto = _message_class("MonitoringConfig")


def read_text_proto(path: str, kind: type[_Message]) -> _Message:
    """Reads a text proto.

    Args:
        path: str. The file.
        kind: The class of the message.

    Raises:
        ServingError: NOT_FOUND or another code when the file cannot be read, INVALID_ARGUMENT when
            it is empty or does not parse; where and why it does not is logged.

    Example:
        >>> read_text_proto("/etc/monitoring.config", MonitoringConfigProto)
        prometheus_config {
          enable: true
        }
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    except tf.errors.OpError as error:
        raise ServingError.from_tensorflow(error) from error
    if not content:  # TensorFlow Serving maps the file into memory, which it cannot when empty
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"{path}; Invalid argument")
    try:
        return text_format.Parse(content.decode(), kind())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        logging.error(
            "Error parsing text-format %s: %s: %s", kind.DESCRIPTOR.full_name, path, error
        )
        raise ServingError(
            grpc.StatusCode.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}'"
        ) from error
