"""Ragged bookkeeping in time and memory that follow the number of values.

`tf.repeat`, and with it `RaggedTensor.value_rowids`, first makes a table of the number of rows
times the longest row: a gigabyte for one long text among many short ones.
"""

import tensorflow as tf


def splits_of(lengths: tf.Tensor) -> tf.Tensor:
    """Row splits int64 (n + 1,) of rows with these lengths int64 (n,).

    Example: `splits_of(tf.constant([2, 0, 1], tf.int64))` is `[0, 2, 2, 3]`.
    """
    return tf.concat([tf.zeros([1], tf.int64), tf.cumsum(lengths)], 0)


def lengths_of(splits: tf.Tensor) -> tf.Tensor:
    """Row lengths (n,) of row splits (n + 1,).

    Example: `lengths_of(tf.constant([0, 2, 2, 3], tf.int64))` is `[2, 0, 1]`.
    """
    return splits[1:] - splits[:-1]


def rows_of(splits: tf.Tensor) -> tf.Tensor:
    """The row, int64, that each of the `splits[-1]` values is in.

    Example: `rows_of(tf.constant([0, 2, 2, 3], tf.int64))` is `[0, 0, 2]`.
    """
    size, inner = splits[-1], splits[1:-1]
    ends_before = tf.math.unsorted_segment_sum(tf.ones_like(inner), inner, size + 1)
    return tf.cumsum(ends_before[:-1])
