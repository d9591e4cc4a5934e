"""A user's own examples: what a reduced model does to the task's metric."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pydantic

from export.golden.compare import Arrays, cosines
from export.golden.pairs import strings
from export.signatures import functions_of, input_names
from zoo.bundle import Bundle

Send = Callable[[str, dict[str, np.ndarray]], Arrays]  # (signature, inputs) -> outputs

# Task -> the field that says what is right and its type, the output that it is for, the metric.
_TASKS = {
    "classify": ("label", str, "label", "accuracy"),
    "pair": ("label", str, "label", "accuracy"),
    "regress": ("target", float, "outputs", ""),
    "tag": ("tags", list, "tags", "tags that are right"),
    "span": ("answer", str | list, "answer", "exact match"),
    "mlm": ("tokens", list, "tokens", "masks filled right"),
}
BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a file of examples holds."""

    task: str
    signature: str
    inputs: dict[str, np.ndarray]  # name -> (N,) bytes
    expected: list | None  # what is right for each, as in the file

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def read_examples(path: str | os.PathLike[str], bundle: Bundle) -> Examples:
    """Reads the JSON lines of `docs/export.md`; ValueError names file, line and field."""
    task, functions = bundle.config.task, functions_of(bundle)
    signature = "score" if task == "lm" else next(iter(functions))
    names = input_names(functions[signature])
    fields: dict[str, Any] = dict.fromkeys(names, (str, ...))
    field, kind, *_ = _TASKS.get(task, ("", None))
    if field:
        fields[field] = (Literal[bundle.config.labels] if field == "label" else kind, None)
    schema = pydantic.create_model("Example", **fields)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--eval_data={path}: cannot be read as text ({error})") from error
    rows, expected = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            example = schema.model_validate_json(line, strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = f"field {first['loc'][0]!r}: " if first["loc"] else ""
            raise ValueError(f"{path}:{number}: {where}{first['msg']}") from error
        value = getattr(example, field, None)
        if rows and (value is not None) != bool(expected):
            raise ValueError(f"{path}:{number}: {field!r} must be in all lines or in none")
        rows.append([getattr(example, name).encode() for name in names])
        expected += [] if value is None else [value]
    if not rows:
        raise ValueError(f"--eval_data={path}: no examples in it")
    inputs = {name: strings(list(column)) for name, column in zip(names, zip(*rows))}
    return Examples(task, signature, inputs, expected or None)


def evaluate(examples: Examples, send: Send, send_float32: Send) -> dict[str, tuple[float, float]]:
    """Metric -> (of float32, of the reduced model), with a progress bar: it can take minutes."""
    task, expected = examples.task, examples.expected
    progress = keras.utils.Progbar(2 * len(examples), unit_name="example")
    both = [_outputs(examples, one, progress) for one in (send_float32, send)]
    if task == "lm":
        return {"perplexity": tuple(map(_perplexity, both))}
    if task == "embed":
        cosine = cosines(*([row["embedding"] for row in rows] for rows in both))
        return {
            "mean cosine to float32": (1.0, float(cosine.mean())),
            "lowest cosine to float32": (1.0, float(cosine.min())),
        }
    metrics = {}
    if task == "regress":
        old, new = ([float(row["outputs"]) for row in rows] for rows in both)
        if expected is not None:
            errors = [float(np.mean(np.subtract(one, expected) ** 2)) for one in (old, new)]
            metrics["mean squared error"] = tuple(errors)
            metrics["Pearson correlation"] = (_pearson(old, expected), _pearson(new, expected))
        metrics["mean distance to float32"] = (0.0, float(np.mean(np.abs(np.subtract(new, old)))))
        return metrics
    old, new = ([_chosen(row[_TASKS[task][2]]) for row in rows] for rows in both)
    if expected is not None:
        metrics[_TASKS[task][3]] = tuple(_share_right(task, one, expected) for one in (old, new))
    same = [one == other for one, other in zip(old, new)]
    return {**metrics, "examples answered as by float32": (1.0, float(np.mean(same)))}


def _outputs(examples: Examples, send: Send, progress: keras.utils.Progbar) -> list[Arrays]:
    """The outputs of each example, without a batch axis."""
    rows = []
    for first in range(0, len(examples), BATCH_SIZE):
        batch = {name: value[first : first + BATCH_SIZE] for name, value in examples.inputs.items()}
        outputs = send(examples.signature, batch)
        size = min(BATCH_SIZE, len(examples) - first)
        rows += [{name: value[row] for name, value in outputs.items()} for row in range(size)]
        progress.add(size)
    return rows


def _perplexity(rows: Sequence[Arrays]) -> float:
    total = sum(float(row["log_likelihood"]) for row in rows)
    return float(np.exp(-total / max(sum(int(row["token_count"]) for row in rows), 1)))


def _pearson(values: Sequence[float], targets: Sequence[float]) -> float:
    varied = np.ptp(values) > 0 and np.ptp(targets) > 0
    return float(np.corrcoef(targets, values)[0, 1]) if varied else 0.0


def _chosen(value: bytes | np.ndarray) -> list[bytes]:
    """The choices of one example, without padding; of candidates the first."""
    if isinstance(value, bytes):
        return [value]
    return [one for one in (value[:, 0] if value.ndim == 2 else value) if one]


def _share_right(task: str, chosen: Sequence[list[bytes]], expected: list) -> float:
    right = count = 0
    for given, wanted in zip(chosen, expected):
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if task == "span":  # any of them
            answer = given[0].decode(errors="replace").strip().casefold()
            right += answer in {str(text).strip().casefold() for text in wanted}
            count += 1
        else:
            right += sum(one == str(other).encode() for one, other in zip(given, wanted))
            count += max(len(given), len(wanted))
    return right / max(count, 1)
