"""How far the outputs of one model are from another's: by golden pairs, and by a user's examples.

Texts and labels are all or nothing, and near a tie a rounding decides: how many agree is reported,
but the tolerances are for the numbers behind them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from export.golden.pairs import GoldenPair, strings
from export.signatures import input_names
from zoo.bundle import Bundle

Arrays = Mapping[str, np.ndarray]
Send = Callable[[str, dict[str, np.ndarray]], Arrays]  # (signature, inputs) -> outputs

_TOLERANCES = {  # by what is measured
    "probability": 0.05,
    "of itself": 0.02,  # a log-likelihood
    "of itself, of equal texts": 0.02,
    "1 - cosine": 0.01,
    "of the answers' range": 0.05,
}
# Signatures whose outputs are a choice and its probability.
_CHOICES = {"tag": ("tags", "scores"), "answer": ("answer", "score")}


@dataclasses.dataclass(frozen=True)
class Deviation:
    """One comparison: the largest value found of a measure."""

    output: str  # "signature.output"
    measure: str  # what was compared, with its unit
    value: float
    tolerance: float | None  # None: reported, not enforced

    @property
    def passed(self) -> bool:
        """Whether it is within the tolerance, or has none; NaN never passes."""
        return self.tolerance is None or self.value <= self.tolerance


def deviations(before: Sequence[GoldenPair], after: Sequence[GoldenPair]) -> list[Deviation]:
    """Compares two models' answers to the same requests, in the same order.

    Tolerances are for: probabilities (classes, tags, spans, masks, next tokens) by their
    difference, log-likelihoods by their own size (or a nat for each token, if that is more),
    vectors by cosine, regressions by the range of the answers. Where another word, tag or span was
    chosen, the first one's probability went down to at most what the other one left over, and that
    counts. There is one Deviation for each output and measure, the worst over all requests.
    """
    found: dict[tuple[str, str], float] = {}
    for old, new in zip(before, after, strict=True):
        for output, measure, value in _compare(old, new):
            key = (f"{old.signature}.{output}", measure)
            if key not in found or found[key] < value or np.isnan(value):
                found[key] = value
    return [Deviation(*key, value, _TOLERANCES.get(key[1])) for key, value in found.items()]


def _compare(old: GoldenPair, new: GoldenPair) -> Iterator[tuple[str, str, float]]:
    """(output, measure, value); signatures of tf.Examples have the answers of `predict`."""
    before, after, signature = old.outputs, new.outputs, old.signature
    if signature == "generate":
        same = before["text"] == after["text"]
        yield "text", "share that differs", 1 - _agreement(before["text"], after["text"])
        moved = _likelihood_changes(before, after, "log_probability")[same]
        yield "log_probability", "of itself, of equal texts", _largest(moved)
    elif signature == "score":
        moved = _likelihood_changes(before, after, "log_likelihood")
        yield "log_likelihood", "of itself", _largest(moved)
    elif signature in ("next_token", "fill_mask"):
        yield from _compare_candidates(before, after)
    elif signature == "predict" and "outputs" in before:
        if old.rows > 1:  # one number has no range
            # A model that always says nearly the same has no range to speak of.
            numbers = before["outputs"]
            spread = max(float(np.ptp(numbers)), 0.01 * float(np.max(np.abs(numbers))), 1e-6)
            moved = _largest(np.abs(after["outputs"] - numbers)) / spread
            yield "outputs", "of the answers' range", moved
    elif signature == "predict":
        yield "scores", "probability", _largest(np.abs(after["scores"] - before["scores"]))
        yield "label", "share that differs", 1 - _agreement(before["label"], after["label"])
    elif signature in _CHOICES:
        choice, probability = _CHOICES[signature]
        moved = np.abs(after[probability] - before[probability])
        # What is chosen now leaves at most 1 - after to what was chosen then.
        left = before[probability] - (1 - after[probability])
        changed = before[choice] != after[choice]
        yield (
            probability,
            "probability",
            _largest(np.where(changed, np.maximum(moved, left), moved)),
        )
        yield choice, "share that differs", 1 - _agreement(before[choice], after[choice])
    elif signature == "embed":
        angles = 1 - _cosines(before["embedding"], after["embedding"])
        yield "embedding", "1 - cosine", _largest(angles)


def _compare_candidates(before: Arrays, after: Arrays) -> Iterator[tuple[str, str, float]]:
    """Lists of likely tokens (..., K) with their probabilities, likeliest first."""
    width = before["tokens"].shape[-1]
    lists = (
        outputs[name].reshape(-1, width)
        for name in ("tokens", "probabilities")
        for outputs in (before, after)
    )
    moved, other_first = [], []
    for tokens, new_tokens, probabilities, new_probabilities in zip(*lists):
        now = dict(zip(new_tokens, new_probabilities))
        for token, probability in zip(tokens, probabilities):
            if token in now:
                moved.append(abs(now[token] - probability))
            else:  # one that left the list has at most the last one's probability
                moved.append(max(probability - new_probabilities[-1], 0.0))
        other_first.append(tokens[0] != new_tokens[0])
    yield "probabilities", "probability", _largest(moved)
    yield "tokens", "share with another first", float(np.mean(other_first or [0.0]))


def loosened(before: Sequence[GoldenPair], after: Sequence[GoldenPair]) -> list[GoldenPair]:
    """The pairs `after`, allowing as much as two faithful roundings of `before` may differ by.

    For a model whose rounding shows in its answers (bfloat16 products): another machine, or another
    batch size, rounds otherwise. Its answers are about as far from the float32 model's as ours, so
    they are at most twice that far from ours; the same goes for counts of other strings and
    integers, and one more near a tie.
    """
    moved: dict[tuple[str, str], float] = {}
    for old, new in zip(before, after, strict=True):
        for name, value in old.outputs.items():
            if value.dtype.kind == "f":
                distance = _largest(np.abs(new.outputs[name] - value))
            else:
                distance = float(np.count_nonzero(new.outputs[name] != value))
            key = (old.signature, name)
            moved[key] = max(moved.get(key, 0.0), distance)
    pairs = []
    for pair in after:
        limits = {name: 2 * moved[pair.signature, name] for name in pair.outputs}
        floats = {name for name, value in pair.outputs.items() if value.dtype.kind == "f"}
        atol = {name: limits[name] for name in sorted(floats)}
        changes = {name: int(limits[name]) + 1 for name in limits if name not in floats}
        pairs.append(dataclasses.replace(pair, atol=atol, changes=changes))
    return pairs


def _agreement(old: np.ndarray, new: np.ndarray) -> float:
    """Share of equal elements, 1 where there are none."""
    return float(np.mean(old == new)) if old.size else 1.0


def _largest(values: Sequence[float] | np.ndarray) -> float:
    """The largest, NaN if there is one, 0 if there are none."""
    return float(np.max(values, initial=0.0))


def _likelihood_changes(before: Arrays, after: Arrays, name: str) -> np.ndarray:
    """How far each moved. A text that says nothing to the model has a huge one, whose share it is;
    one that it knows by heart has next to none, and there it is nats for each token."""
    old = before[name]
    return np.abs(after[name] - old) / np.maximum(np.abs(old), before["token_count"] + 1)


def _cosines(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Cosine of each row of `old` (N, D) with the row of `new`; of two zero vectors it is 1."""
    old, new = (np.asarray(vectors, np.float64) for vectors in (old, new))
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    same = np.all(old == new, axis=1)
    return np.where(same, 1.0, np.sum(old * new, axis=1) / np.where(norms == 0, 1.0, norms))


# --- A user's own examples

_FIELDS = {  # task -> the field that says what is right, and its type
    "classify": ("label", str),
    "pair": ("label", str),
    "regress": ("target", (int, float)),
    "tag": ("tags", list),
    "span": ("answer", (str, list)),
    "mlm": ("tokens", list),
}
_CHOSEN = {"classify": "label", "pair": "label", "tag": "tags", "span": "answer", "mlm": "tokens"}
BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a file of examples holds."""

    task: str
    signature: str
    inputs: dict[str, np.ndarray]  # name -> (N,) bytes
    expected: list | None  # what is right for each, as in the file


def read_examples(path: str | os.PathLike[str], bundle: Bundle) -> Examples:
    """Reads JSON lines with the texts that the model reads and, if it is known, what is right.

    | task | texts | right, optional | metric |
    |---|---|---|---|
    | lm | `text` | | perplexity |
    | classify, pair | `text` (`text_pair`) | `label` | accuracy |
    | regress | `text` (`text_pair`) | `target`, a number | mean squared error, Pearson's r |
    | tag | `text` | `tags`, one for each word | share of right tags |
    | span | `question`, `context` | `answer`, or a list of them | exact match, ignoring case |
    | mlm | `text` with masks | `tokens`, one for each mask | share of right first candidates |
    | embed | `text` | | cosine to the float32 model's vectors |

    Whatever is known, the share of answers equal to the float32 model's is measured as well. A
    ValueError names file, line and field.
    """
    path, task = Path(path), bundle.config.task
    if task == "lm":
        signature, names = "score", ["text"]
    else:
        signature, function = next(iter(bundle.text_model.functions.items()))
        names = input_names(function)
    field, kind = _FIELDS.get(task, (None, object))
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


def evaluate(examples: Examples, send: Send, send_float32: Send) -> dict[str, tuple[float, float]]:
    """Metric -> (of float32, of the reduced model), with a progress bar: it can take minutes."""
    count = len(next(iter(examples.inputs.values())))
    progress = keras.utils.Progbar(2 * count, unit_name="example")
    before, after = (_outputs(examples, one, progress) for one in (send_float32, send))
    if examples.task == "lm":
        return {"perplexity": (_perplexity(before), _perplexity(after))}
    if examples.task == "embed":
        vectors = (np.concatenate([row["embedding"] for row in rows]) for rows in (before, after))
        cosine = _cosines(*vectors)
        return {
            "mean cosine to float32": (1.0, float(cosine.mean())),
            "lowest cosine to float32": (1.0, float(cosine.min())),
        }
    metrics = {}
    if examples.expected is not None:
        old, new = (_scores(examples.task, examples.expected, rows) for rows in (before, after))
        metrics = {name: (old[name], new[name]) for name in old}
    if examples.task in _CHOSEN:
        chosen = ([_chosen(examples.task, row) for row in rows] for rows in (before, after))
        same = [np.array_equal(old, new) for old, new in zip(*chosen)]
        metrics["examples answered as by float32"] = (1.0, float(np.mean(same)))
    else:
        old, new = (np.array([row["outputs"][0] for row in rows]) for rows in (before, after))
        metrics["mean distance to float32"] = (0.0, float(np.mean(np.abs(new - old))))
    return metrics


def _outputs(examples: Examples, send: Send, progress: keras.utils.Progbar) -> list[Arrays]:
    """For each example its outputs, each with a batch axis of 1."""
    count = len(next(iter(examples.inputs.values())))
    rows = []
    for first in range(0, count, BATCH_SIZE):
        last = min(first + BATCH_SIZE, count)
        batch = {name: value[first:last] for name, value in examples.inputs.items()}
        outputs = send(examples.signature, batch)
        for row in range(last - first):
            rows.append({name: value[row : row + 1] for name, value in outputs.items()})
        progress.add(last - first)
    return rows


def _perplexity(rows: Sequence[Arrays]) -> float:
    total = sum(float(row["log_likelihood"][0]) for row in rows)
    tokens = sum(int(row["token_count"][0]) for row in rows)
    return float(np.exp(-total / max(tokens, 1)))


def _chosen(task: str, row: Arrays) -> np.ndarray:
    """The choices of one example, without padding; of candidates the first."""
    value = np.asarray(row[_CHOSEN[task]][0], object)
    if value.ndim == 2:
        value = value[:, 0]
    return value[value != b""] if value.ndim else value


def _scores(task: str, expected: list, rows: Sequence[Arrays]) -> dict[str, float]:
    if task == "regress":
        targets = np.array(expected, np.float64)
        outputs = np.array([row["outputs"][0] for row in rows], np.float64)
        varied = np.ptp(targets) > 0 and np.ptp(outputs) > 0
        return {
            "mean squared error": float(np.mean((outputs - targets) ** 2)),
            "Pearson correlation": float(np.corrcoef(targets, outputs)[0, 1]) if varied else 0.0,
        }
    if task in ("classify", "pair"):
        right = [row["label"][0].decode() == label for row, label in zip(rows, expected)]
        return {"accuracy": float(np.mean(right))}
    if task == "span":
        right = []
        for row, accepted in zip(rows, expected):
            accepted = [accepted] if isinstance(accepted, str) else accepted
            given = row["answer"][0].decode(errors="replace").strip().casefold()
            right.append(given in {str(text).strip().casefold() for text in accepted})
        return {"exact match": float(np.mean(right))}
    right, count = 0, 0
    for row, wanted in zip(rows, expected):
        given = _chosen(task, row)
        wanted = [str(value).encode() for value in wanted]
        right += sum(one == other for one, other in zip(given, wanted))
        count += max(len(given), len(wanted))
    name = "tags that are right" if task == "tag" else "masks filled right"
    return {name: right / max(count, 1)}
