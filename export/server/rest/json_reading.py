"""JSON bodies to Python values: the standard library's parser, with limits, in pieces.

The parser holds the GIL until it is done. A large body is therefore cut at commas, the pieces are
parsed one after the other, and other threads get their turn in between. What the cuts need to know
also gives the number of elements and the nesting, before anything is built.
"""

import json
import re
from collections.abc import Callable, Iterator

import numpy as np

MAX_NESTING = 256
# So much is parsed at one time, some 10 ms, and has too few elements to be counted; what is larger
# is cut into pieces.
WHOLE_BYTES = 2**21
PIECE_BYTES = 2**18
_COMMA = ord(",")
_QUOTE = ord('"')
_STRUCTURAL = np.zeros(256, bool)
_STRUCTURAL[list(b"[]{},")] = True
_LEVELS = np.zeros(256, np.int8)
_LEVELS[list(b"[{")], _LEVELS[list(b"]}")] = 1, -1
_BLANK = b" \t\r\n"
_NO_BRACKETS = bytes({*range(256)} - {*b'[]{}"'})
_CLOSING = {ord("["): "]", ord("{"): "}"}
# A name that no body can have: lone surrogates are refused.
_CONTINUED = '{"\\ud800":'
# Exponents that may be too large for a double, and surrogates: a search for each, because one that
# begins with a letter is ten times as fast as one for several of them.
_UNUSUAL = [re.compile(p) for p in (r"e\+?[0-9]{3}", r"E\+?[0-9]{3}", r"\\u[dD][89a-fA-F]")]
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

    Beyond the standard: `NaN`, `Infinity`, `-Infinity`; bytes in strings that are not UTF-8; a
    byte order mark; anything after a NUL. Of a repeated name the first value counts.

    Args:
        body: bytes, UTF-8 or nearly so.
        admit: Called with the number of elements of a body larger than 2 MiB (commas and opening
            brackets) before it is parsed; may raise.

    Returns:
        None, bool, int, float, str, list or dict. Bytes that are not UTF-8 are lone surrogates in
        the strings: `text_bytes` gives the bytes back.

    Raises:
        JsonError: the text is no JSON, holds a number too large for a double or half of a
            surrogate pair, or is nested more than 256 levels deep.

    Example:
        >>> read_json(b'{"instances": [1, NaN]}')
        {'instances': [1, nan]}
    """
    begin = 3 if body.startswith(b"\xef\xbb\xbf") else 0
    end = body.find(0)
    if begin or end >= 0:
        body = body[begin : None if end < 0 else end]
    if not body:
        raise JsonError("The document is empty")
    if len(body) <= WHOLE_BYTES and not _may_be_deep(body):
        return _parse(body, 0, "", "")
    elements, cuts = _survey(body)
    if admit is not None and len(body) > WHOLE_BYTES:
        admit(elements)
    return _parse_pieces(body, cuts)


def text_bytes(text: str) -> bytes:
    """The bytes of a string that `read_json` read."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """A text that a proto can hold: bytes that are not UTF-8 become backslash escapes."""
    return text_bytes(text).decode("utf-8", "backslashreplace")


def _may_be_deep(body: bytes) -> bool:
    """Whether the nesting may exceed the limit: cheap, and right but for what is no JSON."""
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return False
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    outside = b"".join(body.translate(None, _NO_BRACKETS).split(b'"')[::2])
    levels = np.cumsum(_LEVELS[np.frombuffer(outside, np.uint8)], dtype=np.int32)
    return bool(levels.max(initial=0) > MAX_NESTING)


def _survey(body: bytes) -> tuple[int, list[tuple[int, int, bytes]]]:
    """The number of elements, and where to cut.

    A cut is the place of a comma, the fewest containers open since the cut before, and the opening
    brackets of those that are open there.
    """
    elements, cuts, lowest, stack = 0, [], 0, b""
    inside, escaped = 0, False
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        if escaped:
            piece = b"_" + piece[1:]
        if escaped := b"\\" in piece:
            escaped = (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 1
            piece = piece.replace(rb"\\", b"__").replace(rb"\"", b"__")
        codes = np.frombuffer(piece, np.uint8)
        structural = _STRUCTURAL[codes]
        if inside or _QUOTE in piece:
            quoted = (np.cumsum(codes == _QUOTE, dtype=np.uint8) & 1) ^ inside
            inside = int(quoted[-1])
            structural &= quoted == 0
        places = np.flatnonzero(structural)
        codes = codes[places]
        steps = _LEVELS[codes]
        levels = len(stack) + np.cumsum(steps, dtype=np.int32)
        elements += np.count_nonzero(steps >= 0)
        wrong = np.flatnonzero((levels > MAX_NESTING) | (levels < 0))
        if len(wrong):
            deep = levels[wrong[0]] > 0
            raise JsonError(
                f"Nested more than {MAX_NESTING} levels deep" if deep else "Unexpected bracket",
                start + int(places[wrong[0]]),
            )
        rest = 0
        commas = np.flatnonzero((codes == _COMMA) & (levels > 0))
        if len(commas):
            rest = int(commas[-1]) + 1
            low, stack = _after(stack, codes[:rest], levels[:rest])
            cuts.append((start + int(places[rest - 1]), min(lowest, low), stack))
            lowest = len(stack)
        low, stack = _after(stack, codes[rest:], levels[rest:])
        lowest = min(lowest, low)
    return elements, cuts


def _after(stack: bytes, codes: np.ndarray, levels: np.ndarray) -> tuple[int, bytes]:
    """The fewest containers open meanwhile, and the opening brackets of those open at the end."""
    if not len(levels):
        return len(stack), stack
    lowest = min(len(stack), int(levels.min()))
    opening = _LEVELS[codes] > 0
    opened = [
        codes[np.flatnonzero(opening & (levels == level))[-1]]
        for level in range(lowest + 1, int(levels[-1]) + 1)
    ]
    return lowest, stack[:lowest] + bytes(opened)


def _parse_pieces(body: bytes, cuts: list[tuple[int, int, bytes]]) -> object:
    """Parses each piece within the brackets that are open around it, and joins the results."""
    root, spine, start, stack = None, [], 0, b""
    for end, lowest, opened in [*cuts, (len(body), 0, b"")]:
        before = "".join("[" if code == ord("[") else _CONTINUED for code in stack[:-1])
        before += stack[-1:].decode()
        after = "".join(_CLOSING[code] for code in reversed(opened))
        piece = body[start:end]
        # Within brackets of ours nothing would be something: a comma at the end of a list, say.
        if stack and piece.lstrip(_BLANK)[:1] in (b"", b"]", b"}"):
            raise JsonError("Expecting an element after the comma", start)
        if opened and piece.rstrip(_BLANK)[-1:] in (b"", b"[", b"{"):
            raise JsonError("Expecting an element before the comma", end)
        value = _parse(piece, start, before, after)
        if not stack:
            root = node = value
            spine = [node] if opened else []
        else:
            nodes = list(_join(spine, value))
            node = nodes[lowest - 1]
            spine = spine[:lowest]
        while len(spine) < len(opened):
            node = node[-1] if isinstance(node, list) else node[next(reversed(node))]
            spine.append(node)
        start, stack = end + 1, opened
    return root


def _join(spine: list, value: object) -> Iterator[object]:
    """Adds a piece to the containers open before it; yields the piece's part of each."""
    for level, container in enumerate(spine, 1):
        yield value
        continued = level < len(spine)  # the first element goes on with the next container
        if isinstance(container, list):
            container += value[1:] if continued else value
            value = value[0] if continued else None
        else:
            names = iter(value)
            following = value[next(names)] if continued else None
            for name in names:
                container.setdefault(name, value[name])
            value = following


def _parse(piece: bytes, offset: int, before: str, after: str) -> object:
    text = before + piece.decode("utf-8", "surrogateescape") + after
    decoder = _DECODER
    try:
        if _MANY_DIGITS in piece.translate(_DIGITS_AS_0) or any(
            pattern.search(text, len(before)) for pattern in _UNUSUAL
        ):
            _refuse_half_pairs(text, len(before))
            decoder = _CAREFUL_DECODER
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        place = len(text_bytes(text[len(before) : error.pos]))
        raise JsonError(error.msg.removesuffix(" at"), offset + place) from error
    except ValueError as error:
        # From _finite, or an integer of more digits than Python takes.
        raise JsonError(f"Number too big to be stored in double: {error}") from error


def _refuse_half_pairs(text: str, begin: int) -> None:
    for escape in _ESCAPE.finditer(text, begin):
        if escape[2]:
            raise json.JSONDecodeError("Half of a surrogate pair", text, escape.start())


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(digits[:40])
    return number


def _first_values(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members.update(reversed(pairs))
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_first_values)
_CAREFUL_DECODER = json.JSONDecoder(object_pairs_hook=_first_values, parse_float=_finite)
