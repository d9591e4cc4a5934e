"""GPT-2's pre-tokenizer: from texts to words, in stateless TensorFlow operations on bytes.

The pattern is

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

Where words start can be told from a few neighbouring bytes: a word is a run of one class, with the
space before it; the last of several whitespace characters stands apart from the rest; and an
apostrophe that starts a word takes the letters of a contraction.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.character_classes import SPACE, classes_of
from zoo.tokenizers.ragged import following, joined_bytes, mark, previous, rows_of, splits_of
from zoo.tokenizers.special_tokens import NameFinder

_SHORT_CONTRACTIONS = (b"s", b"t", b"m", b"d")
_LONG_CONTRACTIONS = (b"re", b"ve", b"ll")


class Words(NamedTuple):
    """The words of a batch of strings, some of them special tokens, and where they came from."""

    data: tf.Tensor  # (N,) uint8, the bytes of all strings, spaces put in where asked for
    row_splits: tf.Tensor  # (B + 1,) int64, where the strings begin in `data`
    starts: tf.Tensor  # (N,) bool, where words start; each goes on to the next one
    inner: tf.Tensor  # (N,) bool, all but the first byte of a character
    special_starts: tf.Tensor  # (S,) int64, where special tokens begin, the whitespace taken in
    special_names: tf.Tensor  # (S,) int64, where their names begin
    special_ends: tf.Tensor  # (S,) int64
    special_ids: tf.Tensor  # (S,) int32
    in_special: tf.Tensor | None  # (N,) bool, within one after its first byte
    sources: tf.Tensor | None  # (N + 1,) int64, the place of each byte before spaces were put in


class Splitter:
    """Splits texts into words and special tokens; whitespace before `mask` belongs to it."""

    def __init__(self, special_tokens: Mapping[str, int], mask: str | None, add_prefix_space: bool):
        for name in special_tokens:
            if name != name.strip() or not name:
                raise ValueError(f"special token {name!r} must not begin or end with a blank.")
        self._finder = NameFinder([name.encode() for name in special_tokens])
        self._ids = np.array([*special_tokens.values()], np.int32)
        self._mask_id = special_tokens.get(mask) if mask else None
        self._add_prefix_space = add_prefix_space

    def split(self, texts: tf.Tensor) -> Words:
        """The words of strings (B,)."""
        data, row_splits = joined_bytes(texts)
        names, ends, which = self._finder.find(data, row_splits)
        sources = None
        if self._add_prefix_space:
            # A space before each text that has none: at row starts and after special tokens.
            size = tf.size(data, tf.int64)
            wanted = mark(tf.concat([row_splits, ends], 0), size) & ~mark(names, size)
            wanted &= data != 0x20
            moved = splits_of(1 + tf.cast(wanted, tf.int64))  # (N + 1,)
            sources = rows_of(moved)
            is_old = mark(moved[1:] - 1, moved[-1])
            data = tf.where(is_old, tf.gather(data, sources), tf.constant(0x20, tf.uint8))
            sources = tf.concat([sources, size[None]], 0)
            row_splits, names, ends = (tf.gather(moved, part) for part in (row_splits, names, ends))
        size = tf.size(data, tf.int64)
        rows = mark(row_splits, size)
        kinds, inner = classes_of(data, rows)
        ids, starts = tf.gather(self._ids, which), names
        if self._mask_id is not None:
            masks = ids == self._mask_id

            def with_whitespace():
                solid = tf.concat([[-1], tf.where(kinds != SPACE)[:, 0]], 0)
                last = tf.searchsorted(solid, names, out_type=tf.int64) - 1
                row = tf.searchsorted(row_splits, names, side="right") - 1
                after = tf.maximum(tf.gather(solid, last) + 1, tf.gather(row_splits, row))
                return tf.where(masks, after, names)

            starts = tf.cond(tf.reduce_any(masks), with_whitespace, lambda: names)
        breaks, in_special = rows, None
        if len(self._ids):
            # A text ends before a special token and begins behind it.
            breaks = rows | mark(tf.concat([starts, ends], 0), size)
            in_special = mark(tf.ragged.range(starts + 1, ends).flat_values, size)
        word_starts = _word_starts(data, kinds, inner, breaks)
        word_starts = word_starts if in_special is None else word_starts & ~in_special
        special = starts, names, ends, ids, in_special
        return Words(data, row_splits, word_starts, inner, *special, sources)


def _word_starts(data, kinds, inner, breaks) -> tf.Tensor:
    """Bool (N,), by the classes of bytes; `breaks` (N,) is True where a text begins or ends."""
    white = kinds == SPACE
    same = kinds == previous(kinds, 255)
    after_space = previous(data, 0) == 0x20
    of_word = ~white & ~same & ~after_space  # A space before a word is its first byte.
    # The last whitespace before a word stands apart, or is that space.
    apart = following(~white & ~breaks, False)
    for _ in range(2):  # For the first of up to three bytes of one whitespace character.
        apart = tf.where(following(inner, False), following(apart, False), apart)
    starts = (breaks | of_word | (white & (~same | apart))) & ~inner
    opens = starts & (data == ord("'"))
    first, second = following(data, 0), following(following(data, 0), 0)
    goes_on = following(~breaks, False)
    either = functools.partial(functools.reduce, tf.logical_or)
    short = either([first == text[0] for text in _SHORT_CONTRACTIONS]) & opens & goes_on
    long = either([(first == text[0]) & (second == text[1]) for text in _LONG_CONTRACTIONS])
    long &= opens & goes_on & following(goes_on, False)
    inside = previous(short | long, False)
    behind = previous(previous(short, False) | previous(previous(long, False), False), False)
    return (starts & ~inside) | behind
