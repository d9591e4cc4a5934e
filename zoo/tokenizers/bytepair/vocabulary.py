"""GPT-2's byte alphabet; checks that a vocabulary and its merges belong together.

In vocabularies and merges, bytes are written as visible characters. A byte that is a visible
character of Latin-1 stands for itself, the others are U+0100 and after: a space is "Ġ", a line feed
"Ċ".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]

# The 256 characters in the order of GPT-2's first ids.
ALPHABET = "".join(map(chr, _VISIBLE)) + "".join(chr(0x100 + i) for i in range(len(_HIDDEN)))
_BYTE_OF = dict(zip(ALPHABET, [*_VISIBLE, *_HIDDEN]))
# `str.translate` to and from Latin-1 is much faster than a loop over characters.
_TO_LATIN = {ord(character): byte for character, byte in _BYTE_OF.items()}
_FROM_LATIN = {byte: character for character, byte in _BYTE_OF.items()}

_SHOWN = 5  # Of what is missing.


def to_bytes(piece: str) -> bytes:
    """The bytes that a piece stands for.

    A piece with a character that stands for no byte stands for its own UTF-8, as in `tokenizers`.

    Example:
        >>> to_bytes("Ġé")
        b' \\xe9'
    """
    if all(character in _BYTE_OF for character in piece):
        return piece.translate(_TO_LATIN).encode("latin-1")
    return piece.encode()


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
    """The pieces in the order of their ids, and the ids of the special ones.

    Special tokens that are only named, and that the vocabulary lacks, come after it.
    """
    ids = _ids(vocabulary, "vocabulary")
    special = _ids(special_tokens, "special_tokens")
    if isinstance(special_tokens, Mapping):
        for name, index in special.items():
            if ids.setdefault(name, index) != index:
                raise ValueError(
                    f"special_tokens: {name!r} has id {index}, but {ids[name]} in the vocabulary."
                )
    else:
        new = 1 + max(ids.values(), default=-1)
        ids |= {name: new + i for i, name in enumerate(n for n in special if n not in ids)}
        special = {name: ids[name] for name in special}
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        _raise_numbering(ids)
    lacking = [f"{c!r} (byte {_BYTE_OF[c]:#04x})" for c in ALPHABET if c not in ids or c in special]
    if lacking:
        raise ValueError(
            f"vocabulary: no piece for {_some(lacking)}. A byte-level vocabulary has a piece for "
            "each of the 256 bytes, written as GPT-2 does."
        )
    return pieces, special


def _ids(pieces: Any, name: str) -> dict[str, int]:
    if isinstance(pieces, Mapping):
        for piece, index in pieces.items():
            if not isinstance(piece, str) or type(index) is not int:
                raise TypeError(f"{name} must map strings to integers, found {piece!r}: {index!r}.")
        return dict(pieces)
    if isinstance(pieces, str | bytes) or not isinstance(pieces, Iterable):
        raise TypeError(f"{name} must be a dict or a list of strings, found {pieces!r:.80}.")
    ids: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        if not isinstance(piece, str):
            raise TypeError(f"{name}[{index}] must be a string, found {piece!r:.80}.")
        if ids.setdefault(piece, index) != index:
            raise ValueError(f"{name}[{index}] = {piece!r} repeats {name}[{ids[piece]}].")
    return ids


def _raise_numbering(ids: dict[str, int]) -> None:
    seen: dict[int, str] = {}
    for piece, index in ids.items():
        if seen.setdefault(index, piece) != piece:
            raise ValueError(f"vocabulary: {seen[index]!r} and {piece!r} both have id {index}.")
    missing = [str(index) for index in range(len(ids)) if index not in seen]
    raise ValueError(
        f"vocabulary: {len(ids)} pieces must have the ids 0 to {len(ids) - 1}; nothing has "
        f"{_some(missing)}."
    )


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def merge_pairs(
    pieces: Sequence[str], special: Mapping[str, int], merges: Iterable[Any]
) -> tuple[list[str], list[tuple[int, int]]]:
    """The merges, pairs of pieces or strings "a b", as strings and as pairs of ids.

    Raises MergeError for a merge of or into something that is no piece or a special one, or that is
    no pair.
    """
    ids = {piece: index for index, piece in enumerate(pieces) if piece not in special}
    if isinstance(merges, str | bytes | Mapping) or not isinstance(merges, Iterable):
        raise TypeError(f"merges must be a list, found {merges!r:.80}.")
    texts, pairs = [], []
    for index, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        try:
            left, right = parts
            pair = ids[left], ids[right]
            ids[left + right]  # The product must be a piece, too.
        except (KeyError, TypeError, ValueError):
            raise MergeError(index, _reason(parts, ids, special)) from None
        pairs.append(pair)
        texts.append(f"{left} {right}")
    alphabet = set(ALPHABET)
    for index, (left, right) in enumerate(pairs):
        if not alphabet.issuperset(pieces[left] + pieces[right]):
            strange = sorted(set(pieces[left] + pieces[right]) - alphabet)
            raise MergeError(index, f"{strange[0]!r} is no byte; this is no byte-level vocabulary.")
    return texts, pairs


def _reason(parts: Any, ids: Mapping[str, int], special: Mapping[str, int]) -> str:
    is_pair = isinstance(parts, list | tuple) and len(parts) == 2
    if not is_pair or not all(isinstance(part, str) and part for part in parts):
        return f"must be two pieces with a space between, found {parts!r:.80}."
    for piece in (*parts, "".join(parts)):
        if piece in special:
            return f"{piece!r} is a special token, which no merge may read or make."
        if piece not in ids:
            return f"{piece!r} is not in the vocabulary."
    raise AssertionError(parts)
