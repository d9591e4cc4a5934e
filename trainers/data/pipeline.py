"""Token ids to training batches: a `tf.data` set whose every batch is a function of its step.

No batch depends on the ones before it, so a run that goes on at step 500 reads what an
uninterrupted one would have read there, and skips nothing to get there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainers.data.mixture import MixedStream, WindowOrder
from trainers.data.shards import TokenShards, TokenStream


@dataclasses.dataclass(frozen=True)
class ValidationSet:
    """Batches that cover a token stream once.

    Attributes:
        dataset: of `(inputs (R, T), targets (R, T), weights (R, T))`. Padding weighs 0 and a real
            token `slots / tokens`: Keras divides a batch's loss by its slots, so that its mean
            over the batches comes out as the exact mean over the tokens.
        tokens: int, targets predicted.
    """

    dataset: tf.data.Dataset
    tokens: int


def training_windows(
    ids: TokenStream | MixedStream,
    batch_size: int,
    length: int,
    seed: int,
    start_step: int,
    steps: int,
    segment: int = 1,
    host: int = 0,
    num_hosts: int = 1,
) -> tf.data.Dataset:
    """Windows in random order, each once an epoch, cut at another offset every epoch.

    With `segment` above 1 it is segments of that many consecutive windows that come in random
    order, and each row of a batch goes on where the same row of the batch before it ended: for a
    model that carries its state from step to step, and forgets it where `step % segment == 0`.

    Args:
        ids: int32 (N,), at least length x segment + 1 of them; or shards, read in passing; or
            several of these, read in proportion.
        batch_size: windows a batch. length: int, T, tokens a window.
        seed: int. start_step: int, first step of the dataset. steps: int, end of the dataset.
        segment: int, windows of a segment. Defaults to 1.
        host, num_hosts: int, gives rows host * B / num_hosts up to (host + 1) * B / num_hosts of
            each batch, which all hosts together make whole. Default: all rows.

    Returns:
        Dataset of `(inputs (B, T), targets (B, T))` int32, targets one token ahead; of B /
        num_hosts rows.
    """
    rows = host_rows(batch_size, host, num_hosts)
    num_rows = rows.stop - rows.start
    order = window_order(ids, batch_size, length, seed, segment)
    numbers = tf.data.Dataset.range(start_step, steps)
    places = numbers.map(lambda step: order.places(step, rows))
    if isinstance(ids, MixedStream):
        windows = ids.windows(places, num_rows, length + 1)
    else:
        windows = _windows(ids, places.map(lambda _, start: start), num_rows, length + 1)
    return fixed_schedule(windows.map(_inputs_and_targets))


def window_order(
    ids: TokenStream | MixedStream, batch_size: int, length: int, seed: int, segment: int = 1
) -> WindowOrder:
    """The order in which `training_windows` reads."""
    mixed = ids if isinstance(ids, MixedStream) else MixedStream((ids,), (1,))
    sizes = [len(stream) for stream in mixed.streams]
    if min(sizes) < length * segment + 1:
        raise ValueError(
            f"{min(sizes)} training tokens do not fill a segment of {segment} windows of {length} "
            "and one token: use more text, or a smaller context_length or data.segment_windows"
        )
    return WindowOrder(sizes, mixed.counts, batch_size, length, seed, segment)


def host_rows(batch_size: int, host: int, num_hosts: int) -> slice:
    """The rows of each batch that a host reads."""
    if batch_size % num_hosts or not 0 <= host < num_hosts:
        raise ValueError(
            f"batch_size={batch_size} cannot be shared by {num_hosts} hosts, of which this is "
            f"{host}: use a multiple of the hosts, which count from 0"
        )
    rows = batch_size // num_hosts
    return slice(host * rows, (host + 1) * rows)


def validation_windows(
    ids: TokenStream, batch_size: int, length: int, at_least: int = 1
) -> ValidationSet:
    """Non-overlapping windows in order: every token but the first is predicted once."""
    tokens = len(ids) - 1
    starts = np.arange(0, tokens, length, dtype=np.int64)
    batch_size = max(min(batch_size, len(starts)), at_least)
    batches = math.ceil(len(starts) / batch_size)
    # Rows beyond the last window start past the end, where every slot is padding.
    starts = np.pad(starts, (0, batches * batch_size - len(starts)), constant_values=tokens)
    return _validation_set(ids, starts.reshape(batches, batch_size), length)


def validation_streams(ids: TokenStream, batch_size: int, length: int) -> ValidationSet:
    """Contiguous streams, for a model that carries its state from batch to batch."""
    tokens = len(ids) - 1
    row_length = math.ceil(tokens / batch_size)
    rows = np.arange(batch_size, dtype=np.int64) * row_length
    ends = np.minimum(rows + row_length, tokens)
    steps = np.arange(0, row_length, length, dtype=np.int64)
    return _validation_set(ids, rows[None] + steps[:, None], length, ends)


def _validation_set(
    ids: TokenStream, starts: np.ndarray, length: int, ends: np.ndarray | None = None
) -> ValidationSet:
    """`starts` (batches, R); a slot is real below `ends` (R,) and below the end of the ids."""
    tokens = len(ids) - 1
    slots = starts.size * length
    ends = np.full(starts.shape[1], tokens) if ends is None else ends

    def batch(row_starts, window):
        inputs, targets = _inputs_and_targets(window)
        places = row_starts[:, None] + tf.range(length, dtype=tf.int64)
        real = tf.cast(places < tf.constant(ends)[:, None], tf.float32)
        return inputs, targets, real * (slots / tokens)

    first = tf.data.Dataset.from_tensor_slices(np.minimum(starts, tokens))
    windows = _windows(ids, first, starts.shape[1], length + 1, padding=length + 1)
    both = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(starts), windows)
    return ValidationSet(fixed_schedule(both.map(batch)), tokens)


def _windows(
    ids: TokenStream, starts: tf.data.Dataset, rows: int, length: int, padding: int = 0
) -> tf.data.Dataset:
    """A dataset of starts (B,) to one of windows (B, length) of a stream; 0 in `padding` behind."""
    if isinstance(ids, TokenShards):
        return ids.windows(starts, rows, length)
    stream = tf.constant(np.pad(ids, (0, padding)), tf.int32)

    def gather(starts):
        places = starts[:, None] + tf.range(length, dtype=tf.int64)
        return tf.ensure_shape(tf.gather(stream, places), [rows, length])

    return starts.map(gather)


def _inputs_and_targets(window: tf.Tensor):
    return window[:, :-1], window[:, 1:]


def mapped(dataset: tf.data.Dataset, make_batch: Callable) -> tf.data.Dataset:
    """`make_batch` of every element, two at a time and in order, on a fixed schedule.

    Without autograph: it reads the source of all that is called, which takes most of the tracing
    time, and finds no Python control flow over tensors to convert.
    """
    make_batch = tf.autograph.experimental.do_not_convert(make_batch)
    return fixed_schedule(dataset.map(make_batch, num_parallel_calls=2, deterministic=True))


def fixed_schedule(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches a little and switches autotuning off.

    With autotuning on, the end of an iterator waits for the tuning thread, which sleeps
    10 ms x (2^n - 1): `fit` stood still for 10 and 20 seconds at the ends of epochs.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(8).with_options(options)


# Examples of different lengths in batches of a few fixed lengths.


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
    """

    lengths: np.ndarray  # (N,) tokens of each example, special ones included
    batch_size: int
    buckets: tuple[int, ...]  # ascending; longer examples go into the last one, to be cut
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
    """Lengths that split the examples about evenly, in multiples of 8, up to what is needed."""
    shares = np.quantile(lengths, np.arange(1, count + 1) / count, method="higher")
    return tuple(sorted({min(int(-(-share // 8) * 8), longest) for share in shares}))
