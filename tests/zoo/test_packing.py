"""Windows and packing: no token lost, none twice, special tokens where BERT has them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from zoo.text.packing import (
    central,
    cut_windows,
    pack,
    row_windows,
    take_windows,
    truncate,
    truncate_pair,
)
from zoo.tokenizers import WordPieceTokenizer

TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])
LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=5)


def ragged(lengths):
    """Rows whose values tell where they stood."""
    return tf.RaggedTensor.from_row_lengths(tf.range(sum(lengths)) + 5, lengths)


@given(LENGTHS, st.integers(2, 12), st.data())
def test_windows_cover_each_text_and_the_central_tokens_part_it(lengths, size, data):
    stride = data.draw(st.integers(1, size))
    values = ragged(lengths)
    windows = cut_windows(values.row_lengths(), size, stride)
    taken = take_windows(values, windows)
    assert taken.row_lengths().numpy().max(initial=0) <= size
    seen = [set() for _ in lengths]
    for row, tokens in zip(windows.rows.numpy(), taken.to_list()):
        seen[row] |= set(tokens)
    assert [sorted(tokens) for tokens in seen] == values.to_list()
    chosen = central(windows, stride, size)
    np.testing.assert_array_equal(
        tf.boolean_mask(taken.flat_values, chosen.flat_values), values.flat_values
    )


@given(LENGTHS, LENGTHS, st.integers(2, 30))
def test_pairs_fit_and_the_longer_one_loses_first(first, second, size):
    count = min(len(first), len(second))
    a, b = ragged(first[:count]), ragged(second[:count])
    kept_a, kept_b = truncate_pair(a, b, size)
    for whole_a, whole_b, cut_a, cut_b in zip(
        a.to_list(), b.to_list(), kept_a.to_list(), kept_b.to_list()
    ):
        assert cut_a == whole_a[: len(cut_a)]
        assert cut_b == whole_b[: len(cut_b)]
        total = len(whole_a) + len(whole_b)
        assert len(cut_a) + len(cut_b) == min(total, size)
        # Nothing is taken from a text that has no more than its half.
        if len(whole_b) <= size // 2:
            assert len(cut_b) == len(whole_b)
        if len(whole_a) <= size - size // 2:
            assert len(cut_a) == len(whole_a)


def test_pack():
    first, second = TOKENIZER.encode(["a b", ""]), TOKENIZER.encode(["c", "d e"])
    single = pack(TOKENIZER, first)
    assert single["token_ids"].numpy().tolist() == [[2, 5, 6, 3], [2, 3, 0, 0]]
    assert single["padding_mask"].numpy().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert not np.any(single["segment_ids"])
    pair = pack(TOKENIZER, first, second, length=8)
    assert pair["token_ids"].shape == (2, 8)
    assert pair["token_ids"].numpy().tolist() == [
        [2, 5, 6, 3, 7, 3, 0, 0],
        [2, 3, 8, 9, 3, 0, 0, 0],
    ]
    assert pair["segment_ids"].numpy().tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
    ]


@pytest.mark.parametrize("length", [3, tf.constant(3, tf.int64)])
def test_pack_cuts_to_a_length(length):
    packed = pack(TOKENIZER, TOKENIZER.encode(["a b c d"]), length=length)
    assert packed["token_ids"].numpy().tolist() == [[2, 5, 6]]
    assert packed["segment_ids"].shape == packed["padding_mask"].shape == (1, 3)


def test_truncate_by_row():
    values = ragged([3, 0, 2])
    assert truncate(values, 1).to_list() == [[5], [], [8]]
    assert truncate(values, tf.constant([2, 2, 0])).to_list() == [[5, 6], [], []]


def test_one_window_of_each_row():
    values = ragged([4, 2, 0])  # 5 6 7 8, 9 10, nothing
    windows = row_windows(values, tf.constant([1, 5, 0], tf.int64), 2)
    assert take_windows(values, windows).to_list() == [[6, 7], [], []]
