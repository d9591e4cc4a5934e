"""`--strategy`: the name, what it needs, and what it gives to the training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.distribution.on_jax import check_shards, jax_layout
from trainers.distribution.tf_config import Cluster, join_cluster, lost_worker, read_cluster
from trainers.distribution.tpu import connect_tpu, tpu_is_there
from zoo.config import ConfigError

ON_TENSORFLOW = ("one_device", "mirrored", "multi_worker", "tpu")
ON_JAX = ("one_device", "data_parallel", "model_parallel")
STRATEGIES = ("auto", *dict.fromkeys(ON_TENSORFLOW + ON_JAX))


@dataclasses.dataclass(frozen=True)
class Distribution:
    """On what a run computes.

    Attributes:
        name: what `--strategy` is called, "auto" resolved.
        replicas: int, parts into which the global batch is cut.
        workers: int, processes. worker: int, which of them this one is; 0 is the chief.
        strategy: tf.distribute.Strategy, or None where Keras' own `fit` trains.
        layout: keras.distribution.Distribution (JAX), or None.
        cluster: Cluster of several workers, or None.
    """

    name: str
    replicas: int = 1
    workers: int = 1
    worker: int = 0
    strategy: tf.distribute.Strategy | None = None
    layout: keras.distribution.Distribution | None = None
    cluster: Cluster | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and evaluates; there is one."""
        return self.worker == 0

    @property
    def local_replicas(self) -> int:
        """Replicas of this process."""
        return self.replicas // self.workers

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where model and optimizer are made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Around a whole run; raises WorkerLost where TensorFlow misses another worker."""
        try:
            with contextlib.nullcontext() if self.layout is None else self.layout.scope():
                yield
        except tf.errors.OpError as error:
            if self.workers == 1:
                raise
            raise lost_worker(self.cluster, error) from error

    def check(self, config: TrainConfig) -> None:
        """Raises ConfigError where the batch does not divide, or the precision needs one device."""
        size, replicas = config.batch_size, self.replicas
        if size % replicas:
            below, above = size // replicas * replicas, -(-size // replicas) * replicas
            nearest = f"{below} or {above}" if below else f"{above}"
            raise ConfigError(
                f"batch_size={size} does not divide by the {replicas} replicas of --strategy="
                f"{self.name}; the nearest that do: --set=batch_size={nearest}"
            )
        if config.task == "embed" and size == replicas and self.strategy is not None:
            raise ConfigError(f"batch_size={size}: task embed needs 2 rows a replica, {2 * size}")
        if config.precision == "mixed_float16" and self.strategy is not None:
            raise ConfigError(
                f"precision=mixed_float16 scales its loss on one device only, not with --strategy="
                f"{self.name}; use --set=precision=mixed_bfloat16"
            )

    def check_model(self, model: keras.Model) -> None:
        """Raises ConfigError where a weight cannot be cut evenly (model_parallel)."""
        if self.name == "model_parallel":
            check_shards(model.variables, self.layout.device_mesh.shape[1])

    def describe(self, config: TrainConfig) -> str:
        """Replicas and batch, in one line."""
        workers = "" if self.workers == 1 else f" of {self.workers} workers"
        return (
            f"strategy {self.name}: {self.replicas} replica(s){workers}, global batch "
            f"{config.batch_size}, {config.batch_size // self.replicas} rows a replica"
        )

    def from_chief(self, value: int) -> int:
        """The chief's value; every worker calls it at the same place."""
        if self.workers == 1:
            return value
        return self._over_workers([value if self.is_chief else 0])[0]

    def any_worker(self, flag: bool) -> bool:
        """Whether it is so on any worker; every worker calls it at the same place."""
        return flag if self.workers == 1 else self._over_workers([int(flag)])[0] > 0

    def barrier(self) -> None:
        """Waits for all workers."""
        self.any_worker(False)

    def _over_workers(self, values: list[int]) -> list[int]:
        """Sums over the workers (each replica of a worker says the same)."""
        total = self._total(tf.constant(values, tf.int64)).numpy()
        return (total // self.local_replicas).tolist()

    @functools.cached_property
    def _total(self) -> Callable[[tf.Tensor], tf.Tensor]:
        def total(values):
            def replica():
                context = tf.distribute.get_replica_context()
                return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

            return self.strategy.experimental_local_results(self.strategy.run(replica))[0]

        return tf.function(total, autograph=False)


def make_distribution(name: str = "auto", model_shards: int | None = None) -> Distribution:
    """The devices that `--strategy` names. Call it before anything else uses TensorFlow or JAX.

    Args:
        name: one of `STRATEGIES`. "auto": a TPU if there is one; the workers of TF_CONFIG if
            there are several; all GPUs if there are several; else one device. On JAX all devices.
        model_shards: int, devices that share the weights of one replica ("model_parallel").
            `None` means all devices.

    Raises:
        ConfigError: unknown name, not for this Keras backend, no such device, TF_CONFIG damaged,
            a worker that did not come.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"--strategy={name}: unknown; known: {', '.join(STRATEGIES)}")
    backend = keras.backend.backend()
    if model_shards is not None and name != "model_parallel":
        raise ConfigError("--model_shards is for --strategy=model_parallel")
    if backend == "tensorflow":
        return _on_tensorflow(_auto_tensorflow() if name == "auto" else name)
    if backend == "jax":
        if name not in ("auto", *ON_JAX):
            raise ConfigError(
                f"--strategy={name} is for the TensorFlow backend; on JAX use one of "
                f"{', '.join(ON_JAX)} (on TPUs data_parallel)"
            )
        name, replicas, layout = jax_layout(name, model_shards)
        return Distribution(name, replicas, layout=layout)
    if name not in ("auto", "one_device"):
        raise ConfigError(f"--strategy={name}: on the {backend} backend only one_device trains")
    return Distribution("one_device")


def _auto_tensorflow() -> str:
    cluster = read_cluster(os.environ)
    if cluster is not None and cluster.size > 1:
        return "multi_worker"
    if tpu_is_there(os.environ):
        return "tpu"
    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one_device"


def _on_tensorflow(name: str) -> Distribution:
    if name not in ON_TENSORFLOW:
        raise ConfigError(
            f"--strategy={name} is for the JAX backend: set KERAS_BACKEND=jax, or use one of "
            f"{', '.join(ON_TENSORFLOW)}"
        )
    if name == "one_device":
        return Distribution(name)
    workers, worker, cluster = 1, 0, None
    if name == "multi_worker":
        cluster = read_cluster(os.environ)
        if cluster is None:
            raise ConfigError(
                "--strategy=multi_worker needs the environment variable TF_CONFIG on every "
                'worker: TF_CONFIG=\'{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
                '"task": {"type": "worker", "index": 0}}\''
            )
        workers, worker, strategy = cluster.size, cluster.worker, join_cluster(cluster)
    else:
        strategy = connect_tpu(os.environ) if name == "tpu" else mirrored_strategy()
    return Distribution(
        name, strategy.num_replicas_in_sync, workers, worker, strategy, cluster=cluster
    )


def mirrored_strategy(replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """On so many GPUs (None: all), or without any on logical CPUs: one, unless somebody split it.

    TensorFlow's own choice of sums for CPUs ties a process to one number of devices.
    """
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")][:replicas]
    sums = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)
