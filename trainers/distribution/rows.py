"""Rows of a global batch: those of a worker, those of a replica, and as many as divide."""

from __future__ import annotations

import keras
import tensorflow as tf


def worker_rows(batches: tf.data.Dataset, worker: int, workers: int) -> tf.data.Dataset:
    """Rows [h B / H, (h + 1) B / H) of every batch for worker h of H.

    The global batch of a step is the same however many workers share it.
    """
    if workers == 1:
        return batches

    def own(value):
        rows = tf.shape(value)[0] // workers
        part = value[worker * rows : (worker + 1) * rows]
        known = value.shape[0]
        return tf.ensure_shape(part, [known and known // workers, *value.shape[1:]])

    return batches.map(lambda *batch: tf.nest.map_structure(own, batch))


def whole_rows(batches: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Batches `(inputs, targets (R, ...), weights (R, ...))` with empty rows of weight 0 added, so
    that they divide by `replicas`.

    Weights grow by as much as rows are added: Keras divides a batch's loss by its slots, and the
    mean over the batches stays what it was.
    """
    rows = batches.element_spec[2].shape[0]
    added = -rows % replicas
    if not added:
        return batches

    def padded(value):
        return tf.pad(value, [[0, added]] + [[0, 0]] * (value.shape.rank - 1))

    def whole(inputs, targets, weights):
        inputs = tf.nest.map_structure(padded, inputs)
        return inputs, padded(targets), padded(weights) * ((rows + added) / rows)

    return batches.map(whole)


def replica_index() -> tf.Tensor | int:
    """Which part of the batch is being read: 0 but inside a step of several replicas."""
    if not _among_replicas():
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def of_all_replicas(value):
    """The rows (B / replicas, ...) of all replicas, in order: (B, ...).

    `value` itself outside of a step of several replicas. Gradients flow to each replica's rows.
    """
    if not _among_replicas():
        return value
    return tf.distribute.get_replica_context().all_gather(value, axis=0)


def _among_replicas() -> bool:
    return (
        keras.backend.backend() == "tensorflow"
        and tf.distribute.in_cross_replica_context() is False
        and tf.distribute.get_strategy().num_replicas_in_sync > 1
    )
