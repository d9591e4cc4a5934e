"""SentencePiece models as they are, run by tensorflow_text's operation."""

import base64
import binascii
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

from zoo.files import replacing
from zoo.tokenizers.base import (
    REPLACEMENT,
    Tokenizer,
    check_kind,
    cut_character_bytes,
    string_vector,
)
from zoo.tokenizers.bytepair.rules import SPACE as SPACE_CLASS
from zoo.tokenizers.bytepair.special import flags
from zoo.tokenizers.bytepair.words import classes_of
from zoo.tokenizers.roles import set_roles
from zoo.tokenizers.segments import rows_of, splits_of
from zoo.tokenizers.sentencepiece_model import (
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    PieceList,
    read_pieces,
)
from zoo.tokenizers.wordpiece.tokenizer import Encoding


class SentencePieceTokenizer(Tokenizer):
    """A unigram or BPE model of the `sentencepiece` library; gives the library's ids and texts.

    The model says how text is normalised. Its control pieces ("</s>") are special tokens; written
    out in a text they are text, while its user-defined pieces are found in texts. To train a model
    use the library itself: `sentencepiece.SentencePieceTrainer.train(input=..., model_prefix=...)`.

    The operation keeps the parsed model as a resource of the graph's session, under a name that
    is its hash: whatever reads the same model shares it.

    Args:
        model: the content of a `.model` file.
        end: the control piece that ends a text. Default None: what the model calls its end of
            sentence, "</s>".
        roles: for encoders: "cls", "sep", "pad", "mask" and "unknown" to names of control or
            user-defined pieces; sets `cls_id`, `sep_id`, `pad_id` and `mask_id`. Default None:
            only "unknown", and "pad" if the model has one.
        pair_separators: separators between the texts of a pair. Default 1.

    Attributes:
        begin_id: id of the model's beginning of sentence, None if it has none.
        markers: names of the control and the user-defined pieces, which may have roles.

    Raises ValueError if the bytes are no model, or it has no such `end` or role.

    Source: Kudo and Richardson, "SentencePiece" (EMNLP 2018).

    Example:
        tokenizer = SentencePieceTokenizer.from_file("spiece.model")
        tokenizer.decode(tokenizer.encode(["Hello world."]))
    """

    kind = "sentencepiece"
    lossless = False

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
        self._pieces: PieceList = read_pieces(model)
        if self._pieces.space_as_suffix:
            raise ValueError("models with treat_whitespace_as_suffix are not supported.")
        if pair_separators < 1:
            raise ValueError(f"pair_separators={pair_separators} must be at least 1.")
        self.pair_separators = int(pair_separators)
        self.roles = dict(roles or {})
        numbered = list(enumerate(zip(self._pieces.texts, self._pieces.kinds)))
        control = {text: i for i, (text, kind) in numbered if kind == CONTROL}
        self.markers = tuple(t for _, (t, kind) in numbered if kind in (CONTROL, USER_DEFINED))
        self.special_tokens = {
            text: index
            for index, (text, kind) in numbered
            if kind in (CONTROL, UNKNOWN) or (kind == USER_DEFINED and text in self.roles.values())
        }
        names = self._pieces.names
        self.end = names["end"] if end is None else end
        if self.end not in control:
            raise ValueError(
                f"the model has no control piece {self.end!r} to end a text with; it has "
                f"{', '.join(control) or 'none'}. Name one as end=, or train the model with an "
                "eos_id."
            )
        self.end_id, self.begin_id = control[self.end], control.get(names["begin"])
        set_roles(self, self.roles)
        self.unknown_id = self._pieces.kinds.index(UNKNOWN)
        if "pad" not in self.roles and names["pad"] in control:
            self.pad_id = control[names["pad"]]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Reads a `.model` file.

        Args:
            path: the file. **options: the constructor's.

        Raises ValueError, naming the file, if it is no model, or lacks an `end` or a role.

        Example: `SentencePieceTokenizer.from_file("t5-small/spiece.model")`
        """
        with open(path, "rb") as file:
            model = file.read()
        try:
            return cls(model, **options)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def write_model(self, path: str | os.PathLike[str]) -> None:
        """Writes the `.model` file as it was read."""
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(self.model)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuilds the tokenizer from `get_config`'s dict.

        Raises ValueError for another kind, a missing option or an invalid model.
        """
        check_kind(cls, config)
        names = ("vocabulary", "end", "roles", "pair_separators")
        missing = [name for name in names if name not in config]
        if missing:
            raise ValueError(f"{', '.join(missing)}: missing; save the tokenizer again.")
        try:
            model = base64.b64decode(config["vocabulary"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"vocabulary: not base64 ({error}); save it again.") from error
        return cls(model, **{name: config[name] for name in names[1:]})

    def get_config(self) -> dict[str, Any]:
        """The plain, JSON-ready dict that `from_config` takes; the model is in base64."""
        return {
            **super().get_config(),
            "end": self.end,
            "roles": self.roles,
            "pair_separators": self.pair_separators,
        }

    def encode(self, strings: Any) -> tf.RaggedTensor:
        """Encodes UTF-8 strings [B] as RaggedTensor int32 [B, None].

        Raises ValueError for anything but one axis, TypeError for anything but strings.

        Example: `tokenizer.encode(["Hello", ""]).to_list()`
        """
        ids, splits = self._encode_functions[False](string_vector(strings))
        return tf.RaggedTensor.from_row_splits(ids, splits, validate=False)

    def encode_with_offsets(self, strings: Any) -> Encoding:
        """Encodes strings [B] as `encode` and says which bytes of them each piece comes from.

        Blanks around a piece do not count to it. A word begins with a piece that begins with a
        space, and with the text.

        Raises as `encode`.

        Example: `tokenizer.encode_with_offsets(["Hello world"]).starts.to_list()`
        """
        ids, splits, *rows = self._encode_functions[True](string_vector(strings))
        return Encoding(
            *(tf.RaggedTensor.from_row_splits(row, splits, validate=False) for row in (ids, *rows))
        )

    def pieces(self) -> list[bytes]:
        """The text of each id, with its space; U+FFFD for the unknown one, b"" if special."""
        pieces = []
        for text, kind in zip(self._pieces.texts, self._pieces.kinds):
            if kind == BYTE:  # "<0xE4>"
                pieces.append(bytes([int(text[1:-1], 16)]))
            else:
                pieces.append(text.replace(SPACE, " ").encode())
        for index in self.special_tokens.values():
            pieces[index] = b""
        pieces[self.unknown_id] = REPLACEMENT
        return pieces

    @functools.cached_property
    def continuation(self) -> np.ndarray:
        """Bool (V,), True for the pieces without a space before them, special ones aside."""
        special = set(self.special_tokens.values())
        return np.array(
            [i not in special and text[:1] != SPACE for i, text in enumerate(self._pieces.texts)]
        )

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        # The library's own rules: the space before the first word goes, the unknown piece has a
        # form of its own. It stands for ids outside the vocabulary, too, which the operation
        # would refuse.
        values = tf.cast(ids.flat_values, tf.int64)
        known = (values >= 0) & (values < self.vocabulary_size)
        values = tf.cast(tf.where(known, values, self.unknown_id), tf.int32)
        return self._decode_function(values, tf.cast(ids.row_splits, tf.int64))

    def whole_characters(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Ids [B, None] without the last byte pieces ("<0xE4>") of a character that is not
        finished: the library's decoding makes U+FFFD of each."""
        cut = cut_character_bytes(Tokenizer._join(self, ids))  # one piece each
        lengths = ids.row_lengths() - tf.cast(cut, ids.row_splits.dtype)
        return tf.RaggedTensor.from_tensor(ids.to_tensor(), lengths)

    # Functions of their own, so that they are traced once and not again for every graph.
    @functools.cached_property
    def _encode_functions(self) -> dict[bool, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        texts = tf.TensorSpec([None], tf.string, name="texts")
        return {
            offsets: tf.function(function, input_signature=[texts], autograph=False)
            for offsets, function in ((False, self._ids), (True, self._ids_and_spans))
        }

    @functools.cached_property
    def _decode_function(self):
        values, splits = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)
        return tf.function(
            lambda values, splits: gen_sentencepiece_tokenizer.sentencepiece_detokenize_op(
                self._handle(), values, splits, False, False, False
            ),
            input_signature=[values, splits],
            autograph=False,
        )

    def _handle(self) -> tf.Tensor:
        return gen_sentencepiece_tokenizer.sentencepiece_op(
            model=self.model,
            shared_name=f"sentencepiece_{hashlib.sha256(self.model).hexdigest()}",
        )

    def _ids(self, texts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return gen_sentencepiece_tokenizer.sentencepiece_tokenize_op(
            self._handle(), texts, 0, 1.0, False, False, False, out_type=tf.int32
        )

    def _ids_and_spans(self, texts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        operation = gen_sentencepiece_tokenizer.sentencepiece_tokenize_with_offsets_op
        ids, splits, starts, ends = operation(
            self._handle(), texts, 0, 1.0, False, False, False, out_type=tf.int32
        )
        text_splits = splits_of(tf.cast(tf.strings.length(texts), tf.int64))
        base = tf.gather(text_splits, rows_of(splits))  # (P,)
        starts, ends = (tf.cast(places, tf.int64) + base for places in (starts, ends))
        # From the first byte to the last one that is no blank; empty if all are.
        data = tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8)
        size = tf.size(data, tf.int64)
        solid = classes_of(data, flags(text_splits, size)).kinds != SPACE_CLASS
        solid = tf.concat([[-1], tf.where(solid)[:, 0], size[None]], 0)
        first = tf.gather(solid, tf.searchsorted(solid, starts))
        starts = tf.minimum(first, ends)
        last = tf.gather(solid, tf.searchsorted(solid, ends) - 1)
        ends = tf.maximum(last + 1, starts)
        starts, ends = (tf.cast(places - base, tf.int32) for places in (starts, ends))
        begins = tf.constant([text[:1] == SPACE for text in self._pieces.texts])
        first_of_text = flags(splits, tf.size(ids, tf.int64))
        return ids, splits, starts, ends, tf.gather(begins, ids) | first_of_text
