"""GPT-2's byte alphabet; checks that a vocabulary and its merges belong together.

Bytes that are visible in Latin-1 stand for themselves, others are U+0100 and after: a space is
"Ġ".
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoo.tokenizers.base import numbered_pieces

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]

# The 256 characters in the order of GPT-2's first ids.
ALPHABET = "".join(map(chr, _VISIBLE)) + "".join(chr(0x100 + i) for i in range(len(_HIDDEN)))
# `str.translate` to and from Latin-1 is much faster than a loop over characters.
_TO_LATIN = dict(zip(map(ord, ALPHABET), [*_VISIBLE, *_HIDDEN]))
_FROM_LATIN = {byte: character for character, byte in _TO_LATIN.items()}
_KNOWN = frozenset(ALPHABET)
_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F)))


def to_bytes(piece: str) -> bytes:
    """ "Ġé" is b" \\xe9"; UTF-8 if a character stands for no byte, as in `tokenizers`."""
    return (
        piece.translate(_TO_LATIN).encode("latin-1") if _KNOWN.issuperset(piece) else piece.encode()
    )


def from_bytes(value: bytes) -> str:
    """The piece that stands for some bytes."""
    return value.decode("latin-1").translate(_FROM_LATIN)


class MergeError(ValueError):
    """A merge that the vocabulary does not fit; `index` is its place in the list."""

    def __init__(self, index: int, reason: str):
        super().__init__(f"merges[{index}]: {reason}")
        self.index, self.reason = index, reason


def numbered(
    vocabulary: Mapping[str, int] | Sequence[str], special_tokens: Mapping[str, int] | Sequence[str]
) -> tuple[list[str], dict[str, int]]:
    """The pieces by id, and the ids of the special ones; named ones that it lacks come after it."""
    ids = numbered_pieces(vocabulary, "vocabulary")
    special = numbered_pieces(special_tokens, "special_tokens")
    if not isinstance(special_tokens, Mapping):
        new = itertools.count(1 + max(ids.values(), default=-1))
        special = {name: ids[name] if name in ids else next(new) for name in special}
    for name, index in special.items():
        if ids.setdefault(name, index) != index:
            raise ValueError(
                f"special_tokens: {name!r} has id {index}, but {ids[name]} in the vocabulary."
            )
    pieces = sorted(ids, key=ids.__getitem__)
    for index, piece in enumerate(pieces):
        if ids[piece] != index:
            raise ValueError(
                f"vocabulary: {len(pieces)} pieces must have the ids 0 to {len(pieces) - 1}, each "
                f"once; {piece!r} has {ids[piece]} in place of {index}."
            )
    return pieces, special


def require_alphabet(pieces: Iterable[str], special: Mapping[str, int]) -> None:
    """Raises ValueError for a vocabulary that is not byte-level: it lacks printable characters."""
    ids = {*pieces}
    lacking = [character for character in ALPHABET if character not in ids or character in special]
    if not _PRINTABLE.isdisjoint(lacking):
        raise ValueError(
            f"vocabulary: no piece for {lacking[0]!r} (byte {_TO_LATIN[ord(lacking[0])]:#04x}), "
            f"and {len(lacking) - 1} more. A byte-level vocabulary has a piece for each byte "
            "that it can encode, written as GPT-2 does, ASCII's printable characters at least."
        )


def merge_pairs(
    pieces: Sequence[str],
    special: Mapping[str, int],
    merges: Iterable[Any],
    byte_level: bool = True,
) -> tuple[list[str], list[tuple[int, int]]]:
    """The merges as strings and pairs of ids; MergeError for what is not in the vocabulary."""
    ids = {piece: index for index, piece in enumerate(pieces) if piece not in special}
    if isinstance(merges, str | bytes | Mapping) or not isinstance(merges, Iterable):
        raise TypeError(f"merges must be a list, found {merges!r:.80}.")
    texts, pairs = [], []
    for index, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(parts, list | tuple) and len(parts) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in parts):
            raise MergeError(
                index, f"must be two pieces with a space between, found {parts!r:.80}."
            )
        left, right = parts
        for piece in (left, right, left + right):
            if piece not in ids:
                reason = "is not in the vocabulary."
                if piece in special:
                    reason = "is a special token, which no merge may read or make."
                raise MergeError(index, f"{piece!r} {reason}")
        if byte_level and not _KNOWN.issuperset(left + right):
            strange = min({*left, *right} - _KNOWN)
            raise MergeError(index, f"{strange!r} is no byte; this is no byte-level vocabulary.")
        texts.append(f"{left} {right}")
        pairs.append((ids[left], ids[right]))
    return texts, pairs
