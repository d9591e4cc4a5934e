"""Bucketed batches: every example once an epoch, a pure function of seed and step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.pipeline import NO_EXAMPLE, BucketPlan, default_buckets

PLANS = st.builds(
    BucketPlan,
    st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array),
    st.integers(1, 7),
    st.sets(st.integers(4, 32), min_size=1, max_size=4).map(lambda s: tuple(sorted(s))),
    st.integers(0, 5),
)


@given(PLANS, st.integers(0, 3))
def test_an_epoch_has_every_example_once_in_a_bucket_that_holds_it(plan, epoch):
    rows, lengths = plan.epoch(epoch)
    assert rows.shape == (plan.steps_per_epoch, plan.batch_size)
    real = rows[rows != NO_EXAMPLE]
    assert sorted(real) == list(range(len(plan.lengths)))
    assert set(lengths) <= set(plan.buckets)
    for row, length in zip(rows, lengths):
        needed = plan.lengths[row[row != NO_EXAMPLE]]
        # Only what is longer than the last bucket is cut.
        assert np.all(np.minimum(needed, plan.buckets[-1]) <= length)
    # All empty rows of an epoch are in one batch.
    assert np.sum(np.any(rows == NO_EXAMPLE, axis=1)) <= 1


@given(PLANS)
def test_no_token_is_lost_or_counted_twice(plan):
    kept = np.minimum(plan.lengths, plan.buckets[-1]).sum()
    steps = plan.steps_per_epoch
    assert plan.real_tokens(0, steps) == kept
    middle = steps // 2
    parts = plan.real_tokens(0, middle) + plan.real_tokens(middle, 3 * steps)
    assert parts == plan.real_tokens(0, 3 * steps) == 3 * kept


def test_batches_go_on_where_a_run_was():
    plan = BucketPlan(np.arange(1, 12), 3, (4, 8, 12), seed=1)
    whole = [[t.numpy().tolist() for t in batch] for batch in plan.batches(0, 11)]
    assert [step for step, _, _ in whole] == list(range(11))
    for start in (1, 4, 7):
        rest = [[t.numpy().tolist() for t in batch] for batch in plan.batches(start, 11)]
        assert rest == whole[start:]


def test_epochs_and_seeds_differ():
    lengths = np.full(50, 3)
    plan = BucketPlan(lengths, 5, (4,), seed=0)
    first, second = plan.epoch(0)[0], plan.epoch(1)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, BucketPlan(lengths, 5, (4,), seed=1).epoch(0)[0])


def test_no_examples_is_an_error():
    with pytest.raises(ValueError, match="no training examples"):
        BucketPlan(np.array([], int), 2, (4,), seed=0)


def test_default_buckets_end_at_what_is_needed():
    lengths = np.concatenate([np.full(50, 5), np.full(30, 20), np.full(20, 100)])
    assert default_buckets(lengths, 128) == (8, 24, 104)
    assert default_buckets(lengths, 64) == (8, 24, 64)
