"""BPE of characters, with bytes for those that it lacks."""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.bytefallback.files import read_byte_fallback, write_byte_fallback
from zoo.tokenizers.bytefallback.sections import PREFIXES, Sections
from zoo.tokenizers.bytepair.lookup import last_merges
from zoo.tokenizers.bytepair.vocabulary import MergeError, merge_pairs, numbered
from zoo.tokenizers.causal import CausalTokenizer

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class ByteFallbackTokenizer(CausalTokenizer):
    """The tokenizer of Llama 2, Mistral, Phi-3 and Gemma, made of their `tokenizer.json` alone.

    Gives the ids of Hugging Face's library. Spaces become "▁", the characters of a text are merged,
    pair by pair, and a character that is no piece becomes the pieces of its bytes ("<0xE4>"), as
    does a byte that is not part of valid UTF-8. Decoding gives these bytes back as they are, and
    leaves out the space that stands before a text if encoding puts one there. There are no offsets.

    Args:
        vocabulary: piece -> id, or the pieces in order ("▁the"), all of "<0x00>" to "<0xFF>" among
            them.
        merges: "a b" or ("a", "b"), best first.
        special_tokens: name -> id, or names; names that the vocabulary lacks get the ids after it.
        end: the special token that ends a text.
        prefix: which parts of a text, between the tokens found in it, get a "▁" in front: "never";
            "first" and "always", unless they begin with one; "prepend", even those.
        parse_special: a special token written out in a text becomes its id. By default it is text
            like any other, as a user's text should be.
        added_tokens, start, ends: as `BytePairTokenizer` has them, but for "normalized".

    Raises:
        ValueError, TypeError: an id without a piece or with two, a byte without a piece, a merge
            of unknown pieces, an unknown `end`, prefix or flag.

    Example:
        tokenizer = ByteFallbackTokenizer.from_tokenizer_json("tokenizer.json")
        tokenizer.decode(tokenizer.encode(["Hello world."]))
    """

    kind = "bytefallback"
    config_names = (
        *("vocabulary", "merges", "special_tokens", "end", "prefix", "parse_special"),
        *("added_tokens", "start", "ends"),
    )

    vocabulary: list[str]

    def __init__(
        self,
        vocabulary: Mapping[str, int] | Sequence[str],
        merges: Sequence[tuple[str, str]] | Sequence[str],
        special_tokens: Mapping[str, int] | Sequence[str],
        end: str,
        prefix: str = "never",
        parse_special: bool = False,
        added_tokens: Mapping[str, Sequence[str]] | None = None,
        start: str | None = None,
        ends: Sequence[str] = (),
    ):
        if prefix not in PREFIXES:
            raise ValueError(f"prefix={prefix!r:.80} is none of {', '.join(PREFIXES)}.")
        self.vocabulary, self.special_tokens = numbered(vocabulary, special_tokens)
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        lacking = [name for name in _BYTES if name not in ids or name in self.special_tokens]
        if lacking:
            raise ValueError(
                f"vocabulary: no piece {lacking[0]!r}, and {len(lacking) - 1} more; one for each "
                "of the 256 bytes must be there."
            )
        self._byte_ids = [ids[name] for name in _BYTES]
        self.merges, self._pairs = merge_pairs(
            self.vocabulary, self.special_tokens, merges, byte_level=False
        )
        bytes_of_text = {*self._byte_ids}
        for index, (left, right) in enumerate(self._pairs):
            made = ids[self.vocabulary[left] + self.vocabulary[right]]
            if not bytes_of_text.isdisjoint((left, right, made)):
                raise MergeError(index, "reads or makes the piece of a byte, which is no text.")
        self.end, self.end_id = end, self._special_id("end", end)
        self.prefix, self.parse_special = prefix, bool(parse_special)
        self._set_found(ids, added_tokens or {}, start, ends)
        if normalized := [token.name for token in self._found if token.normalized]:
            raise ValueError(
                f"added_tokens: {normalized[0]!r:.80} is looked for in normalised text, which is "
                "not supported here."
            )

    _read_file = staticmethod(read_byte_fallback)

    def write_files(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` as Hugging Face's libraries read it."""
        write_byte_fallback(self.get_config(), folder)

    def _texts(self) -> list[bytes]:
        return [
            bytes([int(piece[1:-1], 16)])
            if _BYTE.fullmatch(piece)
            else piece.replace(spm.SPACE, " ").encode()
            for piece in self.vocabulary
        ]

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        texts = super()._join(ids)
        if self.prefix == "never":
            return texts
        first = tf.cast(tf.strings.substr(texts, 0, 1) == " ", tf.int32)
        return tf.strings.substr(texts, first, tf.strings.length(texts) - first)

    def decode_after(self, ids: Any) -> tf.Tensor:
        ids = ids if isinstance(ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(ids)
        return super()._join(ids)

    @functools.cached_property
    def _model(self) -> bytes:
        texts: list[str | None] = [*self.vocabulary]
        for index in (*self._unmerged(self._pairs), *self._byte_ids):
            texts[index] = None
        ranks = last_merges(self._pairs, texts)
        # Names of what is not merged are in no text: they begin with a space.
        pieces = [
            (text, -ranks.get(index, 0), spm.NORMAL)
            if text and (index in ranks or len(text) < 2)
            else (f" {index}", 0, spm.CONTROL)
            for index, text in enumerate(texts)
        ]
        for name, index in zip(_BYTES, self._byte_ids):
            pieces[index] = (name, 0, spm.BYTE)
        # One id more than the vocabulary, the unknown one that the format asks for.
        return spm.write_merging_model([*pieces, (" ", 0, spm.UNKNOWN)], len(pieces))

    @functools.cached_property
    def _joins_words(self) -> bool:
        """Whether some piece goes on behind a word with the space of the next one."""
        return any(re.search(f"[^{spm.SPACE}]{spm.SPACE}", piece) for piece in self.vocabulary)

    def _encode_joined(self, strings, row_splits, is_text, offsets):
        if offsets:
            raise ValueError("a tokenizer with byte fallback has no offsets.")
        parse_special = self.parse_special if is_text is None else True
        found = [token for token in self._found if parse_special or not token.special]
        sections = Sections(found, self.prefix, not self._joins_words, self._byte_ids)
        words = sections.split(strings, row_splits, is_text)
        texts, text_of = tf.unique(words.texts)
        ids, splits = spm.tokenize(self._model, texts)
        # Known words stand for the first codes, texts for the others.
        known = tf.size(words.known_ids, tf.int64)
        codes = tf.scatter_nd(
            tf.concat([tf.where(words.is_known), tf.where(~words.is_known)], 0),
            tf.concat([tf.range(known), tf.cast(text_of, tf.int64) + known], 0),
            tf.shape(words.is_known, tf.int64),
        )
        ids_of_code = tf.RaggedTensor.from_row_splits(
            tf.concat([words.known_ids, ids], 0),
            tf.concat([tf.range(known), splits + known], 0),
            validate=False,
        )
        pieces = tf.gather(ids_of_code, codes)
        return pieces.flat_values, tf.gather(tf.cast(pieces.row_splits, tf.int64), words.row_splits)
