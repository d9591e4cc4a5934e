"""What a command prints or writes for people: Markdown tables, and standard output and error."""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence

LONGEST_CELL = 160  # characters
# All that Markdown, its tables, HTML in it or GitHub's formulas would read as more than text.
SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&#])")


def cell(text: str, longest: int = LONGEST_CELL) -> str:
    """Text as one cell of a Markdown table that shows it as it is, cut and on one line."""
    # Cut before escaping, or a backslash could lose its character. The first cut is for speed.
    text = " ".join(text[: 20 * longest].split())
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    # Control characters, lone surrogates and marks that turn the reading direction go.
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return SPECIAL.sub(r"\\\1", text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns `numbers` are set to the right."""
    right = set(numbers)
    rule = ("---:" if index in right else "---" for index in range(len(header)))
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


class _Output(io.FileIO):
    """Takes what is written after the reader has left, as `head` does, and drops it."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for all that write there, libraries and children, too
            os.close(null)
            return len(data)


def outlive_readers() -> None:
    """Call it first in a program of its own: it then goes on to its end and its exit code."""
    # Not SIGPIPE's default action: that would end the program for a network connection, too.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the program
            continue
        raw = _Output(stream.fileno(), "wb", closefd=False)
        wrapped = io.TextIOWrapper(
            raw if stream.write_through else io.BufferedWriter(raw),  # PYTHONUNBUFFERED
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, wrapped)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Holds back what is written to stderr, by C++ too, unless the block fails."""
    # TensorFlow's notes on oneDNN and GPUs come, at its import, before any setting counts.
    try:
        descriptor = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(descriptor, 2)
            os.close(descriptor)
            if failed:
                held.seek(0)
                sys.stderr.write(held.read().decode("utf-8", "replace"))
