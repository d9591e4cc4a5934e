"""What the loop reads: this worker's rows of each batch."""

from __future__ import annotations

import tensorflow as tf

from trainers.distribution import Distribution
from trainers.distribution.rows import whole_rows
from trainers.tasks import Task


def training_batches(task: Task, start_step: int, distribution: Distribution) -> tf.data.Dataset:
    """This worker's rows of the batches from `start_step` to the end of the run.

    Rows of other workers are not read, where the task can leave them out; the batches are the same.
    """
    if not task.reads_rows:
        return distribution.worker_rows(task.training_data(start_step))
    return task.training_data(start_step, host=distribution.worker, num_hosts=distribution.workers)


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
