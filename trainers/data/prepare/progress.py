"""How far a job is: a moving bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from absl import logging
from tqdm import tqdm

_LINE_SECONDS = 10.0


class Progress:
    """Shows bytes done, megabytes a second and the time left.

    Args:
        total: int, bytes to read.

    Example:
        with Progress(10**9) as progress:
            progress.show(10**6)
    """

    def __init__(self, total: int):
        self.total = total
        self._began = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc="preparing")

    def show(self, done: int) -> None:
        """Tells that `done` bytes have been read in all."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._shown >= _LINE_SECONDS:
            self._shown = now
            rate = done / (now - self._began)
            logging.info(
                "prepared %.0f of %.0f MB, %.1f MB/s, %.0f s left",
                done / 1e6,
                self.total / 1e6,
                rate / 1e6,
                max(self.total - done, 0) / rate if rate else 0,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()
