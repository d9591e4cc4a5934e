"""Output whose reader may leave, as `head` does when it has seen enough.

`export` has the same: neither imports the other, and its client imports nothing of `zoo`.
"""

import io
import os
import sys


class _Output(io.FileIO):
    """Takes what is written after the reader has left, and drops it."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for all that write there, libraries and children, too
            os.close(null)
            return len(data)


def outlive_readers() -> None:
    """Call it first in a program of its own: it then goes on to its end and its exit code.

    Not SIGPIPE's default action: that would end the program for a network connection, too.
    """
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
