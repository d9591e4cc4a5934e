"""Several token streams read as one, in proportion.

Reading goes by blocks of examples, each with a fixed number of every stream's, in an order that
(seed, block) chooses: shares hold all the time, a small stream comes again when it is used up, a
large one is not used up first. Within a stream every window comes once before any comes again.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from trainers.data.shards import TokenShards, TokenStream, plain


@dataclasses.dataclass(frozen=True)
class MixedStream:
    """Token streams that are read in proportion.

    Attributes:
        streams: int32 arrays or TokenShards.
        counts: int, examples of each in every block.

    Example: `MixedStream((ids, other_ids), (3, 1))`
    """

    streams: tuple[TokenStream, ...]
    counts: tuple[int, ...]

    def windows(self, places: tf.data.Dataset, rows: int, length: int) -> tf.data.Dataset:
        """Stretches of the streams, none of which reaches beyond the end of its stream.

        Args:
            places: dataset of `(stream (rows,), start (rows,))` int64. rows, length: int.

        Returns:
            Dataset of int32 (rows, length).
        """
        if not any(isinstance(ids, TokenShards) for ids in self.streams):
            joined = tf.constant(np.concatenate(self.streams), tf.int32)
            sizes = [len(ids) for ids in self.streams]
            begins = tf.constant(np.cumsum([0, *sizes[:-1]]), tf.int64)

            def gather(stream, start):
                first = tf.gather(begins, stream) + start
                windows = tf.gather(joined, first[:, None] + tf.range(length, dtype=tf.int64))
                return tf.ensure_shape(windows, [rows, length])

            return places.map(plain(gather))
        readers = [_reader(ids, length) for ids in self.streams]

        def one(stream, start):
            branches = [lambda read=read: read(start) for read in readers]
            variant = tf.switch_case(tf.cast(stream, tf.int32), branches)
            return tf.data.experimental.from_variant(variant, tf.TensorSpec([length], tf.int32))

        single = places.unbatch().flat_map(plain(one))
        windows = single.batch(rows, drop_remainder=True)
        return windows.apply(tf.data.experimental.assert_cardinality(places.cardinality()))


def _reader(ids: TokenStream, length: int):
    """A function of `start` to a dataset, as a variant, of the window there, int32 (length,)."""
    if isinstance(ids, TokenShards):
        return lambda start: tf.data.experimental.to_variant(ids.window(start, length))
    stream = tf.constant(ids, tf.int32)

    def read(start):
        window = tf.ensure_shape(stream[start : start + length], [length])
        return tf.data.experimental.to_variant(tf.data.Dataset.from_tensors(window))

    return read
