"""Several token streams read as one, in proportion.

Reading goes by blocks of examples, each with a fixed number of every stream's, in an order that
(seed, block) chooses: shares hold all the time, a small stream comes again when it is used up, a
large one is not used up first. Within a stream every window comes once before any comes again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from trainers.data.shards import TokenShards, TokenStream, plain

# The longest block: a share below one in so many cannot be kept.
MAX_BLOCK = 10_000
_EXACT, _CLOSE = 1e-9, 5e-3


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


def block_counts(weights: Mapping[str, float]) -> dict[str, int]:
    """How many examples of each stream make a block whose shares are those of the weights.

    The smallest block that has them exactly; where none of up to `MAX_BLOCK` has, the smallest with
    every share within 0.5 % of what its weight asks for, or one of `MAX_BLOCK`. What does not
    divide goes to the largest remainders.

    Args:
        weights: name -> finite number above 0.

    Raises:
        ValueError: a share too small for one example in `MAX_BLOCK`; the message names it.

    Example: `block_counts({"web": 0.7, "books": 0.2, "code": 0.1})` is 7, 2 and 1.
    """
    values = np.array([*weights.values()], np.float64)
    shares = values / values.max()  # no sum of large weights overflows
    shares = shares / shares.sum()
    sizes = np.arange(len(shares), max(MAX_BLOCK, len(shares)) + 1)
    wanted = sizes[:, None] * shares
    # Rounded first, so that 0.7 x 10 is 7 and not a little less.
    counts = np.floor(np.round(wanted, 9)).astype(np.int64)
    order = np.argsort(counts - wanted, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    counts += ranks < (sizes - counts.sum(axis=1))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # a weight 1e-300 times another
        errors = np.abs(counts / wanted - 1).max(axis=1)
    places = (np.flatnonzero(errors <= limit) for limit in (_EXACT, _CLOSE))
    place = next((found[0] for found in places if len(found)), -1)
    chosen = dict(zip(weights, counts[place].tolist()))
    for name, count, share in zip(weights, chosen.values(), shares):
        if not count:
            raise ValueError(
                f"the weight {weights[name]!r} of {name!r} is {share:.2g} of all, less than one "
                f"example in {MAX_BLOCK:,}; give it more, or leave it out"
            )
    return chosen
