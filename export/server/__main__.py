"""Serves one model. The flags are those of tensorflow_model_server.

python -m export.server --model_name=writer --model_base_path=/models/writer --port=8500
"""

import os
import signal
import sys
import threading
import time

import tensorflow as tf
from absl import app, flags, logging

from export.server import ServedModel, Server

_PORT = flags.DEFINE_integer(
    "port", 8500, "Port of the gRPC services; 0 takes a free one.", lower_bound=0, upper_bound=65535
)
_HOST = flags.DEFINE_string(
    "host", "0.0.0.0", "Address to listen on: all by default; localhost keeps others out."
)
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "Name that clients ask for.")
_MODEL_BASE_PATH = flags.DEFINE_string(
    "model_base_path", "", "Absolute folder that holds the versions 1, 2, ...: required."
)
_POLL = flags.DEFINE_float(
    "file_system_poll_wait_seconds",
    1.0,
    "Pause between two looks for new versions; 0 looks once, at the start.",
    lower_bound=0,
)
_THREADS = flags.DEFINE_integer(
    "grpc_max_threads", None, "Requests that run at one time; by default 4 per CPU, 16 at least."
)


def main(argv: list[str]) -> None:
    """Serves until SIGTERM or SIGINT; exits with 1 when the model or the port is at fault."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    if not _MODEL_BASE_PATH.value:
        sys.exit(
            "Failed to start server. Error: --model_base_path is missing: give the folder of "
            "the model, which holds its versions in 1, 2, ..."
        )
    tf.get_logger().setLevel("ERROR")  # else each load says that its loader is of the old kind
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        model = ServedModel(_MODEL_NAME.value, _MODEL_BASE_PATH.value)
        server = Server(
            [model],
            host=_HOST.value,
            port=_PORT.value,
            max_threads=_THREADS.value,
            poll_wait_seconds=_POLL.value,
        )
        if not server.start(cancelled=stopping):
            return
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"Failed to start server. Error: {error}")
    with server.manager.acquire(model.name) as servable:
        version = servable.version
    print(f"serving {model.name} version {version} at localhost:{server.port}", flush=True)
    # Not stopping.wait(): a signal that comes while wait() holds the event's lock would have its
    # handler, in this same thread, wait for that lock for ever.
    while not stopping.is_set():
        time.sleep(0.1)
    logging.info("stopping: requests that run may finish")
    if not server.stop():
        os._exit(1)  # a plain exit would wait for the threads of what was abandoned


if __name__ == "__main__":
    flags.FLAGS.set_default("verbosity", logging.INFO)
    app.run(main)
