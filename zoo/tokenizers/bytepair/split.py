"""GPT-2's pre-tokenizer: from texts to words, in stateless TensorFlow operations on bytes.

The pattern is

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

Where words start can be told from a few neighbouring bytes: a word is a run of one class, with the
space before it; the last of several whitespace characters stands apart from the rest; and an
apostrophe that starts a word takes the letters of a contraction.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from zoo.tokenizers.character_classes import SPACE, Classes, classes_of
from zoo.tokenizers.ragged import following, mark, previous, splits_of
from zoo.tokenizers.special_tokens import Spans, SpecialTokenFinder, insert_spaces

_SHORT_CONTRACTIONS = (b"s", b"t", b"m", b"d")
_LONG_CONTRACTIONS = (b"re", b"ve", b"ll")


class Words(NamedTuple):
    """The words of a batch of strings, and what tells where they came from."""

    data: tf.Tensor  # (N,) uint8, the bytes of all strings, spaces put in where asked for
    row_splits: tf.Tensor  # (B + 1,) int64, where the strings begin in `data`
    starts: tf.Tensor  # (N,) bool, where words start; each goes on to the next one
    inner: tf.Tensor  # (N,) bool, all but the first byte of a character
    special: Spans | None  # the words that are special tokens
    in_special: tf.Tensor | None  # (N,) bool, within one after its first byte
    sources: tf.Tensor | None  # (N + 1,) int64, the place of each byte before spaces were put in


def split_words(
    texts: tf.Tensor, finder: SpecialTokenFinder | None, add_prefix_space: bool
) -> Words:
    """Splits strings (B,) into words, of which special tokens are some if there is a finder."""
    data = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
    row_splits = splits_of(tf.cast(tf.strings.length(texts), tf.int64))
    special = in_special = sources = None
    if finder is not None:
        special = finder.find(data, row_splits)
    if add_prefix_space:
        data, row_splits, special, sources = insert_spaces(data, row_splits, special)
    size = tf.size(data, tf.int64)
    breaks = mark(row_splits, size)
    if special is not None:
        # A text ends before a special token and begins behind it.
        breaks = breaks | mark(tf.concat([special.starts, special.ends], 0), size)
    classes = classes_of(data, breaks)
    starts = _word_starts(data, classes, breaks)
    if special is not None:
        in_special = mark(tf.ragged.range(special.starts + 1, special.ends).flat_values, size)
        starts = starts & ~in_special
    return Words(data, row_splits, starts, classes.inner, special, in_special, sources)


def _word_starts(data: tf.Tensor, classes: Classes, breaks: tf.Tensor) -> tf.Tensor:
    """Bool (N,); `breaks` (N,) is True where a text begins or ends."""
    kinds, inner = classes
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
