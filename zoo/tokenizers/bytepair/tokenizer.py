"""Byte-level byte-pair encoding, as GPT-2 and RoBERTa have it."""

import collections
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.tokenizers.base import REPLACEMENT, SubwordTokenizer, checked_separators, string_vector
from zoo.tokenizers.bytepair import files
from zoo.tokenizers.bytepair.lookup import WordEncoder
from zoo.tokenizers.bytepair.merges import last_merges
from zoo.tokenizers.bytepair.split import Words, split_words
from zoo.tokenizers.bytepair.vocabulary import (
    ALPHABET,
    MergeError,
    from_bytes,
    merge_pairs,
    numbered,
    to_bytes,
)
from zoo.tokenizers.ragged import mark, rows_of, splits_of
from zoo.tokenizers.special_tokens import SpecialTokenFinder
from zoo.tokenizers.training import batches, learn_merges

END_OF_TEXT = "<|endoftext|>"


class BytePairTokenizer(SubwordTokenizer):
    """GPT-2's tokenizer; gives the ids of tiktoken and of Hugging Face's ByteLevel BPE.

    A text is split into words by GPT-2's pattern, and the bytes of each word are merged, pair by
    pair. Any bytes have ids: one that is not part of valid UTF-8 splits words as punctuation does.

    Offsets are those of Hugging Face's library with `trim_offsets`: spaces around a piece do not
    count to it, and a piece that is part of a character has the span of the whole character.
    Whitespace that stands apart is a word, with an empty span if it is of spaces.

    Args:
        vocabulary: piece -> id, or the pieces in order, their bytes written as GPT-2 does ("Ġthe"
            is " the"); all 256 single bytes must be there.
        merges: "a b" or ("a", "b"), best first.
        special_tokens: name -> id, or names; names that the vocabulary lacks get the ids after it.
        end: the special token that ends a text (default "<|endoftext|>").
        roles: for encoders: "cls", "sep", "pad", "mask" and "unknown" to names of special tokens;
            sets `cls_id`, `sep_id`, `pad_id`, `mask_id` and `unknown_id`. Default none.
        add_prefix_space: puts a space before each text that has none; then decoding gives that
            space back. Default False.
        parse_special: a special token written out in a text becomes its id, and the whitespace
            before a mask token goes into it. Default False: it is text like any other, as a user's
            text should be.
        pair_separators: separators between the texts of a pair, 2 in RoBERTa. Default 1.

    Raises:
        ValueError: an id without a piece or with two, a byte without a piece, a merge of unknown
            pieces, an unknown `end` or role, or special tokens that overlap where they are parsed.
        TypeError: anything but strings and integers.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

    Example:
        >>> tokenizer = BytePairTokenizer.train(["low lower lowest"] * 9, vocabulary_size=300)
        >>> tokenizer.decode(tokenizer.encode(["lower!"])).numpy().tolist()
        [b'lower!']
    """

    kind = "bytepair"
    config_names = (
        *("vocabulary", "merges", "special_tokens", "end", "roles"),
        *("add_prefix_space", "parse_special", "pair_separators"),
    )

    vocabulary: list[str]

    def __init__(
        self,
        vocabulary: Mapping[str, int] | Sequence[str],
        merges: Sequence[tuple[str, str]] | Sequence[str],
        special_tokens: Mapping[str, int] | Sequence[str] = (END_OF_TEXT,),
        end: str = END_OF_TEXT,
        roles: Mapping[str, str] | None = None,
        add_prefix_space: bool = False,
        parse_special: bool = False,
        pair_separators: int = 1,
    ):
        self.vocabulary, self.special_tokens = numbered(vocabulary, special_tokens)
        self.merges, self._pairs = merge_pairs(self.vocabulary, self.special_tokens, merges)
        if end not in self.special_tokens:
            known = ", ".join(self.special_tokens) or "none"
            raise ValueError(f"end={end!r} is no special token; those are: {known}.")
        self.pair_separators = checked_separators(pair_separators)
        self.end, self.end_id = end, self.special_tokens[end]
        self.roles = dict(roles or {})
        self._set_roles(self.roles)
        self.add_prefix_space, self.parse_special = bool(add_prefix_space), bool(parse_special)
        self._finder = None
        if self.parse_special:
            self._finder = SpecialTokenFinder(self.special_tokens, self.roles.get("mask"))
        self.lossless = not (self.add_prefix_space or self.parse_special)

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes],
        vocabulary_size: int,
        min_count: int = 2,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        **options: Any,
    ) -> Self:
        """Learns merges from `texts`; equal texts give equal ids.

        Args:
            texts: strings or bytes; read once, in batches.
            vocabulary_size: at most this many ids: 256 bytes, merged pieces, then `special_tokens`;
                fewer if the texts offer no more.
            min_count: pairs seen fewer times are left (default 2).
            special_tokens: names.
            **options: the constructor's, such as end and roles.

        Raises:
            TypeError: a single string.
            ValueError: the size is too small for the bytes.

        Example:
            >>> BytePairTokenizer.train(["to be or not to be"], vocabulary_size=260).merges
            ['b e', 't o', 'Ġ be']
        """
        num_pieces = vocabulary_size - len(special_tokens)
        if num_pieces < len(ALPHABET):
            raise ValueError(
                f"vocabulary_size={vocabulary_size} is too small: 256 bytes and "
                f"{len(special_tokens)} special tokens need {256 + len(special_tokens)}."
            )
        blank = cls(list(ALPHABET), [], special_tokens, **options)
        counts = collections.Counter()
        for batch in batches(texts):
            words = blank._split(string_vector(batch))
            data, starts = words.data.numpy().tobytes(), np.flatnonzero(words.starts).tolist()
            special = set() if words.special is None else {*words.special.starts.numpy().tolist()}
            for start, end in zip(starts, [*starts[1:], len(data)]):
                counts[data[start:end]] += start not in special
        words = {from_bytes(word): count for word, count in counts.items() if count}
        merges = learn_merges(words, num_pieces, ALPHABET, min_count)
        pieces = [*ALPHABET, *(left + right for left, right in merges)]
        return cls(pieces, merges, special_tokens, **options)

    @classmethod
    def from_files(
        cls,
        vocab_json: str | os.PathLike[str],
        merges_txt: str | os.PathLike[str],
        **options: Any,
    ) -> Self:
        """Reads GPT-2's two files, `vocab.json` (`encoder.json`) and `merges.txt` (`vocab.bpe`).

        Args:
            vocab_json: piece -> id.
            merges_txt: a merge a line, after a line "#version: 0.2".
            **options: the constructor's; the files do not name the special tokens.

        Raises:
            ValueError: a file is not what it should be; the message names it, and the line.

        Example: `BytePairTokenizer.from_files("gpt2/vocab.json", "gpt2/merges.txt")`
        """
        vocabulary = files.read_vocabulary(vocab_json)
        merges, first_line = files.read_merges(merges_txt)
        try:
            return cls(vocabulary, merges, **options)
        except MergeError as error:
            place = f"{os.fspath(merges_txt)}, line {error.index + first_line}"
            raise ValueError(f"{place}: {error.reason}") from error
        except ValueError as error:
            raise ValueError(f"{os.fspath(vocab_json)}: {error}") from error

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads Hugging Face's `tokenizer.json` of a byte-level BPE tokenizer.

        Special tokens, their roles, `add_prefix_space` and `pair_separators` come from the file.

        Args:
            path: the file.
            **options: the constructor's, in place of what the file says. Their library always
                parses special tokens in a text: `parse_special=True` does so here.

        Raises:
            ValueError: the file asks for something that this class does not do, such as a
                normalizer or another pattern; the message names the file and the field.

        Example: `BytePairTokenizer.from_tokenizer_json("roberta-base/tokenizer.json")`
        """
        found = files.read_tokenizer_json(path)
        try:
            return cls(**{**found, **options})
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def write_files(self, folder: str | os.PathLike[str]) -> None:
        """Writes `vocab.json`, `merges.txt` and `tokenizer.json` as Hugging Face's libraries read
        them; `load_tokenizer` does not, it reads what `save` writes."""
        files.write_files(self.get_config(), folder)

    def pieces(self) -> list[bytes]:
        pieces = [to_bytes(piece) for piece in self.vocabulary]
        for index in self.special_tokens.values():
            pieces[index] = b""
        if self.unknown_id is not None:
            pieces[self.unknown_id] = REPLACEMENT
        return pieces

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        special = set(self.special_tokens.values())
        return np.array(
            [i not in special and piece[:1] != "Ġ" for i, piece in enumerate(self.vocabulary)]
        )

    @functools.cached_property
    def _texts(self) -> list[bytes]:
        return [to_bytes(piece) for piece in self.vocabulary]

    @functools.cached_property
    def _encoder(self) -> WordEncoder:
        special = set(self.special_tokens.values())
        texts = [None if i in special else text for i, text in enumerate(self._texts)]
        ranks = last_merges(self._pairs, texts)
        # What merging makes of some text: bytes, and the pieces that come out of their own bytes.
        tokens = {
            index: text
            for index, text in enumerate(self._texts)
            if index in ranks or (len(text) == 1 and index not in special)
        }
        return WordEncoder(tokens, ranks, len(texts))

    def _split(self, texts: tf.Tensor) -> Words:
        return split_words(texts, self._finder, self.add_prefix_space)

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        words = self._split(texts)
        cuts = self._encoder.cut(words.data, words.starts)
        if words.special is not None:
            cuts = cuts & ~words.in_special
        cuts = tf.where(cuts)[:, 0]
        # searchsorted fails on no values: the end of all stands behind the words.
        places = tf.concat([cuts, tf.size(words.data, tf.int64)[None]], 0)

        def part_at(starts):
            return tf.searchsorted(places, starts, out_type=tf.int64)

        known = None
        if words.special is not None:
            special_parts = part_at(words.special.starts)
            known = special_parts, words.special.ids
        pieces = self._encoder.encode(words.data, cuts, known)
        ids, part_splits = pieces.flat_values, tf.cast(pieces.row_splits, tf.int64)
        splits = tf.gather(part_splits, part_at(words.row_splits))
        if not offsets:
            return ids, splits
        lengths = tf.gather(np.array([len(text) for text in self._texts], np.int32), ids)
        lengths = tf.cast(lengths, tf.int64)
        if words.special is not None:
            special = tf.gather(part_splits, special_parts)[:, None]
            lengths = tf.tensor_scatter_nd_update(
                lengths, special, words.special.ends - words.special.starts
            )
        # Nothing is lost on the way: the pieces are the bytes, one after the other.
        ends = tf.cumsum(lengths)
        starts = ends - lengths
        if words.special is not None:
            starts = tf.tensor_scatter_nd_update(starts, special, words.special.names)
        starts, ends = self._trimmed(ids, starts, ends, words)
        base = tf.gather(splits_of(tf.cast(tf.strings.length(texts), tf.int64)), rows_of(splits))
        starts, ends = (tf.cast(places - base, tf.int32) for places in (starts, ends))
        word_starts = tf.where(words.starts)[:, 0]
        first = mark(tf.gather(part_splits, part_at(word_starts)), tf.size(ids, tf.int64))
        return ids, splits, starts, ends, first

    def _trimmed(self, ids, starts, ends, words: Words) -> tuple[tf.Tensor, tf.Tensor]:
        """Where pieces start and end in the joined strings, without spaces; int64 (P,)."""
        before = np.array([len(text) - len(text.lstrip(b" ")) for text in self._texts])
        after = np.array([len(text) - len(text.rstrip(b" ")) for text in self._texts])
        starts = tf.minimum(starts + tf.gather(before, ids), ends)
        ends = tf.maximum(ends - tf.gather(after, ids), starts)
        inner = tf.concat([words.inner, [False]], 0)
        for _ in range(3):  # To the borders of a character of up to four bytes.
            starts = starts - tf.cast(tf.gather(inner, starts), tf.int64)
            ends = ends + tf.cast(tf.gather(inner, ends), tf.int64)
        if words.sources is not None:
            starts, ends = tf.gather(words.sources, starts), tf.gather(words.sources, ends)
        return starts, ends
