"""From flags to a server, with the errors of tensorflow_model_server."""

import importlib.metadata

import grpc
import tensorflow as tf
from absl import flags, logging
from tensorflow.core.protobuf import config_pb2

from export.server.command_flags import channel_arguments
from export.server.models.config import (
    ModelServerConfig,
    models_of,
    read_model_config,
    single_model_config,
)
from export.server.models.loading import Loader
from export.server.models.versions import Retries
from export.server.run.batching import BatchingParameters, read_batching_parameters
from export.server.security import read_credentials, risks
from export.server.server import RestOptions, Server
from export.server.status import ServingError
from export.server.text_protos import MonitoringConfigProto, read_text_proto

_METRICS_PATH = "/monitoring/prometheus/metrics"


def version_text() -> str:
    """What `--version` prints: this server, and the TensorFlow it runs on."""
    try:
        version = importlib.metadata.version("keras-lm-zoo")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        version = "from source"
    return (
        f"TensorFlow ModelServer: export.server ({version})\nTensorFlow Library: {tf.__version__}"
    )


def make_server(values: flags.FlagValues) -> Server:
    """The server that a command line asks for; it is not started.

    Args:
        values: The flags, as `command_flags.parse` reads them.

    Raises:
        ServingError: a file, or the configuration in it, is at fault.
        ValueError: `--grpc_channel_arguments` is.

    Example:
        >>> values, _ = parse(["server", "--model_name=m", "--model_base_path=/models/m"])
        >>> make_server(values).start()
        True
    """
    models, rest = models_of(_model_config(values)), _rest(values)
    reloads, tls = values.allow_reload_over_grpc, bool(values.ssl_config_file)
    for risk in risks(tls=tls, rest=rest is not None, reloads=reloads):
        logging.warning("%s", risk)
    return Server(
        models,
        host=values.host,
        port=values.port,
        max_threads=values.grpc_max_threads,
        max_queued=values.grpc_max_queued,
        poll_wait_seconds=max(0.0, values.file_system_poll_wait_seconds),
        retries=Retries(
            values.max_num_load_retries, max(0, values.load_retry_interval_micros) / 1e6
        ),
        loader=Loader(
            batching=_batching(values),
            per_model_batching=values.enable_per_model_batching_parameters,
            warm_up_iterations=(
                max(1, values.num_request_iterations_for_warmup)
                if values.enable_model_warmup
                else 0
            ),
            tags=tuple(values.saved_model_tags.split(",")),
            tensor_content=values.enable_serialization_as_tensor_content,
            compiles=values.xla_cpu_compilation_enabled or values.xla_gpu_compilation_enabled,
            max_generated_tokens=values.max_generated_tokens,
            session_config=_session_config(values),
        ),
        label_unavailable=values.allow_version_labels_for_unavailable_models,
        credentials=read_credentials(values.ssl_config_file) if tls else None,
        socket_path=values.grpc_socket_path,
        channel_arguments=channel_arguments(values.grpc_channel_arguments),
        health=values.enable_grpc_healthcheck_service,
        reflection=values.enable_grpc_reflection,
        reloads=reloads,
        rest=rest,
    )


def _model_config(values: flags.FlagValues) -> ModelServerConfig:
    if values.model_config_file:
        return read_model_config(values.model_config_file)
    if values.model_base_path:
        return single_model_config(values.model_name, values.model_base_path)
    raise _invalid(
        "Both server_options.model_base_path and server_options.model_config_file are empty!"
    )


def _batching(values: flags.FlagValues) -> BatchingParameters | None:
    if values.enable_batching:
        if values.batching_parameters_file:
            return read_batching_parameters(values.batching_parameters_file)
        return BatchingParameters()
    if values.batching_parameters_file:
        raise _invalid(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    if values.enable_per_model_batching_parameters:
        raise _invalid(
            "server_options.enable_per_model_batching_params is set without setting "
            "server_options.enable_batching to true."
        )
    return None


def _session_config(values: flags.FlagValues) -> config_pb2.ConfigProto:
    config = config_pb2.ConfigProto()
    if values.tensorflow_session_config_file:
        config = read_text_proto(values.tensorflow_session_config_file, config_pb2.ConfigProto)
    both = values.tensorflow_session_parallelism
    intra, inter = values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
    if both > 0 and intra > 0 and inter > 0:
        raise _invalid(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    if intra > 0 or inter > 0:
        both = 0
    # Where neither is given, the file's numbers stay.
    if threads := max(intra, both, 0):
        config.intra_op_parallelism_threads = threads
    if threads := max(inter, both, 0):
        config.inter_op_parallelism_threads = threads
    if values.per_process_gpu_memory_fraction:
        fraction = values.per_process_gpu_memory_fraction
        config.gpu_options.per_process_gpu_memory_fraction = fraction
    return config


def _rest(values: flags.FlagValues) -> RestOptions | None:
    metrics_path = ""
    if values.monitoring_config_file:
        config = read_text_proto(values.monitoring_config_file, MonitoringConfigProto)
        if config.prometheus_config.enable:
            metrics_path = config.prometheus_config.path or _METRICS_PATH
    if not values.rest_api_port:
        return None
    if values.rest_api_port == values.port:
        logging.error(
            "server_options.http_port cannot be same as grpc_port. Please use a different port "
            "for HTTP/REST API. Skipped exporting HTTP/REST API."
        )
        return None
    return RestOptions(
        port=values.rest_api_port,
        timeout_ms=values.rest_api_timeout_in_ms,
        max_threads=values.rest_api_num_threads,
        cors=values.rest_api_enable_cors_support,
        metrics_path=metrics_path,
    )


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
