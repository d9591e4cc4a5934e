"""How far answers are from golden ones: of the same model elsewhere, or of a reduced model."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from export.golden.pairs import GoldenPair

Arrays = Mapping[str, np.ndarray]

# Floats pass if |answer - golden| <= ATOL + RTOL * |golden|: other machines sum in another order.
RTOL = 1e-4
ATOL = 1e-5
# Of a reduced model, by what is measured. Texts and labels are all or nothing, and near a tie a
# rounding decides: how many agree is reported, the tolerances are for the numbers behind them.
# Language models are judged by `export.precision.language`.
_TOLERANCES = {
    "probability": 0.05,
    "1 - cosine": 0.01,
    "of the answers' range": 0.05,
}
# Signatures whose outputs are a choice and its probability.
_CHOICES = {
    "predict": ("label", "scores"),
    "tag": ("tags", "scores"),
    "answer": ("answer", "score"),
}


def differences(
    pair: GoldenPair, answer: Arrays, cut_padding: bool = False
) -> tuple[list[str], float]:
    """Lines on what departs from the pair, and how near the rest comes: 1 is the limit."""
    lines, largest = [], 0.0
    for name in sorted({*pair.outputs, *answer}):
        output = f"{pair.signature}.{name}"
        if name not in answer or name not in pair.outputs:
            lines.append(f"{output}: output {'not expected' if name in answer else 'missing'}")
            continue
        golden, got = pair.outputs[name], np.asarray(answer[name])
        if cut_padding and golden.ndim > 1 and got.ndim > 1:  # each as wide as its widest row
            golden = _without_padding(golden, got.shape[1])
            got = _without_padding(got, golden.shape[1])
        if golden.shape != got.shape:
            lines.append(f"{output}: shape {got.shape}, golden {golden.shape}")
            continue
        if golden.dtype.kind == "f":
            atol = max(ATOL, pair.atol.get(name, 0))
            wrong = ~np.isclose(got, golden, rtol=RTOL, atol=atol, equal_nan=True)
            off = np.abs(got - golden) / (atol + RTOL * np.abs(golden))
            largest = max(largest, float(np.max(off, initial=0.0, where=np.isfinite(off))))
        else:
            wrong = got != golden
            if np.count_nonzero(wrong) <= pair.changes.get(name, 0):
                continue
        for place in (tuple(map(int, index)) for index in np.argwhere(wrong)):
            texts = (
                f"{key} {value[place[0]]!r:.60}"
                for key, value in pair.inputs.items()
                if value.dtype == object
            )
            lines.append(
                f"{output}{list(place)}: got {got[place]!r}, golden {golden[place]!r}, "
                f"for {', '.join(texts)}"
            )
    return lines, 0.0 if lines else largest


def _without_padding(array: np.ndarray, width: int) -> np.ndarray:
    """`array` (B, W, ...) cut to (B, width, ...), unless that cuts more than padding."""
    beyond = array[:, width:]
    padding = beyond == b"" if array.dtype == object else (beyond == 0) | (beyond == -1)
    return array[:, :width] if padding.all() else array


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far a reduced model is off in one output: the largest value found of a measure."""

    output: str  # "signature.output"
    measure: str  # what was compared, with its unit
    value: float
    tolerance: float | None  # None: reported, not enforced

    @property
    def passed(self) -> bool:
        """Whether it is within the tolerance, or has none; NaN never passes."""
        return self.tolerance is None or self.value <= self.tolerance


def deviations(before: Sequence[GoldenPair], after: Sequence[GoldenPair]) -> list[Deviation]:
    """The worst deviation of each output and measure, over all requests of a reduced model."""
    found: dict[tuple[str, str], float] = {}
    for old, new in zip(before, after, strict=True):
        for output, measure, value in _deviations(old, new):
            key = (f"{old.signature}.{output}", measure)
            if key not in found or found[key] < value or np.isnan(value):
                found[key] = value
    return [Deviation(*key, value, _TOLERANCES.get(key[1])) for key, value in found.items()]


def _deviations(old: GoldenPair, new: GoldenPair) -> Iterator[tuple[str, str, float]]:
    """(output, measure, value); signatures of tf.Examples have the answers of `predict`."""
    before, after, signature = old.outputs, new.outputs, old.signature
    if signature in ("chat", "generate"):
        text = "content" if signature == "chat" else "text"
        same = before[text] == after[text]
        yield text, "share that differs", _mean(~same)
        moved = _likelihood_changes(before, after, "log_probability")[same]
        yield "log_probability", "of itself, of equal texts", _largest(moved)
    elif signature == "score":
        moved = _likelihood_changes(before, after, "log_likelihood")
        yield "log_likelihood", "of itself", _largest(moved)
        # The largest says little: unlikely tokens move by nats in a good model.
        moved = np.abs(after["log_probabilities"] - before["log_probabilities"])
        yield "log_probabilities", "nats, mean of tokens", _mean(moved[before["tokens"] != b""])
    elif signature in ("next_token", "fill_mask"):
        yield from _candidate_deviations(before, after)
    elif signature == "embed":
        angles = 1 - cosines(before["embedding"], after["embedding"])
        yield "embedding", "1 - cosine", _largest(angles)
    elif signature == "predict" and "outputs" in before:
        if old.rows > 1:  # one number has no range
            # A model that always says nearly the same has no range to speak of.
            numbers = before["outputs"]
            spread = max(float(np.ptp(numbers)), 0.01 * float(np.max(np.abs(numbers))), 1e-6)
            moved = _largest(np.abs(after["outputs"] - numbers)) / spread
            yield "outputs", "of the answers' range", moved
    elif signature in _CHOICES:
        choice, probability = _CHOICES[signature]
        moved = np.abs(after[probability] - before[probability])
        changed = before[choice] != after[choice]
        if signature != "predict":  # which has the probabilities of all classes
            # What is chosen now leaves at most 1 - after to what was chosen then.
            left = before[probability] - (1 - after[probability])
            moved = np.where(changed, np.maximum(moved, left), moved)
        yield probability, "probability", _largest(moved)
        yield choice, "share that differs", _mean(changed)


def _candidate_deviations(before: Arrays, after: Arrays) -> Iterator[tuple[str, str, float]]:
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
            # One that left the list has at most the last one's probability.
            left = max(probability - new_probabilities[-1], 0.0)
            moved.append(abs(now[token] - probability) if token in now else left)
        other_first.append(tokens[0] != new_tokens[0])
    yield "probabilities", "probability", _largest(moved)
    yield "tokens", "share with another first", _mean(other_first)


def loosened(before: Sequence[GoldenPair], after: Sequence[GoldenPair]) -> list[GoldenPair]:
    """The pairs `after`, allowing as much as two faithful roundings of `before` may differ by."""
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
        atol, changes = {}, {}
        for name, value in sorted(pair.outputs.items()):
            # Products of bfloat16 are rounded otherwise on another machine or in another batch: the
            # answers are about as far from float32's as ours, so at most twice that far from ours.
            limit = 2 * moved[pair.signature, name]
            if value.dtype.kind == "f":
                atol[name] = limit
            else:
                changes[name] = int(limit) + 1  # one more near a tie
        pairs.append(dataclasses.replace(pair, atol=atol, changes=changes))
    return pairs


def _largest(values: Sequence[float] | np.ndarray) -> float:
    """The largest, NaN if there is one, 0 if there are none."""
    return float(np.max(values, initial=0.0))


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean, of no values 0; of booleans the share that is true."""
    return float(np.mean(values)) if len(values) else 0.0


def _likelihood_changes(before: Arrays, after: Arrays, name: str) -> np.ndarray:
    """How far each moved: the share of it, or nats for each token of a text known by heart."""
    old = before[name]
    return np.abs(after[name] - old) / np.maximum(np.abs(old), before["token_count"] + 1)


def cosines(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Cosine of each row of `old` (N, D) with the row of `new`; of two zero vectors it is 1."""
    old, new = (np.asarray(vectors, np.float64) for vectors in (old, new))
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    same = np.all(old == new, axis=1)
    return np.where(same, 1.0, np.sum(old * new, axis=1) / np.where(norms == 0, 1.0, norms))
