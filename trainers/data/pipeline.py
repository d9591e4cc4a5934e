"""Token ids to training batches: `tf.data` sets whose every batch is a function of its step.

So a run that goes on at step 500 reads what an uninterrupted one would have read there. Several
streams are read by blocks of examples, each with a fixed number of every stream's, in an order that
(seed, block) chooses: shares hold all the time, and a small stream comes again when it is used up.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from trainers.data.prepare.shards import TokenShards, TokenStream, plain

# Permutations that one seed chooses: of a stream's windows 2 x stream, of its offsets the number
# after that, and of the streams in a block this one.
_OF_BLOCKS = -1
# TensorFlow's index shuffle tries 2^16 / count places for each that it finds: too many for a few.
_FEW = 256
_KEYS, _KEY_ROUNDS = 1 << 32, 16


@dataclasses.dataclass(frozen=True)
class MixedStream:
    """Token streams that are read in proportion: `counts` of each in every block."""

    streams: tuple[TokenStream, ...]
    counts: tuple[int, ...]


class WindowOrder:
    """The order of windows from one stream, or from several in proportion.

    Every stream is cut into windows, at another offset every time it begins again, and each comes
    once before any comes again. With `segment` above 1 segments of that many windows are ordered
    so, and each row of a batch goes on where the same row of the batch before it ended.
    """

    def __init__(
        self, ids: TokenStream | MixedStream, batch_size: int, length: int, seed: int, segment=1
    ):
        self.batch_size, self.length, self.seed, self.segment = batch_size, length, seed, segment
        mixed = ids if isinstance(ids, MixedStream) else MixedStream((ids,), (1,))
        sizes, self.counts = np.array([*map(len, mixed.streams)]), np.array(mixed.counts, np.int64)
        self.span = length * segment
        if sizes.min() < self.span + 1:
            raise ValueError(
                f"{sizes.min()} training tokens do not fill a segment of {segment} windows of "
                f"{length} and one token: use more text, or a smaller context_length or "
                "data.segment_windows"
            )
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
        """Where each slot (R,) lies in the order of its block (R,): that of random numbers."""
        first = block[0]
        blocks = first + tf.range(block[-1] - first + 1)  # (N,)
        index = tf.tile(tf.range(self.block, dtype=tf.int64), tf.shape(blocks))  # (N M,)
        key, permutation = tf.repeat(blocks, self.block), _OF_BLOCKS + 0 * index
        keys = self._shuffled(index, _KEYS + 0 * index, key, permutation, _KEY_ROUNDS)
        orders = tf.argsort(tf.reshape(keys, [-1, self.block]), axis=1)
        return tf.gather_nd(tf.cast(orders, tf.int64), tf.stack([block - first, slot], axis=1))

    def _shuffled(self, index, count, key, permutation, rounds: int = 4) -> tf.Tensor:
        """Where `index` (R,) lies in a permutation of [0, count), chosen by the others (R,)."""
        # The raw op, because tf.random.experimental.index_shuffle cannot take one key a row.
        seeds = tf.fill(tf.shape(index), tf.constant(self.seed, tf.int64))
        seed = tf.stack([seeds, key, permutation], axis=1)
        return tf.raw_ops.RandomIndexShuffle(
            index=index, seed=seed, max_index=count - 1, rounds=rounds
        )


def host_rows(batch_size: int, host: int, num_hosts: int) -> slice:
    """The rows of each batch that a host reads: `Distribution.check` saw that they divide."""
    rows = batch_size // num_hosts
    return slice(host * rows, (host + 1) * rows)


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
    """`(inputs (B, T), targets (B, T))` int32 of a host's rows of steps `start_step` to `steps`."""
    rows = host_rows(batch_size, host, num_hosts)
    order = WindowOrder(ids, batch_size, length, seed, segment)
    places = tf.data.Dataset.range(start_step, steps).map(lambda step: order.places(step, rows))
    if isinstance(ids, MixedStream):
        windows = _mixed_windows(ids.streams, places, rows.stop - rows.start, length + 1)
    else:
        starts = places.map(lambda _, start: start)
        windows = _windows(ids, starts, rows.stop - rows.start, length + 1)
    return fixed_schedule(windows.map(_inputs_and_targets))


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


def _mixed_windows(
    streams: Sequence[TokenStream], places: tf.data.Dataset, rows: int, length: int
) -> tf.data.Dataset:
    """Windows (B, length) at places: stream (B,) and start (B,)."""
    if not any(isinstance(ids, TokenShards) for ids in streams):
        begins = tf.constant(np.cumsum([0, *map(len, streams[:-1])]), tf.int64)
        starts = places.map(lambda stream, start: tf.gather(begins, stream) + start)
        return _windows(np.concatenate(streams), starts, rows, length)
    readers = [_reader(ids, length) for ids in streams]

    def one(stream, start):
        branches = [lambda read=read: read(start) for read in readers]
        variant = tf.switch_case(tf.cast(stream, tf.int32), branches)
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([length], tf.int32))

    windows = places.unbatch().flat_map(plain(one)).batch(rows, drop_remainder=True)
    return windows.apply(tf.data.experimental.assert_cardinality(places.cardinality()))


def _reader(ids: TokenStream, length: int) -> Callable:
    """A function of `start` to a dataset, as a variant, of the window there, int32 (length,)."""
    if isinstance(ids, TokenShards):
        return lambda start: tf.data.experimental.to_variant(ids.window(start, length))
    stream = tf.constant(ids, tf.int32)

    def read(start):
        window = tf.ensure_shape(stream[start : start + length], [length])
        return tf.data.experimental.to_variant(tf.data.Dataset.from_tensors(window))

    return read


def _inputs_and_targets(window: tf.Tensor):
    return window[:, :-1], window[:, 1:]


def validation_windows(
    ids: TokenStream, batch_size: int, length: int, at_least: int = 1
) -> tf.data.Dataset:
    """Non-overlapping windows in order: every token but the first is predicted once. Batches are
    (inputs (R, T), targets (R, T), weights (R, T)).
    """
    tokens = len(ids) - 1
    starts = np.arange(0, tokens, length, dtype=np.int64)
    batch_size = max(min(batch_size, len(starts)), at_least)
    batches = math.ceil(len(starts) / batch_size)
    # Rows beyond the last window start past the end, where every slot is padding.
    starts = np.pad(starts, (0, batches * batch_size - len(starts)), constant_values=tokens)
    return _validation_set(ids, starts.reshape(batches, batch_size), length)


def validation_streams(ids: TokenStream, batch_size: int, length: int) -> tf.data.Dataset:
    """As `validation_windows`, of contiguous streams, for a model that carries its state on."""
    tokens = len(ids) - 1
    row_length = math.ceil(tokens / batch_size)
    rows = np.arange(batch_size, dtype=np.int64) * row_length
    ends = np.minimum(rows + row_length, tokens)
    steps = np.arange(0, row_length, length, dtype=np.int64)
    return _validation_set(ids, rows[None] + steps[:, None], length, ends)


def _validation_set(
    ids: TokenStream, starts: np.ndarray, length: int, ends: np.ndarray | None = None
) -> tf.data.Dataset:
    """`starts` (batches, R); a slot is real below `ends` (R,) and below the end of the ids."""
    tokens = len(ids) - 1
    slots = starts.size * length
    ends = np.full(starts.shape[1], tokens) if ends is None else ends

    def batch(row_starts, window):
        inputs, targets = _inputs_and_targets(window)
        places = row_starts[:, None] + tf.range(length, dtype=tf.int64)
        real = tf.cast(places < tf.constant(ends)[:, None], tf.float32)
        # Keras divides a batch's loss by its slots: so its mean is the exact one over the tokens.
        return inputs, targets, real * (slots / tokens)

    first = tf.data.Dataset.from_tensor_slices(np.minimum(starts, tokens))
    windows = _windows(ids, first, starts.shape[1], length + 1, padding=length + 1)
    both = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(starts), windows)
    return fixed_schedule(both.map(batch))


def mapped(dataset: tf.data.Dataset, make_batch: Callable) -> tf.data.Dataset:
    """`make_batch` of every element, two at a time and in order, on a fixed schedule."""
    return fixed_schedule(dataset.map(plain(make_batch), num_parallel_calls=2, deterministic=True))


def fixed_schedule(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches a little and switches autotuning off."""
    # With it, the end of an iterator waits for the tuning thread, which sleeps 10 ms x (2^n - 1):
    # `fit` stood still for 10 and 20 seconds at the ends of epochs.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(8).with_options(options)


# What a batch's empty rows hold in place of an example's number.
NO_EXAMPLE = -1


@dataclasses.dataclass(frozen=True)
class BucketPlan:
    """Which examples the batch of every step holds, and how long it is.

    An epoch's examples are shuffled, put into the shortest bucket that holds them, and cut into
    batches; what is left of a bucket moves up to the next one, and the last batch of the epoch is
    filled with empty rows: every example comes once, in always as many batches.
    """

    lengths: np.ndarray  # (N,) tokens of each example, special ones included
    batch_size: int
    buckets: tuple[int, ...]  # ascending; longer examples go into the last one, to be cut
    seed: int
    tokens: np.ndarray | None = None  # (N,) of each example, where its length is not their number

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
        kept = np.minimum(self.lengths, self.buckets[-1]) if self.tokens is None else self.tokens
        kept = np.append(kept, 0)  # -1 counts nothing
        for number in range(start_step // size, -(-stop_step // size)):
            rows, _ = self.epoch(number)
            first = max(start_step - number * size, 0)
            total += int(kept[rows[first : stop_step - number * size]].sum())
        return total


def default_buckets(lengths: np.ndarray, longest: int) -> tuple[int, ...]:
    """Lengths that split the examples into quarters, in multiples of 8, up to what is needed."""
    quarters = np.quantile(lengths, [0.25, 0.5, 0.75, 1], method="higher")
    return tuple(sorted({min(int(-(-length // 8) * 8), longest) for length in quarters}))
