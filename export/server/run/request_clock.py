"""The time of the request at hand: how long it may still take, how long the graph ran for it.

Known to all that works on the request, because that is one thread.
"""

import contextlib
import contextvars
import time
from collections.abc import Iterator

# gRPC may tell of a call without a deadline that hundreds of years are left.
_FOREVER_SECONDS = 1e9

_end: contextvars.ContextVar[float | None] = contextvars.ContextVar("end", default=None)
_run: contextvars.ContextVar[float] = contextvars.ContextVar("run", default=0.0)


@contextlib.contextmanager
def due_in(seconds: float | None) -> Iterator[None]:
    """Sets the deadline of what is inside, where no run has taken time yet.

    Args:
        seconds: float | None. From now; None, or over 30 years, for as long as it takes.

    Example:
        >>> with due_in(2.5):
        ...     round(remaining(), 1)
        2.5
    """
    endless = seconds is None or seconds > _FOREVER_SECONDS
    end = _end.set(None if endless else time.monotonic() + seconds)
    run = _run.set(0.0)
    try:
        yield
    finally:
        _end.reset(end)
        _run.reset(run)


def remaining() -> float | None:
    """Seconds until the deadline, negative when it is over; None when there is none."""
    end = _end.get()
    return None if end is None else end - time.monotonic()


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Counts what is inside as a run of the graph."""
    begin = time.monotonic()
    try:
        yield
    finally:
        _run.set(_run.get() + time.monotonic() - begin)


def run_seconds() -> float:
    """How long the graph has run for the request at hand, waiting for a batch included."""
    return _run.get()
