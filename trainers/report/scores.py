"""Scores of classes, numbers, retrieval, tagged sentences, and answers to questions."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics

_SUM_TOLERANCE = 1e-2  # half-precision softmax is off by about 1e-3
_SIMILARITIES = 2**22  # products kept at a time: 32 MB
_ENTITY_TAG = re.compile(r"[BIES]-.+", re.DOTALL)
# Han with its extensions and compatibility forms, kana: scripts written without spaces.
CJK = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_ARTICLE = re.compile(r"\b(?:an?|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Predictions(NamedTuple):
    """What scores need of a classifier's probabilities (N, C), which may be too many to keep."""

    predicted: np.ndarray  # (N,) int, the class of the highest probability
    confidence: np.ndarray  # (N,), that probability
    of_labels: np.ndarray  # (N,), the probability of the right class

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray) -> "Predictions":
        """ValueError names a row of logits or NaN."""
        probabilities = np.asarray(probabilities, np.float64)
        sums = probabilities.sum(axis=1)
        # The comparison is false for NaN, so `not` catches that too.
        good = (np.abs(sums - 1) <= _SUM_TOLERANCE) & (probabilities >= 0).all(axis=1)
        if not good.all():
            row = int(good.argmin())
            raise ValueError(
                f"row {row} of the probabilities is no distribution (it sums to {sums[row]:.4g}); "
                "apply softmax to logits first"
            )
        predicted, rows = probabilities.argmax(axis=1), np.arange(len(labels))
        return cls(predicted, probabilities[rows, predicted], probabilities[rows, labels])


def classification_scores(labels: np.ndarray, predictions: Predictions) -> dict[str, float]:
    """Accuracy, F1 of classes that occur, Matthews correlation (0.0 if undefined), nats."""
    predicted = predictions.predicted
    # scikit-learn's Matthews correlation makes a table of classes x classes; counts are enough.
    size, rows = int(max(labels.max(), predicted.max())) + 1, float(len(labels))
    wanted, made = (np.bincount(ids, minlength=size).astype(float) for ids in (labels, predicted))
    spread = (rows**2 - wanted @ wanted) * (rows**2 - made @ made)
    above_chance = rows * np.sum(labels == predicted) - wanted @ made
    # A probability of 0.0 is float32's rounding; log would make the mean infinite.
    of_labels = np.maximum(predictions.of_labels, 1e-12)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "mcc": float(above_chance / np.sqrt(spread)) if spread else 0.0,
        "nll": float(-np.log(of_labels).mean()),
    }


def calibration_error(labels: np.ndarray, predictions: Predictions, bins: int = 10) -> float:
    """Expected calibration error, 0..1, over equal bins; an upper edge belongs to its bin."""
    confidence = np.minimum(predictions.confidence, 1.0)
    bin_of_row = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    gaps = np.bincount(bin_of_row, (predictions.predicted == labels) - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def regression_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Scores of (N,) or (N, 1) predictions; ValueError for NaN or infinity. A correlation with what
    is constant is 0.0: a NaN would end training.
    """
    targets = np.asarray(targets, np.float64).reshape(-1)
    predictions = np.asarray(predictions, np.float64).reshape(-1)
    finite = np.isfinite(predictions)
    if not finite.all():
        raise ValueError(f"predictions have NaN or infinity at row {finite.argmin()}")
    spearman = pearson = 0.0
    if np.ptp(targets) > 0 and np.ptp(predictions) > 0:
        spearman = float(stats.spearmanr(targets, predictions).statistic)
        pearson = float(np.nan_to_num(np.corrcoef(targets, predictions)[0, 1]))
    errors = predictions - targets
    return {
        "spearman": spearman,
        "pearson": pearson,
        "mse": float(np.mean(errors**2)),
        "mae": float(np.mean(np.abs(errors))),
    }


def retrieval_scores(ranks: np.ndarray) -> dict[str, float]:
    """Mean reciprocal rank and accuracy at 1 of the ranks (N,) of `rank_partners`."""
    return {"mrr": float(np.mean(1 / ranks)), "accuracy@1": float(np.mean(ranks == 1))}


def rank_partners(texts, partners) -> tuple[np.ndarray, np.ndarray]:
    """The rank (N,) of partner i among all partners for text i, 1 the best, and which is first
    (N,).

    Of vectors (N, D), numpy or scipy.sparse. Ties count against the partner: an encoder that gives
    all texts one vector scores near 0.
    """
    count = partners.shape[0]
    ranks, best = np.empty(count, np.int64), np.empty(count, np.int64)
    step = max(1, _SIMILARITIES // count)
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))
        similarities = texts[rows] @ partners.T
        if not isinstance(similarities, np.ndarray):
            similarities = similarities.toarray()
        finite = np.isfinite(similarities).all(axis=1)
        if not finite.all():
            row = rows[finite.argmin()]
            raise ValueError(f"similarities have NaN or infinity in row {row}")
        own = similarities[np.arange(len(rows)), rows]
        ranks[rows] = (similarities >= own[:, None]).sum(axis=1)
        best[rows] = similarities.argmax(axis=1)
    return ranks, best


def are_entities(labels: Collection[str]) -> bool:
    """Whether tags mark spans: BIO, IOB1, BIOES, or such letters alone with "B" among them."""
    marked = set(labels) - {"O"}
    if "B" in marked:
        return marked <= {"B", "I", "E", "S"}
    return bool(marked) and all(map(_ENTITY_TAG.fullmatch, marked))


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, start, end) of each entity, words start..end-1; a letter alone has the type "_".

    Forgives as conlleval and seqeval do: `I-` or `E-` after `O`, after the end of an entity or
    after another type starts an entity. All tags are such as `are_entities` knows.
    """
    spans = []
    kind, start, letter_before = "", -1, "O"
    for position, tag in enumerate([*tags, "O"]):
        letter, kind_here = tag[:1], tag[1:].removeprefix("-") or "_"
        if not (letter_before in ("B", "I") and letter in ("I", "E") and kind_here == kind):
            if letter_before != "O":
                spans.append((kind, start, position))
            kind, start = kind_here, position
        letter_before = letter
    return spans


def tag_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], labels: Collection[str]
) -> dict:
    """F1, precision and recall of entities as seqeval has them, and accuracy; for tags that are
    none accuracy and mean F1. The score that matters most is first; "types" has those of each type
    or tag.
    """
    entities = are_entities(labels)
    right, made, wanted = Counter(), Counter(), Counter()
    words = right_words = 0
    for pair in zip(gold, predicted, strict=True):
        same = [one == other for one, other in zip(*pair, strict=True)]
        words, right_words = words + len(same), right_words + sum(same)
        golds, predictions = (
            entity_spans(tags) if entities else [(tag, at) for at, tag in enumerate(tags)]
            for tags in pair
        )
        wanted.update(kind for kind, *_ in golds)
        made.update(kind for kind, *_ in predictions)
        right.update(kind for kind, *_ in set(golds) & set(predictions))
    types = {
        kind: {**_ratios(right[kind], made[kind], wanted[kind]), "support": wanted[kind]}
        for kind in sorted(wanted.keys() | made.keys())
    }
    accuracy = right_words / words if words else 0.0
    if entities:
        ratios = _ratios(right.total(), made.total(), wanted.total())
        return {"f1": ratios.pop("f1"), **ratios, "accuracy": accuracy, "types": types}
    macro_f1 = sum(of["f1"] for of in types.values()) / max(len(types), 1)
    return {"accuracy": accuracy, "macro_f1": macro_f1, "types": types}


def _ratios(right: int, made: int, wanted: int) -> dict[str, float]:
    precision = right / made if made else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * right / (made + wanted) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def question_scores(
    answers: Sequence[Sequence[str]], predictions: Sequence[str], language: str = "english"
) -> dict[str, float]:
    """Means of `answer_scores` over questions, as fractions 0..1 (the papers print percent)."""
    pairs = zip(answers, predictions, strict=True)
    scores = np.array([answer_scores(*pair, language) for pair in pairs])  # (N, 2)
    return {"f1": float(scores[:, 1].mean()), "exact_match": float(scores[:, 0].mean())}


def answer_scores(
    answers: Sequence[str], prediction: str, language: str = "english"
) -> tuple[float, float]:
    """Exact match and F1 of one question: the best over its gold answers.

    As the official scripts of SQuAD v1.1, and v2.0 for questions without an answer; Chinese scores
    on characters, as usual for DRCD and XQuAD (CMRC 2018's longest common substring is
    stricter).
    """
    made = answer_tokens(prediction, language)
    if not any(answer.strip() for answer in answers):
        return float(not made), float(not made)
    scores = []
    for answer in answers:
        gold = answer_tokens(answer, language)
        common = (Counter(gold) & Counter(made)).total()
        # Without tokens F1 is 0.0, also if both have none: so SQuAD v1.1 has it.
        scores.append((gold == made, 2 * common / (len(gold) + len(made)) if common else 0.0))
    exact, overlap = zip(*scores)
    return float(max(exact)), max(overlap)


def answer_tokens(text: str, language: str = "english") -> list[str]:
    """What of an answer counts: lower-case words, or for "chinese" characters and runs of others.

    English, and every language with spaces, loses ASCII punctuation ("U.S." is "us"), then
    articles. Chinese loses Unicode's too, and keeps articles: the A of 維生素A is none.
    """
    text = text.lower()
    if language == "english":
        return _ARTICLE.sub(" ", text.translate(_NO_PUNCTUATION)).split()
    kept = "".join(character for character in text if not _is_punctuation(character))
    return CJK.sub(lambda match: f" {match[0]} ", kept).split()


def _is_punctuation(character: str) -> bool:
    # ASCII counts symbols such as + and ~ as punctuation, so their full-width twins are too.
    half = chr(ord(character) - 0xFEE0) if "！" <= character <= "～" else character
    return unicodedata.category(character).startswith("P") or half in string.punctuation
