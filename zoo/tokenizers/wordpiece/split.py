"""BERT's way from texts to normalised words, in stateless TensorFlow operations on code points.

Of a batch `N` counts the code points, `M` those left after normalisation, `S` those of them that
stand in words (no whitespace), `W` the words.
"""

from collections.abc import Sequence
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
    names: tf.Tensor  # (W,) int32, 1 + the index of the name that a word is, or 0
    sources: tf.Tensor  # (S,) int64, index of the code point of the text that each came from
    # With offsets, of code points in their strings; accents stripped after one count to it:
    source_starts: tf.Tensor | None  # (N,) int64
    source_ends: tf.Tensor | None  # (N,) int64


class Splitter:
    """Splits texts into normalised words. `names` come out as words, unchanged; `normalized_names`,
    whose indices follow, are looked for in what is left, once it is normalised.
    """

    def __init__(self, rules: Rules, names: Sequence[str], normalized_names: Sequence[str] = ()):
        self._rules = rules
        self._finder, self._num_names = NameFinder(names), len(names)
        self._normalized_finder = NameFinder(normalized_names) if normalized_names else None

    def split(self, strings: tf.Tensor, offsets: bool = False) -> Words:
        """The words of strings (B,), of which invalid UTF-8 is left out."""
        if offsets:
            decoded, positions = tf.strings.unicode_decode_with_offsets(strings, "UTF-8")
        else:
            decoded, positions = tf.strings.unicode_decode(strings, "UTF-8"), None
        points, row_splits = decoded.flat_values, decoded.row_splits  # (N,), (B + 1,)
        names, inner = _marked(self._finder, points, row_splits)
        changes = _with_names(self._rules.table.find(points), names, inner)  # (N,)
        starts = ends = None
        if offsets:
            starts = tf.cast(positions.flat_values, tf.int64)
            row_starts = splits_of(tf.cast(tf.strings.length(strings), tf.int64))
            base = tf.gather(row_starts, rows_of(row_splits))
            # A code point ends where the next one begins that is no accent of it.
            keeps = (changes & KIND_MASK) != STRIPPED
            keeps |= mark(row_splits, tf.size(points, tf.int64))
            after = tf.concat([tf.boolean_mask(starts + base, keeps), row_starts[-1:]], 0)
            ends = tf.gather(after, tf.cumsum(tf.cast(keeps, tf.int64))) - base
        characters, kinds, sources, row_splits = normalized(
            points, changes, row_splits, self._rules
        )
        names = tf.gather(names, sources)  # (M,)
        if self._normalized_finder is not None:
            solid = (kinds == LETTER) | (kinds == ALONE)
            more, inner = _marked(
                self._normalized_finder, tf.where(solid, characters, -1), row_splits
            )
            kinds = _with_names(kinds, more, inner)
            names = tf.where(more > 0, more + self._num_names, names)
        size = tf.size(kinds, tf.int64)
        begins = previous(kinds != LETTER, True) | mark(row_splits, size)
        begins = (begins | (kinds == ALONE) | (kinds == _OPENS)) & (kinds != _CONTINUES)
        solid = tf.where(kinds != BLANK)[:, 0]  # (S,)
        characters = tf.gather(characters, solid)
        first = tf.where(tf.gather(begins, solid))[:, 0]  # (W,)
        splits = tf.concat([first, tf.size(solid, tf.int64)[None]], 0)
        texts = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(characters, splits, validate=False), "UTF-8"
        )
        # searchsorted fails on no values: the end of all stands behind the words.
        places = tf.gather(solid, first)
        row_splits = tf.searchsorted(
            tf.concat([places, size[None]], 0), row_splits, out_type=tf.int64
        )
        names, sources = tf.gather(names, places), tf.gather(sources, solid)
        return Words(texts, row_splits, characters, splits, names, sources, starts, ends)


def _marked(finder: NameFinder, points: tf.Tensor, row_splits: tf.Tensor):
    """1 + the index of the name that begins at each point or 0; bool, True within it. Both (N,)."""
    starts, ends, which = finder.find(points, row_splits)
    begins = tf.tensor_scatter_nd_update(tf.zeros_like(points), starts[:, None], 1 + which)
    return begins, mark(tf.ragged.range(starts + 1, ends).flat_values, tf.size(points, tf.int64))


def _with_names(kinds: tf.Tensor, begins: tf.Tensor, inner: tf.Tensor) -> tf.Tensor:
    """`kinds` (or changes) with the characters of names as they are."""
    return tf.where(inner, _CONTINUES, tf.where(begins > 0, _OPENS, kinds))


def spans_of(words: Words, piece_splits, starts, ends) -> tuple[tf.Tensor, tf.Tensor]:
    """Offsets (P,) in the strings of the pieces of words, split at piece_splits (W + 1,)."""
    points = words.characters
    widths = 1 + sum(tf.cast(points >= limit, tf.int64) for limit in (0x80, 0x800, 0x10000))
    before = splits_of(widths)  # (S + 1,) bytes of all words before
    character_of_byte = rows_of(before)
    word_begins = tf.gather(tf.gather(before, words.splits), rows_of(piece_splits))  # (P,)
    first = tf.gather(character_of_byte, word_begins + starts)
    last = tf.gather(character_of_byte, word_begins + ends - 1)
    starts = tf.gather(words.source_starts, tf.gather(words.sources, first))
    return starts, tf.gather(words.source_ends, tf.gather(words.sources, last))
