"""Byte-level byte-pair encoding, as GPT-2 and RoBERTa have it."""

import collections
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.config import Fields
from zoo.files import BundleError, blaming
from zoo.tokenizers import files
from zoo.tokenizers.base import SubwordTokenizer, string_vector
from zoo.tokenizers.bytepair.lookup import WordEncoder
from zoo.tokenizers.bytepair.split import Splitter
from zoo.tokenizers.bytepair.vocabulary import (
    ALPHABET,
    MergeError,
    from_bytes,
    merge_pairs,
    numbered,
    to_bytes,
)
from zoo.tokenizers.ragged import mark, rows_of, splits_of
from zoo.tokenizers.training import batches, learn_merges

END_OF_TEXT = "<|endoftext|>"

_Path = str | os.PathLike[str]


class BytePairTokenizer(SubwordTokenizer):
    """GPT-2's tokenizer; gives the ids of tiktoken and of Hugging Face's ByteLevel BPE.

    A text is split into words by GPT-2's pattern, and the bytes of each word are merged, pair by
    pair. Any bytes have ids: one that is not part of valid UTF-8 splits words as punctuation does.
    Offsets are those of Hugging Face's library with `trim_offsets`: spaces around a piece do not
    count to it, and a piece that is part of a character has the span of the whole character.

    Args:
        vocabulary: piece -> id, or the pieces in order, their bytes written as GPT-2 does ("Ġthe"
            is " the"); all 256 single bytes must be there.
        merges: "a b" or ("a", "b"), best first.
        special_tokens: name -> id, or names; names that the vocabulary lacks get the ids after it.
        end: the special token that ends a text.
        roles: for encoders: "cls", "sep", "pad", "mask" and "unknown" to names of special tokens;
            sets `cls_id`, `sep_id`, `pad_id`, `mask_id` and `unknown_id`.
        add_prefix_space: puts a space before each text that has none; decoding gives it back.
        parse_special: a special token written out in a text becomes its id, and the whitespace
            before a mask token goes into it. By default it is text like any other, as a user's
            text should be.
        pair_separators: separators between the texts of a pair, 2 in RoBERTa.

    Raises:
        ValueError, TypeError: an id without a piece or with two, a byte without a piece, a merge
            of unknown pieces, an unknown `end` or role, special tokens with blanks around them.

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
        self.end, self.end_id = end, self._special_id("end", end)
        self.roles = dict(roles or {})
        self._set_roles(self.roles, pair_separators)
        self.add_prefix_space, self.parse_special = bool(add_prefix_space), bool(parse_special)
        found = self.special_tokens if self.parse_special else {}
        self._splitter = Splitter(found, self.roles.get("mask"), self.add_prefix_space)

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
                fewer if the texts offer no more. ValueError for less than the bytes.
            min_count: pairs seen fewer times are left.
            special_tokens: names.
            **options: the constructor's, such as end and roles.

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
        splitter = cls(list(ALPHABET), [], special_tokens, **options)._splitter
        counts: collections.Counter[bytes] = collections.Counter()
        for batch in batches(texts):
            words = splitter.split(string_vector(batch))
            data, starts = words.data.numpy().tobytes(), np.flatnonzero(words.starts).tolist()
            special = {*words.special_starts.numpy().tolist()}
            for start, end in zip(starts, [*starts[1:], len(data)]):
                counts[data[start:end]] += start not in special
        named = {from_bytes(word): count for word, count in counts.items() if count}
        merges = learn_merges(named, num_pieces, ALPHABET, min_count)
        pieces = [*ALPHABET, *(left + right for left, right in merges)]
        return cls(pieces, merges, special_tokens, **options)

    @classmethod
    def from_files(cls, vocab_json: _Path, merges_txt: _Path, **options: Any) -> Self:
        """Reads GPT-2's two files, `vocab.json` (`encoder.json`) and `merges.txt` (`vocab.bpe`).

        Args:
            vocab_json: piece -> id. ValueErrors name the file, and the line.
            merges_txt: a merge a line, after a line "#version: 0.2".
            **options: the constructor's; the files do not name the special tokens.
        """
        vocabulary = Fields.read(Path(vocab_json)).values
        merges, path = files.read_lines(merges_txt), os.fspath(merges_txt)
        has_version = bool(merges) and merges[0].startswith("#version")
        if has_version and merges[0].rstrip() != files.VERSION:
            found = f"{merges[0]!r:.80}, but only {files.VERSION!r} is known here."
            raise ValueError(f"{path}, line 1: {found}")
        with blaming(vocab_json):
            try:
                return cls(vocabulary, merges[has_version:], **options)
            except MergeError as error:
                place = f"{path}, line {error.index + 1 + has_version}"
                raise BundleError(f"{place}: {error.reason}") from error

    @classmethod
    def from_tokenizer_json(cls, path: _Path, **options: Any) -> Self:
        """Reads Hugging Face's `tokenizer.json` of a byte-level BPE tokenizer.

        Args:
            path: the file; special tokens, roles, prefix space and pair separators come from it.
                ValueError, naming the field, if it asks for what this class does not do.
            **options: the constructor's, in place of what the file says. Their library always
                parses special tokens in a text: `parse_special=True` does so here.
        """
        with blaming(path):
            return cls(**{**files.read_byte_pairs(path), **options})

    def write_files(self, folder: _Path) -> None:
        """Writes `vocab.json`, `merges.txt` and `tokenizer.json` as Hugging Face's libraries read
        them; `load_tokenizer` does not, it reads what `save` writes.
        """
        files.write_byte_pairs(self.get_config(), folder)

    def _texts(self) -> list[bytes]:
        return [to_bytes(piece) for piece in self.vocabulary]

    @functools.cached_property
    def _encoder(self) -> WordEncoder:
        texts: list[bytes | None] = [*self._texts()]
        for index in self.special_tokens.values():
            texts[index] = None
        return WordEncoder(texts, self._pairs)

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        """(3, V): how many bytes each piece has, in all and in spaces before and after."""
        texts = self._texts()
        before, after = ([text.lstrip(b" ") for text in texts], [t.rstrip(b" ") for t in texts])
        sizes = np.array([[*map(len, some)] for some in (texts, before, after)])
        sizes[1:] = sizes[0] - sizes[1:]
        return sizes

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        words = self._splitter.split(texts)
        cuts = self._encoder.cut(words.data, words.starts)
        cuts = tf.where(cuts if words.in_special is None else cuts & ~words.in_special)[:, 0]
        # searchsorted fails on no values: the end of all stands behind the words.
        places = tf.concat([cuts, tf.size(words.data, tf.int64)[None]], 0)

        def part_at(starts):
            return tf.searchsorted(places, starts, out_type=tf.int64)

        special_parts = part_at(words.special_starts)
        pieces = self._encoder.encode(words.data, cuts, special_parts, words.special_ids)
        ids, part_splits = pieces.flat_values, tf.cast(pieces.row_splits, tf.int64)
        splits = tf.gather(part_splits, part_at(words.row_splits))
        if not offsets:
            return ids, splits
        # Nothing is lost on the way: the pieces are the bytes, one after the other.
        lengths, before, after = (tf.gather(sizes, ids) for sizes in self._sizes)
        specials = tf.gather(part_splits, special_parts)[:, None]
        lengths = tf.tensor_scatter_nd_update(
            lengths, specials, words.special_ends - words.special_starts
        )
        ends = tf.cumsum(lengths)
        starts = tf.tensor_scatter_nd_update(ends - lengths, specials, words.special_names)
        # Without spaces, and to the borders of a character, which has up to four bytes.
        starts = tf.minimum(starts + before, ends)
        ends = tf.maximum(ends - after, starts)
        inner = tf.concat([words.inner, [False]], 0)
        for _ in range(3):
            starts = starts - tf.cast(tf.gather(inner, starts), tf.int64)
            ends = ends + tf.cast(tf.gather(inner, ends), tf.int64)
        if words.sources is not None:
            starts, ends = tf.gather(words.sources, starts), tf.gather(words.sources, ends)
        base = tf.gather(splits_of(tf.cast(tf.strings.length(texts), tf.int64)), rows_of(splits))
        word_starts = tf.gather(part_splits, part_at(tf.where(words.starts)[:, 0]))
        first = mark(word_starts, tf.size(ids, tf.int64))
        return ids, splits, starts - base, ends - base, first
