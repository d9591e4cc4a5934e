"""The flags of `python -m export.server`: those of tensorflow_model_server, and a few more."""

from collections.abc import Sequence

from absl import flags

from export.server.status import LOG

_MOST = 2**63 - 1
_PORTS = (0, 65535)
_ANY = (-_MOST, _MOST)
_COUNT = (0, _MOST)
# Flag -> default, help, range. Its type is the default's, int for None, which the machine decides.
_FLAGS = {
    "host": ("127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in."),
    "port": (8500, "Port of the gRPC services; 0 takes a free one.", *_PORTS),
    "grpc_socket_path": ("", "Path of a UNIX domain socket to listen on, too."),
    "grpc_channel_arguments": ("", "Arguments of gRPC: name=value,name=value."),
    "grpc_max_threads": (None, "Requests at one time; else 4 per CPU, 16 at least.", 1, _MOST),
    "grpc_max_queued": (1024, "Requests that wait for a thread; more are refused.", *_COUNT),
    "ssl_config_file": ("", "SSLConfig proto in text form: serve gRPC with TLS."),
    "enable_grpc_healthcheck_service": (False, "Serve grpc.health.v1.Health."),
    "enable_grpc_reflection": (False, "Serve gRPC reflection, which lists the services."),
    "allow_reload_over_grpc": (True, "Let who reaches the gRPC port change what is served."),
    "rest_api_port": (0, "Port of the REST API; 0 for none.", *_PORTS),
    "rest_api_timeout_in_ms": (30000, "Most time for a REST request; 0 and less: any.", *_ANY),
    "rest_api_num_threads": (None, "REST requests at one time.", 1, _MOST),
    "rest_api_enable_cors_support": (False, "Let browsers ask from pages of other origins."),
    "page": (True, "Show a page to try the models at / of the REST port."),
    "open": (False, "Print its address, open it on a desktop; REST is on."),
    "monitoring_config_file": ("", "MonitoringConfig proto in text form: metrics over REST."),
    "model_name": ("default", "Name that clients ask for."),
    "model_base_path": ("", "Absolute folder that holds the versions 1, 2, ..."),
    "model_config_file": ("", "ModelServerConfig proto in text form: several models."),
    # The real server keeps negative pauses for its tests; here they are 0.
    "model_config_file_poll_wait_seconds": (0.0, "Pause between two reads of it; 0 reads once."),
    "file_system_poll_wait_seconds": (1.0, "Pause between looks for versions; 0 looks once."),
    "allow_version_labels_for_unavailable_models": (False, "Label versions not loaded, too."),
    "saved_model_tags": ("serve", "Tags of the MetaGraph to load, with commas between them."),
    "max_num_load_retries": (5, "Tries after a failed load; no end below 0.", -(2**31), _MOST),
    "load_retry_interval_micros": (60_000_000, "Pause between two of them; none below 0.", *_ANY),
    "num_load_threads": (0, "Versions that load at one time; 0 for one after the other.", *_COUNT),
    "num_unload_threads": (0, "Versions that are unloaded at one time; 0 for all.", *_COUNT),
    "enable_batching": (False, "Let requests share runs of the graph."),
    "batching_parameters_file": ("", "BatchingParameters proto in text form."),
    "enable_per_model_batching_parameters": (False, "Batch as each batching_params.pbtxt says."),
    "enable_model_warmup": (True, "Run the warm-up requests of a version before it answers."),
    "num_request_iterations_for_warmup": (0, "Runs of each of them; one if 0 or less.", *_ANY),
    "max_generated_tokens": (2**18, "Most rows x max_new_tokens of a request; 0: any.", *_COUNT),
    "enable_serialization_as_tensor_content": (False, "Answer Predict with tensor_content."),
    "enable_signature_method_name_check": (False, "Answer only requests that method names allow."),
    "xla_cpu_compilation_enabled": (False, "Run graphs that only XLA can run."),
    "xla_gpu_compilation_enabled": (False, "The same, on GPUs, too."),
    "tensorflow_session_config_file": ("", "ConfigProto in text form, for each model's session."),
    "tensorflow_session_parallelism": (0, "Threads of both pools; 0 for one per CPU.", *_ANY),
    "tensorflow_intra_op_parallelism": (0, "Threads that share an op; 0 as above.", *_ANY),
    "tensorflow_inter_op_parallelism": (0, "Ops that run at one time; 0 as above.", *_ANY),
    "per_process_gpu_memory_fraction": (0.0, "Part of a GPU's memory to take; 0 for any.", 0.0),
    "version": (False, "Print the version and end."),
    "help": (False, "Print this and end."),
    "helpfull": (False, "Print this and the flags of logging, and end."),
}
_DEFINE = {str: flags.DEFINE_string, bool: flags.DEFINE_boolean, float: flags.DEFINE_float}
# Flags of tensorflow_model_server that change nothing here, so that its start lines work; each is
# logged in one line when it is given.
_WITHOUT_EFFECT = (
    *("enable_profiler", "flush_filesystem_caches", "mixed_precision"),
    *("num_tflite_interpreters_per_pool", "num_tflite_pools", "platform_config_file"),
    *("prefer_tflite_model", "remove_unused_fields_from_bundle_metagraph", "skip_initialize_tpu"),
    *("thread_pool_factory_config_file", "use_alts_credentials"),
)


def parse(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """Reads a command line: the flags, as attributes, and the arguments that are none of them."""
    # Flags of their own, so that a program may import this beside modules with flags of these names
    values = flags.FlagValues()
    for name, (default, text, *bounds) in _FLAGS.items():
        define = _DEFINE.get(type(default), flags.DEFINE_integer)
        define(name, default, text, *bounds, flag_values=values)
    values.set_gnu_getopt(True)  # flags after an unknown argument count, too
    unknown = []
    for argument in values(list(argv), known_only=True)[1:]:
        name = argument.removeprefix("-").removeprefix("-").partition("=")[0]
        if argument.startswith("-") and name.removeprefix("no") in _WITHOUT_EFFECT:
            LOG.warning("--%s has no effect on this server", name)
        else:
            unknown.append(argument)
    return values, unknown


def channel_arguments(text: str) -> dict[str, int | str]:
    """Reads `--grpc_channel_arguments`; what looks like an integer is one."""
    arguments: dict[str, int | str] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise ValueError(f"--grpc_channel_arguments: {item!r} is not name=value")
        arguments[name] = int(value) if value.lstrip("-").isdecimal() else value
    return arguments
