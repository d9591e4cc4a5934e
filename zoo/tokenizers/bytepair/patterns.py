"""Rules that split texts into words, in stateless TensorFlow operations on bytes.

A rule's regular expression is tried again and again where the last word ended. Where words start
can be told from neighbouring bytes all the same: a word is a run of one class, with one character
before it, and each rule says what becomes of whitespace. `RULES` has them by name, with the
`pre_tokenizer` of a Hugging Face `tokenizer.json` that says the same.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from zoo.tokenizers.character_classes import LETTER, NUMBER, OTHER, SPACE
from zoo.tokenizers.ragged import following, mark, previous

_SHORT_CONTRACTIONS = (b"s", b"t", b"m", b"d")
_LONG_CONTRACTIONS = (b"re", b"ve", b"ll")
_LONG_S = (0xC5, 0xBF)  # "ſ", which is an s if case does not count
_BLANK = 0x20
_either = functools.partial(functools.reduce, tf.logical_or)


class Characters(NamedTuple):
    """The bytes (N,) of texts one after another."""

    data: tf.Tensor  # uint8
    kinds: tf.Tensor  # uint8, the class of the character that the byte is of
    inner: tf.Tensor  # bool, all but the first byte of a character
    breaks: tf.Tensor  # bool, where a text begins or ends


def gpt2_starts(text: Characters) -> tf.Tensor:
    """Bool (N,), where the words of this pattern start.

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
    """
    data, kinds, inner, breaks = text
    white = kinds == SPACE
    same = kinds == previous(kinds, 255)
    after_space = previous(data, 0) == _BLANK
    of_word = ~white & ~same & ~after_space  # A space before a word is its first byte.
    # The last whitespace before a word stands apart, or is that space.
    apart = _before_words(text, white)
    starts = (breaks | of_word | (white & (~same | apart))) & ~inner
    opens = starts & (data == ord("'"))
    inside, behind = _contractions(text, opens, any_case=False)
    return (starts & ~inside) | behind


def digit_starts(text: Characters) -> tf.Tensor:
    """`gpt2_starts` of the texts between digits, each of which is a word."""
    digits = (text.kinds == NUMBER) & ~text.inner
    behind = (previous(text.kinds, 255) == NUMBER) & ~text.inner
    return gpt2_starts(text._replace(breaks=text.breaks | digits | behind))


def gpt4_starts(text: Characters, digits: int) -> tf.Tensor:
    """Bool (N,), where the words of this pattern start, numbers in groups of up to `digits`.

    (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,digits}|
     ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+
    """
    data, kinds, inner, breaks = text
    white = kinds == SPACE
    breaks_before = breaks | (previous(kinds, 255) != kinds)  # of a run of one class
    letter, other = kinds == LETTER, kinds == OTHER
    newline = (data == 0x0A) | (data == 0x0D)
    after_blank = (previous(data, 0) == _BLANK) & ~breaks
    # A word of other characters takes in a space before it; a word of letters takes in any
    # character but a newline or a number that is the first of a word.
    other_starts = other & breaks_before & ~after_blank
    opener = _of_characters(other_starts & ~inner, inner)
    taken = previous((white & ~newline) | opener, False) & ~breaks
    starts = breaks | other_starts | (letter & breaks_before & ~taken)
    starts |= _number_starts(text, digits)
    starts |= white & (breaks_before | (_before_words(text, white) & ~newline))
    starts = tf.cond(
        tf.reduce_any(newline), lambda: _with_newlines(text, starts, white, newline), lambda: starts
    )
    starts &= ~inner
    inside, behind = _contractions(text, starts & (data == ord("'")), any_case=True)
    return (starts & ~inside) | behind


def _before_words(text: Characters, white: tf.Tensor) -> tf.Tensor:
    """Bool (N,), the bytes of a character before one that is no whitespace, in the same text."""
    before = following(~white & ~text.breaks, False)
    for _ in range(2):  # For the first of up to three bytes of one whitespace character.
        before = tf.where(following(text.inner, False), following(before, False), before)
    return before


def _of_characters(first: tf.Tensor, inner: tf.Tensor) -> tf.Tensor:
    """What is True for the first byte of a character, for all of them."""

    def spread():
        spread = first
        for _ in range(3):
            spread |= previous(spread, False) & inner
        return spread

    return tf.cond(tf.reduce_any(inner), spread, lambda: first)


def _number_starts(text: Characters, digits: int) -> tf.Tensor:
    """Bool (N,), the first one of each group of up to `digits` numbers."""
    numbers = (text.kinds == NUMBER) & ~text.inner
    if digits == 1:
        return numbers
    begins = text.breaks | (previous(text.kinds, 255) != NUMBER)
    places = tf.where(numbers)[:, 0]
    count = tf.size(places, tf.int64)
    begins = tf.gather(begins, places)
    first = tf.gather(tf.where(begins)[:, 0], tf.cumsum(tf.cast(begins, tf.int64)) - 1)
    groups = (tf.range(count) - first) % digits == 0
    return mark(tf.boolean_mask(places, groups), tf.size(numbers, tf.int64))


def _with_newlines(text, starts, white, newline) -> tf.Tensor:
    """`starts` with the newlines behind other characters in their words, and what is behind the
    last newline of a run of whitespace as a word of its own.
    """
    before = previous(newline, False) & ~text.breaks
    # Runs of newlines, (r,), and which of them stand right behind another character.
    first = newline & ~before
    places = tf.where(first)[:, 0]
    taken = tf.gather((previous(text.kinds, SPACE) == OTHER) & ~text.breaks, places)
    run = tf.cumsum(tf.cast(first, tf.int64))  # 0 before the first one
    run_taken = tf.gather(tf.concat([[False], taken], 0), run)
    starts &= ~(newline & run_taken)
    behind = tf.where(white & ~newline & before)[:, 0]  # (b,)
    size = tf.size(starts, tf.int64)[None]
    newlines = tf.concat([tf.where(newline)[:, 0], size], 0)
    solid = tf.concat([tf.where(~white | text.breaks)[:, 0], size], 0)
    next_newline = tf.gather(newlines, tf.searchsorted(newlines, behind))
    next_solid = tf.gather(solid, tf.searchsorted(solid, behind))
    alone = (next_newline >= next_solid) | tf.gather(run_taken, behind)
    return starts | mark(tf.boolean_mask(behind, alone), size[0])


def _contractions(text: Characters, opens: tf.Tensor, any_case: bool):
    """Where the letters of contractions are, whose apostrophes `opens` marks, and where they end:
    both bool (N,).
    """
    data, goes_on = text.data, following(~text.breaks, False)
    first, second = following(data, 0), following(following(data, 0), 0)
    long_s = (first == _LONG_S[0]) & (second == _LONG_S[1])
    if any_case:
        # Only letters become small letters this way.
        first, second = first | 0x20, second | 0x20
    short = _either([first == letter[0] for letter in _SHORT_CONTRACTIONS]) & opens & goes_on
    long = _either([(first == text[0]) & (second == text[1]) for text in _LONG_CONTRACTIONS])
    long &= opens & goes_on & following(goes_on, False)
    inside = previous(short | long, False)
    if any_case:
        long |= long_s & opens & goes_on
        inside |= previous(long, False)
    behind = previous(previous(short, False) | previous(previous(long, False), False), False)
    return inside, behind


class Rule(NamedTuple):
    """A way to split texts into words."""

    starts: Callable[[Characters], tf.Tensor]
    pattern: str | None  # of a `Split` before `ByteLevel`; None for ByteLevel's own, GPT-2's
    digits_apart: bool = False  # whether `Digits` comes first


_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RULES = {
    "gpt2": Rule(gpt2_starts, None),  # and RoBERTa, GPT-NeoX, Pythia, OLMo
    "smollm": Rule(digit_starts, None, digits_apart=True),  # and SmolLM2, StarCoder
    "llama3": Rule(functools.partial(gpt4_starts, digits=3), _GPT4 % "{1,3}"),  # SmolLM3, OLMo 2
    "qwen2": Rule(functools.partial(gpt4_starts, digits=1), _GPT4 % ""),  # and Qwen 2.5 and 3
}


def pre_tokenizer_json(rule: Rule, add_prefix_space: bool) -> dict[str, Any]:
    """The `pre_tokenizer` of a `tokenizer.json`."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True}
    byte_level["use_regex"] = rule.pattern is None
    steps: list[dict[str, Any]] = [byte_level]
    if rule.digits_apart:
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    if rule.pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": rule.pattern}, "behavior": "Isolated"}
        steps.insert(0, {**split, "invert": False})
    return byte_level if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
