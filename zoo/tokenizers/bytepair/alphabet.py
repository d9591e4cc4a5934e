"""GPT-2's way to write bytes as visible characters, in which vocabularies and merges are kept.

A byte that is a visible character of Latin-1 stands for itself, the others are U+0100 and after:
a space is "Ġ", a line feed "Ċ".
"""

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]

# The 256 characters in the order of GPT-2's first ids.
ALPHABET = "".join(map(chr, _VISIBLE)) + "".join(chr(0x100 + i) for i in range(len(_HIDDEN)))
BYTE_OF = dict(zip(ALPHABET, [*_VISIBLE, *_HIDDEN]))

# The same as a character of Latin-1 for each byte, which is what the merging operation reads:
# `str.translate` is much faster than a loop over characters.
_TO_LATIN = {ord(character): byte for character, byte in BYTE_OF.items()}
_FROM_LATIN = {byte: character for character, byte in BYTE_OF.items()}


def to_bytes(piece: str) -> bytes:
    """The bytes that a piece stands for.

    A piece with a character that stands for no byte stands for its own UTF-8, as in `tokenizers`.

    Example: `to_bytes("Ġé")` is `b" \\xe9"`.
    """
    if all(character in BYTE_OF for character in piece):
        return piece.translate(_TO_LATIN).encode("latin-1")
    return piece.encode()


def from_bytes(value: bytes) -> str:
    """The piece that stands for some bytes.

    Example: `from_bytes(b" a")` is `"Ġa"`.
    """
    return value.decode("latin-1").translate(_FROM_LATIN)
