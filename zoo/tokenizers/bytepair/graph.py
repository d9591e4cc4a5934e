"""The graph of `BytePairTokenizer`: a batch of strings to words, ids and offsets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.bytepair.special import Spans, find_special, flags, insert_spaces
from zoo.tokenizers.bytepair.units import WordTable, part, pieces_of_words
from zoo.tokenizers.bytepair.words import begins_of, classes_of
from zoo.tokenizers.segments import rows_of, splits_of


class Words(NamedTuple):
    """The W words of a batch of strings, and what tells where they came from.

    Attributes:
        data: uint8 (N,), the bytes of all strings, spaces put in where asked for.
        row_splits: int64 (B + 1,), where the strings begin in `data`.
        begins: int64 (W,), where the words begin in it; each goes on to the next one.
        parts: int64 (U,), where the parts of words begin that are merged alone.
        inner: bool (N,), True for all but the first byte of a character.
        special: Spans, the words that are special tokens; None if they are not looked for.
        sources: int64 (N + 1,), the place of each byte before spaces were put in; None if none
            were.
    """

    data: tf.Tensor
    row_splits: tf.Tensor
    begins: tf.Tensor
    parts: tf.Tensor
    inner: tf.Tensor
    special: Spans | None
    sources: tf.Tensor | None


@dataclasses.dataclass(frozen=True)
class BytePairGraph:
    """What encoding needs to know of a tokenizer.

    Attributes:
        table: of the words that are one token. model: merges the others.
        joined: bool (65536,), the pairs of bytes that merging may join.
        lengths: int32 (V,), bytes of each piece.
        spaces_before, spaces_after: int32 (V,), spaces at the start and the end of each piece.
        special_tokens: name -> id, of those that are parsed.
        takes_blanks: the one of them that takes the blanks before it, or None.
        add_prefix_space: whether each text begins with a space.
    """

    table: WordTable
    model: bytes
    joined: np.ndarray
    lengths: np.ndarray
    spaces_before: np.ndarray
    spaces_after: np.ndarray
    special_tokens: Mapping[str, int]
    takes_blanks: str | None
    add_prefix_space: bool

    def words(self, texts: tf.Tensor) -> Words:
        """Splits strings [B] into words."""
        data = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
        row_splits = splits_of(tf.cast(tf.strings.length(texts), tf.int64))
        special = sources = None
        if self.special_tokens:
            special = find_special(data, row_splits, self.special_tokens, self.takes_blanks)
        if self.add_prefix_space:
            data, row_splits, special, sources = insert_spaces(data, row_splits, special)
        size = tf.size(data, tf.int64)
        breaks = flags(row_splits, size)
        if special is not None:
            # A text ends before a special token and begins behind it.
            breaks = breaks | flags(tf.concat([special.begins, special.ends], 0), size)
        classes = classes_of(data, breaks)
        begins = begins_of(data, classes, breaks)
        parts = part(data, begins, self.joined)
        if special is not None:
            inside = tf.ragged.range(special.begins + 1, special.ends).flat_values
            outside = ~flags(inside, size)
            begins, parts = begins & outside, parts & outside
        begins, parts = (tf.where(flag)[:, 0] for flag in (begins, parts))
        return Words(data, row_splits, begins, parts, classes.inner, special, sources)

    def encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        """The pieces of strings [B]: ids int32 (P,) and row splits int64 (B + 1,).

        With `offsets` also starts and ends, int32 (P,), and which pieces begin words, bool (P,).
        """
        words = self.words(texts)
        fixed = None
        # searchsorted fails on no values: the end of all stands behind the words.
        places = tf.concat([words.parts, tf.size(words.data, tf.int64)[None]], 0)

        def part_at(begins):
            return tf.searchsorted(places, begins, out_type=tf.int64)

        if words.special is not None:
            special_parts = part_at(words.special.begins)
            fixed = special_parts, words.special.ids
        pieces = pieces_of_words(
            words.data, words.parts, self.table, self.model, len(self.lengths), fixed
        )
        ids, part_splits = pieces.flat_values, tf.cast(pieces.row_splits, tf.int64)
        splits = tf.gather(part_splits, part_at(words.row_splits))
        if not offsets:
            return ids, splits
        lengths = tf.gather(self.lengths, ids)
        lengths = tf.cast(lengths, tf.int64)
        if words.special is not None:
            special = tf.gather(part_splits, special_parts)[:, None]
            lengths = tf.tensor_scatter_nd_update(
                lengths, special, words.special.ends - words.special.begins
            )
        # Nothing is lost on the way: the pieces are the bytes, one after the other.
        ends = tf.cumsum(lengths)
        starts = ends - lengths
        if words.special is not None:
            starts = tf.tensor_scatter_nd_update(starts, special, words.special.names)
        starts, ends = self._trimmed(ids, starts, ends, words)
        base = tf.gather(splits_of(tf.cast(tf.strings.length(texts), tf.int64)), rows_of(splits))
        starts, ends = (tf.cast(places - base, tf.int32) for places in (starts, ends))
        first = flags(tf.gather(part_splits, part_at(words.begins)), tf.size(ids, tf.int64))
        return ids, splits, starts, ends, first

    def _trimmed(self, ids, starts, ends, words: Words) -> tuple[tf.Tensor, tf.Tensor]:
        """Where pieces start and end in the joined strings, without spaces; int64 (P,)."""
        starts = tf.minimum(starts + tf.gather(self.spaces_before.astype(np.int64), ids), ends)
        ends = tf.maximum(ends - tf.gather(self.spaces_after.astype(np.int64), ids), starts)
        inner = tf.concat([words.inner, [False]], 0)
        for _ in range(3):  # To the borders of a character of up to four bytes.
            starts = starts - tf.cast(tf.gather(inner, starts), tf.int64)
            ends = ends + tf.cast(tf.gather(inner, ends), tf.int64)
        if words.sources is not None:
            starts, ends = tf.gather(words.sources, starts), tf.gather(words.sources, ends)
        return starts, ends
