"""What the loop reads: this worker's rows of each batch."""

from __future__ import annotations

import tensorflow as tf

from trainers.distribution import Distribution
from trainers.distribution.rows import whole_rows
from trainers.tasks import Task


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
