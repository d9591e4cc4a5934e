"""Mixtures: shares hold, small streams come again, each step's batch is its own."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data import pipeline
from trainers.data.config import MAX_BLOCK, block_counts
from trainers.data.pipeline import MixedStream

FEW = settings(max_examples=12)
STRIDE = 10_000  # between the ids of two streams: an id tells its stream and its place


def streams(sizes):
    return tuple(np.arange(size, dtype=np.int32) + STRIDE * k for k, size in enumerate(sizes))


def read(dataset):
    return [tuple(part.numpy() for part in batch) for batch in dataset]


def starts(batches):
    """The first token of each row, in order."""
    return np.concatenate([inputs[:, 0] for inputs, _ in batches])


# Shares.


@settings(max_examples=60)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_a_block_has_the_shares_of_the_weights(weights):
    named = {str(place): weight for place, weight in enumerate(weights)}
    total = sum(weights)
    try:
        block = block_counts(named)
    except ValueError:
        assert min(weights) / total < 1 / MAX_BLOCK
        return
    size = sum(block.values())
    assert size <= MAX_BLOCK
    for name, weight in named.items():
        error = abs(block[name] / size - weight / total)
        assert error <= max(5e-3 * weight / total, 1 / MAX_BLOCK) + 1e-12


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1], [1]),
        ([3, 1], [3, 1]),
        ([0.7, 0.2, 0.1], [7, 2, 1]),
        ([0.33, 0.33, 0.34], [33, 33, 34]),
        ([1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
        ([0.7312345, 0.2687655], [19, 7]),
        ([1e300, 1e300], [1, 1]),
        ([999, 1], [999, 1]),
    ],
)
def test_blocks_are_as_small_as_they_can_be(weights, counts):
    named = dict(zip("abc", weights))
    assert block_counts(named) == dict(zip("abc", counts))


def test_a_share_too_small_is_named():
    with pytest.raises(ValueError, match="weight 1e-05 of 'tiny' is 1e-05 of all, less than one"):
        block_counts({"large": 1.0, "tiny": 1e-5})
    with pytest.raises(ValueError, match="of 'tiny'"):
        block_counts({"large": 1e300, "tiny": 1e-300})


# Batches.


@FEW
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 4)), min_size=2, max_size=4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_every_block_has_the_counts_and_every_epoch_every_window(corpora, rows, length, seed):
    sizes = [length + 1 + extra for extra, _ in corpora]
    counts = tuple(count for _, count in corpora)
    mixed = MixedStream(streams(sizes), counts)
    block, blocks = sum(counts), 12
    steps = math.ceil(blocks * block / rows)
    batches = read(pipeline.training_windows(mixed, rows, length, seed, 0, steps))
    for inputs, targets in batches:
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(length))
    first = starts(batches)[: blocks * block]
    of = first // STRIDE
    for part in of.reshape(blocks, block):
        np.testing.assert_array_equal(np.bincount(part, minlength=len(counts)), counts)
    order = pipeline.WindowOrder(mixed, rows, length, seed)
    read_of_each = order.windows_read(steps)
    np.testing.assert_array_equal(
        read_of_each, np.bincount(starts(batches) // STRIDE, minlength=len(counts))
    )
    for k, size in enumerate(sizes):
        fit, own = max((size - length) // length, 1), first[of == k] % STRIDE
        assert own.max() + length < size
        assert order.epochs(read_of_each)[k] == pytest.approx(read_of_each[k] / fit)
        if counts[k] == 1:  # else windows of two epochs may change places within a block
            for epoch in own[: len(own) // fit * fit].reshape(-1, fit):
                np.testing.assert_array_equal(np.sort(epoch) - epoch.min(), np.arange(fit) * length)


def test_a_long_block_has_its_counts_too():
    """Blocks of many examples are ordered in another way."""
    mixed = MixedStream(streams([5000, 50]), (299, 1))
    of = starts(read(pipeline.training_windows(mixed, 50, 4, 3, 0, 60))) // STRIDE
    places = [np.flatnonzero(block) for block in of.reshape(10, 300)]
    assert all(len(place) == 1 for place in places)
    assert len(np.unique(places)) > 5
    order = pipeline.WindowOrder(mixed, 50, 4, 3)
    np.testing.assert_array_equal(order.windows_read(31), np.bincount(of[: 31 * 50]))


def test_one_stream_alone_is_a_mixture_of_itself():
    (ids,) = streams([200])
    alone = read(pipeline.training_windows(ids, 3, 5, 7, 0, 40))
    mixed = read(pipeline.training_windows(MixedStream((ids,), (1,)), 3, 5, 7, 0, 40))
    np.testing.assert_array_equal(starts(alone), starts(mixed))


def test_streams_of_one_size_have_orders_of_their_own():
    mixed = MixedStream(streams([400, 400]), (1, 1))
    first = starts(read(pipeline.training_windows(mixed, 10, 4, 0, 0, 10)))
    one, other = (first[first // STRIDE == k] % STRIDE for k in range(2))
    assert not np.array_equal(one // 4, other // 4)


def test_a_block_is_not_an_order_that_repeats():
    mixed = MixedStream(streams([400, 400]), (2, 2))

    def order(seed):
        first = starts(read(pipeline.training_windows(mixed, 4, 4, seed, 0, 30)))
        return (first // STRIDE).reshape(30, 4)

    assert len({tuple(block) for block in order(0)}) == 6  # all there are
    assert not np.array_equal(order(0), order(1))


@settings(max_examples=6)
@given(
    st.integers(0, 9),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 50), min_size=2, max_size=3),
)
def test_a_late_start_and_hosts_read_the_same(start, segment, seed, extra):
    length, rows, steps = 4, 6, 12
    mixed = MixedStream(
        streams([length * segment + 1 + more for more in extra]), tuple(range(1, len(extra) + 1))
    )

    def batches(first, **options):
        return read(
            pipeline.training_windows(mixed, rows, length, seed, first, steps, segment, **options)
        )

    whole = batches(0)
    assert len(whole) == steps
    tail = batches(start)
    hosts = [batches(start, host=host, num_hosts=3) for host in range(3)]
    for place, expected in enumerate(whole[start:]):
        for part in range(2):
            np.testing.assert_array_equal(tail[place][part], expected[part])
            together = np.concatenate([host[place][part] for host in hosts])
            np.testing.assert_array_equal(together, expected[part])
    order = pipeline.WindowOrder(mixed, rows, length, seed, segment)
    counted = np.bincount(starts(whole[: start + 1]) // STRIDE, minlength=len(extra))
    np.testing.assert_array_equal(order.windows_read(start + 1), counted)


def test_a_small_stream_comes_again_and_a_large_one_is_not_used_up():
    mixed = MixedStream(streams([50, 5000]), (1, 1))
    order = pipeline.WindowOrder(mixed, 10, 10, 0)
    small, large = order.epochs(order.windows_read(20))
    assert small == 100 / 4 and large == 100 / 499
