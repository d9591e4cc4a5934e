"""JSON bodies to Python values: the standard library's parser, with limits."""

import json
import math
import re
from collections.abc import Callable

import numpy as np

from export.server.status import invalid

MAX_NESTING = 256
# The C parser holds the GIL until it is done, some 10 ms for so much. Larger bodies are parsed with
# functions of Python for numbers and objects, at each of which other threads may get their turn;
# and their elements are counted before anything is built.
LARGE_BYTES = 2**21
_PIECE_BYTES = 2**18
_NOT_STRUCTURAL = bytes({*range(256)} - {*b'[]{},"'})
_LEVELS = np.zeros(256, np.int8)
_LEVELS[list(b"[{")], _LEVELS[list(b"]}")] = 1, -1
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)", re.DOTALL)


def read_json(body: bytes, admit: Callable[[int], None] | None = None) -> object:
    """Reads one JSON value; `admit` may refuse a large body by its number of elements."""
    # As TensorFlow Serving, beyond the standard: NaN and infinities, bytes that are not UTF-8 (as
    # lone surrogates), a byte order mark, anything after a NUL; the first of a repeated name.
    body = body.removeprefix(b"\xef\xbb\xbf").partition(b"\0")[0]
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    large = len(body) > LARGE_BYTES
    if large or body.count(b"[") + body.count(b"{") > MAX_NESTING:
        elements = _survey(body)
        if large and admit is not None:
            admit(elements)
    text = body.decode("utf-8", "surrogateescape")
    try:
        if _SURROGATE.search(body):
            for escape in _ESCAPE.finditer(text):
                if escape[1]:
                    raise json.JSONDecodeError("Half of a surrogate pair", text, escape.start())
        return (_LARGE if large else _SMALL).decode(text)
    except json.JSONDecodeError as error:
        place = len(text_bytes(text[: error.pos]))
        problem = f"{error.msg.removesuffix(' at')} at offset: {place}"
    except ValueError as error:  # from _finite, or an integer of more digits than Python takes
        problem = f"Number too big to be stored in double: {error}"
    raise invalid(f"JSON Parse error: {problem}")


def text_bytes(text: str) -> bytes:
    """The bytes of a string that `read_json` read."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """A text that a proto can hold: bytes that are not UTF-8 become backslash escapes."""
    return text_bytes(text).decode("utf-8", "backslashreplace")


def _survey(body: bytes) -> int:
    """The number of elements, in little memory; raises for what is nested too deeply."""
    elements = level = inside = 0
    escape = b""  # a backslash at the end of a piece goes before the next one
    for start in range(0, len(body), _PIECE_BYTES):
        piece = escape + body[start : start + _PIECE_BYTES]
        escape = b"\\" * ((len(piece) - len(piece.rstrip(b"\\"))) % 2)
        piece = piece.removesuffix(escape).replace(rb"\\", b"").replace(rb"\"", b"")
        codes = np.frombuffer(piece.translate(None, _NOT_STRUCTURAL), np.uint8)
        quotes = codes == ord('"')
        quoted = (np.cumsum(quotes, dtype=np.uint8) + inside) & 1
        steps = _LEVELS[codes[(quoted == 0) & ~quotes]]
        levels = level + np.cumsum(steps, dtype=np.int32)
        if levels.max(initial=0) > MAX_NESTING:
            raise invalid(f"JSON Parse error: Nested more than {MAX_NESTING} levels deep")
        elements += np.count_nonzero(steps >= 0)
        inside, level = (int(quoted[-1]) if len(codes) else inside), level + int(steps.sum())
    return elements


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits[:40])
    return number


def _first_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members.update(reversed(pairs))
    return members


_SMALL = json.JSONDecoder(object_pairs_hook=_first_values, parse_float=_finite)
_LARGE = json.JSONDecoder(
    object_pairs_hook=_first_values, parse_float=_finite, parse_int=lambda digits: int(digits)
)
