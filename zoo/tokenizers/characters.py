"""One id per byte, or one per character: tokenizers without pieces of words."""

import collections
import functools
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.tokenizers.base import END, REPLACEMENT, UNKNOWN, Tokenizer, numbered_pieces, string_vector
from zoo.tokenizers.ragged import joined_bytes
from zoo.tokenizers.training import batches, frequent_characters


class ByteTokenizer(Tokenizer):
    """Bytes as tokens: ids 0 to 255 are the bytes, 256 is "<|end|>".

    `decode(encode(x)) == x` for any bytes, valid UTF-8 or not.

    Example:
        >>> ByteTokenizer().encode(["é"]).to_list()
        [[195, 169]]
    """

    kind = "byte"
    splits_anywhere = True
    vocabulary = None
    end_id = 256

    def __init__(self):
        self.special_tokens = {END: self.end_id}

    def encode(self, strings: Any) -> tf.RaggedTensor:
        data, splits = joined_bytes(string_vector(strings))
        return tf.RaggedTensor.from_row_splits(tf.cast(data, tf.int32), splits, validate=False)

    def _texts(self) -> list[bytes]:
        return [*(bytes([value]) for value in range(256)), b""]


class CharacterTokenizer(Tokenizer):
    """Characters (Unicode code points) as tokens, for small corpora and for Chinese.

    Id 0 is "<|unknown|>", 1 is "<|end|>", then come the vocabulary's characters by code point.
    Text made of known characters round-trips exactly; every other character becomes the unknown
    id and decodes to U+FFFD, and so does each byte that is not valid UTF-8 (unless U+FFFD itself
    is in the vocabulary: then that is its id).

    Args:
        vocabulary: the known characters in any order, as one string or a list of one-character
            strings. ValueError if there is none, one is repeated, or UTF-8 cannot hold it.

    Example:
        >>> CharacterTokenizer("ab").encode(["abc"]).to_list()
        [[2, 3, 0]]
    """

    kind = "character"
    config_names = ("vocabulary",)
    splits_anywhere = True
    unknown_id = 0
    end_id = 1

    def __init__(self, vocabulary: Iterable[str]):
        characters = list(vocabulary) if isinstance(vocabulary, str) else vocabulary
        characters = [*numbered_pieces(characters, "vocabulary")]
        for character in characters:
            if len(character) != 1 or "\ud800" <= character <= "\udfff":
                raise ValueError(
                    f"vocabulary: {character!r} is not one Unicode character; every element must "
                    "be a one-character string and no surrogate (U+D800 to U+DFFF)."
                )
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
            min_count: leaves out characters seen fewer times; ValueError if none is left.

        Example:
            >>> CharacterTokenizer.train(["aab"], max_vocabulary_size=3).vocabulary
            'a'
        """
        special = len((UNKNOWN, END))
        if max_vocabulary_size is not None and max_vocabulary_size <= special:
            raise ValueError(
                f"max_vocabulary_size={max_vocabulary_size} is too small for characters beside "
                f"the {special} special ids; pass at least {special + 1}."
            )
        counts: collections.Counter[str] = collections.Counter()
        for batch in batches(texts):
            for text in batch:
                counts.update(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
        limit = None if max_vocabulary_size is None else max_vocabulary_size - special
        return cls(frequent_characters(counts, min_count)[:limit])

    def encode(self, strings: Any) -> tf.RaggedTensor:
        points = tf.strings.unicode_decode(string_vector(strings), "UTF-8")
        table = tf.constant(self._id_of_code_point)
        last = len(self._id_of_code_point) - 1
        return points.with_flat_values(tf.gather(table, tf.minimum(points.flat_values, last)))

    def _texts(self) -> list[bytes]:
        return [REPLACEMENT, b"", *(character.encode() for character in self.vocabulary)]

    @functools.cached_property
    def _id_of_code_point(self) -> np.ndarray:
        # Indexed by code point, up to one past the highest known one, where all above it go.
        # tf.searchsorted over the vocabulary would be smaller (this is 260 KB for Chinese) but
        # takes 8 ms for 1.1 MB (15 with 8000 characters) against 3, and fails on no values.
        points = np.array([ord(character) for character in self.vocabulary])
        table = np.full(points.max() + 2, self.unknown_id, dtype=np.int32)
        table[points] = 2 + np.arange(len(points))
        return table
