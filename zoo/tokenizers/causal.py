"""What tokenizers of language models share: tokens found in texts, prompts put together of parts,
what stands before a text and what ends it.
"""

import abc
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import tensorflow as tf

from zoo.files import blaming
from zoo.tokenizers.base import SubwordTokenizer, string_vector
from zoo.tokenizers.special_tokens import added_tokens


class CausalTokenizer(SubwordTokenizer):
    """A tokenizer whose special tokens may be written out in a text.

    `start_id` is the token that stands before every text, as of Llama; None if there is none.
    `encode` does not put it there: what comes before a text is its caller's to say. `end_ids` are
    all tokens that end an answer, `end_id` the first of them.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"added_tokens": {}, "start": None, "ends": []}

    vocabulary: list[str]
    end: str
    parse_special: bool
    start_id: int | None = None

    @staticmethod
    @abc.abstractmethod
    def _read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
        """The constructor's arguments of Hugging Face's `tokenizer.json`."""

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads Hugging Face's `tokenizer.json` of a tokenizer of this kind.

        Args:
            path: the file. ValueError, naming the field, if it asks for what this class does not
                do.
            **options: the constructor's, in place of what the file says. Their library always
                parses special tokens in a text: `parse_special=True` does so here.
        """
        with blaming(path):
            return cls(**{**cls._read_file(path), **options})

    def _set_found(
        self,
        ids: Mapping[str, int],
        flags: Mapping[str, Iterable[str]],
        start: str | None,
        ends: Sequence[str],
    ) -> None:
        """Sets what is found in texts, by the ids of pieces, and what begins and ends them."""
        if not isinstance(flags, Mapping) or any(isinstance(some, str) for some in flags.values()):
            raise TypeError(f"added_tokens must map names to lists of flags, found {flags!r:.80}.")
        self.added_tokens = {name: list(own) for name, own in flags.items()}
        self._found = added_tokens(self.special_tokens, self.added_tokens, ids)
        self.start = start
        self.start_id = None if start is None else self._special_id("start", start)
        self.ends = list(ends)
        known = {token.name: token.id for token in self._found}
        for name in self.ends:
            if name not in known:
                raise ValueError(f"ends: {name!r:.80} is no special token and no added one.")
        self._more_end_ids = tuple(known[name] for name in self.ends if name != self.end)

    def _unmerged(self, pairs: Iterable[tuple[int, int]]) -> list[int]:
        """The ids of found tokens that merging neither reads nor makes."""
        pieces = self.vocabulary
        merged = {index for pair in pairs for index in pair}
        made = {pieces[left] + pieces[right] for left, right in pairs}
        return [t.id for t in self._found if t.id not in merged and t.name not in made]

    @property
    def end_ids(self) -> tuple[int, ...]:
        return (self.end_id, *self._more_end_ids)

    def encode_parts(self, parts: Any, is_text: Any) -> tf.RaggedTensor:
        """The ids of texts put together from parts, a RaggedTensor int32 [B, None].

        Special tokens are found in the parts that are not text, whether or not the tokenizer parses
        them elsewhere, and never across two parts: what a user writes stays text. Otherwise the ids
        are those of the joined texts.

        Args:
            parts: strings, a RaggedTensor [B, None] or a tensor (B, P).
            is_text: bool, for each part, of the same shape.

        Example:
            >>> import zoo
            >>> tokenizer = zoo.BytePairTokenizer.train(["low lower"], 270)
            >>> parts = [["<|endoftext|>", "<|endoftext|>"]]
            >>> ids = tokenizer.encode_parts(parts, [[False, True]])
            >>> tokenizer.decode(ids).numpy().tolist()
            [b'<|endoftext|>']
        """
        parts, is_text = _ragged(parts, tf.string), _ragged(is_text, tf.bool)
        splits = tf.cast(parts.row_splits, tf.int64)
        tf.debugging.assert_equal(splits, tf.cast(is_text.row_splits, tf.int64))
        strings = string_vector(parts.flat_values)
        ids, splits = self._encode_joined_parts(strings, splits, is_text.flat_values)
        return tf.RaggedTensor.from_row_splits(ids, splits, validate=False)

    def encode_text(self, strings: Any) -> tf.RaggedTensor:
        """The ids of strings in which special tokens are text like any other, as `encode`."""
        strings = string_vector(strings)[:, None]
        return self.encode_parts(strings, tf.ones_like(strings, tf.bool))

    @functools.cached_property
    def _encode_joined_parts(self):
        return tf.function(
            lambda *parts: self._encode_joined(*parts, offsets=False),
            input_signature=[
                tf.TensorSpec([None], tf.string, name="parts"),
                tf.TensorSpec([None], tf.int64, name="row_splits"),
                tf.TensorSpec([None], tf.bool, name="is_text"),
            ],
            autograph=False,
        )

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        row_splits = tf.range(tf.size(texts, tf.int64) + 1)
        return self._encode_joined(texts, row_splits, None, offsets)

    @abc.abstractmethod
    def _encode_joined(
        self, strings: tf.Tensor, row_splits: tf.Tensor, is_text: tf.Tensor | None, offsets: bool
    ) -> tuple[tf.Tensor, ...]:
        """`_encode` of texts put together from strings (P,), int64 row splits (B + 1,).

        Special names in a string where `is_text` (P,) are text; None: unless `parse_special`.
        """


def _ragged(values: Any, dtype: tf.DType) -> tf.RaggedTensor:
    if isinstance(values, list):
        values = tf.ragged.constant(values, dtype, ragged_rank=1)
    return values if isinstance(values, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(values)
