"""`--strategy`: the name, what it needs, and what it gives to the training loop."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.distribution.hardware import connect_tpu, hardware, tpu_is_there
from trainers.distribution.on_jax import (
    alone,
    check_shards,
    jax_layout,
    join_processes,
    sum_of_processes,
)
from trainers.distribution.tf_config import (
    TF_CONFIG_EXAMPLE,
    Cluster,
    join_cluster,
    lost_worker,
    read_cluster,
)
from zoo.config import ConfigError

# Keras backend -> its strategies.
STRATEGIES = {
    "tensorflow": ("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    "jax": ("auto", "one_device", "data_parallel", "model_parallel"),
    "torch": ("auto", "one_device"),
}


@dataclasses.dataclass(frozen=True)
class Distribution:
    """On what a run computes."""

    name: str  # of the strategy, "auto" resolved
    replicas: int = 1  # parts into which the global batch is cut
    workers: int = 1  # processes
    worker: int = 0  # which of them this one is; 0 is the chief
    strategy: tf.distribute.Strategy | None = None  # None where Keras' own `fit` trains
    layout: "keras.distribution.Distribution | None" = None  # on JAX
    cluster: Cluster | None = None  # of several workers
    hardware: str | None = None  # of devices that are not of this machine, "cpu", "gpu" or "tpu"

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and evaluates; there is one."""
        return self.worker == 0

    @property
    def kind(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return self.hardware or hardware()

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
            if self.strategy is None or self.workers == 1:
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
        if config.precision == "mixed_float16" and self.kind == "tpu":
            raise ConfigError(
                "precision=mixed_float16: TPUs multiply bfloat16, which needs no scaled loss, and "
                "have to convert float16; use --set=precision=mixed_bfloat16"
            )
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
        return self.sum_of_workers(value if self.is_chief else 0)

    def any_worker(self, flag: bool) -> bool:
        """Whether it is so on any worker; every worker calls it at the same place."""
        return self.sum_of_workers(int(flag)) > 0

    def barrier(self) -> None:
        self.sum_of_workers(0)

    def sum_of_workers(self, value: int) -> int:
        """The sum of what the workers say; each of them calls it at the same place."""
        if self.workers == 1:
            return value
        if self.strategy is None:
            return sum_of_processes(value)
        total = int(self._sum_of_replicas(tf.constant(value, tf.int64)))
        return total * self.workers // self.replicas  # each replica of a worker says the same

    @property
    def of_jax_processes(self) -> bool:
        """Whether several processes run Keras' own `fit` together."""
        return self.workers > 1 and self.strategy is None

    def alone(self, model: keras.Model) -> contextlib.AbstractContextManager[None]:
        """In which one worker computes with a compiled model, and the others do not."""
        if not self.of_jax_processes:
            return contextlib.nullcontext()
        # The learning rate is computed from the number of steps.
        return alone([*model.variables, model.optimizer._iterations])

    @functools.cached_property
    def _sum_of_replicas(self) -> Callable[[tf.Tensor], tf.Tensor]:
        def total(value):
            def replica():
                replicas = tf.distribute.get_replica_context()
                return replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

            return self.strategy.experimental_local_results(self.strategy.run(replica))[0]

        return tf.function(total, autograph=False)


def make_distribution(name: str = "auto", model_shards: int | None = None) -> Distribution:
    """The devices that `--strategy` names. Call it before anything else uses TensorFlow or JAX.

    Args:
        name: one of the backend's `STRATEGIES`. "auto": the workers of TF_CONFIG if there are
            several; a TPU; all GPUs if there are several; else one device. On JAX all devices.
        model_shards: int, devices that share the weights of one replica ("model_parallel").
            `None` means all devices.

    Raises:
        ConfigError: unknown name, not for this Keras backend, no such device, TF_CONFIG damaged,
            a worker that did not come.
    """
    backend = keras.backend.backend()
    if name not in STRATEGIES[backend]:
        others = "; ".join(f"{of}: {', '.join(known)}" for of, known in STRATEGIES.items())
        raise ConfigError(
            f"--strategy={name}: the {backend} backend has {', '.join(STRATEGIES[backend])}. Take "
            f"one of them, or another backend by KERAS_BACKEND=NAME ({others})"
        )
    if model_shards is not None and name != "model_parallel":
        raise ConfigError("--model_shards is for --strategy=model_parallel")
    if backend != "tensorflow":  # TensorFlow reads the texts only; it would take a GPU's memory
        tf.config.set_visible_devices([], "GPU")
    if backend == "jax":
        join_processes(os.environ)
        import jax

        name, replicas, layout = jax_layout(name, model_shards)
        return Distribution(name, replicas, jax.process_count(), jax.process_index(), layout=layout)
    if backend == "tensorflow" and name == "auto":
        cluster = read_cluster(os.environ)
        if cluster is not None and len(cluster.addresses) > 1:
            name = "multi_worker"
        elif tpu_is_there(os.environ):
            name = "tpu"
        elif len(tf.config.list_logical_devices("GPU")) > 1:
            name = "mirrored"
    if name in ("auto", "one_device"):
        return Distribution("one_device")
    if name != "multi_worker":
        strategy = connect_tpu(os.environ) if name == "tpu" else mirrored_strategy()
        return Distribution(name, strategy.num_replicas_in_sync, strategy=strategy)
    cluster = read_cluster(os.environ)
    if cluster is None:
        raise ConfigError(
            "--strategy=multi_worker needs the environment variable TF_CONFIG on every worker: "
            f"TF_CONFIG='{TF_CONFIG_EXAMPLE}'"
        )
    strategy, workers = join_cluster(cluster), len(cluster.addresses)
    replicas = strategy.num_replicas_in_sync
    return Distribution(name, replicas, workers, cluster.worker, strategy, cluster=cluster)


def mirrored_strategy(replicas: int | None = None) -> tf.distribute.MirroredStrategy:
    """On so many GPUs (None: all), or without any on logical CPUs."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")][:replicas]
    sums = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)
