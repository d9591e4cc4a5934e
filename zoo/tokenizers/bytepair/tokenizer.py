"""Byte-level byte-pair encoding, as GPT-2 and its successors have it."""

import collections
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from zoo.config import Fields
from zoo.files import BundleError, blaming
from zoo.tokenizers import files
from zoo.tokenizers.base import string_vector
from zoo.tokenizers.bytepair.files import read_byte_pairs, write_byte_pairs
from zoo.tokenizers.bytepair.lookup import WordEncoder
from zoo.tokenizers.bytepair.patterns import RULES
from zoo.tokenizers.bytepair.split import Splitter
from zoo.tokenizers.bytepair.vocabulary import (
    ALPHABET,
    MergeError,
    from_bytes,
    merge_pairs,
    numbered,
    require_alphabet,
    to_bytes,
)
from zoo.tokenizers.causal import CausalTokenizer
from zoo.tokenizers.ragged import joined_bytes, mark, rows_of
from zoo.tokenizers.special_tokens import Parts
from zoo.tokenizers.training import batches, learn_merges

END_OF_TEXT = "<|endoftext|>"

_Path = str | os.PathLike[str]


class BytePairTokenizer(CausalTokenizer):
    """GPT-2's tokenizer; gives the ids of tiktoken and of Hugging Face's ByteLevel BPE.

    A text is split into words by GPT-2's pattern or a younger one, and the bytes of each word are
    merged, pair by pair. Bytes that are not part of valid UTF-8 split words as punctuation does;
    bytes that the vocabulary lacks are left out, as in Hugging Face's library. Offsets are those of
    that library with `trim_offsets`: spaces around a piece do not count to it, and a piece that is
    part of a character has the span of the whole character.

    Args:
        vocabulary: piece -> id, or the pieces in order, their bytes written as GPT-2 does ("Ġthe"
            is " the"); ASCII's printable characters must be there.
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
        pattern: how texts are split: "gpt2", "smollm" (each digit apart), "llama3" or "qwen2", as
            `zoo.tokenizers.bytepair.patterns.RULES` describes them.
        nfc: puts texts into Unicode's NFC first, as Qwen and GPT-NeoX do. Decoding gives back the
            text in NFC; pieces of what NFC has joined or moved have the span of all of it.
        ignore_merges: a word that is a piece is that piece, however it merges, as in Llama 3.
        added_tokens: name -> flags, for pieces that are found in any text before it is split, and
            for special tokens with flags: "lstrip" and "rstrip" take in the whitespace before and
            behind the name; "normalized" names are looked for after NFC.
        start: the special token that stands before every text of the model (BOS), as `start_id`.
        ends: further tokens that end an answer, after `end` in `end_ids`.

    Raises:
        ValueError, TypeError: an id without a piece or with two, no piece for a printable
            character, a merge of unknown pieces, an unknown `end`, role, pattern or flag, special
            tokens with blanks around them.

    Example:
        >>> tokenizer = BytePairTokenizer.train(["low lower lowest"] * 9, vocabulary_size=300)
        >>> tokenizer.decode(tokenizer.encode(["lower!"])).numpy().tolist()
        [b'lower!']
    """

    kind = "bytepair"
    config_names = (
        *("vocabulary", "merges", "special_tokens", "end", "roles"),
        *("add_prefix_space", "parse_special", "pair_separators"),
        *("pattern", "nfc", "ignore_merges", "added_tokens", "start", "ends"),
    )
    defaults: ClassVar[dict[str, Any]] = {
        **CausalTokenizer.defaults,
        "pattern": "gpt2",
        "nfc": False,
        "ignore_merges": False,
    }

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
        pattern: str = "gpt2",
        nfc: bool = False,
        ignore_merges: bool = False,
        added_tokens: Mapping[str, Sequence[str]] | None = None,
        start: str | None = None,
        ends: Sequence[str] = (),
    ):
        if pattern not in RULES:
            raise ValueError(f"pattern={pattern!r:.80} is none of {', '.join(RULES)}.")
        self.vocabulary, self.special_tokens = numbered(vocabulary, special_tokens)
        require_alphabet(self.vocabulary, self.special_tokens)
        self.merges, self._pairs = merge_pairs(self.vocabulary, self.special_tokens, merges)
        self.end, self.end_id = end, self._special_id("end", end)
        self.roles = dict(roles or {})
        self._set_roles(self.roles, pair_separators)
        self.add_prefix_space, self.parse_special = bool(add_prefix_space), bool(parse_special)
        self.pattern, self.nfc, self.ignore_merges = pattern, bool(nfc), bool(ignore_merges)
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        self._set_found(ids, added_tokens or {}, start, ends)
        lacking = [to_bytes(character)[0] for character in ALPHABET if character not in ids]
        self._lacking = np.isin(np.arange(256), lacking)
        if lacking and self.ignore_merges:
            raise ValueError(
                f"vocabulary: no piece for byte {lacking[0]:#04x}; with ignore_merges each of the "
                "256 needs one."
            )

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
        splitter, _ = cls(list(ALPHABET), [], special_tokens, **options)._splitters
        counts: collections.Counter[bytes] = collections.Counter()
        for batch in batches(texts):
            words = splitter.split(*joined_bytes(string_vector(batch)))
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

    _read_file = staticmethod(read_byte_pairs)

    def write_files(self, folder: _Path) -> None:
        """Writes `vocab.json`, `merges.txt` and `tokenizer.json` as Hugging Face's libraries read
        them; `load_tokenizer` does not, it reads what `save` writes.
        """
        write_byte_pairs(self.get_config(), folder)

    def _texts(self) -> list[bytes]:
        return [to_bytes(piece) for piece in self.vocabulary]

    @functools.cached_property
    def _splitters(self) -> list[Splitter]:
        """Of texts, where special tokens are found if they are parsed; of prompts."""
        mask, options = self.roles.get("mask"), (self.add_prefix_space, self.nfc)
        found = [t._replace(lstrip=t.lstrip or t.name == mask) for t in self._found]
        plain = [token for token in found if self.parse_special or not token.special]
        return [Splitter(tokens, RULES[self.pattern], *options) for tokens in (plain, found)]

    @functools.cached_property
    def _encoder(self) -> WordEncoder:
        texts: list[bytes | None] = [*self._texts()]
        for index in self._unmerged(self._pairs):
            texts[index] = None
        return WordEncoder(texts, self._pairs, self.ignore_merges)

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        """(3, V): how many bytes each piece has, in all and in spaces before and after."""
        texts = self._texts()
        before, after = ([text.lstrip(b" ") for text in texts], [t.rstrip(b" ") for t in texts])
        sizes = np.array([[*map(len, some)] for some in (texts, before, after)])
        sizes[1:] = sizes[0] - sizes[1:]
        return sizes

    def _encode_joined(self, strings, row_splits, is_text, offsets):
        data, part_splits = joined_bytes(strings)
        text_splits = tf.gather(part_splits, row_splits)
        of_texts, of_prompts = self._splitters
        if is_text is None:
            words = of_texts.split(data, text_splits)
        else:
            words = of_prompts.split(data, text_splits, Parts(part_splits, is_text))
        if self._lacking.any():
            words = words.without(self._lacking)
        cuts = self._encoder.cut(words.data, words.starts)
        cuts = tf.where(cuts if words.in_special is None else cuts & ~words.in_special)[:, 0]
        # searchsorted fails on no values: the end of all stands behind the words.
        places = tf.concat([cuts, tf.size(words.data, tf.int64)[None]], 0)

        def part_at(starts):
            return tf.searchsorted(places, starts, out_type=tf.int64)

        special_parts = part_at(words.special_starts)
        pieces = self._encoder.encode(
            words.data, cuts, special_parts, words.special_ids, words.starts
        )
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
            starts = tf.gather(words.sources, starts)
            ends = tf.maximum(tf.gather(words.source_ends, ends), starts)
        base = tf.gather(text_splits, rows_of(splits))
        word_starts = tf.gather(part_splits, part_at(tf.where(words.starts)[:, 0]))
        first = mark(word_starts, tf.size(ids, tf.int64))
        return ids, splits, starts - base, ends - base, first
