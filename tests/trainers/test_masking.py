"""Dynamic masking: the shares over many tokens, and the rules on every row."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.augment import mask_tokens
from trainers.data.config import MaskingConfig
from zoo.config import ConfigError, from_dict

SPECIAL = (0, 1, 2, 3, 7)  # [PAD] [UNK] [CLS] [SEP], and [MASK] among the ordinary ids
MASK, VOCABULARY = 7, 50
ORDINARY = np.setdiff1d(np.arange(VOCABULARY), SPECIAL)


def batch(rows, length, seed):
    """Rows [CLS] words [SEP] padding of many lengths, with an unknown word here and there."""
    generator = np.random.default_rng(seed)
    ids = generator.choice(ORDINARY, (rows, length)).astype("int32")
    ids[generator.random(ids.shape) < 0.02] = 1
    lengths = generator.integers(length // 2, length + 1, (rows, 1))
    place = np.arange(length)
    ids[:, 0] = 2
    ids = np.where(place == lengths - 1, 3, np.where(place >= lengths, 0, ids)).astype("int32")
    word_starts = (generator.random(ids.shape) < 0.7) & (ids > 3)
    return ids, ids > 3, word_starts


def mask(ids, candidates, word_starts, seed=(0, 0), slots=20, **options):
    masked = mask_tokens(
        tf.constant(ids),
        tf.constant(candidates),
        tf.constant(word_starts),
        seed=seed,
        mask_id=MASK,
        vocabulary_size=VOCABULARY,
        special_ids=SPECIAL,
        config=MaskingConfig(**options),
        max_predictions=slots,
    )
    return [tensor.numpy() for tensor in masked]


def words_of(candidates, word_starts):
    """The words of one row as lists of places: the definition, one token after the other."""
    words = []
    for place, is_candidate in enumerate(candidates):
        if not is_candidate:
            continue
        if word_starts[place] or place == 0 or not candidates[place - 1]:
            words.append([])
        words[-1].append(place)
    return words


def check_form(ids, candidates, masked):
    """What holds whatever was chosen; returns the chosen places as a mask (B, T)."""
    shown, positions, labels, weights = masked
    assert set(np.unique(weights)) <= {0.0, 1.0}
    real = weights == 1
    counts = real.sum(axis=1)
    assert (real == (np.arange(positions.shape[1]) < counts[:, None])).all()  # left over: last
    assert (positions[~real] == 0).all()
    assert (labels[~real] == 0).all()
    assert (np.diff(positions, axis=1)[real[:, 1:]] > 0).all()  # ascending, none twice
    rows = np.broadcast_to(np.arange(len(ids))[:, None], positions.shape)
    assert (labels[real] == ids[rows[real], positions[real]]).all()
    chosen = np.zeros(ids.shape, bool)
    chosen[rows[real], positions[real]] = True
    assert (chosen <= candidates).all()
    assert (shown[~chosen] == ids[~chosen]).all()
    assert not (np.isin(shown, SPECIAL) & (shown != MASK))[chosen].any()
    return chosen


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_over_many_tokens(whole_words):
    ids, candidates, word_starts = batch(3_000, 128, seed=1)
    assert candidates.sum() >= 250_000
    masked = mask(ids, candidates, word_starts, (3, 4), whole_words=whole_words)
    chosen = check_form(ids, candidates, masked)
    total = chosen.sum()
    assert abs(total / candidates.sum() - 0.15) < 0.002
    before, after = ids[chosen], masked[0][chosen]

    def close(count, expected, of=total):  # 5 standard deviations of a binomial count
        return abs(count - of * expected) < 5 * np.sqrt(of * expected * (1 - expected))

    # A random id is the old one, once in so many.
    same_by_chance = 0.1 / len(ORDINARY)
    assert close((after == MASK).sum(), 0.8)
    assert close((after == before).sum(), 0.1 + same_by_chance)
    random = after[(after != MASK) & (after != before)]
    assert close(len(random), 0.1 - same_by_chance)
    assert set(random) == set(ORDINARY)
    observed = np.bincount(random, minlength=VOCABULARY)[ORDINARY]
    expected = len(random) / len(ORDINARY)
    degrees = len(ORDINARY) - 1
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)
    # No place is preferred, near the start or the end.
    per_place = chosen[:, 1:60].sum(axis=0) / candidates[:, 1:60].sum(axis=0)
    assert abs(per_place - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / len(ids)) + 0.002


@pytest.mark.parametrize("whole_words", [False, True])
def test_count_of_each_row(whole_words):
    candidates = np.tril(np.ones((41, 40), bool), -1)  # 0, 1, ... 40 candidates
    ids = np.full(candidates.shape, 9, "int32")
    ones = np.ones_like(candidates)  # words of one piece each
    for slots in (1, 4, 50):
        masked = mask(ids, candidates, ones, slots=slots, whole_words=whole_words)
        counts = check_form(ids, candidates, masked).sum(axis=1)
        size = np.arange(41)
        expected = np.clip(np.round(0.15 * size), np.minimum(size, 1), slots)
        np.testing.assert_array_equal(counts, expected)


def greedy_results(sizes, budget):
    """Every set of words that some order of taking leads to, by the definition."""
    results = set()

    def go(left, rest, taken):
        fitting = [word for word in rest if sizes[word] <= left]
        if not fitting:
            results.add(frozenset(taken))
        for word in fitting:
            go(left - sizes[word], rest - {word}, taken | {word})

    go(budget, frozenset(range(len(sizes))), frozenset())
    return results


@settings(max_examples=12)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.sampled_from([0.15, 0.4, 0.7, 1.0]))
def test_whole_words_are_taken_as_bert_takes_them(sizes, rate):
    word_starts = np.concatenate([[True] + [False] * (size - 1) for size in sizes])
    rows = 200
    candidates = np.ones((rows, len(word_starts)), bool)
    ids = np.full(candidates.shape, 9, "int32")
    starts = np.broadcast_to(word_starts, ids.shape)
    masked = mask(ids, candidates, starts, seed=(1, len(sizes)), rate=rate, whole_words=True)
    budget = max(round(np.float32(rate) * len(word_starts)), min(sizes))
    possible = greedy_results(sizes, min(budget, 20))
    words = words_of(candidates[0], word_starts)
    seen = set()
    for row in check_form(ids, candidates, masked):
        taken = frozenset(n for n, word in enumerate(words) if row[word[0]])
        assert sum(sizes[n] for n in taken) == row.sum()  # none is split
        seen.add(taken)
    assert seen <= possible
    if len(possible) <= 3:
        assert seen == possible


def test_whole_words_are_never_split():
    ids, candidates, word_starts = batch(300, 64, seed=2)
    word_starts[:, 5] = False  # a row may begin or go on inside a word
    chosen = check_form(
        ids, candidates, mask(ids, candidates, word_starts, whole_words=True, slots=6)
    )
    assert (chosen.sum(axis=1) <= 6).all()
    for row in range(len(ids)):
        for word in words_of(candidates[row], word_starts[row]):
            assert len({bool(chosen[row, place]) for place in word}) == 1


def test_a_word_longer_than_the_slots_is_never_chosen():
    ids = np.full((3, 6), 9, "int32")
    starts = np.array([[1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0]], bool)
    masked = mask(ids, np.ones_like(starts), starts, slots=2, whole_words=True, rate=1.0)
    counts = check_form(ids, np.ones_like(starts), masked).sum(axis=1)
    np.testing.assert_array_equal(counts, [0, 0, 2])


def test_what_is_no_candidate_ends_a_word():
    ids = np.array([[9, 1, 9]] * 50, "int32")
    starts = np.array([[True, False, False]] * 50)
    chosen = check_form(ids, ids > 3, mask(ids, ids > 3, starts, slots=1, whole_words=True))
    assert set(map(tuple, chosen.tolist())) == {(True, False, False), (False, False, True)}


def test_special_ids_are_safe_even_as_candidates():
    ids = np.array([[2, 3, 0, 1, 7, 9], [2, 3, 0, 1, 7, 0]], "int32")
    everything = np.ones(ids.shape, bool)
    masked = mask(ids, everything, everything, rate=1.0)
    assert check_form(ids, everything, masked).tolist() == [[False] * 5 + [True], [False] * 6]


def test_shares_at_their_ends():
    ids, candidates, word_starts = batch(20, 32, seed=5)
    always = mask(ids, candidates, word_starts, mask_share=1.0, random_share=0.0)
    chosen = check_form(ids, candidates, always)
    assert (always[0][chosen] == MASK).all()
    never = mask(ids, candidates, word_starts, mask_share=0.0, random_share=0.0)
    np.testing.assert_array_equal(never[0], ids)
    assert never[3].sum() > 0


@pytest.mark.parametrize("whole_words", [False, True])
def test_pure_function_of_the_seed_with_static_shapes(whole_words):
    arrays = batch(8, 32, seed=6)
    first = mask(*arrays, seed=(1, 2), whole_words=whole_words)
    for same in (first, mask(*arrays, seed=tf.constant([1, 2]), whole_words=whole_words)):
        for one, other in zip(first, same):
            np.testing.assert_array_equal(one, other)
    assert (mask(*arrays, seed=(1, 3), whole_words=whole_words)[1] != first[1]).any()

    def of_step(step):
        return mask_tokens(
            *(tf.constant(array) for array in arrays),
            seed=tf.stack([tf.constant(1, tf.int64), step]),
            mask_id=MASK,
            vocabulary_size=VOCABULARY,
            special_ids=SPECIAL,
            config=MaskingConfig(whole_words=whole_words),
            max_predictions=20,
        )

    dataset = tf.data.Dataset.range(4).map(of_step)
    shapes = [tuple(spec.shape) for spec in dataset.element_spec]
    assert shapes == [(8, 32), (8, 20), (8, 20), (8, 20)]
    steps = list(dataset.as_numpy_iterator())
    for one, other in zip(first, steps[2]):
        np.testing.assert_array_equal(one, other)
    assert (steps[0].positions != steps[1].positions).any()


def test_rows_of_unknown_length():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def masked(ids):
        return mask_tokens(
            ids,
            ids > 3,
            ids > 3,
            seed=(0, 0),
            mask_id=MASK,
            vocabulary_size=VOCABULARY,
            special_ids=SPECIAL,
            config=MaskingConfig(whole_words=True),
            max_predictions=9,
        )

    for length in (1, 4, 30):
        ids = np.full((2, length), 9, "int32")
        result = [tensor.numpy() for tensor in masked(ids)]
        assert check_form(ids, ids > 3, result).any(axis=1).all()


def test_what_makes_no_sense_is_told():
    for wrong in ({"rate": 0.0}, {"rate": 1.5}, {"mask_share": -0.1}, {"random_share": 0.3}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            from_dict(MaskingConfig, wrong)
