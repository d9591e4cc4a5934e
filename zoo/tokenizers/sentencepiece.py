"""SentencePiece models as they are, run by tensorflow_text's operation."""

import base64
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from zoo.files import blaming
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.base import SubwordTokenizer, Tokenizer, cut_character_bytes
from zoo.tokenizers.character_classes import SPACE, classes_of
from zoo.tokenizers.ragged import joined_bytes, mark, previous, rows_of
from zoo.tokenizers.special_tokens import NameFinder
from zoo.tokenizers.special_tokens import added_tokens as find_added
from zoo.tokenizers.wordpiece.normalizer import ALONE, KIND_MASK, rules

# Scripts that put no spaces between words: Thai to Lao, Burmese, Khmer, Chinese and Japanese.
_UNSPACED = (
    *((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x312F), (0x3190, 0xA4CF)),
    *((0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF)),
)


class SentencePieceTokenizer(SubwordTokenizer):
    """A unigram or BPE model of the `sentencepiece` library; gives the library's ids and texts.

    The model says how text is normalised. Its control pieces ("</s>") are special tokens; written
    out in a text they are text, while its user-defined pieces are found in texts. Whitespace
    around a piece does not count to its span. A word begins with the text, with a piece that begins
    with a space, at punctuation and behind it, and, in scripts that put no spaces between words,
    with each piece; a space alone begins the word behind it. To train a model use the library:
    `sentencepiece.SentencePieceTrainer.train(input=..., model_prefix=...)`.

    Args:
        model: the content of a `.model` file.
        end: the control piece that ends a text. Default None: what the model calls its end of
            sentence, "</s>".
        roles: for encoders: "cls", "sep", "pad", "mask" and "unknown" to names of control or
            user-defined pieces; sets `cls_id`, `sep_id`, `pad_id` and `mask_id`. Default None:
            only "unknown", and "pad" if the model has one.
        pair_separators: separators between the texts of a pair.
        parse_special: a special token written out in a text becomes its id, and each word is a text
            of its own, as in Hugging Face's library.
        added_tokens: name -> flags, for pieces that are found in such texts as special tokens are,
            and for special tokens with flags; these change no id here, where blanks have none.

    Attributes:
        markers: names of the control and the user-defined pieces, which may have roles.

    Raises:
        ValueError: the bytes are no model, or it has no such `end`, role or added token.

    Example:
        tokenizer = SentencePieceTokenizer.from_file("spiece.model")
        tokenizer.decode(tokenizer.encode(["Hello world."]))
    """

    kind = "sentencepiece"
    config_names = (
        *("vocabulary", "end", "roles", "pair_separators"),
        *("parse_special", "added_tokens"),
    )
    defaults: ClassVar[Mapping[str, Any]] = {"parse_special": False, "added_tokens": {}}

    vocabulary: str

    def __init__(
        self,
        model: bytes,
        end: str | None = None,
        roles: Mapping[str, str] | None = None,
        pair_separators: int = 1,
        parse_special: bool = False,
        added_tokens: Mapping[str, Sequence[str]] | None = None,
    ):
        if not isinstance(model, bytes):
            raise TypeError(f"model must be the bytes of a .model file, found {model!r:.80}.")
        self.model = model
        self.vocabulary = base64.b64encode(model).decode("ascii")
        self._pieces = spm.read_pieces(model)
        self.roles = dict(roles or {})
        numbered = list(enumerate(zip(self._pieces.texts, self._pieces.kinds)))
        control = {text: i for i, (text, kind) in numbered if kind == spm.CONTROL}
        self.markers = tuple(
            t for _, (t, kind) in numbered if kind in (spm.CONTROL, spm.USER_DEFINED)
        )
        self.special_tokens = {
            text: index
            for index, (text, kind) in numbered
            if kind in (spm.CONTROL, spm.UNKNOWN)
            or (kind == spm.USER_DEFINED and text in self.roles.values())
        }
        self.end = self._pieces.end if end is None else end
        if self.end not in control:
            raise ValueError(
                f"the model has no control piece {self.end!r} to end a text with; it has "
                f"{', '.join(control) or 'none'}. Name one as end=, or train the model with an "
                "eos_id."
            )
        self.end_id = control[self.end]
        self._set_roles(self.roles, pair_separators)
        self.unknown_id = self._pieces.kinds.index(spm.UNKNOWN)
        if "pad" not in self.roles and self._pieces.pad in control:
            self.pad_id = control[self._pieces.pad]
        self.parse_special = bool(parse_special)
        self.added_tokens = {name: list(flags) for name, flags in (added_tokens or {}).items()}
        ids = {text: index for index, (text, _) in numbered}
        self._found = find_added(self.special_tokens, self.added_tokens, ids)
        if normalized := [token.name for token in self._found if token.normalized]:
            raise ValueError(
                f"added_tokens: {normalized[0]!r:.80} is looked for in texts as they are."
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads a `.model` file, with the constructor's options; a ValueError names the file."""
        with blaming(path), open(path, "rb") as file:
            return cls(file.read(), **options)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        model = config.get("vocabulary")
        if config.get("kind") == cls.kind and isinstance(model, str):
            try:
                config = {**config, "vocabulary": base64.b64decode(model, validate=True)}
            except ValueError as error:
                raise ValueError(f"vocabulary: not base64 ({error}); save it again.") from error
        return super().from_config(config)

    def _texts(self) -> list[bytes]:
        return [  # a byte's name is "<0xE4>"
            bytes([int(text[1:-1], 16)])
            if kind == spm.BYTE
            else text.replace(spm.SPACE, " ").encode()
            for text, kind in zip(self._pieces.texts, self._pieces.kinds)
        ]

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        # The library's own rules: the space before the first word goes, the unknown piece has a
        # form of its own. It stands for ids outside the vocabulary, too, which the operation
        # would refuse.
        values = tf.cast(ids.flat_values, tf.int64)
        known = (values >= 0) & (values < self.vocabulary_size)
        values = tf.cast(tf.where(known, values, self.unknown_id), tf.int32)
        return self._decode_function(values, tf.cast(ids.row_splits, tf.int64))

    def decode_after(self, ids: Any) -> tf.Tensor:
        ids = ids if isinstance(ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(ids)
        # Bytes that are no text become U+FFFD, as in the library's own decoding.
        texts = Tokenizer._join(self, ids)
        return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")

    @functools.cached_property
    def _run_model(self) -> bytes:
        """What the operation runs. Its sums are of single precision: with rounded scores those of
        words are exact, as the doubles of Hugging Face's library are, and both choose the same of
        equally likely pieces (of 3,472 passages, in XLM-R's, 17 differed, and then none).
        """
        return spm.with_rounded_scores(self.model) if self.parse_special else self.model

    @functools.cached_property
    def _decode_function(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        return tf.function(
            lambda values, splits: spm.detokenize(self._run_model, values, splits),
            input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)],
            autograph=False,
        )

    def whole_characters(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        # The library's decoding makes U+FFFD of each byte piece ("<0xE4>") of an unfinished one.
        cut = cut_character_bytes(Tokenizer._join(self, ids))  # one piece each
        lengths = ids.row_lengths() - tf.cast(cut, ids.row_splits.dtype)
        return tf.RaggedTensor.from_tensor(ids.to_tensor(), lengths)

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        goes_on = super().continuation
        starts = [_is_unspaced(ord(text[:1] or " ")) for text in self._pieces.texts]
        return goes_on & ~np.array(starts)

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        if not offsets and not self.parse_special:
            return spm.tokenize(self.model, texts)
        data, text_splits = joined_bytes(texts)
        blank = classes_of(data, mark(text_splits, tf.size(data, tf.int64)))[0] == SPACE  # (N,)
        if self.parse_special:
            ids, splits, starts, ends = self._encode_words(texts, data, text_splits, blank)
        else:
            ids, splits, *spans = spm.tokenize(self.model, texts, offsets)
            base = tf.gather(text_splits, rows_of(splits))  # (P,)
            starts, ends = (tf.cast(places, tf.int64) + base for places in spans)
        if not offsets:
            return ids, splits
        # From the first byte to the last one that is no whitespace; empty if all are.
        visible = tf.where(~blank)[:, 0]
        visible = tf.concat([[-1], visible, tf.size(data, tf.int64)[None]], 0)
        starts = tf.minimum(tf.gather(visible, tf.searchsorted(visible, starts)), ends)
        last = tf.gather(visible, tf.searchsorted(visible, ends) - 1)
        ends = tf.maximum(last + 1, starts)
        base = tf.gather(text_splits, rows_of(splits))
        first = mark(splits, tf.size(ids, tf.int64))
        word_starts = self._word_starts(texts, text_splits, ids, starts, ends, first)
        return ids, splits, starts - base, ends - base, word_starts

    def _encode_words(self, texts, data, text_splits, blank) -> tuple[tf.Tensor, ...]:
        """Ids (P,), row splits, starts and ends in `data` (N,), the bytes of texts (B,)."""
        size = tf.size(data, tf.int64)
        finder = NameFinder([token.name.encode() for token in self._found])
        names, name_ends, which = finder.find(data, text_splits)  # (S,)
        in_name = mark(tf.ragged.range(names, name_ends).flat_values, size)
        # The models delete this one, so that it parts no words.
        inside = ~in_name & (~blank | (data == ord("\v")))
        first = inside & ~(previous(inside, False) & ~mark(text_splits, size))
        begins = tf.where(first)[:, 0]  # (K,)
        bytes_ = tf.boolean_mask(tf.strings.bytes_split(texts).flat_values, inside)
        word_of = tf.boolean_mask(tf.cumsum(tf.cast(first, tf.int64)) - 1, inside)
        words = tf.strings.unsorted_segment_join(bytes_, word_of, tf.size(begins, tf.int64))
        words, index = tf.unique(words, tf.int64)  # (U,), (K,)
        ids, splits, starts, ends = spm.tokenize(self._run_model, words, offsets=True)
        # A name is a word of one piece. All words go in the order in which they stand.
        number = tf.range(tf.size(names, tf.int64))
        splits = tf.concat([splits, splits[-1] + 1 + number], 0)
        name_ids = tf.gather(np.array([token.id for token in self._found], np.int32), which)
        starts, ends = (tf.cast(places, tf.int64) for places in (starts, ends))
        columns = (ids, name_ids), (starts, tf.zeros_like(names)), (ends, name_ends - names)
        places = tf.concat([begins, names], 0)
        order = tf.argsort(places)
        kinds = tf.gather(tf.concat([index, tf.size(words, tf.int64) + number], 0), order)
        places = tf.gather(places, order)  # (K + S,)
        pieces = tf.RaggedTensor.from_row_splits(tf.range(splits[-1]), splits, validate=False)
        pieces = tf.gather(pieces, kinds)
        base = tf.gather(places, rows_of(pieces.row_splits))
        ids, starts, ends = (tf.gather(tf.concat(c, 0), pieces.flat_values) for c in columns)
        # searchsorted fails on no values: the end of all stands behind the words.
        rows = tf.searchsorted(tf.concat([places, size[None]], 0), text_splits)
        splits = tf.gather(pieces.row_splits, rows)
        return ids, splits, starts + base, ends + base

    def _word_starts(self, texts, text_splits, ids, starts, ends, first) -> tf.Tensor:
        """Bool (P,) of pieces with spans in all bytes; `first` (P,) are those of the texts."""
        pieces, special = self._pieces.texts, {*self.special_tokens.values()} - {self.unknown_id}
        opens = [text[:1] == spm.SPACE or i in special for i, text in enumerate(pieces)]
        # What its first character, or the one before, says.
        points, places = tf.strings.unicode_decode_with_offsets(texts, "UTF-8")
        base = tf.gather(text_splits, rows_of(tf.cast(points.row_splits, tf.int64)))
        places = tf.cast(places.flat_values, tf.int64) + base  # (N,)
        points = points.flat_values
        kinds = rules(lowercase=False, strip_accents=False, split_cjk=True).table.find(points)
        alone = (kinds & KIND_MASK) == ALONE
        for lowest, highest in _UNSPACED:
            alone |= (points >= lowest) & (points <= highest)
        alone = tf.concat([[False], alone, [False]], 0)
        index = tf.searchsorted(places, starts, side="right")  # 1 + that of the first character
        begins = tf.gather(alone, index) | tf.gather(alone, tf.maximum(index - 1, 0))
        begins |= first | tf.gather(tf.constant(opens), ids)
        return begins & (first | ~previous(starts == ends, False))


def _is_unspaced(point: int) -> bool:
    return any(lowest <= point <= highest for lowest, highest in _UNSPACED)
