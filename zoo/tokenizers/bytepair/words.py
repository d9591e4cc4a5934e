"""GPT-2's way from a text to its words, in stateless TensorFlow operations on bytes.

The pattern is

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

Where words begin can be told from a few neighbouring bytes: a word is a run of one class, with the
space before it; the last of several blanks stands apart from the rest; and an apostrophe that
begins a word takes the letters of a contraction. A byte that is not part of valid UTF-8 is of the
class OTHER, as U+FFFD is.

All strings of a batch are worked on as one run of `N` bytes. `W` counts the words.
"""

from typing import NamedTuple

import tensorflow as tf

from zoo.tokenizers.bytepair.rules import LETTER, NUMBER, OTHER, SPACE, paged_classes

_SHORT_CONTRACTIONS = (b"s", b"t", b"m", b"d")
_LONG_CONTRACTIONS = (b"re", b"ve", b"ll")


class Classes(NamedTuple):
    """What is known of each byte.

    Attributes:
        kinds: uint8 (N,), the class of the character that it is part of.
        inner: bool (N,), True for all but the first byte of a character.
    """

    kinds: tf.Tensor
    inner: tf.Tensor


def classes_of(data: tf.Tensor, breaks: tf.Tensor) -> Classes:
    """The classes of bytes.

    Args:
        data: uint8 (N,). breaks: bool (N,), True where a string begins.
    """
    letters = (data | 0x20) - ord("a") < 26  # Below "a" the difference wraps around.
    numbers = data - ord("0") < 10
    spaces = (data - 9 < 5) | (data == 0x20)
    kinds = tf.where(letters, tf.constant(LETTER, tf.uint8), OTHER)
    kinds = tf.where(numbers, tf.constant(NUMBER, tf.uint8), kinds)
    kinds = tf.where(spaces, tf.constant(SPACE, tf.uint8), kinds)
    high = data >= 0x80
    return tf.cond(
        tf.reduce_any(high),
        lambda: _with_characters(data, breaks, kinds),
        lambda: Classes(kinds, tf.zeros_like(high)),
    )


def _with_characters(data: tf.Tensor, breaks: tf.Tensor, kinds: tf.Tensor) -> Classes:
    """`kinds` with those of the characters of several bytes."""
    continues = ((data & 0xC0) == 0x80) & ~breaks  # (N,)
    leads = tf.where((data >= 0xC2) & (data <= 0xF4))[:, 0]
    # What follows a lead byte; behind the end there is nothing, which continues no character.
    following = tf.where(continues, tf.cast(data & 0x3F, tf.int32), -1)
    following = tf.pad(following, [[0, 3]], constant_values=-1)
    first = tf.cast(tf.gather(data, leads), tf.int32)
    second, third, fourth = (tf.gather(following, leads + i) for i in (1, 2, 3))
    two, three = first < 0xE0, first < 0xF0
    point = tf.where(
        two,
        _shift(first & 0x1F, 6) | second,
        tf.where(
            three,
            _shift(first & 0x0F, 12) | _shift(second, 6) | third,
            _shift(first & 0x07, 18) | _shift(second, 12) | _shift(third, 6) | fourth,
        ),
    )
    # -1 in a needed place makes the code point negative. Next: overlong forms and surrogates.
    least = tf.where(two, 0x80, tf.where(three, 0x800, 0x10000))
    valid = (point >= least) & (point < 0x110000) & ((point < 0xD800) | (point > 0xDFFF))
    leads, point = tf.boolean_mask(leads, valid), tf.boolean_mask(point, valid)
    more = 3 - tf.cast(point < 0x10000, tf.int32) - tf.cast(point < 0x800, tf.int32)
    table, page_starts = map(tf.constant, paged_classes())
    index = tf.gather(page_starts, tf.bitwise.right_shift(point, 8)) + (point & 255)
    # In one byte: how many bytes of the character are still to come, and its class.
    packed = tf.gather(table, index) | tf.cast(more * 16, tf.uint8)
    kinds = tf.tensor_scatter_nd_update(kinds, leads[:, None], packed)
    inner = tf.zeros_like(continues)
    for _ in range(3):
        before = _before(kinds, 0)
        reached = before >= 16
        kinds = tf.where(reached, before - 16, kinds)
        inner = inner | reached
    return Classes(kinds & 15, inner)


def begins_of(data: tf.Tensor, classes: Classes, breaks: tf.Tensor) -> tf.Tensor:
    """Bool (N,), True where a word begins.

    Args:
        data: uint8 (N,). classes: from `classes_of`.
        breaks: bool (N,), True where a string begins or something that is not text begins or ends;
            a text ends there, too.
    """
    kinds, inner = classes
    blank = kinds == SPACE
    same = kinds == _before(kinds, 255)
    after_space = _before(data, 0) == 0x20
    of_word = ~blank & ~same & ~after_space  # A space before a word is its first byte.
    # The last blank before a word stands apart, or is that space.
    apart = _after(~blank & ~breaks, False)
    for _ in range(2):  # For the first of up to three bytes of one blank.
        apart = tf.where(_after(inner, False), _after(apart, False), apart)
    begins = (breaks | of_word | (blank & (~same | apart))) & ~inner

    opens = begins & (data == ord("'"))
    first, second = _after(data, 0), _after(_after(data, 0), 0)
    goes_on = _after(~breaks, False)
    short, long = (
        _any_of([first == text[0] for text in _SHORT_CONTRACTIONS]) & opens & goes_on,
        _any_of([(first == text[0]) & (second == text[1]) for text in _LONG_CONTRACTIONS])
        & (opens & goes_on & _after(goes_on, False)),
    )
    inside = _before(short | long, False)
    behind = _before(_before(short, False) | _before(_before(long, False), False), False)
    return (begins & ~inside) | behind


def _shift(values: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.left_shift(values, bits)


def _any_of(flags: list[tf.Tensor]) -> tf.Tensor:
    result = flags[0]
    for flag in flags[1:]:
        result = result | flag
    return result


def _before(values: tf.Tensor, outside) -> tf.Tensor:
    """The value one place before each."""
    return tf.concat([tf.fill([1], tf.cast(outside, values.dtype)), values], 0)[:-1]


def _after(values: tf.Tensor, outside) -> tf.Tensor:
    """The value one place after each."""
    return tf.concat([values, tf.fill([1], tf.cast(outside, values.dtype))], 0)[1:]
