"""Several machines: the workers that TF_CONFIG names, and which of them TensorFlow misses."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from zoo.config import ConfigError

_ADDRESS = re.compile(r"(?P<host>[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
# How TensorFlow writes a worker in its messages.
_TASK = re.compile(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)")
# How long workers wait for each other at the start: machines of a job start minutes apart.
_JOIN_VARIABLE, _JOIN_SECONDS = "ZOO_JOIN_SECONDS", 600
# How long a worker may be silent before the others stop.
_HEARTBEAT_VARIABLE, _HEARTBEAT_SECONDS = "ZOO_HEARTBEAT_SECONDS", 60
# At the end a worker waits so long for the others to say that they end, too.
_SHUTDOWN_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of TF_CONFIG.

    Attributes:
        addresses: "host:port" of each worker, the chief first.
        worker: int, which one this process is.
        names: what TF_CONFIG calls each, such as "worker 1".
    """

    addresses: tuple[str, ...]
    worker: int
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many workers."""
        return len(self.addresses)

    def title(self, worker: int) -> str:
        """Name and address of a worker, for messages."""
        return f"{self.names[worker]} ({self.addresses[worker]})"

    def others_in(self, message: str) -> list[str]:
        """Titles of the other workers that a message of TensorFlow names."""
        named = {f"{job} {number}" for job, number in _TASK.findall(message)}
        return [
            self.title(worker)
            for worker, name in enumerate(self.names)
            if name in named and worker != self.worker
        ]


def read_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that TF_CONFIG describes, None if it is not set or empty.

    Raises:
        ConfigError: not JSON, a key is missing or of another type, no "host:port", an index that
            is none of the workers, a task that is no worker.
    """
    text = environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is not valid JSON ({error})", text) from None
    if not isinstance(values, dict):
        raise _wrong("must be a JSON object", text)
    if not values.get("cluster"):
        return None  # some platforms set it for a single machine, without a cluster
    cluster, task = values["cluster"], values.get("task")
    _require(isinstance(cluster, dict), '"cluster" must be an object', cluster)
    unknown = sorted(set(cluster) - {"chief", "worker"})
    _require(not unknown, f'"cluster" may have "chief" and "worker", not {unknown}', cluster)
    jobs = {job: _addresses(cluster, job) for job in ("chief", "worker") if job in cluster}
    addresses = tuple(address for each in jobs.values() for address in each)
    _require(len(set(addresses)) == len(addresses), '"cluster" has an address twice', cluster)
    _require(len(jobs.get("chief", ())) <= 1, '"cluster.chief" must be one address', cluster)
    _require(isinstance(task, dict), '"task" must be an object with "type" and "index"', task)
    job, index = task.get("type"), task.get("index")
    _require(job in jobs, f'"task.type" must be one of {sorted(cluster)}', job)
    whole = isinstance(index, int) and not isinstance(index, bool)
    last = len(jobs[job]) - 1
    _require(whole and 0 <= index <= last, f'"task.index" must be 0 to {last}', index)
    names = tuple(f"{job} {number}" for job, each in jobs.items() for number in range(len(each)))
    return Cluster(addresses, names.index(f"{job} {index}"), names)


def join_cluster(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits until all workers are there, then makes the strategy.

    Raises:
        ConfigError: a worker is missing after `ZOO_JOIN_SECONDS` (600), and which; another process
            has this worker's port.
    """
    jobs = collections.Counter(name.split()[0] for name in cluster.names)
    seconds = _seconds(_JOIN_VARIABLE, _JOIN_SECONDS)
    service = context.context()
    service.configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.names[0].split()[0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=seconds * 1000,
        heartbeat_timeout_in_ms=_seconds(_HEARTBEAT_VARIABLE, _HEARTBEAT_SECONDS) * 1000,
        shutdown_barrier_timeout_in_ms=_SHUTDOWN_SECONDS * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=job, num_tasks=count)
            for job, count in jobs.items()
        ],
    )
    # Without it the time-out does not count, and the leader waits for its workers without end.
    service.coordination_service.cluster_register_with_barrier = True
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise join_failure(cluster, seconds, error) from error


def join_failure(cluster: Cluster, seconds: int, error: tf.errors.OpError) -> ConfigError:
    """What TensorFlow says where the workers did not come together, in words, and what to do."""
    advice = f"another time to wait: the environment variable {_JOIN_VARIABLE}"
    if not isinstance(error, tf.errors.DeadlineExceededError):
        return ConfigError(
            f"{cluster.title(cluster.worker)} cannot start ({error.message.splitlines()[0]}): if "
            "another process has its port, stop that one, or take another port in TF_CONFIG"
        )
    # The workers that came are named too, before those that did not.
    _, found, names = error.message.partition("timed out task names")
    if not found:
        return ConfigError(
            f"{cluster.title(0)}, the chief, did not answer in {seconds} s. Start it, or correct "
            f"its address in TF_CONFIG; {advice}"
        )
    missing = cluster.others_in(names)
    return ConfigError(
        f"after {seconds} s {len(missing)} of {cluster.size} workers did not come: "
        f"{', '.join(missing)}. Start them with the same TF_CONFIG and their own task.index, and "
        f"see that they reach {cluster.addresses[0]}; {advice}"
    )


class WorkerLost(ConnectionError):
    """Another worker stopped, so this one cannot go on."""


def lost_worker(cluster: Cluster, error: tf.errors.OpError) -> WorkerLost:
    """The error of a collective operation, in words: who is gone and what to do."""
    return WorkerLost(
        f"{cluster.names[cluster.worker]} cannot go on: "
        f"{', '.join(cluster.others_in(error.message)) or 'another worker'} stopped or cannot be "
        f"reached ({type(error).__name__}). See its log; then start the same command on all "
        "workers: the run goes on from the last checkpoint"
    )


def _seconds(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{variable} must be a whole number of seconds. Received: {text!r}")
    return int(text)


def _addresses(cluster: dict, job: str) -> list[str]:
    addresses = cluster[job]
    _require(isinstance(addresses, list), f'"cluster.{job}" must be a list', addresses)
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        good = match is not None and 0 < int(match["port"]) < 65536
        _require(good, f'"cluster.{job}" must hold "host:port" texts', address)
    return addresses


def _require(holds: bool, rule: str, received: Any) -> None:
    if not holds:
        raise _wrong(f"has a mistake: {rule}", json.dumps(received))


def _wrong(what: str, received: str) -> ConfigError:
    return ConfigError(
        f"the environment variable TF_CONFIG {what}. Received: {received[:200]}. It should be like "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
