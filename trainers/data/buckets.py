"""Examples of different lengths to batches of a few fixed lengths, each example once an epoch."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from trainers.data.pipeline import fixed_schedule

# What a batch's empty rows hold in place of an example's number.
NO_EXAMPLE = -1


@dataclasses.dataclass(frozen=True)
class BucketPlan:
    """Which examples the batch of every step holds, and how long it is.

    A function of (seed, step) alone: an epoch's examples are shuffled, put into the shortest
    bucket that holds them, and cut into batches; what is left of a bucket moves up to the next
    one, and the last batch of the epoch is filled with empty rows. So an epoch has every example
    exactly once, always has as many batches, and a run that goes on at step 500 reads what an
    uninterrupted one would have read.

    Attributes:
        lengths: int (N,), tokens of each example, special ones included.
        batch_size: int, rows a batch.
        buckets: ascending lengths; longer examples go into the last one, to be cut.
        seed: int.

    Raises:
        ValueError: no examples.

    Example: `BucketPlan(np.array([3, 9]), 2, (4, 16), seed=0).epoch(0)`
    """

    lengths: np.ndarray
    batch_size: int
    buckets: tuple[int, ...]
    seed: int

    def __post_init__(self):
        if not len(self.lengths):
            raise ValueError("no training examples are left to make batches of")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: as many in each, because only the order changes."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (S, B) int64 and lengths (S,) int64 of an epoch's S batches, in order."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(len(self.lengths))
        bucket = np.searchsorted(self.buckets, self.lengths[order])
        bucket = np.minimum(bucket, len(self.buckets) - 1)
        rows, lengths = [], []
        left = order[:0]
        for index, length in enumerate(self.buckets):
            members = np.concatenate([left, order[bucket == index]])
            full = len(members) // self.batch_size * self.batch_size
            rows.append(members[:full].reshape(-1, self.batch_size))
            lengths += [length] * len(rows[-1])
            left = members[full:]
        if len(left):
            empty = np.full(self.batch_size - len(left), NO_EXAMPLE)
            rows.append(np.concatenate([left, empty])[None])
            lengths.append(self.buckets[-1])
        place = random.permutation(len(lengths))
        return np.concatenate(rows)[place].astype(np.int64), np.array(lengths, np.int64)[place]

    def batches(self, start_step: int, steps: int) -> tf.data.Dataset:
        """`(step, rows (B,), length)` of the steps from `start_step` up to `steps`."""
        size = self.steps_per_epoch
        first_epoch = start_step // size

        def epoch(number):
            rows, lengths = tf.numpy_function(self.epoch, [number], [tf.int64, tf.int64])
            rows = tf.ensure_shape(rows, [size, self.batch_size])
            lengths = tf.ensure_shape(lengths, [size])
            step = number * size + tf.range(size, dtype=tf.int64)
            return tf.data.Dataset.from_tensor_slices((step, rows, lengths))

        epochs = tf.data.Dataset.range(first_epoch, -(-steps // size))
        dataset = epochs.flat_map(epoch).skip(start_step - first_epoch * size)
        return fixed_schedule(dataset.take(steps - start_step))

    def real_tokens(self, start_step: int, stop_step: int) -> int:
        """Tokens of the examples in those steps, padding not counted, cut ones as cut."""
        size, total = self.steps_per_epoch, 0
        kept = np.append(np.minimum(self.lengths, self.buckets[-1]), 0)  # -1 counts nothing
        for number in range(start_step // size, -(-stop_step // size)):
            rows, _ = self.epoch(number)
            first = max(start_step - number * size, 0)
            total += int(kept[rows[first : stop_step - number * size]].sum())
        return total


def default_buckets(lengths: np.ndarray, longest: int, count: int = 4) -> tuple[int, ...]:
    """Lengths that split the examples about evenly, in multiples of 8, up to what is needed.

    Args:
        lengths: int (N,) tokens of each example. longest: the model's limit. count: at most.
    """
    shares = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher")
    return tuple(sorted({min(int(-(-share // 8) * 8), longest) for share in shares}))
