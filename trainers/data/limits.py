"""How much is read at most: what is too large is told by file and setting, not by a full memory.

All limits are checked while bytes arrive or are unpacked, never afterwards.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from zoo.config import STRICT, ConfigError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes beyond which reading stops with an error; None is no limit.

    Attributes:
        source_bytes: int, text of a source (a file, folder or glob, unpacked) that is held in
            memory. Defaults to 1 GiB. `python -m trainers.data.prepare` reads larger ones in
            pieces.
        row_bytes: int, one row of a table, line of JSON, CoNLL or running text, or record, as
            UTF-8. Defaults to 16 MiB.
        download_bytes: int, a file from an address. Defaults to 16 GiB.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    source_bytes: int | None = 1 << 30
    row_bytes: int | None = 1 << 24
    download_bytes: int | None = 1 << 34

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ConfigError(f"data.limits.{field.name} must be at least 1. Received: {value}")

    def check_source(self, size: int, where: str) -> None:
        """Raises ValueError if a source has more than `source_bytes` so far."""
        self._check(
            "source_bytes",
            size,
            f"{where}: more than {{limit:,}} bytes of text, unpacked, are to be held in memory. "
            "Read a part of running text with --set=data.max_bytes=..., or prepare it in pieces "
            "with python -m trainers.data.prepare",
        )

    def check_row(self, row: str | int, where: str) -> None:
        """Raises ValueError if a row, its text or its size so far, is over `row_bytes`.

        Example: `Limits(row_bytes=3).check_row("four", "a.csv:2")` raises.
        """
        if isinstance(row, str):
            row = len(row) if row.isascii() else len(row.encode("utf-8", "surrogatepass"))
        self._check(
            "row_bytes",
            row,
            f"{where}: a row (line, record) of more than {{limit:,}} bytes. Cut it, or check that "
            "no line break or quote is missing",
        )

    def check_download(self, size: int, where: str) -> None:
        """Raises ValueError if a download has, or announces, more than `download_bytes`."""
        self._check(
            "download_bytes",
            size,
            f"{where}: the download has more than {{limit:,}} bytes. Check the address",
        )

    def _check(self, name: str, size: int, message: str) -> None:
        limit = getattr(self, name)
        if limit is not None and size > limit:
            raise ValueError(
                f"{message.format(limit=limit)}; or raise the limit with "
                f"--set=data.limits.{name}=... (null: no limit)."
            )


DEFAULT_LIMITS = Limits()
