"""Several machines: the workers that TF_CONFIG names, and which of them TensorFlow misses."""

import collections
import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from zoo.config import ConfigError

TF_CONFIG_EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_ADDRESS = re.compile(r"(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")
# How TensorFlow writes a worker in its messages.
_TASK = re.compile(r"/job:(\w+)(?:/replica:\d+)?/task:(\d+)")
# Before these stands who came first, after them who reported it: both are there.
_MISSING = re.compile(r"timed out task names:\n((?:/job:\S+\s*)+)")
# How long workers wait for each other at the start: machines of a job start minutes apart.
_JOIN_VARIABLE, _JOIN_SECONDS = "ZOO_JOIN_SECONDS", 600
# How long a worker may be silent before the others stop.
_HEARTBEAT_VARIABLE, _HEARTBEAT_SECONDS = "ZOO_HEARTBEAT_SECONDS", 60


def _checked_address(text: str) -> str:
    port = _ADDRESS.fullmatch(text)
    if port is None or not 0 < int(port[1]) < 65536:
        raise ValueError('must be a "host:port" text')
    return text


class _Task(pydantic.BaseModel, strict=True):
    type: str
    index: int


class _TfConfig(pydantic.BaseModel):
    """What of TF_CONFIG is read; some platforms put more there."""

    cluster: dict[
        Literal["chief", "worker"], list[Annotated[str, pydantic.AfterValidator(_checked_address)]]
    ] = {}
    task: _Task | None = None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of TF_CONFIG."""

    addresses: dict[str, str]  # such as "worker 1" -> "host:port", the chief first
    name: str  # of this process

    @property
    def worker(self) -> int:
        """Which worker this process is; 0 is the chief."""
        return list(self.addresses).index(self.name)

    def title(self, name: str) -> str:
        return f"{name} ({self.addresses[name]})"

    def others_in(self, message: str) -> list[str]:
        named = {f"{job} {number}" for job, number in _TASK.findall(message)} - {self.name}
        return [self.title(name) for name in self.addresses if name in named]


def read_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster of TF_CONFIG; None without one, as some platforms set it for a single machine."""
    text = environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = _TfConfig.model_validate_json(text)
        addresses = {
            f"{job} {number}": address
            for job, each in sorted(config.cluster.items())
            for number, address in enumerate(each)
        }
        if not addresses:
            return None
        name = config.task and f"{config.task.type} {config.task.index}"
        if name not in addresses:
            raise ValueError(f'"task" is {name}, of which "cluster" has no address')
        if len(set(addresses.values())) < len(addresses) or "chief 1" in addresses:
            raise ValueError('"cluster" has an address twice, or two chiefs')
    except ValueError as error:
        problem = str(error)
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}"
        raise ConfigError(
            f"the environment variable TF_CONFIG has a mistake: {problem:.200}. Received: "
            f"{text:.200}. It should be like {TF_CONFIG_EXAMPLE}"
        ) from None
    return Cluster(addresses, name)


def join_cluster(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits for all workers, then makes the strategy; ConfigError names who is missing."""
    jobs = collections.Counter(name.split()[0] for name in cluster.addresses)
    chief = next(iter(cluster.addresses))
    seconds = join_seconds()
    service = context.context()
    service.configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{chief.split()[0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=seconds * 1000,
        heartbeat_timeout_in_ms=_seconds(_HEARTBEAT_VARIABLE, _HEARTBEAT_SECONDS) * 1000,
        shutdown_barrier_timeout_in_ms=10_000,  # until the others say that they end, too
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


def join_seconds() -> int:
    """How long workers wait for each other at the start; ConfigError for what is no number."""
    return _seconds(_JOIN_VARIABLE, _JOIN_SECONDS)


def _seconds(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{variable} must be a whole number of seconds. Received: {text!r}")
    return int(text)


def join_failure(cluster: Cluster, seconds: int, error: tf.errors.OpError) -> ConfigError:
    """What TensorFlow says where workers did not come together, in words, and what to do."""
    advice = f"another time to wait: the environment variable {_JOIN_VARIABLE}"
    if not isinstance(error, tf.errors.DeadlineExceededError):
        return ConfigError(
            f"{cluster.title(cluster.name)} cannot start ({error.message.splitlines()[0]}): if "
            "another process has its port, stop that one, or take another port in TF_CONFIG"
        )
    chief = next(iter(cluster.addresses))
    if not (found := _MISSING.search(error.message)):
        return ConfigError(
            f"{cluster.title(chief)}, the chief, did not answer in {seconds} s. Start it, or "
            f"correct its address in TF_CONFIG; {advice}"
        )
    missing = cluster.others_in(found[1])
    return ConfigError(
        f"after {seconds} s {len(missing)} of {len(cluster.addresses)} workers did not come: "
        f"{', '.join(missing)}. Start them with the same TF_CONFIG and their own task.index, and "
        f"see that they reach {cluster.addresses[chief]}; {advice}"
    )


class WorkerLost(ConnectionError):
    """Another worker stopped, so this one cannot go on."""


def lost_worker(cluster: Cluster, error: tf.errors.OpError) -> WorkerLost:
    """The error of a collective operation, in words."""
    return WorkerLost(
        f"{cluster.name} cannot go on: "
        f"{', '.join(cluster.others_in(error.message)) or 'another worker'} stopped or cannot be "
        f"reached ({type(error).__name__}). See its log; then start the same command on all "
        "workers: the run goes on from the last checkpoint"
    )
