"""How far the answers of one model are from another's, in the unit of each task.

Texts and labels are all or nothing, and near a tie a rounding decides: how many agree is told, but
what is judged are the numbers behind them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from export.golden.pairs import GoldenPair

PROBABILITY_TOLERANCE = 0.05
LIKELIHOOD_TOLERANCE = 0.02  # of the log-likelihood
COSINE_TOLERANCE = 0.01  # 1 - cosine
SPREAD_TOLERANCE = 0.05  # of the answers' range


@dataclasses.dataclass(frozen=True)
class Deviation:
    """One comparison.

    Attributes:
        output: str, "signature.output".
        measure: str, what was compared, with its unit.
        value: float, the largest found.
        tolerance: float or None; None is told and not judged.
    """

    output: str
    measure: str
    value: float
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """Whether it is judged and within the tolerance, or not judged; NaN never passes."""
        return self.tolerance is None or self.value <= self.tolerance


def deviations(before: Sequence[GoldenPair], after: Sequence[GoldenPair]) -> list[Deviation]:
    """Compares two models' answers to the same requests.

    Judged are: probabilities (classes, tags, spans, masks, next tokens) by their difference,
    log-likelihoods by their own size (or a nat for each token, if that is more), vectors by cosine,
    regressions by the range of the answers. Where another word, tag or span was chosen, the first
    one's probability went down to at most what the other one left over, and that counts.

    Args:
        before, after: as many pairs, made of the same requests in the same order.

    Returns:
        One Deviation for each output and measure, the worst over all requests.

    Example: `all(d.passed for d in deviations(make_golden_pairs(a), make_golden_pairs(b)))`
    """
    found: dict[tuple[str, str], Deviation] = {}
    for old, new in zip(before, after, strict=True):
        for deviation in _OF_SIGNATURE.get(old.signature, _none)(old, new):
            key = (deviation.output, deviation.measure)
            known = found.get(key)
            if known is None or known.value < deviation.value or np.isnan(deviation.value):
                found[key] = deviation
    return list(found.values())


def loosened(before: Sequence[GoldenPair], after: Sequence[GoldenPair]) -> list[GoldenPair]:
    """The pairs `after`, allowing as much as two faithful roundings of `before` may differ by.

    For a model whose rounding shows in its answers (bfloat16 products): another machine, or another
    batch size, rounds otherwise. Its answers are about as far from the float32 model's as ours, so
    they are at most twice that far from ours; the same goes for counts of other strings and
    integers, and one more near a tie.

    Args:
        before: answers of the float32 model. after: of the reduced one, to the same requests.
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
        floats = {name for name, value in pair.outputs.items() if value.dtype.kind == "f"}
        atol = {name: 2 * moved[pair.signature, name] for name in sorted(floats)}
        changes = {
            name: 2 * int(moved[pair.signature, name]) + 1
            for name in pair.outputs
            if name not in floats
        }
        pairs.append(dataclasses.replace(pair, atol=atol, changes=changes))
    return pairs


def agreement(old: np.ndarray, new: np.ndarray) -> float:
    """Share of equal elements, 1 where there are none."""
    return float(np.mean(old == new)) if old.size else 1.0


def _none(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    """Signatures of tf.Examples have the answers of `predict`."""
    return []


def _differing(pair: GoldenPair, other: GoldenPair, name: str) -> Deviation:
    share = 1 - agreement(pair.outputs[name], other.outputs[name])
    return Deviation(f"{pair.signature}.{name}", "share that differs", share, None)


def _largest(values) -> float:
    """The largest, NaN if there is one, 0 if there are none."""
    return float(np.max(values, initial=0.0))


def _generate(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    same = old.outputs["text"] == new.outputs["text"]
    moved = _largest(_likelihoods(old, new, "log_probability")[same])
    name = "generate.log_probability"
    return [
        _differing(old, new, "text"),
        Deviation(name, "of itself, of equal texts", moved, LIKELIHOOD_TOLERANCE),
    ]


def _score(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    moved = _largest(_likelihoods(old, new, "log_likelihood"))
    return [Deviation("score.log_likelihood", "of itself", moved, LIKELIHOOD_TOLERANCE)]


def _likelihoods(old: GoldenPair, new: GoldenPair, name: str) -> np.ndarray:
    """How far each moved. A text that says nothing to the model has a huge one, whose share it is;
    one that it knows by heart has next to none, and there it is nats for each token."""
    before, after = old.outputs[name], new.outputs[name]
    return np.abs(after - before) / np.maximum(np.abs(before), old.outputs["token_count"] + 1)


def _candidates(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    """Lists of likely tokens (..., K) with their probabilities, likeliest first."""
    width = old.outputs["tokens"].shape[-1]
    lists = (
        pair.outputs[name].reshape(-1, width)
        for name in ("tokens", "probabilities")
        for pair in (old, new)
    )
    moved, other_first = [], []
    for tokens, new_tokens, probabilities, new_probabilities in zip(*lists):
        now = dict(zip(new_tokens, new_probabilities))
        for token, before in zip(tokens, probabilities):
            if token in now:
                moved.append(abs(now[token] - before))
            else:  # one that left the list has at most the last one's probability
                moved.append(max(before - new_probabilities[-1], 0.0))
        other_first.append(tokens[0] != new_tokens[0])
    name = f"{old.signature}.probabilities"
    share = float(np.mean(other_first)) if other_first else 0.0
    return [
        Deviation(name, "probability", _largest(moved), PROBABILITY_TOLERANCE),
        Deviation(f"{old.signature}.tokens", "share with another first", share, None),
    ]


def _predict(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    if "outputs" in old.outputs:
        return _regression(old, new)
    moved = np.abs(new.outputs["scores"] - old.outputs["scores"])
    return [
        Deviation("predict.scores", "probability", _largest(moved), PROBABILITY_TOLERANCE),
        _differing(old, new, "label"),
    ]


def _regression(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    if old.rows < 2:
        return []  # one number has no range
    before, after = old.outputs["outputs"], new.outputs["outputs"]
    # A model that always says nearly the same has no range to speak of.
    spread = max(float(np.ptp(before)), 0.01 * float(np.max(np.abs(before))), 1e-6)
    moved = _largest(np.abs(after - before)) / spread
    return [Deviation("predict.outputs", "of the answers' range", moved, SPREAD_TOLERANCE)]


def _chosen(choice: str, probability: str) -> Callable[[GoldenPair, GoldenPair], list[Deviation]]:
    """For outputs that name what was chosen, and how likely it was."""

    def compare(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
        before, after = old.outputs[probability], new.outputs[probability]
        moved = np.abs(after - before)
        changed = old.outputs[choice] != new.outputs[choice]
        # What is chosen now leaves at most 1 - after to what was chosen then.
        moved = np.where(changed, np.maximum(moved, before - (1 - after)), moved)
        name = f"{old.signature}.{probability}"
        return [
            Deviation(name, "probability", _largest(moved), PROBABILITY_TOLERANCE),
            _differing(old, new, choice),
        ]

    return compare


def _embed(old: GoldenPair, new: GoldenPair) -> list[Deviation]:
    angle = 1 - cosines(old.outputs["embedding"], new.outputs["embedding"])
    return [Deviation("embed.embedding", "1 - cosine", _largest(angle), COSINE_TOLERANCE)]


def cosines(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Cosine of each row of `old` (N, D) with the row of `new`; of two zero vectors it is 1."""
    old, new = (np.asarray(vectors, np.float64) for vectors in (old, new))
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    same = np.all(old == new, axis=1)
    return np.where(same, 1.0, np.sum(old * new, axis=1) / np.where(norms == 0, 1.0, norms))


_OF_SIGNATURE = {
    "generate": _generate,
    "score": _score,
    "next_token": _candidates,
    "fill_mask": _candidates,
    "predict": _predict,
    "tag": _chosen("tags", "scores"),
    "answer": _chosen("answer", "score"),
    "embed": _embed,
}
