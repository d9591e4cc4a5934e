"""How far a run is: what a checkpoint says beside the values of the variables."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from zoo.config import STRICT, from_dict, to_dict

_DIGEST = "digest"  # of all that is in the file beside it


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: int, optimizer steps done.
        evaluated_step: int, step of the last evaluation that is in the log; 0 before the first.
        tokens: int, tokens trained on.
        best_step: int, step of the best evaluation; 0 before the first one.
        best_value: float, its monitored metric; None before.
        seconds: float, wall time of training, over all processes of the run.
        cpu_seconds: float, processor time likewise.
        corpus: str, fingerprint of the data.
        metric_values: of the training metrics' sums, where the step is between two evaluations:
            the mean that the next one logs has the steps before the interruption in it.
        training_logs: training metrics of a step whose evaluation is still to be done.
        sha256: digest of the checkpoint's values, "" before the first.
        best_sha256: digest of the best weights; "" before the first, and in older checkpoints.
        records: the evaluations so far, as `metrics.jsonl` has them, which is written anew from
            here where it was damaged; older checkpoints have none.
        planned_steps: int, `steps` of the config at that time; 0 in older checkpoints.
        extensions: (step, planned_steps before) of each time that the run was made longer.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    step: int = 0
    evaluated_step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_value: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    corpus: str = ""
    metric_values: tuple[float, ...] = ()
    training_logs: dict[str, float] = dataclasses.field(default_factory=dict)
    sha256: str = ""
    best_sha256: str = ""
    records: tuple[dict[str, int | float], ...] = ()
    planned_steps: int = 0
    extensions: tuple[tuple[int, int], ...] = ()


def read_progress(path: Path) -> Progress:
    """Reads what `write_progress` wrote.

    Raises:
        ValueError: not JSON, an unknown key, a value of another type, or not what was written.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    # Checkpoints of older releases have no digest of their own.
    digest = values.pop(_DIGEST, None)
    if digest is not None and digest != _digest(values):
        raise ValueError(f"its values are not those that {_DIGEST!r} was computed from")
    return from_dict(Progress, values)


def write_progress(progress: Progress, path: Path) -> None:
    """Writes JSON, whose numbers come back to the last bit, with a digest of all of it."""
    values = to_dict(progress)
    text = json.dumps({**values, _DIGEST: _digest(values)}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
