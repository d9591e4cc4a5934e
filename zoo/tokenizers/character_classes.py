"""The class of each Unicode character in GPT-2's pattern, which asks for `\\p{L}`, `\\p{N}`, `\\s`.

Frozen in `character_classes.json`, measured from Hugging Face `tokenizers` by
`tools/make_unicode_tables.py` and equal to tiktoken's: ids depend on no library's Unicode
version.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.tokenizers.ragged import previous

OTHER, LETTER, NUMBER, SPACE = range(4)
TABLE = Path(__file__).with_name("character_classes.json")


@functools.cache
def classes() -> np.ndarray:
    """OTHER to SPACE for every code point, uint8 (0x110000,); do not write to it."""
    return from_runs(json.loads(TABLE.read_text(encoding="utf-8"))["classes"])


def from_runs(runs: Sequence[int]) -> np.ndarray:
    """The values of runs, [length, value, length, value, ...], uint8."""
    return np.repeat(np.array(runs[1::2], np.uint8), runs[::2])


class PagedTable:
    """A value for every code point, (0x110000,), with equal pages of 256 stored once."""

    def __init__(self, values: np.ndarray):
        pages, page_of = np.unique(values.reshape(-1, 256), axis=0, return_inverse=True)
        self._values = pages.reshape(-1)
        self._page_starts = (page_of.reshape(-1) * 256).astype(np.int32)  # (4352,)

    def find(self, points: tf.Tensor) -> tf.Tensor:
        """The values of code points (N,)."""
        page = tf.gather(self._page_starts, tf.bitwise.right_shift(points, 8))
        return tf.gather(self._values, page + (points & 255))


@functools.cache
def _table(more_digits: bool) -> PagedTable:
    table = classes()
    if more_digits:
        table = table.copy()
        table[json.loads(TABLE.read_text(encoding="utf-8"))["more_digits"]] = NUMBER
    return PagedTable(table)


def classes_of(
    data: tf.Tensor, breaks: tf.Tensor, more_digits: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """The class uint8 (N,) of the character of each byte uint8 (N,), OTHER where UTF-8 is not
    valid; and bool (N,), True but for its first byte. `breaks` (N,) is True where a string
    begins. With `more_digits`, numbers are those of the `Digits` rule, of a newer Unicode.
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
        lambda: with_long_characters(data, breaks, kinds, _table(more_digits)),
        lambda: (kinds, tf.zeros_like(high)),
    )


def with_long_characters(
    data: tf.Tensor, breaks: tf.Tensor, kinds: tf.Tensor, table: PagedTable
) -> tuple[tf.Tensor, tf.Tensor]:
    """`kinds` uint8 (N,) with the table's values (0 to 15) for all bytes of long characters; and
    bool (N,), True but for the first byte of each.
    """
    continues = ((data & 0xC0) == 0x80) & ~breaks  # (N,)
    leads = tf.where((data >= 0xC2) & (data <= 0xF4))[:, 0]
    # What follows a lead byte; behind the end there is nothing, which continues no character.
    bits = tf.where(continues, tf.cast(data & 0x3F, tf.int32), -1)
    bits = tf.pad(bits, [[0, 3]], constant_values=-1)
    first = tf.cast(tf.gather(data, leads), tf.int32)
    second, third, fourth = (tf.gather(bits, leads + i) for i in (1, 2, 3))
    two, three = first < 0xE0, first < 0xF0
    shift = tf.bitwise.left_shift
    of_three = shift(first & 0x0F, 12) | shift(second, 6) | third
    of_four = shift(first & 0x07, 18) | shift(second, 12) | shift(third, 6) | fourth
    point = tf.where(three, of_three, of_four)
    point = tf.where(two, shift(first & 0x1F, 6) | second, point)
    # -1 in a needed place makes the code point negative. Next: overlong forms and surrogates.
    least = tf.where(two, 0x80, tf.where(three, 0x800, 0x10000))
    valid = (point >= least) & (point < 0x110000) & ((point < 0xD800) | (point > 0xDFFF))
    leads, point = tf.boolean_mask(leads, valid), tf.boolean_mask(point, valid)
    more = 3 - tf.cast(point < 0x10000, tf.int32) - tf.cast(point < 0x800, tf.int32)
    # In one byte: how many bytes of the character are still to come, and its class.
    packed = table.find(point) | tf.cast(more * 16, tf.uint8)
    kinds = tf.tensor_scatter_nd_update(kinds, leads[:, None], packed)
    inner = tf.zeros_like(continues)
    for _ in range(3):
        before = previous(kinds, 0)
        reached = before >= 16
        kinds = tf.where(reached, before - 16, kinds)
        inner = inner | reached
    return kinds & 15, inner
