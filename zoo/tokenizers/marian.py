"""Marian's tokenizer: one SentencePiece model for sources, one for targets, one list of ids."""

import base64
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from zoo.config import Fields
from zoo.files import blaming, replacing, write_json
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.base import Tokenizer, numbered_pieces, string_vector

_BUCKETS = 2**63 - 1
# A target language, at the start of a source.
_CODE = r"(?s)(>>.*?<<)(.*)"
_END, _UNKNOWN, _PAD = "</s>", "<unk>", "<pad>"


class MarianTokenizer(Tokenizer):
    """The tokenizer of Marian's models (OPUS-MT); gives the ids of transformers' class.

    `encode` is for sources, `encode_target` for targets. A source may begin with the code of a
    language, such as ">>deu<<", which is one token. "</s>", "<unk>" and "<pad>" are text where they
    are written out in one. Punctuation stays as it is, as in transformers without sacremoses.

    Args:
        vocabulary: piece -> id, or the pieces in order.
        source, target: the content of a `.spm` file each, or its base64.

    Raises:
        ValueError, TypeError: not a SentencePiece model, or ids that are not 0, 1, 2...; or one of
            "</s>", "<unk>" and "<pad>" is missing.

    Example:
        tokenizer = MarianTokenizer.from_files("vocab.json", "source.spm", "target.spm")
        tokenizer.encode([">>deu<< Hello world."])
    """

    kind = "marian"
    config_names = ("vocabulary", "source", "target")

    vocabulary: list[str]

    def __init__(
        self, vocabulary: Mapping[str, int] | list[str], source: bytes | str, target: bytes | str
    ):
        ids = numbered_pieces(vocabulary, "vocabulary")
        self.vocabulary = sorted(ids, key=ids.__getitem__)
        if [ids[piece] for piece in self.vocabulary] != [*range(len(ids))]:
            raise ValueError("vocabulary: the ids are not 0, 1, 2..., each once.")
        if missing := [name for name in (_END, _UNKNOWN, _PAD) if name not in ids]:
            raise ValueError(f"vocabulary: no {missing[0]!r}.")
        self._source, self._target = _model(source, "source"), _model(target, "target")
        self.source, self.target = (
            base64.b64encode(model).decode("ascii") for model in (self._source, self._target)
        )
        self.special_tokens = {name: ids[name] for name in (_END, _UNKNOWN, _PAD)}
        self.end_id, self.unknown_id, self.pad_id = self.special_tokens.values()
        self.end = _END
        with tf.init_scope():
            hashes = tf.strings.to_hash_bucket_fast(self.vocabulary, _BUCKETS).numpy()
        order = np.argsort(hashes)
        self._hashes, self._order = hashes[order], order.astype(np.int32)
        if len({*hashes.tolist()}) < len(hashes):
            raise ValueError("vocabulary: two pieces have the same 64-bit hash.")

    @classmethod
    def from_files(cls, vocabulary: Any, source: Any, target: Any) -> Self:
        """Reads `vocab.json`, `source.spm` and `target.spm`; a ValueError names the file."""
        from_json = Fields.read(Path(vocabulary)).values
        models = []
        for path in (source, target):
            with blaming(path), open(path, "rb") as file:
                spm.read_pieces(content := file.read())
                models.append(content)
        with blaming(vocabulary, TypeError):
            return cls(from_json, *models)

    def write_files(self, folder: str | os.PathLike[str]) -> None:
        """Writes `vocab.json`, `source.spm` and `target.spm`."""
        ids = {piece: index for index, piece in enumerate(self.vocabulary)}
        write_json(Path(folder) / "vocab.json", ids, ensure_ascii=False)
        for side, model in (("source", self._source), ("target", self._target)):
            with replacing(Path(folder) / f"{side}.spm") as temporary:
                Path(temporary).write_bytes(model)

    def encode(self, strings: Any) -> tf.RaggedTensor:
        return self._encode_source(string_vector(strings))

    def encode_target(self, strings: Any) -> tf.RaggedTensor:
        return self._encode_target(string_vector(strings))

    # Functions of their own, traced once.
    _encode_source = functools.cached_property(lambda self: self._traced(self._source))
    _encode_target = functools.cached_property(lambda self: self._traced(self._target))

    def _traced(self, model: bytes) -> Callable[[tf.Tensor], tf.RaggedTensor]:
        texts = tf.TensorSpec([None], tf.string, name="texts")
        return tf.function(
            lambda texts: self._encode(model, texts), input_signature=[texts], autograph=False
        )

    def _encode(self, model: bytes, texts: tf.Tensor) -> tf.RaggedTensor:
        coded = tf.strings.regex_full_match(texts, _CODE)  # (B,)
        codes = tf.strings.regex_replace(tf.boolean_mask(texts, coded), f"^{_CODE}$", r"\1")
        rest = tf.where(coded, tf.strings.regex_replace(texts, f"^{_CODE}$", r"\2"), texts)
        pieces, splits = spm.tokenize_to_texts(model, rest)
        ids = tf.RaggedTensor.from_row_splits(self._ids(pieces), splits, validate=False)
        lengths = tf.cast(coded, tf.int64)
        first = tf.RaggedTensor.from_row_lengths(self._ids(codes), lengths, validate=False)
        return tf.concat([first, ids], axis=1)

    def _ids(self, pieces: tf.Tensor) -> tf.Tensor:
        """Ids int32 (P,) of strings (P,)."""
        hashes = tf.strings.to_hash_bucket_fast(pieces, _BUCKETS)
        place = tf.minimum(tf.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        ids = tf.gather(self._order, place)
        same = tf.gather(np.array(self.vocabulary, dtype=object), ids) == pieces
        # What is written like a special token is none.
        for index in self.special_tokens.values():
            same &= ids != index
        return tf.where(same, ids, self.unknown_id)

    def _texts(self) -> list[bytes]:
        return [piece.replace(spm.SPACE, " ").encode() for piece in self.vocabulary]

    def _join(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return tf.strings.strip(super()._join(ids))

    def decode_after(self, ids: Any) -> tf.Tensor:
        ids = ids if isinstance(ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(ids)
        return super()._join(ids)


def _model(content: bytes | str, name: str) -> bytes:
    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except ValueError as error:
            raise ValueError(f"{name}: not base64 ({error}); save it again.") from error
    spm.read_pieces(content)
    return content
