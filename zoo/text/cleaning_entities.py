"""HTML character references decoded inside a graph: `&amp;`, `&#39;`, `&#x4e2d;`.

TensorFlow has no such operation, and a lookup table would be a resource to restore. Here every
reference of a batch is cut out by one regular expression, looked up at once in constants, and put
back. Numbers are read as arithmetic on bytes; names are found by the hash of their spelling.
"""

from __future__ import annotations

import functools
import html
import html.entities

import numpy as np
import tensorflow as tf

# A name needs its semicolon. A number does not: no text means "&#39" literally.
_REFERENCE = r"(&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[a-zA-Z][a-zA-Z0-9]*;))"
# Never part of valid UTF-8, so it cannot occur in the text that it divides.
_DIVIDER = b"\xff"
_HASH_BUCKETS = 2**62
_DIGITS = 8  # enough for every code point, few enough for int64
_LAST_CODE_POINT = 0x10FFFF
# Below it, HTML has rules for single code points: control codes, and windows-1252 in disguise.
_SPECIAL_RULES = 0xA0


def decode_entities(strings: tf.Tensor) -> tf.Tensor:
    """Decodes HTML character references once, as `html.unescape` does but for two rules.

    It differs where a name has no semicolon: `&copy` and `&notit;` stay as they are, because in
    text from the web `?lang=en&copy=2` is a web address far more often than a copyright sign.

    Args:
        strings: string [B], valid UTF-8.

    Returns:
        string [B]. Unknown names stay; numbers beyond Unicode and surrogates become U+FFFD;
        numbers of characters that HTML forbids vanish.

    Example: `decode_entities(tf.constant(["a &lt; b&#39;s"]))` is `[b"a < b's"]`.
    """
    marked = tf.strings.regex_replace(strings, _REFERENCE, _DIVIDER + rb"\1" + _DIVIDER)
    parts = tf.strings.split(marked, _DIVIDER)  # text, reference, text, reference, ..., text
    place = tf.range(tf.size(parts.values, tf.int64)) - tf.gather(
        parts.row_starts(), parts.value_rowids()
    )
    where = tf.where(place % 2 == 1)  # (E, 1)
    references = tf.gather_nd(parts.values, where)  # (E,)
    decoded = tf.where(
        tf.strings.regex_full_match(references, "&#.*"), _numbers(references), _names(references)
    )
    values = tf.tensor_scatter_nd_update(parts.values, where, decoded)
    return tf.strings.reduce_join(parts.with_values(values), axis=-1)


def _numbers(references: tf.Tensor) -> tf.Tensor:
    """The characters of `&#65;` and `&#x41;` (E,); other references give anything at all."""
    is_hexadecimal = tf.strings.regex_full_match(references, "&#[xX].*")
    digits = tf.strings.regex_replace(references, "^&#[xX]?0*|;$", "")
    # Every number as its last 8 digits, so that all can be read as one block of bytes.
    padded = tf.strings.substr(tf.strings.join(["0" * _DIGITS, digits]), -_DIGITS, _DIGITS)
    codes = tf.reshape(tf.io.decode_raw(padded, tf.uint8), [-1, _DIGITS])  # (E, 8) ASCII
    codes = tf.cast(codes, tf.int64)
    # "0" is 48, "A" 65, "a" 97: the low four bits, and nine more for letters.
    values = codes % 16 + tf.where(codes >= 64, tf.constant(9, tf.int64), 0)
    powers = np.arange(_DIGITS - 1, -1, -1, dtype=np.int64)
    numbers = tf.where(
        is_hexadecimal,
        tf.reduce_sum(values * 16**powers, axis=1),
        tf.reduce_sum(values * 10**powers, axis=1),
    )
    is_too_long = tf.strings.length(digits) > _DIGITS
    is_surrogate = (numbers >= 0xD800) & (numbers <= 0xDFFF)
    unknown = is_too_long | (numbers > _LAST_CODE_POINT) | is_surrogate
    numbers = tf.where(unknown, tf.constant(0xFFFD, tf.int64), numbers)
    is_noncharacter = ((numbers & 0xFFFE) == 0xFFFE) | ((numbers >= 0xFDD0) & (numbers <= 0xFDEF))
    characters = tf.strings.unicode_encode(tf.cast(numbers, tf.int32)[:, None], "UTF-8")
    ruled = tf.gather(tf.constant(_ruled_characters()), tf.minimum(numbers, _SPECIAL_RULES - 1))
    characters = tf.where(numbers < _SPECIAL_RULES, ruled, characters)
    return tf.where(is_noncharacter, "", characters)


def _names(references: tf.Tensor) -> tf.Tensor:
    """The characters of `&amp;` (E,); unknown names stay as they are."""
    hashes, names, characters = _name_table()
    hashed = tf.strings.to_hash_bucket_fast(references, _HASH_BUCKETS)
    index = tf.minimum(tf.searchsorted(tf.constant(hashes), hashed), len(hashes) - 1)
    found = tf.gather(tf.constant(names), index) == references
    return tf.where(found, tf.gather(tf.constant(characters), index), references)


@functools.cache
def _ruled_characters() -> list[str]:
    return [html.unescape(f"&#{code};") for code in range(_SPECIAL_RULES)]


@functools.cache
def _name_table() -> tuple[np.ndarray, list[str], list[str]]:
    """All names with a semicolon, in the order of their hashes: (N,) int64, names, characters."""
    named = [(f"&{name}", text) for name, text in html.entities.html5.items() if name[-1] == ";"]
    with tf.init_scope():  # numbers now, also while a graph is being traced
        spellings = tf.constant([name for name, _ in named])
        hashes = tf.strings.to_hash_bucket_fast(spellings, _HASH_BUCKETS).numpy()
    order = np.argsort(hashes)
    return hashes[order], [named[i][0] for i in order], [named[i][1] for i in order]
