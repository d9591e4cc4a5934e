"""SentencePiece models as they are, run by tensorflow_text's operation."""

import base64
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import tensorflow as tf

from zoo.files import blaming
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.base import SubwordTokenizer, Tokenizer, cut_character_bytes
from zoo.tokenizers.character_classes import SPACE, classes_of
from zoo.tokenizers.ragged import joined_bytes, mark, rows_of


class SentencePieceTokenizer(SubwordTokenizer):
    """A unigram or BPE model of the `sentencepiece` library; gives the library's ids and texts.

    The model says how text is normalised. Its control pieces ("</s>") are special tokens; written
    out in a text they are text, while its user-defined pieces are found in texts. Whitespace
    around a piece does not count to its span; a word begins with a piece that begins with a space,
    and with the text. To train a model use the library itself:
    `sentencepiece.SentencePieceTrainer.train(input=..., model_prefix=...)`.

    Args:
        model: the content of a `.model` file.
        end: the control piece that ends a text. Default None: what the model calls its end of
            sentence, "</s>".
        roles: for encoders: "cls", "sep", "pad", "mask" and "unknown" to names of control or
            user-defined pieces; sets `cls_id`, `sep_id`, `pad_id` and `mask_id`. Default None:
            only "unknown", and "pad" if the model has one.
        pair_separators: separators between the texts of a pair.

    Attributes:
        markers: names of the control and the user-defined pieces, which may have roles.

    Raises:
        ValueError: the bytes are no model, or it has no such `end` or role.

    Example:
        tokenizer = SentencePieceTokenizer.from_file("spiece.model")
        tokenizer.decode(tokenizer.encode(["Hello world."]))
    """

    kind = "sentencepiece"
    config_names = ("vocabulary", "end", "roles", "pair_separators")

    vocabulary: str

    def __init__(
        self,
        model: bytes,
        end: str | None = None,
        roles: Mapping[str, str] | None = None,
        pair_separators: int = 1,
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
    def _decode_function(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        return tf.function(
            lambda values, splits: spm.detokenize(self.model, values, splits),
            input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)],
            autograph=False,
        )

    def whole_characters(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        # The library's decoding makes U+FFFD of each byte piece ("<0xE4>") of an unfinished one.
        cut = cut_character_bytes(Tokenizer._join(self, ids))  # one piece each
        lengths = ids.row_lengths() - tf.cast(cut, ids.row_splits.dtype)
        return tf.RaggedTensor.from_tensor(ids.to_tensor(), lengths)

    def _encode(self, texts: tf.Tensor, offsets: bool) -> tuple[tf.Tensor, ...]:
        if not offsets:
            return spm.tokenize(self.model, texts)
        ids, splits, starts, ends = spm.tokenize(self.model, texts, offsets=True)
        data, text_splits = joined_bytes(texts)
        base = tf.gather(text_splits, rows_of(splits))  # (P,)
        starts, ends = (tf.cast(places, tf.int64) + base for places in (starts, ends))
        # From the first byte to the last one that is no whitespace; empty if all are.
        size = tf.size(data, tf.int64)
        visible = tf.where(classes_of(data, mark(text_splits, size))[0] != SPACE)[:, 0]
        visible = tf.concat([[-1], visible, size[None]], 0)
        starts = tf.minimum(tf.gather(visible, tf.searchsorted(visible, starts)), ends)
        last = tf.gather(visible, tf.searchsorted(visible, ends) - 1)
        ends = tf.maximum(last + 1, starts)
        after_space = tf.constant([text[:1] == spm.SPACE for text in self._pieces.texts])
        word_starts = tf.gather(after_space, ids) | mark(splits, tf.size(ids, tf.int64))
        return ids, splits, starts - base, ends - base, word_starts
