"""BPE of characters with bytes for those that it lacks, as Llama 2, Mistral and Gemma have it.

A space becomes "▁". Tokens that are found in a text part it into sections, and a rule says which of
these get a "▁" in front. Sections are cut before each "▁" behind another character if no piece
joins the two, so that equal words are merged once.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.config import Fields
from zoo.files import BundleError, write_json
from zoo.tokenizers import files
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.bytepair.lookup import last_merges
from zoo.tokenizers.bytepair.vocabulary import MergeError, merge_pairs, numbered
from zoo.tokenizers.causal import CausalTokenizer
from zoo.tokenizers.ragged import joined_bytes, mark, previous, rows_of, splits_of
from zoo.tokenizers.special_tokens import NameFinder, Parts, with_blanks

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACE = 0x2581
# Which sections get a "▁" in front: none; the first of a text, or all, unless they begin with one
# (`Metaspace` in Hugging Face's library); all, even those (`Prepend`).
PREFIXES = ("never", "first", "always", "prepend")
_BLANKS = (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029)
_BLANKS = np.array([*_BLANKS, 0x202F, 0x205F, 0x3000], np.int32)


class _Words(NamedTuple):
    """The words of a batch of texts; some are tokens already: found ones, and single bytes."""

    texts: tf.Tensor  # (W,) strings, of the others
    is_known: tf.Tensor  # (K + W,) bool, in the order of the texts
    known_ids: tf.Tensor  # (K,) int32
    row_splits: tf.Tensor  # (B + 1,) int64, where the words of each text begin


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
        self._byte_ids = np.array([ids[name] for name in _BYTES], np.int32)
        self.merges, self._pairs = merge_pairs(
            self.vocabulary, self.special_tokens, merges, byte_level=False
        )
        bytes_of_text = {*self._byte_ids.tolist()}
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

    @staticmethod
    def _read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
        return read_byte_fallback(path)

    def write_files(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json` as Hugging Face's libraries read it."""
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        special, prefix, start = self.special_tokens, self.prefix, self.start
        normalizer, splitter = _REPLACE, None
        if prefix == "prepend":
            normalizer = {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}
        elif prefix != "never":
            splitter = {"type": "Metaspace", "replacement": spm.SPACE, "split": False}
            normalizer, splitter["prepend_scheme"] = None, prefix
        model = {"type": "BPE", "unk_token": "<unk>" if "<unk>" in special else None}
        model |= dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        model |= {"fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": ids}
        content = files.tokenizer_json(
            files.added_tokens_json(ids, special, self.added_tokens),
            normalizer=normalizer,
            pre_tokenizer=splitter,
            post_processor=None if start is None else files.start_template((start, special[start])),
            decoder={
                "type": "Sequence",
                "decoders": _DECODERS if prefix == "never" else [*_DECODERS, _STRIP],
            },
            model=model | {"merges": [merge.split(" ") for merge in self.merges]},
        )
        write_json(Path(folder) / "tokenizer.json", content, ensure_ascii=False)

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
        words = self._split(strings, row_splits, is_text)
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

    def _split(
        self, strings: tf.Tensor, row_splits: tf.Tensor, is_text: tf.Tensor | None
    ) -> _Words:
        """The words of texts put together from strings (P,), row splits int64 (B + 1,)."""
        parse_special = self.parse_special if is_text is None else True
        tokens = [token for token in self._found if parse_special or not token.special]
        finder = NameFinder([t.name for t in tokens], [t.special for t in tokens])
        ids = np.array([token.id for token in tokens], np.int32)
        text, part_splits = _points(strings)
        row_splits = tf.gather(part_splits, row_splits)
        parts = None if is_text is None else Parts(part_splits, is_text)
        names, ends, which = finder.find(text, row_splits, parts)
        starts, ends = with_blanks(tokens, names, ends, which, row_splits, lambda: _is_blank(text))
        points = tf.where(text == 0x20, _SPACE, text)
        if self.prefix != "never":
            size = tf.size(points, tf.int64)
            begins = [row_splits] if self.prefix == "first" else [row_splits, ends]
            wanted = mark(tf.concat(begins, 0), size) & ~mark(starts, size)
            if self.prefix != "prepend":
                wanted &= points != _SPACE
            moved = splits_of(1 + tf.cast(wanted, tf.int64))  # (N + 1,)
            is_old = mark(moved[1:] - 1, moved[-1])
            points = tf.where(is_old, tf.gather(points, rows_of(moved)), _SPACE)
            # A prefix stands in the section that it is for, behind a found token.
            ends = tf.gather(moved, ends)
            starts = tf.gather(moved, starts)
            row_splits = tf.gather(moved, row_splits)
        size = tf.size(points, tf.int64)
        found = mark(starts, size)
        in_found = mark(tf.ragged.range(starts, ends).flat_values, size)
        single = (points < 0) & ~in_found
        begins = mark(tf.concat([row_splits, starts, ends], 0), size)
        begins |= single | previous(single, False)
        if not self._joins_words:
            begins |= (points == _SPACE) & (previous(points, _SPACE) != _SPACE)
        begins &= found | ~in_found
        plain = ~in_found & ~single
        word_starts = tf.where(begins)[:, 0]  # (K + W,)
        is_known = ~tf.gather(plain, word_starts)
        before = splits_of(tf.cast(plain, tf.int64))
        splits = tf.gather(before, tf.boolean_mask(word_starts, ~is_known))
        splits = tf.concat([splits, before[-1:]], 0)
        texts = tf.RaggedTensor.from_row_splits(
            tf.boolean_mask(points, plain), splits, validate=False
        )
        known_places = tf.boolean_mask(word_starts, is_known)
        values = tf.gather(points, known_places)
        known_ids = tf.gather(self._byte_ids, tf.clip_by_value(-1 - values, 0, 255))
        known_ids = tf.tensor_scatter_nd_update(
            known_ids, tf.where(tf.gather(found, known_places)), tf.gather(ids, which)
        )
        word_places = tf.concat([word_starts, size[None]], 0)
        row_splits = tf.searchsorted(word_places, row_splits, out_type=tf.int64)
        return _Words(tf.strings.unicode_encode(texts, "UTF-8"), is_known, known_ids, row_splits)


def _is_blank(points: tf.Tensor) -> tf.Tensor:
    place = tf.minimum(tf.searchsorted(_BLANKS, points), len(_BLANKS) - 1)
    return tf.gather(tf.constant(_BLANKS), place) == points


def _points(strings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Code points int32 (N,) of strings (P,), -1 - b for a byte b that is not part of one, and row
    splits int64 (P + 1,).
    """
    decoded, positions = tf.strings.unicode_decode_with_offsets(strings, "UTF-8")
    points, splits = decoded.flat_values, tf.cast(decoded.row_splits, tf.int64)
    suspects = points == 0xFFFD

    def with_bytes():
        data, byte_splits = joined_bytes(strings)
        base = tf.gather(byte_splits, rows_of(splits))
        starts = tf.cast(positions.flat_values, tf.int64) + base  # (N,)
        lengths = tf.concat([starts[1:], byte_splits[-1:]], 0) - starts
        # The character itself is three bytes from EF on; what is broken has fewer from there.
        is_character = (lengths == 3) & (tf.gather(data, starts) == 0xEF)
        broken = suspects & ~is_character
        moved = splits_of(tf.where(broken, lengths, tf.ones_like(lengths)))
        sources = rows_of(moved)
        nth = tf.range(moved[-1]) - tf.gather(moved, sources)
        value = tf.cast(tf.gather(data, tf.gather(starts, sources) + nth), tf.int32)
        new = tf.where(tf.gather(broken, sources), -1 - value, tf.gather(points, sources))
        return new, tf.gather(moved, splits)

    return tf.cond(tf.reduce_any(suspects), with_bytes, lambda: (points, splits))


# `tokenizer.json`, as Hugging Face's library writes it.

_ENDS = ("</s>", "<eos>", "<|endoftext|>")
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": spm.SPACE}
_PREPEND = {"type": "Prepend", "prepend": spm.SPACE}
# Gemma's, of which the normalizer leaves nothing to do.
_SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_DECODERS = [
    {"type": "Replace", "pattern": {"String": spm.SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def read_byte_fallback(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`ByteFallbackTokenizer`'s arguments; BundleError names the field of what it does not do."""
    content = Fields.read(Path(path))
    model, vocabulary, special, flags = files.read_bpe(content, "tokenizers with byte fallback")
    model.require("byte_fallback", (True,), "other models are byte-level")
    model.require("ignore_merges", (False, None), "Llama's kind has it off")
    prefix = _read_prefix(content)
    expected = _DECODERS if prefix == "never" else [*_DECODERS, _STRIP]
    if [step.values for step in files.read_steps(content, "decoder", "decoders")] != expected:
        raise BundleError(
            f"{content.where}: decoder must be {expected} with this normalizer and pre_tokenizer"
        )
    if prefix in ("never", "first", "always") and not content.values.get("normalizer"):
        # Without a normalizer a normalised text is the text itself.
        flags = {name: [f for f in own if f != "normalized"] for name, own in flags.items()}
    ends = [name for name in _ENDS if name in special]
    return {
        "vocabulary": vocabulary,
        "merges": [merge for merge in model.values["merges"] if _is_text(merge, special)],
        "special_tokens": special,
        "prefix": prefix,
        "added_tokens": flags,
        "start": files.read_start(content),
    } | ({"end": ends[0]} if ends else {})


def _is_text(merge: Any, special: Mapping[str, int]) -> bool:
    """Whether a merge neither reads nor makes a special token: no text may become one."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return True  # the constructor says what is wrong with it
    return special.keys().isdisjoint((*parts, "".join(parts)))


def _read_prefix(content: Fields) -> str:
    """One of `PREFIXES`."""
    normalizers = [step.values for step in files.read_steps(content, "normalizer", "normalizers")]
    steps = files.read_steps(content, "pre_tokenizer", "pretokenizers")
    splitters = [step.values for step in steps]
    if normalizers == [_PREPEND, _REPLACE] and not splitters:
        return "prepend"
    if normalizers == [_REPLACE] and splitters in ([], [_SPLIT]):
        return "never"
    if not normalizers and len(splitters) == 1 and splitters[0].get("type") == "Metaspace":
        splitter = steps[0]
        splitter.require("replacement", (spm.SPACE,), "spaces become this")
        if splitter.flag("split", True):
            raise BundleError(f"{splitter.where}: split must be false: words are merged as one")
        if splitter.values.get("prepend_scheme") is None:
            return "always" if splitter.flag("add_prefix_space", True) else "never"
        known = ("always", "first", "never")
        return splitter.require("prepend_scheme", known, "no other is known")
    raise BundleError(
        f"{content.where}: normalizer {normalizers!r:.200} and pre_tokenizer {splitters!r:.200}; "
        "known are Prepend and Replace (Llama 2), Replace (Gemma) and Metaspace (Mistral)"
    )
