"""BERT's way from texts to normalised words, in stateless TensorFlow operations on code points.

All strings of a batch are worked on as one run of code points, row after row. `N` counts the code
points of the texts, `M` those left after normalisation, `S` those of them that stand in words
(no whitespace), `W` the words.
"""

from typing import NamedTuple

import tensorflow as tf

from zoo.tokenizers.ragged import mark, previous, rows_of, splits_of
from zoo.tokenizers.special_tokens import NameFinder
from zoo.tokenizers.wordpiece.normalizer import (
    ALONE,
    BLANK,
    KIND_MASK,
    LETTER,
    MOVING,
    STRIPPED,
    Rules,
    changes_of,
    normalized,
)

# Kinds beside those of `Rules`: first and further characters of a name in the text.
_OPENS, _CONTINUES = MOVING + 1, MOVING + 2


class Words(NamedTuple):
    """The words of a batch of strings, and what tells where each character came from."""

    texts: tf.Tensor  # (W,) string, normalised
    row_splits: tf.Tensor  # (B + 1,) int64, where the words of each string begin
    characters: tf.Tensor  # (S,) int32, the code points of all words
    splits: tf.Tensor  # (W + 1,) int64, where the characters of each word begin
    sources: tf.Tensor  # (S,) int64, index of the code point of the text that each came from
    names: tf.Tensor  # (W,) int32, 1 + index of a word's name, -1 - that of a normalised one, or 0
    # Of code points, in the joined batch; accents stripped after one count to it:
    source_starts: tf.Tensor | None  # (N,) int64
    source_ends: tf.Tensor | None  # (N,) int64
    row_starts: tf.Tensor | None  # (B + 1,) int64, where the strings begin there


def split_words(
    strings: tf.Tensor,
    rules: Rules,
    names: NameFinder,
    normalized_names: NameFinder | None = None,
    offsets: bool = False,
) -> Words:
    """Splits strings (B,) into normalised words.

    Args:
        strings: invalid UTF-8 is left out.
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
    found, inner = names.mark_names(points, row_splits)
    changes = _with_names(changes_of(points, rules), found, inner)  # (N,)
    source_starts = source_ends = row_starts = None
    if offsets:
        row_starts = splits_of(tf.cast(tf.strings.length(strings), tf.int64))
        base = tf.gather(row_starts, rows_of(row_splits))
        source_starts = base + tf.cast(positions.flat_values, tf.int64)
        source_ends = _ends(source_starts, changes & KIND_MASK, row_splits, row_starts[-1])

    characters, kinds, sources, row_splits = normalized(points, changes, row_splits, rules)
    found = tf.gather(found, sources)  # (M,)
    if normalized_names is not None:
        allowed = (kinds == LETTER) | (kinds == ALONE)
        more, inner = normalized_names.mark_names(characters, row_splits, allowed)
        kinds = _with_names(kinds, more, inner)
        found = tf.where(more > 0, -more, found)

    size = tf.size(kinds, tf.int64)
    starts = previous(kinds != LETTER, True) | mark(row_splits, size)
    starts = (starts | (kinds == ALONE) | (kinds == _OPENS)) & (kinds != _CONTINUES)
    solid = tf.where(kinds != BLANK)[:, 0]  # (S,)
    characters = tf.gather(characters, solid)
    first = tf.where(tf.gather(starts, solid))[:, 0]  # (W,)
    splits = tf.concat([first, tf.size(solid, tf.int64)[None]], 0)
    texts = tf.strings.unicode_encode(
        tf.RaggedTensor.from_row_splits(characters, splits, validate=False), "UTF-8"
    )
    # searchsorted fails on no values: the end of all stands behind the words.
    begins = tf.concat([tf.gather(solid, first), size[None]], 0)
    return Words(
        texts,
        tf.searchsorted(begins, row_splits, out_type=tf.int64),
        characters,
        splits,
        tf.gather(sources, solid),
        tf.gather(found, tf.gather(solid, first)),
        source_starts,
        source_ends,
        row_starts,
    )


def _with_names(kinds, begins, inner) -> tf.Tensor:
    """`kinds` (or changes) with the characters of names as they are."""
    return tf.where(inner, _CONTINUES, tf.where(begins > 0, _OPENS, kinds))


def _ends(source_starts, kinds, row_splits, total) -> tf.Tensor:
    """Where each code point ends, the accents stripped after it included; int64 (N,)."""
    size = tf.size(kinds, tf.int64)

    def over_accents():
        keeps = (kinds != STRIPPED) | mark(row_splits, size)
        following = tf.concat([tf.boolean_mask(source_starts, keeps), total[None]], 0)
        return tf.gather(following, tf.cumsum(tf.cast(keeps, tf.int64)))

    return tf.cond(
        tf.reduce_any(kinds == STRIPPED),
        over_accents,
        lambda: tf.concat([source_starts[1:], total[None]], 0)[:size],
    )


def spans_of(words: Words, piece_splits, starts, ends) -> tuple[tf.Tensor, tf.Tensor]:
    """Offsets int64 (P,) of pieces in the strings, from those in their normalised words.

    The pieces of each word begin at piece_splits int64 (W + 1,).
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
