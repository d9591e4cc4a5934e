"""Gives freed memory back to the machine: glibc keeps it, 1.5 GB after a request of one."""

import ctypes
import os
import threading
from collections.abc import Callable

from absl import logging

# What a process may keep unused; each look above it costs about 0.1 s for a gigabyte.
_MOVED = 128 * 2**20
_PAUSE_SECONDS = 1.0


def trimmer() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None where the C library has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def resident_bytes() -> int:
    """Memory of this process that is in RAM (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class FreedMemory:
    """Trims the heap when the process has grown or shrunk a lot since the last time.

    Shrunk too, because a large request is still worked on when the growth is seen; what it leaves
    behind lies between blocks that are in use, where free() does not give it back.

    Args:
        trim: called with 0.
        resident: what says how large the process is, in bytes.

    Example: `FreedMemory(trimmer()).start()`
    """

    def __init__(self, trim: Callable[[int], int], resident: Callable[[], int] = resident_bytes):
        self._trim, self._resident = trim, resident
        self._last = resident()

    def start(self) -> None:
        """Looks once a second, in a daemon thread that outlives a look that fails."""
        threading.Thread(target=self._run, name="freed memory", daemon=True).start()

    def look(self) -> bool:
        """Trims if it may be worth it; whether it did."""
        if abs(self._resident() - self._last) <= _MOVED:
            return False
        self._trim(0)
        self._last = self._resident()
        return True

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(_PAUSE_SECONDS):
            try:
                self.look()
            except OSError as error:  # clients may have taken all the files this process may open
                logging.log_every_n_seconds(
                    logging.WARNING, "cannot tell how large the process is: %s", 60, error
                )
