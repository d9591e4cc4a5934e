"""Reads what a SentencePiece model file says of its pieces.

The file is a protocol buffer, `sentencepiece_model.proto` of the SentencePiece project; only the
fields that are needed here are read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"

# Fields of ModelProto, ModelProto.SentencePiece and TrainerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _KIND = 1, 3
_SPACE_AS_SUFFIX, _BEGIN_PIECE, _END_PIECE, _PAD_PIECE = 24, 46, 47, 48


@dataclasses.dataclass(frozen=True)
class PieceList:
    """The pieces of a model.

    Attributes:
        texts: the pieces in the order of their ids, "▁" for a space.
        kinds: NORMAL to BYTE of each.
        names: what the model calls its special pieces, by "begin", "end" and "pad".
        space_as_suffix: True if a space belongs to the word before it.
    """

    texts: list[str]
    kinds: list[int]
    names: dict[str, str]
    space_as_suffix: bool


def read_pieces(model: bytes) -> PieceList:
    """Reads the pieces of a serialized model.

    Raises ValueError if it is no SentencePiece model.
    """
    texts, kinds, seen = [], [], set()
    names = {"begin": "<s>", "end": "</s>", "pad": "<pad>"}
    suffix = False
    try:
        for number, content in _fields(model):
            seen.add(number)
            if number == _PIECES:
                piece = dict(_fields(content))
                texts.append(piece[_TEXT].decode())
                kinds.append(piece.get(_KIND, NORMAL))
                if kinds[-1] == BYTE and not re.fullmatch("<0x[0-9A-F]{2}>", texts[-1]):
                    raise KeyError(texts[-1])
            elif number == _TRAINER:
                trainer = dict(_fields(content))
                numbers = {"begin": _BEGIN_PIECE, "end": _END_PIECE, "pad": _PAD_PIECE}
                names |= {n: trainer[i].decode() for n, i in numbers.items() if i in trainer}
                suffix = bool(trainer.get(_SPACE_AS_SUFFIX, 0))
        if not {_TRAINER, _NORMALIZER} <= seen:
            raise KeyError("the parts after the pieces")
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError("not a SentencePiece model, or only a part of one.") from error
    if kinds.count(UNKNOWN) != 1:
        raise ValueError(
            f"not a SentencePiece model: it has {kinds.count(UNKNOWN)} unknown pieces, not one."
        )
    return PieceList(texts, kinds, names, suffix)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: bytes, or an int for a number."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            if shift > 63:
                raise IndexError(place)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while place < len(message):
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 2: None, 5: 4}[wire]
        size = varint() if size is None else size
        if place + size > len(message):
            raise IndexError(place)
        yield number, message[place : place + size]
        place += size
