"""Row splits and marks in time and memory that follow the number of values; `tf.repeat`, and with
it `value_rowids`, makes a table of all rows times the longest: a gigabyte for one long text.
"""

from typing import Any

import tensorflow as tf


def splits_of(lengths: tf.Tensor) -> tf.Tensor:
    """Row splits int64 (n + 1,) of rows with these lengths int64 (n,)."""
    return tf.concat([tf.zeros([1], tf.int64), tf.cumsum(lengths)], 0)


def rows_of(splits: tf.Tensor) -> tf.Tensor:
    """The row, int64, that each of the `splits[-1]` values is in."""
    size, inner = splits[-1], splits[1:-1]
    ends_before = tf.math.unsorted_segment_sum(tf.ones_like(inner), inner, size + 1)
    return tf.cumsum(ends_before[:-1])


def joined_bytes(strings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The bytes uint8 (N,) of all strings (B,) and where each begins: row splits int64 (B + 1,)."""
    # decode_raw wants strings of equal length, so the batch is decoded as one string.
    data = tf.io.decode_raw(tf.strings.reduce_join(strings), tf.uint8)
    return data, splits_of(tf.cast(tf.strings.length(strings), tf.int64))


def mark(indices: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Bool (size,), True at the indices (n,), those at `size` left out."""
    marked = tf.tensor_scatter_nd_update(
        tf.zeros([size + 1], tf.bool), indices[:, None], tf.ones_like(indices, tf.bool)
    )
    return marked[:-1]


def previous(values: tf.Tensor, first: Any) -> tf.Tensor:
    """The value before each; `first` before the first one."""
    return tf.concat([tf.fill([1], tf.cast(first, values.dtype)), values], 0)[:-1]


def following(values: tf.Tensor, last: Any) -> tf.Tensor:
    """The value after each; `last` after the last one."""
    return tf.concat([values, tf.fill([1], tf.cast(last, values.dtype))], 0)[1:]
