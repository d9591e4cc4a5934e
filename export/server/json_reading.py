"""JSON requests as TensorFlow Serving reads them: RapidJSON's rules, offsets and error texts.

What RapidJSON takes beyond the standard: `NaN`, `Inf`, `Infinity`, with or without a minus; bytes
in strings that are not UTF-8; repeated names in an object; anything after a NUL. Python's own
reader, ten times as fast, reads what both understand alike; all else goes through `_Reader`.
"""

import json
import re
from typing import NoReturn

# What Python's reader takes otherwise: exponents and integers too big for a double, surrogates.
_DOUBTFUL = (re.compile(rb"[eE]\+?[0-9]{3}"), re.compile(rb"\\u[dD][89a-fA-F]"))
_MANY_DIGITS = 150
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_BLANK = re.compile(rb"[ \t\r\n]*")
_HEX = re.compile(rb"[0-9a-fA-F]{0,4}")
_DIGITS = re.compile(rb"[0-9]*")
_ESCAPES = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_MAX_EXPONENT = 308
_MAX_TENTH = 1.7976931348623157e307  # of the largest double


class JsonError(ValueError):
    """The text is not JSON; says what is wrong, and at which byte."""


class Members(tuple):
    """A JSON object: its (name, value) pairs in their order, a name perhaps more than once.

    Example:
        >>> Members([("x", 1), ("x", 2)]).first("x")
        (True, 1)
    """

    def first(self, name: str) -> tuple[bool, object]:
        """Whether there is a member with that name, and the value of the first one."""
        for key, value in self:
            if key == name:
                return True, value
        return False, None


def read_json(text: bytes) -> object:
    """Reads one JSON value.

    Args:
        text: bytes, UTF-8 or nearly so.

    Returns:
        None, bool, int, float, str, list or Members. Bytes that are not UTF-8 are lone surrogates
        in the strings: `text_bytes` gives the bytes back. An int may have any size that a double
        can hold.

    Raises:
        JsonError: the text is no JSON, or is nested too deeply to be read.

    Example:
        >>> read_json(b'{"instances": [1, NaN]}')
        (('instances', [1, nan]),)
    """
    if not text:
        raise JsonError("JSON Parse error: The document is empty")
    try:
        if not _is_doubtful(text):
            return json.loads(
                text.decode("utf-8", "surrogateescape"), object_pairs_hook=Members, strict=True
            )
    except (ValueError, RecursionError):
        pass  # not what Python calls JSON: _Reader finds out whether RapidJSON would, or why not
    try:
        return _Reader(text).document()
    except RecursionError as error:
        raise too_deep() from error


def _is_doubtful(text: bytes) -> bool:
    # Any 300 digits in a row fill one of these blocks; looking there is cheaper than a search.
    blocks = range(0, len(text) - _MANY_DIGITS + 1, _MANY_DIGITS)
    return any(pattern.search(text) for pattern in _DOUBTFUL) or any(
        text[at : at + _MANY_DIGITS].isdigit() for at in blocks
    )


def too_deep() -> JsonError:
    """The error for what is nested more deeply than can be handled (RapidJSON may overflow)."""
    return JsonError("JSON Parse error: nested too deeply")


def text_bytes(text: str) -> bytes:
    """The bytes of a string that `read_json` read."""
    return text.encode("utf-8", "surrogateescape")


def printable(text: str) -> str:
    """A text that a proto can hold: bytes that are not UTF-8 become backslash escapes."""
    return text_bytes(text).decode("utf-8", "backslashreplace")


class _Reader:
    """Reads what Python's reader does not, one byte after the other, as RapidJSON does."""

    def __init__(self, text: bytes):
        end = text.find(0)  # a NUL ends the text, wherever it stands
        self._text = text if end < 0 else text[:end]
        self._at = 0
        for mark in b"\xef\xbb\xbf":
            if self._peek() == mark:
                self._at += 1

    def document(self) -> object:
        self._skip_blank()
        if self._at >= len(self._text):
            self._fail("The document is empty.")
        value = self._value()
        self._skip_blank()
        if self._at < len(self._text):
            self._fail("The document root must not be followed by other values.")
        return value

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        raise JsonError(f"JSON Parse error: {what} at offset: {self._at if at is None else at}")

    def _peek(self) -> int:
        return self._text[self._at] if self._at < len(self._text) else 0

    def _take(self, wanted: bytes) -> bool:
        """Whether the next byte is the one wanted, which is then behind."""
        if self._peek() != wanted[0]:
            return False
        self._at += 1
        return True

    def _skip_blank(self) -> None:
        self._at = _BLANK.match(self._text, self._at).end()

    def _value(self) -> object:
        first = self._peek()
        if first == ord('"'):
            return self._string()
        if first == ord("{"):
            return self._object()
        if first == ord("["):
            return self._array()
        for word, value in ((b"null", None), (b"true", True), (b"false", False)):
            if first == word[0]:
                self._word(word)
                return value
        return self._number()

    def _word(self, word: bytes) -> None:
        for number in range(len(word)):
            if not self._take(word[number : number + 1]):
                self._fail("Invalid value.")

    def _object(self) -> Members:
        self._at += 1
        self._skip_blank()
        members: list[tuple[str, object]] = []
        if self._take(b"}"):
            return Members(members)
        while True:
            if self._peek() != ord('"'):
                self._fail("Missing a name for object member.")
            name = self._string()
            self._skip_blank()
            if not self._take(b":"):
                self._fail("Missing a colon after a name of object member.")
            self._skip_blank()
            members.append((name, self._value()))
            self._skip_blank()
            if self._take(b"}"):
                return Members(members)
            if not self._take(b","):
                self._fail("Missing a comma or '}' after an object member.")
            self._skip_blank()

    def _array(self) -> list:
        self._at += 1
        self._skip_blank()
        elements: list[object] = []
        if self._take(b"]"):
            return elements
        while True:
            elements.append(self._value())
            self._skip_blank()
            if self._take(b"]"):
                return elements
            if not self._take(b","):
                self._fail("Missing a comma or ']' after an array element.")
            self._skip_blank()

    def _string(self) -> str:
        self._at += 1
        pieces = bytearray()
        while True:
            plain = _PLAIN.match(self._text, self._at)
            pieces += plain.group()
            self._at = plain.end()
            if self._take(b'"'):
                return pieces.decode("utf-8", "surrogateescape")
            if self._at >= len(self._text):
                self._fail("Missing a closing quotation mark in string.")
            if self._peek() != ord("\\"):
                self._fail("Invalid escape character in string.")
            pieces += self._escape()

    def _escape(self) -> bytes:
        begin = self._at
        self._at += 1
        escaped = self._peek()
        if escaped in _ESCAPES:
            self._at += 1
            return bytes([_ESCAPES[escaped]])
        if escaped != ord("u"):
            self._fail("Invalid escape character in string.", begin)
        self._at += 1
        code = self._hex(begin)
        if 0xD800 <= code <= 0xDBFF:
            low = self._hex(begin) if self._take(b"\\") and self._take(b"u") else 0
            if not 0xDC00 <= low <= 0xDFFF:
                self._fail("The surrogate pair in string is invalid.", begin)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return chr(code).encode("utf-8", "surrogatepass")

    def _hex(self, begin: int) -> int:
        digits = _HEX.match(self._text, self._at)
        if len(digits.group()) < 4:
            self._fail("Incorrect hex digit after \\u escape in string.", begin)
        self._at = digits.end()
        return int(digits.group(), 16)

    def _number(self) -> int | float:
        begin = self._at
        minus = self._take(b"-")
        if self._peek() in b"IN" and self._peek():
            return self._not_finite(minus)
        whole = b"0" if self._take(b"0") else self._digits()
        if not whole:
            self._fail("Invalid value.")
        fraction = b""
        if self._take(b"."):
            fraction = self._digits()
            if not fraction:
                self._fail("Miss fraction part in number.")
        exponent = 0
        decimal = bool(fraction)
        if self._take(b"e") or self._take(b"E"):
            decimal = True
            exponent = self._exponent(begin, len(fraction))
        if len(whole) > 19 and float(whole[:-1]) >= _MAX_TENTH:
            self._fail("Number too big to be stored in double.", begin)
        if not decimal:
            return -int(whole) if minus else int(whole)
        value = float(b"%s.%se%d" % (whole, fraction or b"0", exponent))
        return -value if minus else value

    def _digits(self) -> bytes:
        digits = _DIGITS.match(self._text, self._at)
        self._at = digits.end()
        return digits.group()

    def _exponent(self, begin: int, fraction_digits: int) -> int:
        negative = not self._take(b"+") and self._take(b"-")
        digits = self._digits()
        if not digits:
            self._fail("Miss exponent in number.")
        value = int(digits.lstrip(b"0")[:6] or b"0")  # six digits are enough to be far out of range
        # The first digit alone is not checked, as RapidJSON does not check it.
        if not negative and len(digits) > 1 and value > _MAX_EXPONENT + fraction_digits:
            self._fail("Number too big to be stored in double.", begin)
        return -value if negative else value

    def _not_finite(self, minus: bool) -> float:
        sign = -1.0 if minus else 1.0
        if self._take(b"N"):
            self._word(b"aN")
            return sign * float("nan")
        self._at += 1
        self._word(b"nf")
        if self._peek() == ord("i"):
            self._word(b"inity")
        return sign * float("inf")
