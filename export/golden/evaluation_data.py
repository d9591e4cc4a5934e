"""Examples of a user's own, and how well a served model does on them.

A JSON object a line, with the texts that the model reads and, if it is known, what is right:

| task | texts | right, optional | metric |
|---|---|---|---|
| lm | `text` | | perplexity |
| classify, pair | `text` (`text_pair`) | `label` | accuracy |
| regress | `text` (`text_pair`) | `target`, a number | mean squared error, Pearson correlation |
| tag | `text` | `tags`, one for each word | share of right tags |
| span | `question`, `context` | `answer`, or a list of right ones | exact match, ignoring case |
| mlm | `text` with masks | `tokens`, one for each mask | share of right first candidates |
| embed | `text` | | cosine to the float32 model's vectors |

Whatever is known, the share of answers equal to the float32 model's is told as well.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np

from export.golden.compare import agreement, cosines
from export.golden.requests import strings
from export.signatures import input_names
from zoo.bundle import Bundle

Arrays = Mapping[str, np.ndarray]
Ask = Callable[[str, dict[str, np.ndarray]], Arrays]

_EXPECTED = {
    "classify": ("label", str),
    "pair": ("label", str),
    "regress": ("target", (int, float)),
    "tag": ("tags", list),
    "span": ("answer", (str, list)),
    "mlm": ("tokens", list),
}
# The output that is compared with the float32 model's, of tasks that choose.
_CHOICE = {"classify": "label", "pair": "label", "tag": "tags", "span": "answer", "mlm": "tokens"}
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a file holds.

    Attributes:
        task: str. signature: str, what is asked.
        inputs: input name -> (N,) array of bytes.
        expected: what is right for each example, as in the file; None where that is not known.
    """

    task: str
    signature: str
    inputs: dict[str, np.ndarray]
    expected: list | None


def read_examples(path: str | os.PathLike[str], bundle: Bundle) -> Examples:
    """Reads a JSONL file for the bundle's task.

    Raises:
        ValueError: no such file, no examples, a line that is not JSON, a field that is missing, of
            another type or unknown as a label; the message names file, line and field.

    Example: `read_examples("test.jsonl", zoo.load("runs/topics"))`
    """
    path, task = Path(path), bundle.config.task
    if task == "lm":
        signature, names = "score", ["text"]
    else:
        signature, function = next(iter(bundle.text_model.functions.items()))
        names = input_names(function)
    field, kind = _EXPECTED.get(task, (None, object))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--eval_data={path}: cannot be read as text ({error})") from error
    rows, expected = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{number}: not a JSON object: {line:.60}")
        for name in names:
            if not isinstance(record.get(name), str):
                raise ValueError(f"{path}:{number}: field {name!r} is missing or no string")
        if field in record:
            value = record[field]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{path}:{number}: field {field!r} is {value!r}")
            if field == "label" and value not in bundle.config.labels:
                known = ", ".join(bundle.config.labels)
                raise ValueError(f"{path}:{number}: label {value!r} is none of {known}")
            expected.append(value)
        rows.append([record[name].encode() for name in names])
        if field is not None and expected and len(expected) != len(rows):
            raise ValueError(f"{path}:{number}: {field!r} must be in all lines or in none")
    if not rows:
        raise ValueError(f"--eval_data={path}: no examples in it")
    inputs = {name: strings(list(column)) for name, column in zip(names, zip(*rows))}
    return Examples(task, signature, inputs, expected or None)


def evaluate(examples: Examples, ask: Ask, ask_float32: Ask) -> dict[str, tuple[float, float]]:
    """The task's metrics through two served models, with a progress bar: it can take minutes.

    Args:
        examples: from `read_examples`.
        ask, ask_float32: (signature, inputs) -> outputs, of the reduced model and of the full one.

    Returns:
        metric -> (of float32, of the reduced model). Comparisons of the two are 1 for float32.
    """
    count = len(next(iter(examples.inputs.values())))
    progress = keras.utils.Progbar(2 * count, unit_name="example")
    before, after = (_answers(examples, one, progress) for one in (ask_float32, ask))
    if examples.task == "lm":
        return {"perplexity": (_perplexity(before), _perplexity(after))}
    if examples.task == "embed":
        vectors = (np.concatenate([row["embedding"] for row in rows]) for rows in (before, after))
        cosine = cosines(*vectors)
        return {
            "mean cosine to float32": (1.0, float(cosine.mean())),
            "lowest cosine to float32": (1.0, float(cosine.min())),
        }
    metrics = {}
    if examples.expected is not None:
        old, new = (_scores(examples.task, examples.expected, r) for r in (before, after))
        metrics = {name: (old[name], new[name]) for name in old}
    choice = _CHOICE.get(examples.task)
    if choice is not None:
        chosen = ([_chosen(row, choice) for row in rows] for rows in (before, after))
        same = [np.array_equal(old, new) for old, new in zip(*chosen)]
        metrics["examples answered as by float32"] = (1.0, float(np.mean(same)))
    else:
        numbers = (np.array([row["outputs"][0] for row in rows]) for rows in (before, after))
        old, new = numbers
        metrics["mean distance to float32"] = (0.0, float(np.mean(np.abs(new - old))))
    return metrics


def _answers(
    examples: Examples, ask: Ask, progress: keras.utils.Progbar
) -> list[dict[str, np.ndarray]]:
    """For each example its outputs, each with a batch axis of 1."""
    count = len(next(iter(examples.inputs.values())))
    rows = []
    for first in range(0, count, _BATCH):
        batch = {name: value[first : first + _BATCH] for name, value in examples.inputs.items()}
        outputs = ask(examples.signature, batch)
        for row in range(len(next(iter(batch.values())))):
            rows.append({name: value[row : row + 1] for name, value in outputs.items()})
        progress.add(len(rows) - first)
    return rows


def _perplexity(rows: list[dict[str, np.ndarray]]) -> float:
    total = sum(float(row["log_likelihood"][0]) for row in rows)
    tokens = sum(int(row["token_count"][0]) for row in rows)
    return float(np.exp(-total / max(tokens, 1)))


def _chosen(row: dict[str, np.ndarray], output: str) -> np.ndarray:
    """The choices of one example, without padding; of candidates the first."""
    value = np.asarray(row[output][0], object)
    if value.ndim == 2:
        value = value[:, 0]
    return value[value != b""] if value.ndim else value


def _scores(task: str, expected: list, rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    if task == "regress":
        targets = np.array(expected, np.float64)
        outputs = np.array([row["outputs"][0] for row in rows], np.float64)
        varied = np.ptp(targets) > 0 and np.ptp(outputs) > 0
        pearson = float(np.corrcoef(targets, outputs)[0, 1]) if varied else 0.0
        return {
            "mean squared error": float(np.mean((outputs - targets) ** 2)),
            "Pearson correlation": pearson,
        }
    if task in ("classify", "pair"):
        right = [row["label"][0].decode() == label for row, label in zip(rows, expected)]
        return {"accuracy": float(np.mean(right))}
    if task == "span":
        right = []
        for row, answers in zip(rows, expected):
            answers = [answers] if isinstance(answers, str) else answers
            given = row["answer"][0].decode(errors="replace").strip().casefold()
            right.append(given in {str(answer).strip().casefold() for answer in answers})
        return {"exact match": float(np.mean(right))}
    choice = _CHOICE[task]
    share, count = 0.0, 0
    for row, right in zip(rows, expected):
        given = _chosen(row, choice)
        wanted = strings([str(value).encode() for value in right])
        shared = min(len(given), len(wanted))
        share += agreement(given[:shared], wanted[:shared]) * shared
        count += max(len(given), len(wanted))
    name = "tags that are right" if task == "tag" else "masks filled right"
    return {name: share / max(count, 1)}
