"""Which window of which stream every row of every step reads; several streams in proportion.

Reading goes by blocks of examples, each with a fixed number of every stream's, in an order that
(seed, block) chooses: shares hold all the time, a small stream comes again when it is used up, a
large one is not used up first. Within a stream every window comes once before any comes again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainers.data.shards import TokenShards, TokenStream, plain


@dataclasses.dataclass(frozen=True)
class MixedStream:
    """Token streams that are read in proportion."""

    streams: tuple[TokenStream, ...]
    counts: tuple[int, ...]

    def windows(self, places: tf.data.Dataset, rows: int, length: int) -> tf.data.Dataset:
        """Stretches of the streams, none of which reaches beyond the end of its stream."""
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


# Permutations that one seed chooses: of a stream's windows 2 x stream, of its offsets the number
# after that, and of the streams in a block this one.
_OF_BLOCKS = -1
# TensorFlow's index shuffle tries 2^16 / count places for each that it finds: too many for a few.
_FEW = 256
_KEYS, _KEY_ROUNDS = 1 << 32, 16


class WindowOrder:
    """The order of windows from one stream, or from several in proportion.

    Every stream is cut into windows, at another offset every time it begins again, and each comes
    once before any comes again. With `segment` above 1 it is segments of that many consecutive
    windows that are ordered so, and each row of a batch goes on where the same row of the batch
    before it ended.

    Args:
        sizes: int, tokens of each stream, at least length x segment + 1.
        counts: int, examples of each stream in every block; (1,) for one stream.
        batch_size: int, rows of a step. length: int, tokens of a window.
        seed: int. segment: int, windows of a segment. Defaults to 1.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        counts: Sequence[int],
        batch_size: int,
        length: int,
        seed: int,
        segment: int = 1,
    ):
        self.batch_size, self.length, self.seed, self.segment = batch_size, length, seed, segment
        sizes, self.counts = np.asarray(sizes, np.int64), np.asarray(counts, np.int64)
        self.span = length * segment
        self.fit = np.maximum((sizes - self.span) // self.span, 1)  # at every offset
        # Offsets 0 .. spare - 1 leave room, the last to the end.
        self.spare = sizes - self.fit * self.span
        self.block = int(self.counts.sum())

    def places(self, step: tf.Tensor, rows: slice) -> tuple[tf.Tensor, tf.Tensor]:
        """Stream (R,) and start (R,) of some rows of a step, int64."""
        group, part = step // self.segment, step % self.segment
        example = group * self.batch_size + tf.range(rows.start, rows.stop, dtype=tf.int64)
        stream, number = self._examples(example)
        fit, spare = tf.gather(self.fit, stream), tf.gather(self.spare, stream)
        epoch = number // fit  # (R,) a batch may reach into the next epoch
        place = self._shuffled(number % fit, fit, epoch, 2 * stream)
        offset = self._shuffled(epoch % spare, spare, 0 * epoch, 2 * stream + 1)
        return stream, offset + place * self.span + part * self.length

    def windows_read(self, steps: int) -> np.ndarray:
        """Windows of each stream, int64 (K,), in all rows of the first `steps` steps."""
        groups, part = divmod(steps, self.segment)
        whole = self._counted(groups * self.batch_size)
        under_way = self._counted((groups + 1) * self.batch_size) - whole
        return whole * self.segment + under_way * part

    def epochs(self, windows: np.ndarray) -> np.ndarray:
        """How many times each stream was read when so many of its windows were."""
        return windows / (self.fit * self.segment)

    def _examples(self, example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Stream and number within that stream of examples (R,)."""
        if len(self.counts) == 1:
            return 0 * example, example
        block, slot = example // self.block, example % self.block
        if self.block < _FEW:
            slot = self._sorted(block, slot)
        else:
            slot = self._shuffled(slot, self.block + 0 * slot, block, _OF_BLOCKS + 0 * slot)
        ends = np.cumsum(self.counts)
        stream = tf.searchsorted(tf.constant(ends), slot, side="right", out_type=tf.int64)
        first = tf.gather(ends - self.counts, stream)
        return stream, block * tf.gather(self.counts, stream) + slot - first

    def _counted(self, examples: int) -> np.ndarray:
        """How many of the first examples are of each stream, int64 (K,)."""
        blocks, rest = divmod(examples, self.block)
        if not rest:
            return blocks * self.counts
        with tf.device("CPU"):  # where the pipeline runs
            stream, _ = self._examples(blocks * self.block + tf.range(rest, dtype=tf.int64))
        return blocks * self.counts + np.bincount(stream.numpy(), minlength=len(self.counts))

    def _sorted(self, block, slot) -> tf.Tensor:
        """Where each slot (R,) of consecutive examples lies in the order of its block (R,).

        That order is the one of as many random numbers, different ones, of the block's own.
        """
        first = block[0]
        blocks = first + tf.range(block[-1] - first + 1)  # (N,)
        numbers = tf.range(self.block, dtype=tf.int64)
        index = tf.tile(numbers, tf.shape(blocks))  # (N M,)
        key = tf.repeat(blocks, self.block)
        keys = self._shuffled(
            index, _KEYS + 0 * index, key, _OF_BLOCKS + 0 * index, rounds=_KEY_ROUNDS
        )
        orders = tf.argsort(tf.reshape(keys, [-1, self.block]), axis=1)
        return tf.gather_nd(tf.cast(orders, tf.int64), tf.stack([block - first, slot], axis=1))

    def _shuffled(self, index, count, key, permutation, rounds: int = 4) -> tf.Tensor:
        """Where `index` (R,) lies in a permutation of [0, count), chosen by the others (R,).

        The raw op, because `tf.random.experimental.index_shuffle` cannot take one key a row.
        """
        seeds = tf.fill(tf.shape(index), tf.constant(self.seed, tf.int64))
        return tf.raw_ops.RandomIndexShuffle(
            index=index,
            seed=tf.stack([seeds, key, permutation], axis=1),
            max_index=count - 1,
            rounds=rounds,
        )
