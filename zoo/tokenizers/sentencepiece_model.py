"""SentencePiece's model files: read, written, and run by tensorflow_text's operation."""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2

# The part of sentencepiece_model.proto that is used here: message -> field -> number, type and
# default. Fields of other numbers are kept as they are.
_SCHEMA = {
    "Piece": {"piece": (1, "string"), "score": (2, "float"), "type": (3, "int32", "1")},
    "Trainer": {
        "model_type": (3, "int32", "1"),
        "treat_whitespace_as_suffix": (24, "bool"),
        "byte_fallback": (35, "bool"),
        "unk_id": (40, "int32"),
        "eos_piece": (47, "string", "</s>"),
        "pad_piece": (48, "string", "<pad>"),
    },
    "Normalizer": {
        "name": (1, "string"),
        "precompiled_charsmap": (2, "bytes"),
        "add_dummy_prefix": (3, "bool", "true"),
        "remove_extra_whitespaces": (4, "bool", "true"),
        "escape_whitespaces": (5, "bool", "true"),
    },
    "Model": {
        "pieces": (1, "Piece"),
        "trainer_spec": (2, "Trainer"),
        "normalizer_spec": (3, "Normalizer"),
    },
}


def _model_class() -> Any:
    package = "zoo.sentencepiece"
    file = descriptor_pb2.FileDescriptorProto(name="zoo/sentencepiece.proto", package=package)
    types = descriptor_pb2.FieldDescriptorProto
    for name, fields in _SCHEMA.items():
        declared = file.message_type.add(name=name)
        for field, (number, kind, *default) in fields.items():
            own = kind in _SCHEMA
            declared.field.add(
                name=field,
                number=number,
                label=types.LABEL_REPEATED if field == "pieces" else types.LABEL_OPTIONAL,
                type=types.TYPE_MESSAGE if own else getattr(types, f"TYPE_{kind.upper()}"),
                type_name=f".{package}.{kind}" if own else None,
                default_value=default[0] if default else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Model"))


_Model = _model_class()


class PieceList(NamedTuple):
    """The pieces of a model."""

    texts: list[str]  # in the order of their ids, "▁" for a space
    kinds: list[int]  # NORMAL to BYTE of each
    end: str  # the name of the piece that ends a sentence
    pad: str  # and of the one that fills it up


def read_pieces(content: bytes) -> PieceList:
    """The pieces of a serialized model; ValueError if it is none."""
    try:
        model = _Model.FromString(content)
        trainer = model.trainer_spec
        texts = [piece.piece for piece in model.pieces]
        names = trainer.eos_piece, trainer.pad_piece
        whole = model.HasField("trainer_spec") and model.HasField("normalizer_spec")
        whole &= all(piece.HasField("piece") for piece in model.pieces)
    except (message.DecodeError, UnicodeDecodeError):
        whole = False
    pieces = PieceList(texts, [piece.type for piece in model.pieces], *names) if whole else None
    if pieces is None or not all(
        re.fullmatch("<0x[0-9A-F]{2}>", text)
        for text, kind in zip(pieces.texts, pieces.kinds)
        if kind == BYTE
    ):
        raise ValueError("not a SentencePiece model, or only a part of one.")
    if (count := pieces.kinds.count(UNKNOWN)) != 1:
        raise ValueError(f"not a SentencePiece model: it has {count} unknown pieces, not one.")
    if trainer.treat_whitespace_as_suffix:
        raise ValueError("models with treat_whitespace_as_suffix are not supported.")
    return pieces


def read_unigram_model(content: bytes) -> tuple[list[tuple[str, float, int]], bytes]:
    """The pieces (text, score, kind) of a unigram model, and its table of characters that are
    replaced, b"" for none; ValueError for another model, or other rules of whitespace.
    """
    read_pieces(content)
    model = _Model.FromString(content)
    normalizer = model.normalizer_spec
    if model.trainer_spec.model_type != _UNIGRAM:
        raise ValueError("not a unigram model of SentencePiece.")
    for name in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        if not getattr(normalizer, name):
            raise ValueError(f"a SentencePiece model with {name} off.")
    pieces = [(piece.piece, piece.score, piece.type) for piece in model.pieces]
    return pieces, normalizer.precompiled_charsmap


def write_unigram_model(pieces: Iterable[tuple[str, float, int]], charsmap: bytes) -> bytes:
    """A model of what `read_unigram_model` gives: only what changes ids."""
    model = _Model()
    for text, score, kind in pieces:
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = _UNIGRAM
    if any(piece.type == BYTE for piece in model.pieces):
        model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = [piece.type for piece in model.pieces].index(UNKNOWN)
    model.normalizer_spec.precompiled_charsmap = charsmap
    return model.SerializeToString(deterministic=True)


def with_rounded_scores(content: bytes) -> bytes:
    """The model with scores of 13 binary places: below 2,048 all sums of them are exact floats."""
    model = _Model.FromString(content)
    for piece in model.pieces:
        piece.score = round(piece.score * 2**13) / 2**13
    return model.SerializeToString(deterministic=True)


def write_merging_model(pieces: Iterable[tuple[str, float, int]], unknown_id: int) -> bytes:
    """A model that merges characters by the scores of pieces (text, score, kind)."""
    model = _Model()
    add = model.pieces.add
    for text, score, kind in pieces:
        add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type, model.trainer_spec.unk_id = _BPE, unknown_id
    if any(piece.type == BYTE for piece in model.pieces):
        model.trainer_spec.byte_fallback = True
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = False
    return model.SerializeToString(deterministic=True)


def _resource(model: bytes) -> tf.Tensor:
    # The parsed model, a resource of the session; its name, a hash, lets others share it.
    return gen_sentencepiece_tokenizer.sentencepiece_op(
        model=model, shared_name=f"sentencepiece_{hashlib.sha256(model).hexdigest()}"
    )


def tokenize(model: bytes, texts: tf.Tensor, offsets: bool = False) -> tuple[tf.Tensor, ...]:
    """Ids int32 (P,), row splits int64 (B + 1,); `offsets` adds starts and ends, int32 (P,)."""
    operations = gen_sentencepiece_tokenizer
    operation = (
        operations.sentencepiece_tokenize_with_offsets_op
        if offsets
        else operations.sentencepiece_tokenize_op
    )
    # No sampling; no mark of beginning or end, no reversal.
    return operation(_resource(model), texts, 0, 1.0, False, False, False, out_type=tf.int32)


def tokenize_to_texts(model: bytes, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pieces as strings (P,), an unknown one as its text, and row splits int64 (B + 1,)."""
    operation = gen_sentencepiece_tokenizer.sentencepiece_tokenize_op
    return operation(_resource(model), texts, 0, 1.0, False, False, False, out_type=tf.string)


def detokenize(model: bytes, ids: tf.Tensor, row_splits: tf.Tensor) -> tf.Tensor:
    """The strings (B,) of ids int32 (P,) with row splits int64 (B + 1,)."""
    return gen_sentencepiece_tokenizer.sentencepiece_detokenize_op(
        _resource(model), ids, row_splits, False, False, False
    )
