"""The program `python -m export.server`: from its command line to its end."""

import logging as logging_module
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence

import tensorflow as tf
from absl import flags, logging

from export.server.command import make_server, version_text
from export.server.command_flags import parse
from export.server.models.config import ConfigFilePoller
from export.server.run.freed_memory import FreedMemory, trimmer
from export.server.server import Server
from export.server.status import ServingError

# Line ends of Unicode, too; not the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_FAILED = 255  # what tensorflow_model_server exits with


def main(argv: Sequence[str], usage: str) -> None:
    """Serves until SIGTERM or SIGINT; exits with 255 when a model, a file or a port is at fault.

    Args:
        argv: The program's name and its arguments.
        usage: str. What `--help` prints above the flags.
    """
    try:
        values, unknown = parse(argv)
        unknown = flags.FLAGS([argv[0], *unknown], known_only=True)[1:]  # those of logging
    except flags.Error as error:
        _fail(str(error))
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
    if values.model_config_file and values.model_config_file_poll_wait_seconds > 0:
        poller = ConfigFilePoller(
            values.model_config_file, server.manager, values.model_config_file_poll_wait_seconds
        )
        poller.start()
    trim = trimmer()
    if trim is not None:
        FreedMemory(trim).start()
    print(_serving(server), flush=True)
    # Not stopping.wait(): a signal that comes while wait() holds the event's lock would have its
    # handler, in this same thread, wait for that lock for ever.
    while not stopping.is_set():
        time.sleep(0.1)
    logging.info("stopping: requests that run may finish")
    if poller is not None:
        poller.stop()
    _stop(server)


def _stop(server: Server) -> None:
    if not server.stop():
        os._exit(1)  # a plain exit would wait for the threads of what was abandoned


class OneLine(logging_module.Filter):
    """Escapes control characters in log messages: clients choose names that are logged."""

    def filter(self, record: logging_module.LogRecord) -> bool:
        """Changes the record; keeps all."""
        record.msg, record.args = _CONTROL.sub(_escaped, record.getMessage()), ()
        return True


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _serving(server: Server) -> str:
    models = [f"{name} version {version}" for name, version in server.manager.available_versions()]
    text = f"serving {', '.join(models) or 'no model'} at localhost:{server.port}"
    return text + (f", REST at localhost:{server.rest_port}" if server.rest_port else "")


def _fail(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(_FAILED)
