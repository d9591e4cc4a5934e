"""BERT's way from a text to its words, in stateless TensorFlow operations on code points.

All strings of a batch are worked on as one run of code points, row after row. `N` counts the code
points of the texts, `M` those left after normalisation, `S` those of them that stand in words
(no blanks), `W` the words.
"""

from typing import NamedTuple

import tensorflow as tf

from zoo.tokenizers.added_tokens import NameFinder
from zoo.tokenizers.segments import rows_of, splits_of
from zoo.tokenizers.wordpiece.rules import (
    ALONE,
    BLANK,
    GONE,
    KIND_BITS,
    KIND_MASK,
    LETTER,
    MOVING,
    SEVERAL,
    STRIPPED,
    Rules,
)

# Kinds beside those of `Rules`: first and further characters of a name in the text.
_OPENS, _CONTINUES = MOVING + 1, MOVING + 2


class Words(NamedTuple):
    """The words of a batch of strings, and what tells where each character came from.

    Attributes:
        texts: string (W,), normalised.
        row_splits: int64 (B + 1,), where the words of each string begin.
        characters: int32 (S,), the code points of all words.
        splits: int64 (W + 1,), where the characters of each word begin.
        sources: int64 (S,), index of the code point of the text that each came from.
        found: int32 (W,), 1 + the index of the name that a word is, -1 - that of a normalised
            name, or 0.
        source_starts: int64 (N,), offset of the code point's first byte in the joined batch.
        source_ends: int64 (N,), offset after its last byte; accents stripped after it count to it.
        row_starts: int64 (B + 1,), where the strings begin in the joined batch.
    """

    texts: tf.Tensor
    row_splits: tf.Tensor
    characters: tf.Tensor
    splits: tf.Tensor
    sources: tf.Tensor
    found: tf.Tensor
    source_starts: tf.Tensor | None
    source_ends: tf.Tensor | None
    row_starts: tf.Tensor | None


def words_of(
    strings: tf.Tensor,
    rules: Rules,
    names: NameFinder,
    normalized_names: NameFinder | None = None,
    offsets: bool = False,
) -> Words:
    """Splits strings [B] into normalised words.

    Args:
        strings: string [B]; invalid UTF-8 is left out.
        rules: what becomes of each code point.
        names: of special tokens and the like, which come out as words, unchanged.
        normalized_names: names that are looked for in what is left, once it is normalised.
        offsets: fills the last three fields of the result, else None.
    """
    if offsets:
        decoded, positions = tf.strings.unicode_decode_with_offsets(strings, "UTF-8")
    else:
        decoded, positions = tf.strings.unicode_decode(strings, "UTF-8"), None
    points, row_splits = decoded.flat_values, decoded.row_splits  # (N,), (B + 1,)
    found, inner = names.find(points, row_splits, tf.ones_like(points, tf.bool))
    changes = _marked(_changes(points, rules), found, inner)  # (N,)
    kinds = changes & KIND_MASK
    source_starts = source_ends = row_starts = None
    if offsets:
        lengths = tf.cast(tf.strings.length(strings), tf.int64)
        row_starts = splits_of(lengths)
        base = tf.gather(row_starts, rows_of(row_splits))
        source_starts = base + tf.cast(positions.flat_values, tf.int64)
        source_ends = _ends(source_starts, kinds, row_splits, row_starts[-1])

    characters = points + _shift(changes)  # Of kind SEVERAL: nonsense, replaced below.
    everything = tf.range(tf.size(points, tf.int64))
    characters, kinds, sources, row_splits = tf.cond(
        tf.reduce_any((kinds >= GONE) & (kinds <= MOVING)),
        lambda: _rewrite(points, changes, row_splits, rules),
        lambda: (characters, kinds, everything, row_splits),
    )  # (M,), (M,), (M,), (B + 1,)

    found = tf.gather(found, sources)  # (M,)
    if normalized_names is not None:
        allowed = (kinds == LETTER) | (kinds == ALONE)
        more, inner = normalized_names.find(characters, row_splits, allowed)
        kinds = _marked(kinds, more, inner)
        found = tf.where(more > 0, -more, found)

    separates = kinds != LETTER
    at_start = tf.concat([[True], separates[:-1]], 0)[: tf.size(kinds)]
    at_start = at_start | _row_starts(row_splits, tf.size(kinds, tf.int64))
    at_start = (at_start | (kinds == ALONE) | (kinds == _OPENS)) & (kinds != _CONTINUES)
    solid = tf.where(kinds != BLANK)[:, 0]  # (S,)
    characters = tf.gather(characters, solid)
    first = tf.where(tf.gather(at_start, solid))[:, 0]  # (W,)
    size = tf.size(solid, tf.int64)[None]
    splits = tf.concat([first, size], 0)
    texts = tf.strings.unicode_encode(
        tf.RaggedTensor.from_row_splits(characters, splits, validate=False), "UTF-8"
    )
    # searchsorted fails on no values: the end of all stands behind the words.
    begins = tf.concat([tf.gather(solid, first), tf.size(kinds, tf.int64)[None]], 0)
    words_before = tf.searchsorted(begins, row_splits, out_type=tf.int64)
    return Words(
        texts,
        words_before,
        characters,
        splits,
        tf.gather(sources, solid),
        tf.gather(found, tf.gather(solid, first)),
        source_starts,
        source_ends,
        row_starts,
    )


def _shift(values: tf.Tensor, bits: int = KIND_BITS) -> tf.Tensor:
    return tf.bitwise.right_shift(values, bits)


def _row_starts(row_splits: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Bool (size,), True where a row begins."""
    counts = tf.math.unsorted_segment_sum(tf.ones_like(row_splits, tf.int32), row_splits, size + 1)
    return counts[:-1] > 0


def _changes(points, rules: Rules) -> tf.Tensor:
    """The entry of `rules.table` for each code point."""
    table = tf.constant(rules.table)

    def paged():
        starts = tf.gather(tf.constant(rules.page_starts), _shift(points, 8))
        return starts + (points & 255)

    index = tf.cond(tf.reduce_any(points > 0xFFFF), paged, lambda: points)
    return tf.gather(table, index)


def _marked(kinds, begins, inner) -> tf.Tensor:
    """`kinds` (or changes) with the characters of names as they are."""
    return tf.where(inner, _CONTINUES, tf.where(begins > 0, _OPENS, kinds))


def _rewrite(points, changes, row_splits, rules: Rules):
    """Drops characters and makes several of one; returns (M,) thrice and the row splits."""
    kinds = changes & KIND_MASK
    several = kinds == SEVERAL
    start = tf.where(several, _shift(changes), 0)
    gone = (kinds == GONE) | (kinds == STRIPPED)
    counts = tf.where(gone, 0, tf.gather(tf.constant(rules.counts), start))  # (N,)
    before = splits_of(tf.cast(counts, tf.int64))  # (N + 1,)
    sources = rows_of(before)  # (M,)
    nth = tf.range(tf.size(sources, tf.int64)) - tf.gather(before, sources)
    from_pool = tf.gather(
        tf.constant(rules.several), tf.gather(start, sources) + tf.cast(nth, tf.int32)
    )
    unchanged = points + _shift(changes)
    split = tf.gather(several, sources)
    characters = tf.where(split, _shift(from_pool), tf.gather(unchanged, sources))
    kinds = tf.where(split, from_pool & KIND_MASK, tf.gather(kinds, sources))
    row_splits = tf.gather(before, row_splits)
    if rules.order.size:
        moving = kinds == MOVING
        characters = tf.cond(
            tf.reduce_any(moving),
            lambda: _canonical_order(points, characters, moving, sources, row_splits, rules),
            lambda: characters,
        )
        kinds = tf.where(moving, LETTER, kinds)
    return characters, kinds, sources, row_splits


def _canonical_order(points, characters, moving, sources, row_splits, rules: Rules) -> tf.Tensor:
    """`characters` with neighbouring accents that stay sorted by rank, as NFD sorts them."""
    places = tf.searchsorted(rules.order[0], characters)
    places = tf.minimum(places, rules.order.shape[1] - 1)
    ranks = tf.where(moving, tf.gather(rules.order[1], places), 0)
    place = tf.minimum(tf.searchsorted(rules.walls, points), len(rules.walls) - 1)
    walls = tf.cast(tf.gather(rules.walls, place) == points, tf.int64)
    breaks = ~moving | _row_starts(row_splits, tf.size(moving, tf.int64))
    runs = tf.cumsum(tf.cast(breaks, tf.int64)) + tf.gather(tf.cumsum(walls), sources)
    order = tf.argsort(runs * 256 + tf.cast(ranks, tf.int64), stable=True)
    return tf.gather(characters, order)


def _ends(source_starts, kinds, row_splits, total) -> tf.Tensor:
    """Where each code point ends, the accents stripped after it included; int64 (N,)."""
    size = tf.size(kinds, tf.int64)

    def over_accents():
        keeps = (kinds != STRIPPED) | _row_starts(row_splits, size)
        following = tf.concat([tf.boolean_mask(source_starts, keeps), total[None]], 0)
        return tf.gather(following, tf.cumsum(tf.cast(keeps, tf.int64)))

    return tf.cond(
        tf.reduce_any(kinds == STRIPPED),
        over_accents,
        lambda: tf.concat([source_starts[1:], total[None]], 0)[:size],
    )


def spans_of(words: Words, piece_splits, starts, ends) -> tuple[tf.Tensor, tf.Tensor]:
    """Offsets of pieces in the strings, from their offsets in the normalised words.

    Args:
        words: of `words_of(..., offsets=True)`.
        piece_splits: int64 (W + 1,), where the pieces of each word begin.
        starts, ends: int64 (P,), byte offsets of each piece in its normalised word.

    Returns two int64 (P,): offsets in the string that the piece is of.
    """
    points = words.characters
    widths = 1 + sum(tf.cast(points >= limit, tf.int64) for limit in (0x80, 0x800, 0x10000))
    before = splits_of(widths)  # (S + 1,) bytes of all words before
    character_of_byte = rows_of(before)
    word_begins = tf.gather(tf.gather(before, words.splits), rows_of(piece_splits))  # (P,)
    first = tf.gather(character_of_byte, word_begins + starts)
    last = tf.gather(character_of_byte, word_begins + ends - 1)
    row_splits = tf.gather(piece_splits, words.row_splits)  # (B + 1,)
    base = tf.gather(words.row_starts, rows_of(row_splits))
    starts = tf.gather(words.source_starts, tf.gather(words.sources, first)) - base
    ends = tf.gather(words.source_ends, tf.gather(words.sources, last)) - base
    return starts, ends
