"""The run's log: `metrics.jsonl`, one line an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from zoo.atomic_write import replacing


class MetricsLog:
    """Appends to and reads `metrics.jsonl`.

    Args:
        workdir: Path.
    """

    def __init__(self, workdir: Path):
        self.path = workdir / "metrics.jsonl"

    def append(self, record: dict[str, float]) -> None:
        """Adds a line; `record` has at least "step"."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, float]]:
        """All lines; none if there is no file.

        Raises:
            ValueError: a line is not JSON; the message has its number.
        """
        if not self.path.is_file():
            return []
        records = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.path}:{number}: not JSON ({error}); remove it") from None
        return records

    def rewind(self, step: int) -> None:
        """Drops what was logged after `step`: a resumed run does those steps again.

        A last line that a killed process left half written goes too.
        """
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        with replacing(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
