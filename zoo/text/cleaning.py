"""Text cleaning inside the graph, so that a served model cleans as it did in training.

Stateless TensorFlow operations only: no table, no Python, nothing to restore. One operation of
TensorFlow Text is used, and only when `unicode` asks for it; TensorFlow Serving links it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from zoo.text.cleaning_entities import decode_entities
from zoo.text.config import CleaningConfig


def clean(strings: Any, config: CleaningConfig) -> tf.Tensor:
    """Cleans texts; works eagerly, in `tf.function`, in `tf.data` and in a SavedModel.

    Where anything is switched on, bytes that are no UTF-8 become U+FFFD first, so that no input
    raises. Cleaning twice is cleaning once, but for `html`: "&amp;lt;" is "&lt;", then "<".
    Not for tasks whose answers are byte offsets into the text: offsets would move.

    Args:
        strings: string tensor or list [B] (any shape works).
        config: CleaningConfig.

    Returns:
        string tensor of the same shape; the very same bytes if nothing is switched on.

    Example:

    ```python
    clean(["<p>Caf&eacute;  now</p>"], CleaningConfig(html=True, whitespace=True))  # ["Café now"]
    ```
    """
    strings = tf.convert_to_tensor(strings, tf.string)
    # Masks alone switch nothing on.
    if config == CleaningConfig(url_mask=config.url_mask, email_mask=config.email_mask):
        return strings
    text = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
    if config.html:
        text = _without_html(text)
    if config.control_characters:
        text = _replace(text, _LINE_CONTROLS, " ")
        text = _replace(text, _INVISIBLE, "")
    text = _normalized(text, config)
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


def _without_html(text: tf.Tensor) -> tf.Tensor:
    text = _replace(text, _UNSEEN_HTML, "")
    text = _replace(text, _BLOCK_TAG, " ")
    text = _replace(text, _OTHER_TAG, "")
    return tf.reshape(decode_entities(tf.reshape(text, [-1])), tf.shape(text))


def _normalized(text: tf.Tensor, config: CleaningConfig) -> tf.Tensor:
    """Unicode form and lower case, which may each undo the other's work."""
    text = _in_unicode_form(text, config.unicode)
    if config.lowercase:
        # "J" with a caron has no single character, "j" with a caron has: compose again.
        text = _in_unicode_form(tf.strings.lower(text, encoding="utf-8"), config.unicode)
    return text


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
    """Matches one stop word between (1) and (2), its neighbours that are no part of a word.

    An apostrophe belongs to a word between two letters ("don't") and not at an end ("'the'").
    """
    inside = r"[\p{L}\p{M}\p{N}_]"
    outside = r"[^\p{L}\p{M}\p{N}_'’]"
    words = "|".join(word.replace("'", "['’]") for word in sorted(set(stop_words)))
    not_inside = inside.replace("[", "[^", 1)
    before = rf"^|{outside}|^['’]+|{not_inside}['’]+"
    after = rf"$|{outside}|['’]+$|['’]+{outside}"
    return rf"(?i)({before})(?:{words})({after})"
