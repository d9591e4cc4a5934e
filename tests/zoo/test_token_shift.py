"""Token shift: which channel comes from where; pieces of a text against the whole."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from keras import ops

from zoo.models.blocks import shift_new_tokens, shift_tokens

numpy = ops.convert_to_numpy


def whole(x, shift, positions=None):
    positions = None if positions is None else ops.convert_to_tensor(positions)
    return numpy(shift_tokens(ops.convert_to_tensor(x), shift, positions))


def test_each_part_of_the_channels_is_a_token_later():
    x = np.arange(1, 25, dtype="float32").reshape(1, 4, 6)
    expected = np.zeros_like(x)
    for distance, channels in enumerate(([0, 1], [2, 3], [4, 5])):
        for token in range(distance, 4):
            expected[0, token, channels] = x[0, token - distance, channels]
    np.testing.assert_array_equal(whole(x, 2), expected)


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_rows_shorter_than_the_shift(shift):
    x = np.ones((2, 1, 6), "float32")
    assert whole(x, shift).shape == x.shape
    assert whole(x, shift).sum() == 2 * (6 // (shift + 1))


def test_nothing_comes_from_before_a_document():
    x = np.random.default_rng(0).normal(size=(1, 7, 8)).astype("float32")
    positions = np.int32([[0, 1, 2, 0, 0, 1, 2]])
    alone = [whole(part, 3) for part in np.split(x, [3, 4], axis=1)]
    np.testing.assert_array_equal(whole(x, 3, positions), np.concatenate(alone, axis=1))


# JAX compiles each shape: there the example alone.
PHASES = (Phase.explicit,) if keras.backend.backend() == "jax" else tuple(Phase)


@settings(max_examples=10, phases=PHASES)
@example(shift=2, pieces=[(2, 1), (1, 2), (1, 1)], same_lengths=False)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    st.booleans(),
)
def test_pieces_equal_the_whole(shift, pieces, same_lengths):
    """Two rows that grow by pieces, padded where the other row's piece is longer."""
    width = 7
    if same_lengths:
        pieces = [(first, first) for first, _ in pieces]
    totals = np.sum(pieces, axis=0)
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(2, max(totals), width)).astype("float32")
    expected = whole(rows, shift)
    past = ops.zeros((2, shift, width))
    done = np.zeros(2, int)
    for lengths in pieces:
        longest = max(lengths)
        piece = generator.normal(size=(2, longest, width)).astype("float32")  # noise is padding
        for row, length in enumerate(lengths):
            piece[row, :length] = rows[row, done[row] : done[row] + length]
        given_lengths = None if same_lengths else ops.convert_to_tensor(np.int32(lengths))
        shifted, past = shift_new_tokens(
            ops.convert_to_tensor(piece.reshape(-1, width)), past, shift, longest, given_lengths
        )
        shifted = numpy(shifted).reshape(2, longest, width)
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(
                shifted[row, :length], expected[row, done[row] : done[row] + length]
            )
        done += lengths
