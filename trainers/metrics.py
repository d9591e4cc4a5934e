"""What a run measured: `metrics.jsonl`, one line an evaluation, and `scores.json` at its end."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from zoo.files import replacing, write_json

SCORES_FILE = "scores.json"


def write_scores(folder: Path, **scores: Any) -> None:
    """Adds to `scores.json`: "validation" (of the kept weights "step", "scores"); of labelled data
    also "split", what "model" and "baseline" reach on it, and how many questions are "left_out".
    """
    path = folder / SCORES_FILE
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**there, **scores}, indent=2)


class MetricsLog:
    """Appends to and reads `metrics.jsonl` of a workdir."""

    def __init__(self, workdir: Path):
        self.path = workdir / "metrics.jsonl"

    def append(self, record: dict[str, float]) -> None:
        """Adds a line; `record` has at least "step"."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def read(self) -> list[dict[str, float]]:
        """All lines; ValueError names a damaged one."""
        records = []
        for number, line in enumerate(self._content().splitlines(), 1):
            try:
                record = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{self.path}:{number}: not JSON ({error}); remove it") from None
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError(f'{self.path}:{number}: no "step" in it; remove it')
            records.append(record)
        return records

    def restore(self, records: Sequence[dict[str, float]]) -> None:
        """Makes the file that of `records`: a resumed run does the steps of later lines again."""
        expected = "".join(map(_line, records)).encode()
        found = self._content()
        if not found.startswith(expected):
            logging.warning(
                "%s: missing or damaged, its lines are not those of the checkpoint; written anew "
                "from it",
                self.path,
            )
        if found != expected:
            with replacing(self.path) as temporary:
                temporary.write_bytes(expected)

    def _content(self) -> bytes:
        return self.path.read_bytes() if self.path.is_file() else b""


def _line(record: dict[str, float]) -> str:
    return json.dumps(record) + "\n"


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether `value` beats `best` (None: nothing yet) where "min" or "max" is better."""
    if best is None or math.isnan(best):
        return True
    return value < best if mode == "min" else value > best


def should_stop(
    records: Sequence[dict[str, float]], metric: str, mode: str, patience: int | None
) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them."""
    if patience is None:
        return False
    sign = 1 if mode == "min" else -1
    values = [sign * record[metric] for record in records]
    return len(values) > patience and min(values[-patience:]) >= min(values[:-patience])
