"""The program `python -m export.server`: from its command line to its end."""

import contextlib
import ctypes
import importlib.metadata
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence

import tensorflow as tf
from absl import flags, logging
from tensorflow.core.protobuf import config_pb2

from export.server.config_files import MonitoringConfigProto, read_credentials, read_text_proto
from export.server.flags import channel_arguments, parse
from export.server.models.config import PLATFORM, ModelServerConfig, models_of
from export.server.models.loading import Loader
from export.server.models.manager import Manager, Retries
from export.server.rest.options import RestOptions
from export.server.run.batching import BatchingParameters, read_batching_parameters
from export.server.server import Server
from export.server.status import LOG, OneLine, ServingError, invalid

_METRICS_PATH = "/monitoring/prometheus/metrics"
_FAILED = 255  # what tensorflow_model_server exits with
# What a process may keep unused; each look above it costs about 0.1 s for a gigabyte.
_MOVED_BYTES = 128 * 2**20
_LOOK_SECONDS = 1.0


def main(argv: Sequence[str], usage: str) -> None:
    """Serves until SIGTERM or SIGINT; exits with 255 when a model, a file or a port is at fault."""
    try:
        values, unknown = parse(argv)
        unknown = flags.FLAGS([argv[0], *unknown], known_only=True)[1:]  # those of logging
    except flags.Error as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(_FAILED)
    if values.help or values.helpfull:
        print(usage, values.get_help(), sep="\n")
        if values.helpfull:
            print(flags.FLAGS.get_help())
        return
    if values.version:
        print(version_text())
        return
    for argument in unknown:  # as TensorFlow Serving: said, and served all the same
        print(f"unknown argument: {argument}", flush=True)
    logging.get_absl_handler().addFilter(OneLine())
    tf.get_logger().setLevel("ERROR")  # else each load says that its loader is of the old kind
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        server = make_server(values)
        started = server.start(cancelled=stopping)
    except (ServingError, ValueError, RuntimeError, OSError) as error:
        print(f"Failed to start server. Error: {error}", flush=True)  # there, as TensorFlow Serving
        sys.exit(_FAILED)
    if not started:
        _stop(server)
        return
    poller = None
    if values.model_config_file and (seconds := values.model_config_file_poll_wait_seconds) > 0:
        arguments = (values.model_config_file, server.manager, seconds, stopping)
        poller = threading.Thread(target=poll_config_file, args=arguments, daemon=True)
        poller.start()
    threading.Thread(target=give_memory_back, daemon=True).start()
    models = [f"{name} version {version}" for name, version in server.manager.available_versions()]
    rest = f", REST at localhost:{server.rest_port}" if server.rest_port else ""
    at = f"localhost:{server.port}{rest}"
    print(f"serving {', '.join(models) or 'no model'} at {at}", flush=True)
    if values.open and server.rest_port:
        open_page(values.host, server.rest_port)
    # Not stopping.wait(): a signal that comes while wait() holds the event's lock would have its
    # handler, in this same thread, wait for that lock for ever.
    while not stopping.is_set():
        time.sleep(0.1)
    LOG.info("stopping: requests that run may finish")
    if poller is not None:
        poller.join()
    _stop(server)


def poll_config_file(
    path: str, manager: Manager, seconds: float, stopping: threading.Event
) -> None:
    """Reads the file of `--model_config_file` again and again; what is wrong is logged once."""
    logged = ""
    while not stopping.wait(seconds):
        message = ""
        try:
            config = read_text_proto(path, ModelServerConfig)
            if config.WhichOneof("config") is not None:  # an empty one changes nothing
                # Without a wait: a file that is corrected is read while models are missing.
                manager.reload(models_of(config), wait=False)
        except ServingError as error:
            message = f"the models of {path} are not served: {error}"
            if message != logged and not stopping.is_set():
                LOG.error("%s", message)
        logged = message


def open_page(host: str, port: int) -> None:
    """Prints the address of the page, and has the browser open it where there is a desktop."""
    host = host if host not in ("0.0.0.0", "::", "[::]", "127.0.0.1") else "localhost"
    address = f"http://{host}:{port}/"
    print(f"page at {address}", flush=True)
    # Elsewhere `webbrowser` would start a browser of text, in this terminal.
    if sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}:
        # A thread: some browsers are waited for until they end.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _stop(server: Server) -> None:
    if not server.stop():
        os._exit(1)  # a plain exit would wait for the threads of what was abandoned


def version_text() -> str:
    """What `--version` prints: this server, and the TensorFlow it runs on."""
    version = "from source"  # run from a checkout
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("keras-lm-zoo")
    return (
        f"TensorFlow ModelServer: export.server ({version})\nTensorFlow Library: {tf.__version__}"
    )


def make_server(values: flags.FlagValues) -> Server:
    """The server that a command line asks for; it is not started. ServingError or ValueError."""
    models, rest = models_of(_model_config(values)), _rest(values)
    reloads, tls = values.allow_reload_over_grpc, bool(values.ssl_config_file)
    LOG.warning(
        "a SavedModel is a program: its ops, ReadFile and WriteFile among them, run with the "
        "rights of this server. Serve only models that you trust; python -m export.closure "
        "names such ops"
    )
    if reloads:
        LOG.warning(
            "whoever reaches the gRPC port may have any folder that this server can read served; "
            "--noallow_reload_over_grpc refuses it"
        )
    if tls and rest is not None:
        LOG.warning(
            "--ssl_config_file is for gRPC alone: the REST API has no TLS and asks for no "
            "certificate. Leave --rest_api_port out, or put a proxy with TLS before it"
        )
    return Server(
        models,
        host=values.host,
        port=values.port,
        max_threads=values.grpc_max_threads,
        max_queued=values.grpc_max_queued,
        poll_wait_seconds=max(0.0, values.file_system_poll_wait_seconds),
        retries=Retries(values.max_num_load_retries, values.load_retry_interval_micros / 1e6),
        loader=Loader(
            batching=_batching(values),
            per_model_batching=values.enable_per_model_batching_parameters,
            warm_up_iterations=values.enable_model_warmup
            * max(1, values.num_request_iterations_for_warmup),
            tags=tuple(values.saved_model_tags.split(",")),
            tensor_content=values.enable_serialization_as_tensor_content,
            compiles=values.xla_cpu_compilation_enabled or values.xla_gpu_compilation_enabled,
            max_generated_tokens=values.max_generated_tokens,
            checks_method_names=values.enable_signature_method_name_check,
            session_config=_session_config(values),
        ),
        label_unavailable=values.allow_version_labels_for_unavailable_models,
        credentials=read_credentials(values.ssl_config_file) if tls else None,
        socket_path=values.grpc_socket_path,
        channel_arguments=channel_arguments(values.grpc_channel_arguments),
        health=values.enable_grpc_healthcheck_service,
        reflection=values.enable_grpc_reflection,
        reloads=reloads,
        load_threads=values.num_load_threads,
        unload_threads=values.num_unload_threads,
        rest=rest,
    )


def _model_config(values: flags.FlagValues) -> ModelServerConfig:
    if values.model_config_file:
        return read_text_proto(values.model_config_file, ModelServerConfig)
    if values.model_base_path:
        config, path = ModelServerConfig(), values.model_base_path
        config.model_config_list.config.add(
            name=values.model_name, base_path=path, model_platform=PLATFORM
        )
        return config
    raise invalid(
        "Both server_options.model_base_path and server_options.model_config_file are empty!"
    )


def _batching(values: flags.FlagValues) -> BatchingParameters | None:
    if values.enable_batching:
        path = values.batching_parameters_file
        return read_batching_parameters(path) if path else BatchingParameters()
    flag = "batching_parameters_file" if values.batching_parameters_file else ""
    if values.enable_per_model_batching_parameters:
        flag = flag or "enable_per_model_batching_params"
    if flag:
        raise invalid(
            f"server_options.{flag} is set without setting server_options.enable_batching to true."
        )
    return None


def _session_config(values: flags.FlagValues) -> config_pb2.ConfigProto:
    config = config_pb2.ConfigProto()
    if values.tensorflow_session_config_file:
        config = read_text_proto(values.tensorflow_session_config_file, config_pb2.ConfigProto)
    both = values.tensorflow_session_parallelism
    intra, inter = values.tensorflow_intra_op_parallelism, values.tensorflow_inter_op_parallelism
    if min(both, intra, inter) > 0:
        raise invalid(
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
    if fraction := values.per_process_gpu_memory_fraction:
        config.gpu_options.per_process_gpu_memory_fraction = fraction
    return config


def _rest(values: flags.FlagValues) -> RestOptions | None:
    metrics_path = ""
    if values.monitoring_config_file:
        config = read_text_proto(values.monitoring_config_file, MonitoringConfigProto)
        if config.prometheus_config.enable:
            metrics_path = config.prometheus_config.path or _METRICS_PATH
    if values.open and not values.page:
        raise invalid("--open opens the page, and --nopage leaves it out: choose one of them")
    if not values.rest_api_port and not values.open:
        return None
    if values.rest_api_port == values.port != 0:
        LOG.error(
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
        page=values.page,
    )


def resident_bytes() -> int:
    """Memory of this process that is in RAM (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_memory_back() -> None:
    """Gives freed memory back to the machine: glibc keeps 1.5 GB after a request of one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # another C library
        return
    # After it shrank, too: a large request is still worked on when the growth is seen, and what it
    # leaves behind lies between blocks that are in use.
    last = resident_bytes()
    while True:
        try:
            if abs(resident_bytes() - last) > _MOVED_BYTES:
                trim(0)
                last = resident_bytes()
        except OSError as error:  # clients may have taken all the files this process may open
            logging.log_every_n_seconds(
                logging.WARNING, "cannot tell how large the process is: %s", 60, error
            )
        time.sleep(_LOOK_SECONDS)
