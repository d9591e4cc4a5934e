"""What a run measured: `metrics.jsonl`, one line an evaluation, and `scores.json` at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from zoo.config import ConfigError
from zoo.files import replacing

SCORES_FILE = "scores.json"


def write_scores(folder: Path, **scores: Any) -> None:
    """Adds to `scores.json`, which the model card of an export and other programs read.

    `scores` are "validation", the evaluation whose weights were kept ("step" and "scores" by name);
    of an understanding task also "split" ("test" or "validation"), and what "model" and "baseline"
    (None: there is none) reach on it; of questions "left_out", the number of those in the file that
    could not be asked.
    """
    path = folder / SCORES_FILE
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**there, **scores}, indent=2) + "\n", encoding="utf-8")


class MetricsLog:
    """Appends to and reads `metrics.jsonl` of a workdir."""

    def __init__(self, workdir: Path):
        self.path = workdir / "metrics.jsonl"

    def append(self, record: dict[str, float]) -> None:
        """Adds a line; `record` has at least "step"."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def read(self, last_step: int | None = None) -> list[dict[str, float]]:
        """All lines, none if there is no file; or those up to the one of `last_step`.

        ValueError names a line that is damaged, or says that the last one is missing.
        """
        records = []
        for number, line in enumerate(self._content().splitlines(), 1):
            records.append(self._parse(number, line))
            if records[-1]["step"] == last_step:
                return records
        if last_step is None:
            return records
        raise ValueError(
            f"{self.path}: has no line of step {last_step}, which a checkpoint is of; restore the "
            "file or start in another --workdir"
        )

    def restore(self, records: Sequence[dict[str, float]]) -> None:
        """Makes the file that of `records`; a resumed run does the steps of later lines again.

        A warning tells of a file whose first lines are other ones: it was damaged.
        """
        expected = "".join(_line(record) for record in records).encode()
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

    def _parse(self, number: int, line: bytes) -> dict[str, float]:
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path}:{number}: not JSON ({error}); remove it") from None
        if not isinstance(record, dict) or "step" not in record:
            raise ValueError(f'{self.path}:{number}: no "step" in it; remove it')
        return record


def should_stop(records: Sequence[dict[str, float]], metric: str, mode: str, patience: int) -> bool:
    """Whether the last `patience` evaluations brought nothing better than the best before them.

    A function of the records alone, so a resumed run stops where an undisturbed one does. `mode` is
    "min" if a lower metric is better, "max" if a higher one; ConfigError if a record has no such
    metric.
    """
    for record in records:
        if metric not in record:
            known = ", ".join(sorted(record))
            raise ConfigError(f"no metric {metric!r} was measured; known: {known}")
    sign = 1 if mode == "min" else -1
    values = [sign * record[metric] for record in records]
    return len(values) > patience and min(values[-patience:]) >= min(values[:-patience])


def _line(record: dict[str, float]) -> str:
    return json.dumps(record) + "\n"
