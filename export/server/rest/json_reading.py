"""JSON bodies to Python values: the standard library's parser, with limits."""

import json
import re
from collections.abc import Callable

import numpy as np

MAX_NESTING = 256
# The C parser holds the GIL until it is done, some 10 ms for so much. Larger bodies are parsed with
# functions of Python for numbers and objects, at each of which other threads may get their turn;
# and their elements are counted before anything is built.
LARGE_BYTES = 2**21
_PIECE_BYTES = 2**18
_NOT_STRUCTURAL = bytes({*range(256)} - {*b'[]{},"'})
_LEVELS = np.zeros(256, np.int8)
_LEVELS[list(b"[{")], _LEVELS[list(b"]}")] = 1, -1
# Exponents that may be too large for a double, and surrogates: a search for each, because one that
# begins with a letter is ten times as fast as one for several of them.
_UNUSUAL = [re.compile(p) for p in (rb"e\+?[0-9]{3}", rb"E\+?[0-9]{3}", rb"\\u[dD][89a-fA-F]")]
# With an exponent of two digits, fewer make no number that is too large.
_MANY_DIGITS = b"0" * 200
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_ESCAPE = re.compile(r"\\(?:(u[dD][89abAB]..\\u[dD][c-fC-F]..)|(u[dD][89a-fA-F])|.)", re.DOTALL)


class JsonError(ValueError):
    """The text is not JSON, or is nested too deeply; says what is wrong, and at which byte."""

    def __init__(self, problem: str, offset: int | None = None):
        where = "" if offset is None else f" at offset: {offset}"
        super().__init__(f"JSON Parse error: {problem}{where}")


def read_json(body: bytes, admit: Callable[[int], None] | None = None) -> object:
    """Reads one JSON value.

    Beyond the standard: `NaN`, `Infinity`, `-Infinity`; bytes in strings that are not UTF-8, which
    become lone surrogates (`text_bytes` gives them back); a byte order mark; anything after a NUL.
    Of a repeated name the first value counts. `admit` is called with the number of elements of a
    large body (commas and opening brackets) before it is parsed, and may raise.

    Raises JsonError when the text is not JSON, holds a number too large for a double or half of a
    surrogate pair, or is nested more than 256 levels deep.
    """
    body = body.removeprefix(b"\xef\xbb\xbf").partition(b"\0")[0]
    if not body:
        raise JsonError("The document is empty")
    large = len(body) > LARGE_BYTES
    if large or body.count(b"[") + body.count(b"{") > MAX_NESTING:
        elements = _survey(body)
        if large and admit is not None:
            admit(elements)
    text = body.decode("utf-8", "surrogateescape")
    unusual = any(pattern.search(body) for pattern in _UNUSUAL)
    # Not of a large body, which would be copied; its numbers are looked at one by one anyway.
    unusual = unusual or (not large and _MANY_DIGITS in body.translate(_DIGITS_AS_0))
    try:
        if unusual:
            _refuse_half_pairs(text)
        return (_HOOKED_DECODER if large or unusual else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        place = len(text_bytes(text[: error.pos]))
        raise JsonError(error.msg.removesuffix(" at"), place) from error
    except ValueError as error:  # from _finite, or an integer of more digits than Python takes
        raise JsonError(f"Number too big to be stored in double: {error}") from error


def text_bytes(text: str) -> bytes:
    """The bytes of a string that `read_json` read."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """A text that a proto can hold: bytes that are not UTF-8 become backslash escapes."""
    return text_bytes(text).decode("utf-8", "backslashreplace")


def _survey(body: bytes) -> int:
    """The number of elements, in little memory; raises for what is nested too deeply."""
    elements = level = inside = 0
    escaped = False
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        if escaped:
            piece = piece[1:]
        if escaped := b"\\" in piece:
            escaped = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
            piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        codes = np.frombuffer(piece.translate(None, _NOT_STRUCTURAL), np.uint8)
        if inside or b'"' in piece:
            quoted = (np.cumsum(codes == ord('"'), dtype=np.uint8) & 1) ^ inside
            inside = int(quoted[-1]) if len(quoted) else inside
            codes = codes[(quoted == 0) & (codes != ord('"'))]
        steps = _LEVELS[codes]
        levels = level + np.cumsum(steps, dtype=np.int32)
        if levels.max(initial=0) > MAX_NESTING:
            raise JsonError(f"Nested more than {MAX_NESTING} levels deep")
        elements += np.count_nonzero(steps >= 0)
        level = int(levels[-1]) if len(levels) else level
    return elements


def _refuse_half_pairs(text: str) -> None:
    for escape in _ESCAPE.finditer(text):
        if escape[2]:
            raise json.JSONDecodeError("Half of a surrogate pair", text, escape.start())


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(digits[:40])
    return number


def _integer(digits: str) -> int:
    return int(digits)


def _first_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members.update(reversed(pairs))
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_first_values)
_HOOKED_DECODER = json.JSONDecoder(
    object_pairs_hook=_first_values, parse_float=_finite, parse_int=_integer
)
