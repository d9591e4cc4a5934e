"""Before TensorFlow starts: is everybody there?

TensorFlow's leader waits for its workers without end and without a word of who is missing. So the
workers first tell the chief that they are there, on the addresses that TensorFlow will use, and
the chief tells them whether to begin.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from typing import TYPE_CHECKING

from absl import logging

from zoo.config import ConfigError

if TYPE_CHECKING:
    from trainers.distribution.cluster import Cluster

_PAUSE_SECONDS = 0.2
_LINE_BYTES = 4096


def call_roll(cluster: Cluster, seconds: float) -> None:
    """Returns when all workers are there.

    Args:
        cluster: Cluster of at least 2 workers. seconds: how long to wait.

    Raises:
        ConfigError: a worker is missing, the chief does not answer, or a worker was started
            twice or with another TF_CONFIG.
    """
    until = time.monotonic() + seconds
    if cluster.worker == 0:
        _await_all(cluster, until, seconds)
    else:
        _report(cluster, until, seconds)


def _await_all(cluster: Cluster, until: float, seconds: float) -> None:
    """The chief: collects the others, then tells all of them the same."""
    port = int(cluster.addresses[0].rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(cluster, port))
        present: dict[int, socket.socket] = {}
        problem = ""
        while len(present) < cluster.size - 1 and not problem:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                problem = _missing(cluster, present, seconds)
                break
            stack.enter_context(connection)
            worker, problem = _greeting(cluster, connection, present)
            if worker is not None:
                present[worker] = connection
                logging.info(
                    "%s is there, %d of %d", cluster.title(worker), len(present) + 1, cluster.size
                )
            elif problem:
                _tell(connection, problem)
        for connection in present.values():
            _tell(connection, problem)
    if problem:
        raise ConfigError(problem)


def _tell(connection: socket.socket, problem: str) -> None:
    with contextlib.suppress(OSError):  # that worker is gone again; TensorFlow will tell
        connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")


def _greeting(cluster: Cluster, connection: socket.socket, present) -> tuple[int | None, str]:
    """Which worker speaks; None for a stranger. And what is wrong with it, or ""."""
    connection.settimeout(5)
    try:
        said = json.loads(_read_line(connection))
        worker, addresses = int(said["worker"]), list(said["addresses"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, ""  # a port scanner, a worker that was stopped
    if addresses != list(cluster.addresses) or not 0 < worker < cluster.size:
        return None, (
            f"a worker was started with another TF_CONFIG: it knows the workers "
            f"{', '.join(map(str, addresses))}, this one {', '.join(cluster.addresses)}"
        )
    if worker in present and not _is_closed(present[worker]):
        return None, f"{cluster.title(worker)} was started twice: give each its own task.index"
    return worker, ""


def _is_closed(connection: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))  # it says nothing after its greeting but goodbye


def _report(cluster: Cluster, until: float, seconds: float) -> None:
    """A worker: tells the chief that it is there, and waits for its word."""
    host, _, port = cluster.addresses[0].rpartition(":")
    greeting = {"worker": cluster.worker, "addresses": cluster.addresses}
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
                connection.sendall(json.dumps(greeting).encode() + b"\n")
                # The chief may wait for others as long as this one, and a little longer.
                connection.settimeout(max(until - time.monotonic(), 0) + 10)
                problem = json.loads(_read_line(connection))["problem"]
            break
        except (OSError, ValueError, KeyError) as error:
            if time.monotonic() > until:
                raise ConfigError(
                    f"{cluster.title(0)}, the chief, did not answer in {seconds:.0f} s ({error}). "
                    "Start it, or correct its address in TF_CONFIG; another time to wait: the "
                    "environment variable ZOO_JOIN_SECONDS"
                ) from None
            time.sleep(_PAUSE_SECONDS)
    if problem:
        raise ConfigError(problem)


def _listen(cluster: Cluster, port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), reuse_port=False)
    except OSError as error:
        raise ConfigError(
            f"{cluster.title(0)} cannot listen on port {port} ({error.strerror}): another process "
            "has it. Stop that one, or take another port in TF_CONFIG"
        ) from None


def _missing(cluster: Cluster, present, seconds: float) -> str:
    missing = [w for w in range(1, cluster.size) if w not in present]
    return (
        f"after {seconds:.0f} s {len(missing)} of {cluster.size} workers did not come: "
        f"{', '.join(cluster.title(worker) for worker in missing)}. Start them with the same "
        "TF_CONFIG and their own task.index, and see that they reach "
        f"{cluster.addresses[0]}; another time to wait: the environment variable ZOO_JOIN_SECONDS"
    )


def _read_line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        line = file.readline(_LINE_BYTES * 16)
    if not line.endswith(b"\n"):
        raise ValueError("no whole line came")
    return line
