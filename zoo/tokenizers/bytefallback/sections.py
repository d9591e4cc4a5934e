"""From texts to the words of a SentencePiece-like BPE, in TensorFlow operations on code points.

A space becomes "▁". Tokens that are found in a text part it into sections, and the rule says which
of these get a "▁" in front. Sections are cut before each "▁" behind another character if no piece
joins the two, so that equal words are merged once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.ragged import joined_bytes, mark, previous, rows_of, splits_of
from zoo.tokenizers.special_tokens import AddedToken, NameFinder, Parts, with_blanks

SPACE = 0x2581
# Which sections get a "▁" in front: none; the first of a text, or all, unless they begin with one
# (`Metaspace` in Hugging Face's library); all, even those (`Prepend`).
PREFIXES = ("never", "first", "always", "prepend")
_BLANKS = (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029)
_BLANKS = np.array([*_BLANKS, 0x202F, 0x205F, 0x3000], np.int32)


class Words(NamedTuple):
    """The words of a batch of texts; some are tokens already: found ones, and single bytes."""

    texts: tf.Tensor  # (W,) strings, of the others
    is_known: tf.Tensor  # (K + W,) bool, in the order of the texts
    known_ids: tf.Tensor  # (K,) int32
    row_splits: tf.Tensor  # (B + 1,) int64, where the words of each text begin


class Sections:
    """Finds tokens in texts and splits the rest into words."""

    def __init__(
        self, tokens: Sequence[AddedToken], prefix: str, cuts: bool, byte_ids: Sequence[int]
    ):
        self._tokens, self._prefix, self._cuts = list(tokens), prefix, cuts
        self._finder = NameFinder([t.name for t in tokens], [t.special for t in tokens])
        self._ids = np.array([token.id for token in tokens], np.int32)
        self._byte_ids = np.array(byte_ids, np.int32)

    def split(self, strings: tf.Tensor, row_splits: tf.Tensor, is_text: tf.Tensor | None) -> Words:
        """The words of texts put together from strings (P,), row splits int64 (B + 1,)."""
        points, part_splits = _points(strings)
        row_splits = tf.gather(part_splits, row_splits)
        parts = None if is_text is None else Parts(part_splits, is_text)
        names, ends, which = self._finder.find(points, row_splits, parts)
        starts, ends = with_blanks(
            self._tokens, names, ends, which, row_splits, lambda: _is_blank(points)
        )
        points = tf.where(points == 0x20, SPACE, points)
        if self._prefix != "never":
            size = tf.size(points, tf.int64)
            begins = [row_splits] if self._prefix == "first" else [row_splits, ends]
            wanted = mark(tf.concat(begins, 0), size) & ~mark(starts, size)
            if self._prefix != "prepend":
                wanted &= points != SPACE
            moved = splits_of(1 + tf.cast(wanted, tf.int64))  # (N + 1,)
            is_old = mark(moved[1:] - 1, moved[-1])
            points = tf.where(is_old, tf.gather(points, rows_of(moved)), SPACE)
            # A prefix stands in the section that it is for, behind a found token.
            ends = tf.gather(moved, ends)
            starts = tf.gather(moved, starts)
            row_splits = tf.gather(moved, row_splits)
        size = tf.size(points, tf.int64)
        found = mark(starts, size)
        in_found = mark(tf.ragged.range(starts, ends).flat_values, size)
        single = (points < 0) & ~in_found
        begins = mark(tf.concat([row_splits, starts, ends], 0), size)
        begins |= single | previous(single, False)
        if self._cuts:
            begins |= (points == SPACE) & (previous(points, SPACE) != SPACE)
        begins &= found | ~in_found
        plain = ~in_found & ~single
        word_starts = tf.where(begins)[:, 0]  # (K + W,)
        is_known = ~tf.gather(plain, word_starts)
        before = splits_of(tf.cast(plain, tf.int64))
        splits = tf.gather(before, tf.boolean_mask(word_starts, ~is_known))
        splits = tf.concat([splits, before[-1:]], 0)
        texts = tf.RaggedTensor.from_row_splits(
            tf.boolean_mask(points, plain), splits, validate=False
        )
        known_places = tf.boolean_mask(word_starts, is_known)
        values = tf.gather(points, known_places)
        known_ids = tf.gather(self._byte_ids, tf.clip_by_value(-1 - values, 0, 255))
        known_ids = tf.tensor_scatter_nd_update(
            known_ids, tf.where(tf.gather(found, known_places)), tf.gather(self._ids, which)
        )
        word_places = tf.concat([word_starts, size[None]], 0)
        row_splits = tf.searchsorted(word_places, row_splits, out_type=tf.int64)
        return Words(tf.strings.unicode_encode(texts, "UTF-8"), is_known, known_ids, row_splits)


def _is_blank(points: tf.Tensor) -> tf.Tensor:
    place = tf.minimum(tf.searchsorted(_BLANKS, points), len(_BLANKS) - 1)
    return tf.gather(tf.constant(_BLANKS), place) == points


def _points(strings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Code points int32 (N,) of strings (P,), -1 - b for a byte b that is not part of one, and row
    splits int64 (P + 1,).
    """
    decoded, positions = tf.strings.unicode_decode_with_offsets(strings, "UTF-8")
    points, splits = decoded.flat_values, tf.cast(decoded.row_splits, tf.int64)
    suspects = points == 0xFFFD

    def with_bytes():
        data, byte_splits = joined_bytes(strings)
        base = tf.gather(byte_splits, rows_of(splits))
        starts = tf.cast(positions.flat_values, tf.int64) + base  # (N,)
        lengths = tf.concat([starts[1:], byte_splits[-1:]], 0) - starts
        # The character itself is three bytes from EF on; what is broken has fewer from there.
        is_character = (lengths == 3) & (tf.gather(data, starts) == 0xEF)
        broken = suspects & ~is_character
        moved = splits_of(tf.where(broken, lengths, tf.ones_like(lengths)))
        sources = rows_of(moved)
        nth = tf.range(moved[-1]) - tf.gather(moved, sources)
        value = tf.cast(tf.gather(data, tf.gather(starts, sources) + nth), tf.int32)
        new = tf.where(tf.gather(broken, sources), -1 - value, tf.gather(points, sources))
        return new, tf.gather(moved, splits)

    return tf.cond(tf.reduce_any(suspects), with_bytes, lambda: (points, splits))
