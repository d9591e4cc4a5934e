"""Batches: nothing lost, nothing doubled, every batch a function of its step alone."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainers.data import pipeline

LENGTHS = st.integers(1, 7)
SEGMENTS = st.integers(1, 4)
ROWS = st.integers(1, 5)
SEEDS = st.integers(0, 2**32 - 1)
# Every example builds a few tf.data graphs.
FEW = settings(max_examples=8)


def ids(count):
    """Each token is its own place, so that a batch tells where it was cut."""
    return np.arange(count, dtype=np.int32)


def read(dataset):
    return [tuple(part.numpy() for part in batch) for batch in dataset]


@FEW
@given(st.integers(2, 60), ROWS, LENGTHS, SEEDS)
def test_an_epoch_covers_every_window_once(extra, rows, length, seed):
    tokens = length + extra
    count = max((tokens - length) // length, 1)
    steps = math.ceil(2 * count / rows)
    batches = read(pipeline.training_windows(ids(tokens), rows, length, seed, 0, steps))
    inputs = np.concatenate([inputs for inputs, _ in batches])
    targets = np.concatenate([targets for _, targets in batches])
    assert inputs.shape[1] == length
    assert np.array_equal(targets, inputs + 1)
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(length))
    for epoch in range(2):
        starts = inputs[epoch * count : (epoch + 1) * count, 0]
        # One offset for the whole epoch; from there on, every window of the text once.
        assert np.array_equal(np.sort(starts) - starts.min(), np.arange(count) * length)


@FEW
@given(st.integers(2, 40), LENGTHS, SEEDS)
def test_epochs_together_reach_every_token(extra, length, seed):
    tokens = length + extra
    count = max((tokens - length) // length, 1)
    epochs = tokens - count * length
    ((_, targets),) = read(
        pipeline.training_windows(ids(tokens), epochs * count, length, seed, 0, 1)
    )
    assert set(targets.ravel()) == set(range(1, tokens))


def test_epochs_have_other_orders_and_seeds_too():
    def starts(seed, steps):
        batches = read(pipeline.training_windows(ids(401), 4, 4, seed, 0, steps))
        return np.concatenate([inputs[:, 0] for inputs, _ in batches])

    both = starts(0, 50) // 4
    assert not np.array_equal(both[:99], both[99:198])
    assert not np.array_equal(starts(0, 20), starts(1, 20))
    assert np.array_equal(starts(0, 20), starts(0, 20))


@FEW
@given(st.integers(30, 60), ROWS, LENGTHS, SEEDS, st.integers(0, 9), st.integers(0, 9), SEGMENTS)
def test_a_late_start_reads_the_tail(tokens, rows, length, seed, start, more, segment):
    assume(tokens > length * segment)
    steps = start + more

    def batches(first):
        return read(
            pipeline.training_windows(ids(tokens), rows, length, seed, first, steps, segment)
        )

    whole, tail = batches(0), batches(start)
    assert len(whole) == steps
    assert len(tail) == more
    for expected, found in zip(whole[start:], tail):
        for one, other in zip(expected, found):
            assert np.array_equal(one, other)


@FEW
@given(st.integers(0, 80), ROWS, LENGTHS, SEEDS, SEGMENTS)
def test_rows_go_on_within_a_segment(extra, rows, length, seed, segment):
    """And segments, like windows, come once an epoch."""
    span = length * segment
    tokens = span + 1 + extra
    count = max((tokens - span) // span, 1)
    groups = -(-count // rows)
    batches = read(
        pipeline.training_windows(ids(tokens), rows, length, seed, 0, groups * segment, segment)
    )
    inputs = np.stack([inputs for inputs, _ in batches])  # (groups * segment, rows, length)
    targets = np.stack([targets for _, targets in batches])
    assert np.array_equal(targets, inputs + 1)
    spans = inputs.reshape(groups, segment, rows, length).transpose(0, 2, 1, 3)
    spans = spans.reshape(groups * rows, span)
    assert np.array_equal(spans, spans[:, :1] + np.arange(span))
    assert len(set(spans[:count, 0])) == count
    assert set(np.diff(np.sort(spans[:count, 0]))) <= {span}


def test_text_shorter_than_a_segment_is_refused():
    with pytest.raises(ValueError, match="20 training tokens do not fill a segment of 4 windows"):
        pipeline.training_windows(ids(20), 4, 8, 0, 0, 1, segment=4)


@settings(max_examples=15)
@given(st.integers(2, 60), ROWS, LENGTHS, st.booleans())
def test_validation_predicts_every_token_but_the_first_once(tokens, rows, length, streams):
    make = pipeline.validation_streams if streams else pipeline.validation_windows
    validation = make(ids(tokens), rows, length)
    batches = read(validation)
    shapes = {part.shape for batch in batches for part in batch}
    assert len(shapes) == 1, "every batch has one shape: the graph is traced once"
    inputs, targets, weights = (np.stack(parts) for parts in zip(*batches))
    real = weights > 0
    assert np.array_equal(np.sort(targets[real]), np.arange(1, tokens))
    assert np.array_equal(targets[real], inputs[real] + 1)
    assert tokens - 1 == real.sum()
    assert np.mean(weights) == pytest.approx(1, rel=1e-5)
    assert len(np.unique(weights[real])) == 1
    if streams:
        for row in range(inputs.shape[1]):
            read_on = inputs[:, row][real[:, row]]
            assert np.array_equal(read_on, read_on[:1] + np.arange(len(read_on)))


@pytest.mark.parametrize("make", [pipeline.validation_windows, pipeline.validation_streams])
@pytest.mark.parametrize(("tokens", "rows", "length"), [(50, 4, 7), (49, 3, 8), (7, 3, 9)])
def test_keras_evaluate_gives_the_exact_token_mean(make, tokens, rows, length):
    """The mean over tokens, though the last batch is mostly padding."""
    random = np.random.default_rng(tokens)
    stream = random.integers(0, 11, tokens).astype(np.int32)
    logits = random.normal(size=(11, 11)).astype(np.float32)  # a bigram model: no context
    embedding = keras.layers.Embedding(11, 11)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), embedding])
    embedding.set_weights([logits])
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    found = model.evaluate(make(stream, rows, length), verbose=0, return_dict=True)
    chosen = logits[stream[:-1]].astype(np.float64)
    losses = np.log(np.exp(chosen).sum(-1)) - chosen[np.arange(tokens - 1), stream[1:]]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx((chosen.argmax(-1) == stream[1:]).mean(), rel=1e-6)


def test_autotuning_is_off():
    """With it on, the end of an iterator can wait for its thread for ten seconds and more."""
    for dataset in (
        pipeline.training_windows(ids(50), 2, 4, 0, 0, 3),
        pipeline.training_windows(ids(50), 2, 4, 0, 0, 3, segment=2),
        pipeline.validation_windows(ids(50), 2, 4),
        pipeline.validation_streams(ids(50), 2, 4),
    ):
        assert dataset.options().autotune.enabled is False
        assert dataset.element_spec[0].shape == tf.TensorShape([2, 4])
