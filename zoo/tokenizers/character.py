"""One id per Unicode character: the vocabulary is the set of characters seen in training."""

import collections
import functools
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.tokenizers.base import END, REPLACEMENT, UNKNOWN, Tokenizer, string_vector
from zoo.tokenizers.training import frequent_characters

_NUM_SPECIAL = 2


class CharacterTokenizer(Tokenizer):
    """Characters (Unicode code points) as tokens, for small corpora and for Chinese.

    Id 0 is "<|unknown|>", 1 is "<|end|>", then come the vocabulary's characters by code point.
    Text made of known characters round-trips exactly; every other character becomes the unknown
    id and decodes to U+FFFD, and so does each byte that is not valid UTF-8 (unless U+FFFD itself
    is in the vocabulary: then that is its id).

    Args:
        vocabulary: the known characters in any order, as one string or an iterable of
            one-character strings.

    Raises:
        ValueError: it is empty, repeats a character, or has an element that is not one character
            that UTF-8 can hold.

    Example:
        >>> CharacterTokenizer("ab").encode(["abc"]).to_list()
        [[2, 3, 0]]
    """

    kind = "character"
    config_names = ("vocabulary",)
    lossless = False
    splits_anywhere = True
    unknown_id = 0
    end_id = 1

    def __init__(self, vocabulary: Iterable[str]):
        characters = list(vocabulary)
        for character in characters:
            is_one = isinstance(character, str) and len(character) == 1
            if not is_one or "\ud800" <= character <= "\udfff":
                raise ValueError(
                    f"vocabulary: {character!r} is not one Unicode character; every element must "
                    "be a one-character string and no surrogate (U+D800 to U+DFFF)."
                )
        repeated = [char for char, n in collections.Counter(characters).items() if n > 1]
        if repeated:
            raise ValueError(f"vocabulary: repeated characters {repeated[:10]!r}; list each once.")
        if not characters:
            raise ValueError("vocabulary: no characters; train on text that is not empty.")
        self.vocabulary = "".join(sorted(characters))
        self.special_tokens = {UNKNOWN: self.unknown_id, END: self.end_id}

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes],
        max_vocabulary_size: int | None = None,
        min_count: int = 1,
    ) -> Self:
        """Builds the vocabulary from the characters of `texts`; equal texts give equal ids.

        Args:
            texts: strings, or bytes read as UTF-8 with U+FFFD for what is invalid.
            max_vocabulary_size: at most this many ids, the two special ones included: the most
                frequent characters stay, of equally frequent ones the lower code points.
                Default: no limit.
            min_count: leaves out characters seen fewer times (default 1: keeps all).

        Raises:
            TypeError: a single string.
            ValueError: a size below 3, or no character is left.

        Example:
            >>> CharacterTokenizer.train(["aab"], max_vocabulary_size=3).vocabulary
            'a'
        """
        if max_vocabulary_size is not None and max_vocabulary_size <= _NUM_SPECIAL:
            raise ValueError(
                f"max_vocabulary_size={max_vocabulary_size} is too small for characters beside "
                f"the {_NUM_SPECIAL} special ids; pass at least {_NUM_SPECIAL + 1}."
            )
        kept = frequent_characters(texts, min_count)
        return cls(kept if max_vocabulary_size is None else kept[: max_vocabulary_size - 2])

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        vocabulary = config.get("vocabulary")
        if config.get("kind") == cls.kind and not isinstance(vocabulary, str):
            raise TypeError(
                "vocabulary must be one string of all characters, found "
                f"{type(vocabulary).__name__}."
            )
        return super().from_config(config)

    def encode(self, strings: Any) -> tf.RaggedTensor:
        points = tf.strings.unicode_decode(string_vector(strings), "UTF-8")
        table = tf.constant(self._id_of_code_point)
        last = len(self._id_of_code_point) - 1
        return points.with_flat_values(tf.gather(table, tf.minimum(points.flat_values, last)))

    def pieces(self) -> list[bytes]:
        return [REPLACEMENT, b"", *(character.encode() for character in self.vocabulary)]

    @functools.cached_property
    def _id_of_code_point(self) -> np.ndarray:
        # Indexed by code point, up to one past the highest known one, where all above it go.
        # tf.searchsorted over the vocabulary would be smaller (this is 260 KB for Chinese) but
        # takes 8 ms for 1.1 MB (15 with 8000 characters) against 3, and fails on no values.
        points = np.array([ord(character) for character in self.vocabulary])
        table = np.full(points.max() + 2, self.unknown_id, dtype=np.int32)
        table[points] = np.arange(_NUM_SPECIAL, _NUM_SPECIAL + len(points))
        return table
