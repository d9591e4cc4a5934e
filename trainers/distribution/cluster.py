"""Several machines: TF_CONFIG, and waiting for the workers that it names."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from trainers.distribution.roll_call import call_roll
from zoo.config import ConfigError

_ADDRESS = re.compile(r"(?P<host>[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
# How long workers wait for each other at the start: machines of a job start minutes apart.
JOIN_VARIABLE = "ZOO_JOIN_SECONDS"
_JOIN_SECONDS = 600
# How long a worker may be silent before the others stop.
HEARTBEAT_VARIABLE = "ZOO_HEARTBEAT_SECONDS"
_HEARTBEAT_SECONDS = 60
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


def read_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that TF_CONFIG describes, None if it is not set or empty.

    Args:
        environ: such as `os.environ`.

    Raises:
        ConfigError: not JSON, a key is missing or of another type, no "host:port", an index that
            is none of the workers, a task that is no worker.

    Example: `read_cluster({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": '
        '{"type": "worker", "index": 1}}'}).worker  # 1`
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
    members = [
        (job, address) for job in ("chief", "worker") for address in _addresses(cluster, job)
    ]
    addresses = [address for _, address in members]
    _require(len(set(addresses)) == len(addresses), '"cluster" has an address twice', cluster)
    _require(len(_addresses(cluster, "chief")) <= 1, '"cluster.chief" must be one address', cluster)
    _require(isinstance(task, dict), '"task" must be an object with "type" and "index"', task)
    job, index = task.get("type"), task.get("index")
    _require(job in cluster, f'"task.type" must be one of {sorted(cluster)}', job)
    count = len(cluster[job])
    whole = isinstance(index, int) and not isinstance(index, bool)
    _require(whole and 0 <= index < count, f'"task.index" must be 0 to {count - 1}', index)
    first = 0 if job == "chief" else len(cluster.get("chief", ()))
    numbers = {job: iter(range(len(cluster[job]))) for job in cluster}
    names = tuple(f"{job} {next(numbers[job])}" for job, _ in members)
    return Cluster(tuple(addresses), first + index, names)


def join_cluster(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits until all workers are there, then makes the strategy.

    Raises:
        ConfigError: a worker is missing after `ZOO_JOIN_SECONDS` (600); the message names it.
    """
    if cluster.size > 1:
        call_roll(cluster, _seconds(JOIN_VARIABLE, _JOIN_SECONDS))
    jobs = {name.split()[0]: 0 for name in cluster.names}
    for name in cluster.names:
        jobs[name.split()[0]] += 1
    # TensorFlow's own limits are an hour to come and none to leave.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.names[0].split()[0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=_seconds(JOIN_VARIABLE, _JOIN_SECONDS) * 1000,
        heartbeat_timeout_in_ms=_seconds(HEARTBEAT_VARIABLE, _HEARTBEAT_SECONDS) * 1000,
        shutdown_barrier_timeout_in_ms=_SHUTDOWN_SECONDS * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=job, num_tasks=count)
            for job, count in jobs.items()
        ],
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


class WorkerLost(ConnectionError):
    """Another worker stopped, so this one cannot go on."""


def lost_worker(cluster: Cluster, error: tf.errors.OpError) -> WorkerLost:
    """The error of a collective operation, in words: who is gone and what to do."""
    named = {
        f"{job} {number}"
        for job, number in re.findall(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)", error.message)
    }
    gone = [
        cluster.title(worker)
        for worker, name in enumerate(cluster.names)
        if name in named and worker != cluster.worker
    ]
    return WorkerLost(
        f"{cluster.names[cluster.worker]} cannot go on: "
        f"{', '.join(gone) or 'another worker'} stopped or cannot be reached "
        f"({type(error).__name__}). See its log; then start the same command on all workers: the "
        "run goes on from the last checkpoint"
    )


def _seconds(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{variable} must be a whole number of seconds. Received: {text!r}")
    return int(text)


def _addresses(cluster: dict, job: str) -> list[str]:
    addresses = cluster.get(job, [])
    _require(isinstance(addresses, list), f'"cluster.{job}" must be a list', addresses)
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        good = match is not None and 0 < int(match["port"]) < 65536
        _require(good, f'"cluster.{job}" must hold "host:port" texts', address)
    return addresses


def _require(holds: bool, rule: str, received) -> None:
    if not holds:
        raise _wrong(f"has a mistake: {rule}", json.dumps(received))


def _wrong(what: str, received: str) -> ConfigError:
    return ConfigError(
        f"the environment variable TF_CONFIG {what}. Received: {received[:200]}. It should be like "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
