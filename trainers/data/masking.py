"""Dynamic masking for masked language modelling (Devlin et al., 2018; dynamic as Liu et al., 2019).

A batch's masks are a pure function of its seed: training gives every step another seed, evaluation
gives batch number n the same seed every time, so that two evaluations ask the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainers.data.config import MaskingConfig


class Masked(NamedTuple):
    """A batch for a masked language model.

    Attributes:
        token_ids: (B, T) int32, what the model sees.
        positions: (B, P) int32, the chosen places, ascending; 0 in slots left over.
        labels: (B, P) int32, the ids that stood there; 0 in slots left over.
        weights: (B, P) float32, 1 for a chosen place and 0 for a slot left over.
    """

    token_ids: tf.Tensor
    positions: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor


def mask_tokens(
    token_ids: tf.Tensor,
    candidates: tf.Tensor,
    word_starts: tf.Tensor,
    *,
    seed: Any,
    mask_id: int,
    vocabulary_size: int,
    special_ids: Sequence[int],
    config: MaskingConfig,
    max_predictions: int,
) -> Masked:
    """Chooses tokens to predict and hides them.

    In each row `round(rate x candidates)` tokens are chosen, at least one, at most
    `max_predictions`. Whole words are taken in random order while they fit into that number, and
    skipped where they do not, as BERT does; where no word fits, the row's shortest word is taken.

    Args:
        token_ids: (B, T) int32.
        candidates: (B, T) bool, the tokens that may be chosen; special ids never are.
        word_starts: (B, T) bool, True where a word begins. Read for whole words only, where what
            is no candidate ends a word too.
        seed: two ints, tensor or not.
        mask_id: int. Id of the mask token.
        vocabulary_size: int. Random tokens are uniform over the ids below it that are not special.
        special_ids: ids that are never chosen and never put in.
        config: MaskingConfig.
        max_predictions: int, P, width of the result.

    Returns:
        Masked.
    """
    if max_predictions < 1:
        raise ValueError(f"max_predictions must be at least 1. Received: {max_predictions}")
    ordinary = np.setdiff1d(np.arange(vocabulary_size, dtype=np.int32), np.array(special_ids))
    if not len(ordinary):
        raise ValueError(f"all {vocabulary_size} ids are special: none is left to put in")
    token_ids = tf.cast(token_ids, tf.int32)
    for special_id in special_ids:
        candidates = candidates & (token_ids != special_id)
    counts = tf.reduce_sum(tf.cast(candidates, tf.int32), axis=1)  # (B,)
    budget = tf.cast(tf.round(config.rate * tf.cast(counts, tf.float32)), tf.int32)
    budget = tf.minimum(tf.minimum(tf.maximum(budget, 1), counts), max_predictions)
    # One type, because the same numbers as int32 would draw other numbers.
    seeds = tf.random.split(tf.cast(seed, tf.int64), 3, alg="philox")
    choice_seed, action_seed, id_seed = tf.unstack(seeds)
    choose = _choose_words if config.whole_words else _choose_tokens
    places = choose(candidates, word_starts, budget, max_predictions, choice_seed)
    places = tf.ensure_shape(places, [token_ids.shape[0], max_predictions])  # (B, P)

    length = tf.shape(token_ids)[1]
    is_chosen = places < length
    positions = tf.where(is_chosen, places, 0)
    labels = tf.where(is_chosen, tf.gather(token_ids, positions, batch_dims=1), 0)
    action = _uniform(labels, action_seed)
    number = tf.random.stateless_uniform(
        tf.shape(labels), id_seed, 0, len(ordinary), tf.int32, alg="philox"
    )
    shown = tf.where(
        action < config.mask_share + config.random_share, tf.gather(ordinary, number), labels
    )
    shown = tf.where(action < config.mask_share, mask_id, shown)
    # Slots left over write to a column of their own, which is cut off again.
    wider = tf.pad(token_ids, [[0, 0], [0, 1]])  # (B, T + 1)
    rows = tf.range(tf.shape(places)[0])[:, None] + tf.zeros_like(places)
    hidden = tf.tensor_scatter_nd_update(wider, tf.stack([rows, places], axis=-1), shown)
    hidden = tf.ensure_shape(hidden[:, :length], token_ids.shape)
    return Masked(hidden, positions, labels, tf.cast(is_chosen, tf.float32))


def _choose_tokens(candidates, word_starts, budget, slots, seed):
    """(B, P) int32: the chosen places, ascending, then T in the slots left over."""
    del word_starts
    scores = tf.where(candidates, _uniform(candidates, seed), -1.0)  # (B, T)
    places = _top_k(scores, slots).indices  # (B, P) in random order
    is_wanted = tf.range(slots) < budget[:, None]
    return tf.sort(tf.where(is_wanted, places, tf.shape(candidates)[1]), axis=1)


def _choose_words(candidates, word_starts, budget, slots, seed):
    """As `_choose_tokens`, but words are chosen whole."""
    length = tf.shape(candidates)[1]
    before = tf.pad(candidates, [[0, 0], [1, 0]])[:, :-1]
    starts = word_starts | (candidates & ~before)
    word = tf.maximum(tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1, 0)  # (B, T) numbers
    sizes = _sum_by_number(candidates, word)  # (B, T), word n's size at place n
    smallest = tf.reduce_min(tf.where(sizes > 0, sizes, slots + 1), axis=1)  # (B,)
    budget = tf.maximum(budget, tf.where(smallest <= slots, smallest, 0))

    order = tf.argsort(_uniform(candidates, seed), axis=1)  # (B, T) word numbers
    sizes = tf.gather(sizes, order, batch_dims=1)

    def take(left, waiting, taken):
        # All words up to the first that does not fit. Each turn drops all words of that size and
        # above, so there are no more turns than sizes.
        waiting &= sizes <= left[:, None]
        fits = waiting & (tf.cumsum(tf.where(waiting, sizes, 0), axis=1) <= left[:, None])
        left -= tf.reduce_sum(tf.where(fits, sizes, 0), axis=1)
        return left, waiting & ~fits, taken | fits

    start = (budget, sizes > 0, tf.zeros_like(candidates))
    taken = tf.while_loop(lambda left, waiting, taken: tf.reduce_any(waiting), take, start)[2]
    taken = _sum_by_number(taken, order) > 0  # (B, T) by word number
    chosen = candidates & tf.gather(taken, word, batch_dims=1)
    from_the_end = tf.where(chosen, length - tf.range(length), 0)
    return length - tf.maximum(_top_k(from_the_end, slots).values, 0)


def _sum_by_number(flags, numbers):
    """Counts the True of `flags` (B, T) by `numbers` (B, T) in [0, T), each row on its own."""
    shape = tf.shape(numbers)
    flat = numbers + shape[1] * tf.range(shape[0])[:, None]
    return tf.reshape(
        tf.math.unsorted_segment_sum(tf.cast(flags, tf.int32), flat, shape[0] * shape[1]), shape
    )


def _top_k(values, k):
    """`tf.math.top_k` that also takes rows shorter than k: they end with the least value."""
    missing = tf.maximum(k - tf.shape(values)[1], 0)
    return tf.math.top_k(tf.pad(values, [[0, 0], [0, missing]], constant_values=-1), k)


def _uniform(like, seed):
    return tf.random.stateless_uniform(tf.shape(like), seed, alg="philox")
