"""Text cleaning inside the graph, so that a served model cleans as it did in training.

Stateless operations, nothing to restore; one of TensorFlow Text, which TensorFlow Serving links.
"""

import functools
import html
import html.entities
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.text.config import CleaningConfig


def clean(strings: Any, config: CleaningConfig) -> tf.Tensor:
    """Cleans a string tensor or list of any shape, also in `tf.data` and in a SavedModel.

    Where anything is switched on, bytes that are no UTF-8 become U+FFFD first; else the very same
    bytes come back. Cleaning twice is cleaning once, but for `html`: "&amp;lt;" is "&lt;" first.

    Example:
        >>> config = CleaningConfig(html=True, whitespace=True)
        >>> clean(["<p>Caf&eacute;  now</p>"], config).numpy()[0].decode()
        'Café now'
    """
    strings = tf.convert_to_tensor(strings, tf.string)
    # Masks alone switch nothing on.
    if config == CleaningConfig(url_mask=config.url_mask, email_mask=config.email_mask):
        return strings
    text = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
    if config.html:
        text = _replace(text, _UNSEEN_HTML, "")
        text = _replace(text, _BLOCK_TAG, " ")
        text = _replace(text, _OTHER_TAG, "")
        text = tf.reshape(_decode_entities(tf.reshape(text, [-1])), tf.shape(text))
    if config.control_characters:
        text = _replace(text, _LINE_CONTROLS, " ")
        text = _replace(text, _INVISIBLE, "")
    text = _in_unicode_form(text, config.unicode)
    if config.lowercase:
        # "J" with a caron has no single character, "j" with a caron has: compose again.
        text = _in_unicode_form(tf.strings.lower(text, encoding="utf-8"), config.unicode)
    text = _treated(text, _URL, r"\1", config.urls, config.url_mask)
    text = _treated(text, _EMAIL, "", config.emails, config.email_mask)
    if config.stop_words:
        pattern = _stop_word_pattern(config.stop_words)
        # A match takes the spaces around it, so that of "the of" the first pass leaves "of".
        text = _replace(_replace(text, pattern, r"\1\2"), pattern, r"\1\2")
    if config.whitespace:
        text = _replace(_replace(text, rf"{_SPACE}+", " "), "^ | $", "")
    return text


_replace = tf.strings.regex_replace

# What Python's str.split takes for whitespace.
_SPACE = r"[\t-\r\x1c-\x1f\x{85}\p{Z}]"
_LINE_CONTROLS = r"\r\n|[\t-\r\x1c-\x1f\x{85}]"
_INVISIBLE = (
    r"[\p{Cc}\x{ad}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}-\x{2064}\x{2066}-\x{206f}\x{feff}]"
)

_UNSEEN_HTML = (
    # An end that never comes is the end of the text, as in a browser.
    r"(?is)<!--.*?(?:-->|\z)"
    r"|<script\b[^>]*>.*?(?:</script\s*>|\z)|<style\b[^>]*>.*?(?:</style\s*>|\z)"
    r"|<[!?][a-z\[][^>]*>"
)
# A ">" inside a quoted attribute does not end its tag.
_REST_OF_TAG = r"""(?:=\s*"[^"]*"|=\s*'[^']*'|[^>])*?>"""
_BLOCK_TAG = (
    "(?is)</?(?:address|article|aside|blockquote|body|br|caption|center|dd|details|dialog|div|dl|"
    "dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|li|main|nav|ol|option|p|"
    "pre|section|select|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul)"
    rf"(?:/?>|[\s/]{_REST_OF_TAG})"
)
_OTHER_TAG = rf"(?is)</?[a-z]{_REST_OF_TAG}"


def _in_unicode_form(text: tf.Tensor, form: str) -> tf.Tensor:
    if form == "none":
        return text
    import tensorflow_text  # half a second, and only this option needs it

    return tensorflow_text.normalize_utf8(text, form.upper())


# Scripts that put spaces between words. Others end an address: Chinese goes on without a space.
_LETTER = r"\p{Latin}\p{Greek}\p{Cyrillic}\p{M}"
# What an address may end with, what only comes inside it, and brackets, which come in pairs.
_URL_END = rf"[{_LETTER}0-9\-_~/#@$&*+=%]"
_URL_INSIDE = r"[.,:;?!'\[\]]"
_URL_BODY = rf"(?:{_URL_INSIDE}*(?:{_URL_END}|\((?:{_URL_END}|{_URL_INSIDE})*\)))+"
_URL = rf"(?i)(^|[^{_LETTER}0-9_@])(?:(?:https?|ftp)://|www\.){_URL_BODY}"
_EMAIL = rf"[{_LETTER}0-9._%+\-]+(?:@(?:[{_LETTER}0-9\-]+\.)+[{_LETTER}]{{2,}})+"  # one @ or more


def _treated(text: tf.Tensor, pattern: str, before: str, treatment: str, mask: str) -> tf.Tensor:
    """Keeps, masks or removes what a pattern finds, after its own group `before`."""
    if treatment == "keep":
        return text
    # A space where something is removed: its neighbours must not grow together.
    instead = mask.replace("\\", r"\\") if treatment == "mask" else " "
    return _replace(text, pattern, before + instead)


def _stop_word_pattern(stop_words: tuple[str, ...]) -> str:
    """Matches one stop word between (1) and (2), its neighbours that are no part of a word."""
    # An apostrophe belongs to a word between two letters ("don't") and not at an end ("'the'").
    inside = r"[\p{L}\p{M}\p{N}_]"
    outside = r"[^\p{L}\p{M}\p{N}_'’]"
    words = "|".join(word.replace("'", "['’]") for word in sorted(set(stop_words)))
    not_inside = inside.replace("[", "[^", 1)
    before = rf"^|{outside}|^['’]+|{not_inside}['’]+"
    after = rf"$|{outside}|['’]+$|['’]+{outside}"
    return rf"(?i)({before})(?:{words})({after})"


# A name needs its semicolon. A number does not: no text means "&#39" literally.
_REFERENCE = r"(&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[a-zA-Z][a-zA-Z0-9]*;))"
# Never part of valid UTF-8, so it cannot occur in the text that it divides.
_DIVIDER = b"\xff"
_HASH_BUCKETS = 2**62
_DIGITS = 8  # enough for every code point, few enough for int64
# Below it, HTML has rules for single code points: control codes, and windows-1252 in disguise.
_SPECIAL_RULES = 0xA0


def _decode_entities(strings: tf.Tensor) -> tf.Tensor:
    """HTML character references of [B] decoded once, as `html.unescape` does but for two rules."""
    # A lookup table would be a resource to restore: names are looked up in constants, by hash.
    # Names without a semicolon stay: in text from the web `?lang=en&copy=2` is an address far more
    # often than a copyright sign. Numbers that HTML forbids vanish.
    marked = tf.strings.regex_replace(strings, _REFERENCE, _DIVIDER + rb"\1" + _DIVIDER)
    parts = tf.strings.split(marked, _DIVIDER)  # text, reference, text, reference, ..., text
    index = tf.range(tf.size(parts.values, tf.int64)) - tf.gather(
        parts.row_starts(), parts.value_rowids()
    )
    where = tf.where(index % 2 == 1)  # (E, 1)
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
    sums = [tf.reduce_sum(values * base**powers, axis=1) for base in (16, 10)]
    numbers = tf.where(is_hexadecimal, *sums)
    is_surrogate = (numbers >= 0xD800) & (numbers <= 0xDFFF)
    is_too_large = (tf.strings.length(digits) > _DIGITS) | (numbers > 0x10FFFF)
    unknown = is_too_large | is_surrogate
    numbers = tf.where(unknown, tf.constant(0xFFFD, tf.int64), numbers)
    is_noncharacter = ((numbers & 0xFFFE) == 0xFFFE) | ((numbers >= 0xFDD0) & (numbers <= 0xFDEF))
    characters = tf.strings.unicode_encode(tf.cast(numbers, tf.int32)[:, None], "UTF-8")
    ruled = tf.constant([html.unescape(f"&#{code};") for code in range(_SPECIAL_RULES)])
    ruled = tf.gather(ruled, tf.minimum(numbers, _SPECIAL_RULES - 1))
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
def _name_table() -> tuple[np.ndarray, list[str], list[str]]:
    """All names with a semicolon, in the order of their hashes: (N,) int64, names, characters."""
    named = [(f"&{name}", text) for name, text in html.entities.html5.items() if name[-1] == ";"]
    with tf.init_scope():  # numbers now, also while a graph is being traced
        spellings = tf.constant([name for name, _ in named])
        hashes = tf.strings.to_hash_bucket_fast(spellings, _HASH_BUCKETS).numpy()
    order = np.argsort(hashes)
    return hashes[order], [named[i][0] for i in order], [named[i][1] for i in order]
