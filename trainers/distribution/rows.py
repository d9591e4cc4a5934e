"""Rows of a global batch: those of a worker, as many as divide, and those of a replica."""

import keras
import tensorflow as tf


def own_rows(
    batches: tf.data.Dataset, replicas: int, worker: int = 0, workers: int = 1
) -> tf.data.Dataset:
    """A worker's rows of each batch `(inputs, targets (R, ...), weights (R, ...))`, with empty rows
    of weight 0 added, so that the whole divides by all `replicas`; weights grow as much, for Keras
    divides a batch's loss by its slots.
    """
    rows = batches.element_spec[2].shape[0]
    added = -rows % replicas
    if workers == 1 and not added:
        return batches
    share = (rows + added) // workers

    def own(value):
        padded = tf.pad(value, [[0, added]] + [[0, 0]] * (value.shape.rank - 1))
        return padded[worker * share : (worker + 1) * share]

    def own_batch(inputs, targets, weights):
        inputs = tf.nest.map_structure(own, inputs)
        return inputs, own(targets), own(weights) * ((rows + added) / rows)

    return batches.map(own_batch)


def replica_index() -> tf.Tensor | int:
    """Which part of the batch is being read: 0 but inside a step of several replicas."""
    if not _among_replicas():
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def of_all_replicas(value):
    """The rows (B / replicas, ...) of all replicas, in order: (B, ...). Gradients flow back."""
    if not _among_replicas():
        return value
    return tf.distribute.get_replica_context().all_gather(value, axis=0)


def _among_replicas() -> bool:
    return (
        keras.backend.backend() == "tensorflow"
        and tf.distribute.in_cross_replica_context() is False
        and tf.distribute.get_strategy().num_replicas_in_sync > 1
    )
