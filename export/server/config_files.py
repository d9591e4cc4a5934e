"""The server's configuration files, protos in text form, and the TLS credentials in one of them."""

from typing import TypeVar

import grpc
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from export.server.status import LOG, ServingError, invalid

_Message = TypeVar("_Message", bound=message.Message)

_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_KEY_MARK, _CERTIFICATE_MARK = "PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"
# What the tensorflow-serving-api package lacks of TensorFlow Serving's protos.
# Message -> field -> (number, type): a scalar, or another of these messages.
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
    # As protobuf's own, in text form.
    "Int64Value": {"value": (1, "int64")},
    "StringValue": {"value": (1, "string")},
    "BoolValue": {"value": (1, "bool")},
}


def _declare() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="export/server/text_protos.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _DECLARED.items():
        declared = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            repeated, kind = kind.startswith("repeated "), kind.removeprefix("repeated ")
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = declared.field.add(name=field_name, number=number, label=label)
            if kind in _DECLARED:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = getattr(_Field, f"TYPE_{kind.upper()}")
    # A pool of their own: a later tensorflow-serving-api may bring them into the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _declare()
BatchingParametersProto, SSLConfigProto, MonitoringConfigProto = (
    message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
    for name in ("BatchingParameters", "SSLConfig", "MonitoringConfig")
)


def read_text_proto(path: str, kind: type[_Message]) -> _Message:
    """Reads a text proto; raises ServingError, and where and why it does not parse is logged."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    except tf.errors.OpError as error:
        raise ServingError.from_tensorflow(error) from error
    if not content:  # TensorFlow Serving maps the file into memory, which it cannot when empty
        raise invalid(f"{path}; Invalid argument")
    try:
        return text_format.Parse(content.decode(), kind())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        LOG.error("Error parsing text-format %s: %s: %s", kind.DESCRIPTOR.full_name, path, error)
        raise invalid(f"Invalid protobuf file: '{path}'") from error


def read_credentials(path: str) -> grpc.ServerCredentials:
    """Reads the file of `--ssl_config_file`, whose fields hold PEM text, not paths."""
    config = read_text_proto(path, SSLConfigProto)
    for field, mark in (("server_key", _KEY_MARK), ("server_cert", _CERTIFICATE_MARK)):
        if mark not in getattr(config, field):
            raise invalid(f"{path}: {field} must be PEM text with {mark.strip('-')}, not a path")
    if config.custom_ca and _CERTIFICATE_MARK not in config.custom_ca:
        raise invalid(f"{path}: custom_ca must be PEM text with a certificate, not a path")
    if config.client_verify and not config.custom_ca:
        # gRPC would take the authorities that browsers trust: any of their customers could ask.
        raise invalid(
            f"{path}: client_verify needs custom_ca, the authority that signs clients' certificates"
        )
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
