"""Random changes to training texts: words deleted, swapped, inserted, replaced, masked.

After EDA (Wei & Zou, 2019), with one difference: EDA puts in synonyms from WordNet. There is no
thesaurus here; new words are drawn from the texts of the same batch, so that frequent words come
often, or from a vocabulary that you give. All of it is stateless graph operations over the flat
words of a batch, and a pure function of the seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from trainers.data.config import AugmentConfig

# What Python's str.split takes for whitespace.
_SPACE = r"[\t-\r\x1c-\x1f\x{85}\p{Z}]"


def augment_texts(strings: Any, config: AugmentConfig, seed: Any) -> tf.Tensor:
    """Changes texts at random.

    A text that changes has single spaces between its words; the others keep every byte. A text
    with any word keeps one at least.

    Args:
        strings: string tensor or list [B].
        config: AugmentConfig.
        seed: two ints, tensor or not.

    Returns:
        string tensor [B].
    """
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
    rows = tf.RaggedTensor.from_value_rowids(changed.words, changed.rows, units.nrows())
    joined = tf.strings.reduce_join(rows, axis=-1, separator=separator)
    return tf.where(changed.row_changed, joined, strings)


def augment_tagged(
    words: tf.RaggedTensor,
    tags: tf.RaggedTensor,
    config: AugmentConfig,
    seed: Any,
    outside_id: int = 0,
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Changes words outside entities at random; entities stay whole, in order and unchanged.

    Nothing is put inside an entity, new words come from outside entities and are tagged so, and
    the first word after an entity is not deleted, so that two entities never become one.

    Args:
        words: string RaggedTensor [B, None].
        tags: int32 RaggedTensor [B, None] with the same row lengths.
        config: AugmentConfig; its `unit` is not read, the words are the units.
        seed: two ints, tensor or not.
        outside_id: int. Tag of words that are in no entity. Defaults to 0.

    Returns:
        (words, tags), both RaggedTensors [B, None].
    """
    if config.is_off:
        return words, tags
    outside = tags.values == outside_id
    rows = words.value_rowids()
    # The word before, in the same row, is part of an entity.
    after_entity = tf.concat([[False], (~outside[:-1]) & (rows[:-1] == rows[1:])], axis=0)
    after_entity = after_entity[: tf.size(outside)]  # a batch without words has no first one
    changed = _change(words, outside, outside & ~after_entity, config, seed)
    new_tags = tf.where(changed.is_new, outside_id, tf.gather(tags.values, changed.sources))
    ragged = tf.RaggedTensor.from_value_rowids(changed.words, changed.rows, words.nrows())
    return ragged, ragged.with_values(new_tags)


class _Changed(NamedTuple):
    """The M words that N words became."""

    words: tf.Tensor  # (M,) string
    rows: tf.Tensor  # (M,) int64
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
    row_is_chosen = _uniform(row_count, seeds[0]) < config.probability
    may_change &= tf.gather(row_is_chosen, rows)
    may_delete &= may_change
    count = tf.size(words, tf.int64)

    sources = tf.range(count)
    if config.swap:
        swapped = may_change & (_uniform(count, seeds[1]) < config.swap)
        sources = _swapped(sources, swapped, rows, seeds[2])
    happened = sources != tf.range(count)
    words = tf.gather(words, sources)

    # One draw decides between deletion, replacement and mask.
    draw = _uniform(count, seeds[3])
    deleted = may_delete & (draw < config.delete)
    deleted &= ~_survivor(draw, deleted, may_change, rows, row_count)
    changes = may_change & (draw >= config.delete)
    replaced = changes & (draw < config.delete + config.replace)
    masked = changes & ~replaced & (draw < config.delete + config.replace + config.mask)
    words = tf.where(replaced, _drawn(pool, count, seeds[4]), words)
    words = tf.where(masked, config.mask_token, words)
    happened |= deleted | replaced | masked

    # Two places for each word, itself and an inserted one, in either order.
    inserted = may_change & (_uniform(count, seeds[5]) < config.insert)
    happened |= inserted
    is_first = _uniform(count, seeds[6]) < 0.5  # the inserted one
    new_words = _drawn(pool, count, seeds[7])
    stays = _in_pairs(inserted, ~deleted, is_first)  # (2N,)
    return _Changed(
        words=tf.boolean_mask(_in_pairs(new_words, words, is_first), stays),
        rows=tf.boolean_mask(tf.repeat(rows, 2), stays),
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
    place = tf.cast(_uniform(count, seed) * tf.cast(size, tf.float32), tf.int32)
    return tf.gather(tf.concat([pool, [""]], axis=0), tf.minimum(place, tf.maximum(size - 1, 0)))


def _in_pairs(inserted, words, is_first):
    """(2N,): each word and its inserted one, which stands first where `is_first`."""
    pairs = tf.where(is_first, [inserted, words], [words, inserted])  # (2, N)
    return tf.reshape(tf.transpose(pairs), [-1])


def _count(flags, rows, row_count):
    return tf.math.unsorted_segment_sum(tf.cast(flags, tf.int32), rows, row_count)


def _uniform(count, seed):
    return tf.random.stateless_uniform([count], seed, alg="philox")
