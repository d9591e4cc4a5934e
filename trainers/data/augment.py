"""Random changes to training data: words of texts changed, tokens masked.

Texts after EDA (Wei & Zou, 2019), but new words are drawn from the batch or a vocabulary, not from
a thesaurus; masks as BERT has them, drawn anew at every step. All is a pure function of the seed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainers.data.config import AugmentConfig, MaskingConfig

# What Python's str.split takes for whitespace.
_SPACE = r"[\t-\r\x1c-\x1f\x{85}\p{Z}]"


def augment_texts(strings: Any, config: AugmentConfig, seed: Any) -> tf.Tensor:
    """Changes texts (B,) at random; `seed` is two ints. What stays the same keeps every byte."""
    strings = tf.convert_to_tensor(strings, tf.string)
    if config.is_off:
        return strings
    if config.unit == "word":
        # Chinese text has spaces of its own kind, which tf.strings.split does not know.
        units, separator = tf.strings.split(tf.strings.regex_replace(strings, _SPACE, " ")), " "
        may_change = tf.ones_like(units.values, tf.bool)
    else:
        units, separator = tf.strings.unicode_split(strings, "UTF-8", errors="replace"), ""
        may_change = ~tf.strings.regex_full_match(units.values, _SPACE)
    changed = _change(units, may_change, may_change, config, seed)
    joined = tf.strings.reduce_join(changed.words, axis=-1, separator=separator)
    return tf.where(changed.row_changed, joined, strings)


def augment_tagged(
    words: tf.RaggedTensor, tags: tf.RaggedTensor, config: AugmentConfig, seed: Any, outside_id=0
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Changes words (B, None) outside entities at random, with their tags (B, None) int32."""
    if config.is_off:
        return words, tags
    outside = tags.values == outside_id
    rows = words.value_rowids()
    # The word before, in the same row, is part of an entity: two must never become one.
    after_entity = tf.concat([[False], (~outside[:-1]) & (rows[:-1] == rows[1:])], axis=0)
    after_entity = after_entity[: tf.size(outside)]  # a batch without words has no first one
    changed = _change(words, outside, outside & ~after_entity, config, seed)
    new_tags = tf.where(changed.is_new, outside_id, tf.gather(tags.values, changed.sources))
    return changed.words, changed.words.with_values(new_tags)


class _Changed(NamedTuple):
    """The M words that N words became."""

    words: tf.RaggedTensor  # [B, None] string
    sources: tf.Tensor  # (M,) int64 into the N words
    is_new: tf.Tensor  # (M,) bool, inserted: its source is but a neighbour
    row_changed: tf.Tensor  # (B,) bool


def _change(units, may_change, may_delete, config: AugmentConfig, seed) -> _Changed:
    """Both kinds of text: `units` ragged [B, None], `may_change` and `may_delete` (N,) bool."""
    # One type, because the same numbers as int32 would draw other numbers.
    seeds = tf.unstack(tf.random.split(tf.cast(seed, tf.int64), 8, alg="philox"))
    words, rows, row_count = units.values, units.value_rowids(), units.nrows()
    # New words come from the whole batch, whichever rows are changed.
    pool = tf.constant(config.vocabulary, tf.string)
    pool = pool if config.vocabulary else tf.boolean_mask(words, may_change)
    row_is_chosen = _uniform([row_count], seeds[0]) < config.probability
    may_change &= tf.gather(row_is_chosen, rows)
    may_delete &= may_change
    count = tf.size(words, tf.int64)
    sources = tf.range(count)
    if config.swap:
        swapped = may_change & (_uniform([count], seeds[1]) < config.swap)
        sources = _swapped(sources, swapped, rows, seeds[2])
    happened = sources != tf.range(count)
    words = tf.gather(words, sources)
    # One draw decides between deletion, replacement and mask.
    draw = _uniform([count], seeds[3])
    deleted = may_delete & (draw < config.delete)
    deleted &= ~_survivor(draw, deleted, may_change, rows, row_count)
    changes = may_change & (draw >= config.delete)
    replaced = changes & (draw < config.delete + config.replace)
    masked = changes & ~replaced & (draw < config.delete + config.replace + config.mask)
    words = tf.where(replaced, _drawn(pool, count, seeds[4]), words)
    words = tf.where(masked, config.mask_token, words)
    happened |= deleted | replaced | masked
    # Two places for each word, itself and an inserted one, in either order.
    inserted = may_change & (_uniform([count], seeds[5]) < config.insert)
    happened |= inserted
    is_first = _uniform([count], seeds[6]) < 0.5  # the inserted one
    new_words = _drawn(pool, count, seeds[7])
    stays = _in_pairs(inserted, ~deleted, is_first)  # (2N,)
    new_rows = tf.boolean_mask(tf.repeat(rows, 2), stays)
    words = tf.boolean_mask(_in_pairs(new_words, words, is_first), stays)
    return _Changed(
        words=tf.RaggedTensor.from_value_rowids(words, new_rows, row_count),
        sources=tf.boolean_mask(tf.repeat(sources, 2), stays),
        is_new=tf.boolean_mask(_in_pairs(inserted, tf.zeros_like(inserted), is_first), stays),
        row_changed=_count(happened, rows, row_count) > 0,
    )


def _swapped(sources, swapped, rows, seed):
    """Sends the chosen words of each row round a circle of random order: each of them moves."""
    chosen = tf.boolean_mask(sources, swapped)  # (K,)
    chosen_rows = tf.boolean_mask(rows, swapped)
    key = tf.random.stateless_uniform(tf.shape(chosen), seed, dtype=tf.float64, alg="philox")
    order = tf.gather(chosen, tf.argsort(tf.cast(chosen_rows, tf.float64) + key))
    # `chosen_rows` ascends, so it is also the rows of `order`.
    is_last = tf.concat([chosen_rows[1:] != chosen_rows[:-1], [True]], axis=0)
    is_last = is_last[: tf.size(chosen)]
    first = tf.gather(order, tf.searchsorted(chosen_rows, chosen_rows))
    follower = tf.where(is_last, first, tf.roll(order, -1, axis=0))
    return tf.tensor_scatter_nd_update(sources, order[:, None], follower)


def _survivor(draw, deleted, may_change, rows, row_count):
    """(N,) True for the word with the highest draw, where a row would lose all that may change."""
    row_is_lost = _count(may_change & ~deleted, rows, row_count) == 0
    highest = tf.math.unsorted_segment_max(tf.where(may_change, draw, -1.0), rows, row_count)
    return tf.gather(row_is_lost, rows) & (draw == tf.gather(highest, rows))


def _drawn(pool, count, seed):
    """`count` words, each evenly from `pool` (M,); anything where the pool is empty."""
    size = tf.size(pool)
    place = tf.cast(_uniform([count], seed) * tf.cast(size, tf.float32), tf.int32)
    return tf.gather(tf.concat([pool, [""]], axis=0), tf.minimum(place, tf.maximum(size - 1, 0)))


def _in_pairs(inserted, words, is_first):
    """(2N,): each word and its inserted one, which stands first where `is_first`."""
    pairs = tf.where(is_first, [inserted, words], [words, inserted])  # (2, N)
    return tf.reshape(tf.transpose(pairs), [-1])


def _count(flags, rows, row_count):
    return tf.math.unsorted_segment_sum(tf.cast(flags, tf.int32), rows, row_count)


class Masked(NamedTuple):
    """A batch for a masked language model."""

    token_ids: tf.Tensor  # (B, T) int32, what the model sees
    positions: tf.Tensor  # (B, P) int32, the chosen places, ascending; 0 in slots left over
    labels: tf.Tensor  # (B, P) int32, the ids that stood there; 0 in slots left over
    weights: tf.Tensor  # (B, P) float32, 1 for a chosen place and 0 for a slot left over


def mask_tokens(
    token_ids: tf.Tensor,  # (B, T) int32
    candidates: tf.Tensor,  # (B, T) bool, the tokens that may be chosen
    word_starts: tf.Tensor,  # (B, T) bool
    *,
    seed: Any,
    mask_id: int,
    vocabulary_size: int,
    special_ids: Sequence[int],
    config: MaskingConfig,
    max_predictions: int,
) -> Masked:
    """Hides `round(rate x candidates)` tokens of a row, at least one, for the model to predict."""
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
    action = _uniform(tf.shape(labels), action_seed)
    place = tf.random.stateless_uniform(
        tf.shape(labels), id_seed, 0, len(ordinary), tf.int32, alg="philox"
    )
    is_changed = action < config.mask_share + config.random_share
    shown = tf.where(is_changed, tf.gather(ordinary, place), labels)
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
    scores = tf.where(candidates, _uniform(tf.shape(candidates), seed), -1.0)  # (B, T)
    places = _top_k(scores, slots).indices  # (B, P) in random order
    is_wanted = tf.range(slots) < budget[:, None]
    return tf.sort(tf.where(is_wanted, places, tf.shape(candidates)[1]), axis=1)


def _choose_words(candidates, word_starts, budget, slots, seed):
    """As `_choose_tokens`, of whole words in random order while they fit, else the shortest."""
    length = tf.shape(candidates)[1]
    before = tf.pad(candidates, [[0, 0], [1, 0]])[:, :-1]
    starts = word_starts | (candidates & ~before)
    word = tf.maximum(tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1, 0)  # (B, T) numbers
    sizes = _sum_by_number(candidates, word)  # (B, T), word n's size at place n
    smallest = tf.reduce_min(tf.where(sizes > 0, sizes, slots + 1), axis=1)  # (B,)
    budget = tf.maximum(budget, tf.where(smallest <= slots, smallest, 0))
    order = tf.argsort(_uniform(tf.shape(candidates), seed), axis=1)  # (B, T) word numbers
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


def _uniform(shape, seed):
    return tf.random.stateless_uniform(shape, seed, alg="philox")
