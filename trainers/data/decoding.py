"""The bytes of a file to clean text, by one rule for every source.

1. Bytes are read in the declared encoding (UTF-8 by default). Nothing is guessed.
2. A byte order mark is removed; CRLF and lone CR become LF.
3. Bytes that are invalid in the encoding become U+FFFD, with one warning per file
   (`invalid="replace"`), or are an error with their position (`invalid="strict"`).
4. A file with a NUL byte (unless UTF-16 or UTF-32 is declared), or with more than 1 % invalid
   characters, is refused: it is binary, or in another encoding, and would only teach noise.

Large files are read in blocks (`blocks.py`); there rules 3 and 4 hold for each block.
"""

import codecs
import re

from absl import logging

from trainers.data.compressed import open_bytes

MAX_INVALID_FRACTION = 0.01
_CHUNK_BYTES = 1 << 22
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_bytes(path: str, limit: int | None) -> tuple[bytearray, bool]:
    """The first `limit` bytes of a file (None: all), and whether there was more.

    A path that ends in .gz or .zst is decompressed. Raises ValueError, naming the file, if it is
    broken.

    Example: `content, is_cut = read_bytes("/data/input.txt.gz", limit=1_000_000)`
    """
    with open_bytes(path) as file:
        content = bytearray()  # a read of all at once would hold it twice
        while limit is None or len(content) <= limit:
            left = _CHUNK_BYTES if limit is None else limit + 1 - len(content)
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                return content, False
            content += chunk
    del content[limit:]
    return content, True


def check_encoding(encoding: str) -> None:
    """Raises ValueError unless `encoding` is the name of a Python text encoding."""
    try:
        codecs.getincrementaldecoder(encoding)
        b"a".decode(encoding, "replace")  # Also refuses codecs that are not text, such as hex.
    except (LookupError, UnicodeError) as error:
        raise ValueError(
            f"unknown text encoding {encoding!r}. Use a Python codec name, for example "
            "--set=data.encoding=utf-8 (or utf-16, latin-1, cp1252, gb18030, big5, shift_jis)."
        ) from error


def decode(
    content: bytes | bytearray,
    is_cut: bool,
    path: str,
    encoding: str,
    invalid: str,
    offset: int = 0,
) -> str:
    """The text of a file's `content`, by the rule at the top of this module.

    Args:
        content: bytes of the file.
        is_cut: True if the file goes on; a character cut in two at the end is then left out.
        path: names the file in errors and warnings.
        encoding: a name that `check_encoding` accepts.
        invalid: "replace" or "strict".
        offset: where in the file `content` begins, the start of a line. Defaults to 0.

    Raises ValueError, naming the file, the position and the fix, for what the rule refuses.

    Example: `decode(b"a\\r\\nb", False, "a.txt", "utf-8", "strict")` is `"a\\nb"`.
    """

    def decoded(errors: str) -> str:
        # Incremental, because final=False leaves out a character that max_bytes cut in two.
        return codecs.getincrementaldecoder(encoding)(errors).decode(content, final=not is_cut)

    is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if not is_wide and (place := content.find(b"\0")) >= 0:
        raise ValueError(_refusal(path, encoding, content, f"NUL byte at offset {offset + place}"))
    try:
        text = decoded("strict")
    except UnicodeDecodeError as error:
        position = f"byte 0x{content[error.start]:02x} at offset {offset + error.start}"
        if invalid == "strict":
            before = _unify(content[: error.start].decode(encoding, "replace"))
            line = f"line {before.count(chr(10)) + 1}{f' from {offset} on' if offset else ''}"
            raise ValueError(
                f"{path}: not valid {encoding}: {position}, {line}. "
                "Declare the encoding (--set=data.encoding=...) or use invalid='replace'."
            ) from error
        text = decoded("replace")
        count = text.count("\ufffd") - decoded("ignore").count("\ufffd")
        if count > MAX_INVALID_FRACTION * len(text):
            share = f"{count} of {len(text)} characters invalid, first {position}"
            raise ValueError(_refusal(path, encoding, content, share)) from error
        logging.warning(
            "%s: %d invalid character(s) for %s became U+FFFD, the first is %s",
            path,
            count,
            encoding,
            position,
        )
    except UnicodeError as error:  # No position: "UTF-16 stream does not start with BOM".
        raise ValueError(_refusal(path, encoding, content, str(error))) from error
    return _unify(text if offset else text.removeprefix("\ufeff"))


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD for every code point that no encoding can write; the length stays.

    JSON can escape half of a UTF-16 pair, and Python's parser lets it through.

    Example: `replace_surrogates(json.loads(r'"a\\ud83d"'))` is `"a\\ufffd"`
    """
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _unify(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refusal(path: str, encoding: str, content: bytes, reason: str) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        fix = "It starts with a UTF-16 byte order mark: use --set=data.encoding=utf-16."
    else:
        fix = (
            "Declare its encoding (--set=data.encoding=latin-1, utf-16-le, gb18030, ...), or "
            "leave it out with --set=data.pattern=..., such as *.txt."
        )
    return f"{path}: binary or not {encoding}: {reason}. {fix}"
