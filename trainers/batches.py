"""What the loop reads: this worker's rows of each batch, made here or by tf.data services."""

from __future__ import annotations

import functools

import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.corpora import bytes_in_memory
from trainers.data.service import DataServices
from trainers.distribution import Distribution
from trainers.distribution.rows import whole_rows
from trainers.tasks import TASKS, Task
from zoo.strict_config import ConfigError

# A dataset is sent as one message, which protobuf limits to 2 GiB.
_SENT_BYTES = 1 << 30


def training_batches(
    task: Task, start_step: int, distribution: Distribution, services: DataServices | None = None
) -> tf.data.Dataset:
    """This worker's rows of the batches from `start_step` to the end of the run.

    Rows of other workers are not read, where the task can leave them out; the batches are the same.

    Args:
        task: Task. start_step: int. distribution: Distribution.
        services: where batches are made. Default: in this process.

    Raises:
        ConfigError: text in memory that is too large to be sent to services.
    """
    if not task.reads_rows:
        return distribution.worker_rows(task.training_data(start_step))
    own = {"host": distribution.worker, "num_hosts": distribution.workers}
    if services is None:
        return task.training_data(start_step, **own)
    size = bytes_in_memory(task.corpus)
    if size > _SENT_BYTES:
        raise ConfigError(
            f"--data_service: {size / 2**30:.1f} GiB of tokens would have to be sent there. Put "
            "them into shards, where the services read them: python -m trainers.prepare"
        )
    make = functools.partial(_every, task, own)
    return services.batches(make, start_step, task.config.steps)


def validation_batches(
    task: Task, distribution: Distribution
) -> tf.data.Dataset | dict[str, tf.data.Dataset] | None:
    """This worker's rows of what `fit` validates on, with empty rows so that they divide."""
    data = task.validation_data

    def own(batches):
        return distribution.worker_rows(whole_rows(batches, distribution.replicas))

    if isinstance(data, dict):
        return {name: own(batches) for name, batches in data.items()}
    return None if data is None else own(data)


def wait_for(services: DataServices, config: TrainConfig) -> None:
    """Returns when the services are there.

    Raises:
        ConfigError: the batches of this task cannot be made elsewhere. DataServiceLost: a service
            does not answer.
    """
    if not TASKS[config.task].reads_rows:
        raise ConfigError(
            f"--data_service is for tasks lm and mlm: batches of task {config.task!r} are made "
            "with tables and Python functions of this process"
        )
    services.wait()


def _every(task: Task, own: dict[str, int], first_step: int, stride: int) -> tf.data.Dataset:
    return task.training_data(first_step, **own, stride=stride)
