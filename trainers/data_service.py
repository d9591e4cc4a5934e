"""A tf.data service that makes batches for training on other machines.

python -m trainers.data_service [--port=5050] [--host=NAME]

Start one on each machine that shall make batches, then train with the addresses that they print:
python -m trainers ... --data_service=grpc://a:5050,grpc://b:5050

Every machine needs the prepared data at the same path, and the same release of TensorFlow. Anyone
who reaches the ports can run TensorFlow graphs here: keep them inside a network that you trust.
"""

from __future__ import annotations

import signal
import socket
import sys

from absl import app, flags

from trainers.output_pipe import outlive_readers


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, where those of another command may be."""
    flags.DEFINE_integer(
        "port", 5050, "Port of the dispatcher; 0 takes a free one.", 0, 65535, flag_values=values
    )
    flags.DEFINE_integer(
        "worker_port", 0, "Port of the worker; 0 takes a free one.", 0, 65535, flag_values=values
    )
    flags.DEFINE_string(
        "host",
        None,
        "Name or address by which trainers reach this machine. Default: its host name.",
        flag_values=values,
    )


class DataService:
    """A dispatcher and its one worker, in this process.

    Args:
        host: name by which trainers reach this machine. port, worker_port: int, 0 takes a free one.

    Attributes:
        address: "grpc://host:port", for `--data_service`.

    Raises:
        OSError: a port is taken.

    Example: `DataService("localhost").address`
    """

    def __init__(self, host: str, port: int = 0, worker_port: int = 0):
        import tensorflow as tf

        service = tf.data.experimental.service
        for wanted in filter(None, (port, worker_port)):
            _require_free(wanted)
        self._dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
        port = int(self._dispatcher.target.rpartition(":")[2])
        self._worker = service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=f"localhost:{port}",
                worker_address=f"{host}:%port%",
                port=worker_port,
                heartbeat_interval_ms=1000,
            )
        )
        self.address = f"grpc://{host}:{port}"

    def stop(self) -> None:
        """Ends both."""
        self._worker.stop()
        self._dispatcher.stop()


def _require_free(port: int) -> None:
    # TensorFlow would share the port with the process that has it, or end this one.
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise OSError(
            f"port {port} is taken ({error.strerror}): stop what has it, or choose another by "
            "--port or --worker_port"
        ) from None


def main(argv: list[str]) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags are --name=value")
    values = flags.FLAGS
    # Blocked before TensorFlow starts threads, so that they come to `sigwait` alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        service = DataService(values.host or socket.gethostname(), values.port, values.worker_port)
    except OSError as error:
        sys.exit(f"data_service: {error}")
    print(f"train with --data_service={service.address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    service.stop()


if __name__ == "__main__":
    outlive_readers()
    define_flags()
    app.run(main)
