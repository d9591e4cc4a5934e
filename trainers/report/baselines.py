"""What no neural network is needed for: cheap models that a report prints beside the trained one.

Each trains in seconds on one core. A model that does not beat its baseline is not worth serving.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from trainers.report.answers import CJK

MOSTLY = 0.3  # Chinese with many Latin names still has more CJK characters than this
HASHED_FEATURES = 2**17
# Logistic regression learns classes x terms weights, and L-BFGS keeps twenty copies of them.
MOST_CLASSES = 500


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    pairs: tuple[Sequence[str], Sequence[str]] | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[list[str], np.ndarray, list[str]]:
    """Logistic regression on TF-IDF: words and pairs of words, or 1-3 characters for CJK texts.

    Args:
        train_texts: texts to learn from.
        train_labels: the class of each.
        test_texts: texts to classify.
        pairs: second texts of the training and of the test rows, for tasks on pairs.
        classes: the wanted order of columns, all training labels among them; default sorted. One
            that the training rows lack has the probability 0.

    Returns:
        Predicted label of each test text, probabilities (N, C) float64, and the C classes.

    Raises:
        ValueError: no training texts, different lengths, or a label that `classes` lacks.

    Example:
        predicted, probabilities, classes = tfidf_baseline(["good", "bad"], ["+", "-"], ["good"])
    """
    _check(train_texts, train_labels, test_texts, pairs)
    classes = list(classes) if classes is not None else sorted(set(train_labels))
    if missing := sorted(set(train_labels) - set(classes)):
        raise ValueError(f"training labels {missing[:5]} are not among classes {classes[:5]} ...")
    seen, targets = np.unique(np.asarray(train_labels, object), return_inverse=True)
    probabilities = np.zeros((len(test_texts), len(classes)))
    if len(test_texts):
        train, test = _text_features(train_texts, test_texts, pairs)
        columns = [classes.index(label) for label in seen]
        probabilities[:, columns] = _logistic(train, targets, test, inverse_penalty=10.0)
    return [classes[i] for i in probabilities.argmax(axis=1)], probabilities, classes


def ridge_baseline(
    train_texts: Sequence[str],
    train_targets: Sequence[float],
    test_texts: Sequence[str],
    pairs: tuple[Sequence[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """Ridge regression on the same features as `tfidf_baseline`.

    Returns:
        (N,) float64: predicted value of each test text.

    Raises:
        ValueError: no training texts, or different lengths.

    Example:
        ridge_baseline(["good", "bad"], [5.0, 1.0], ["good"])
    """
    _check(train_texts, train_targets, test_texts, pairs)
    if not len(test_texts):
        return np.zeros(0)
    train, test = _text_features(train_texts, test_texts, pairs)
    return Ridge(alpha=1.0).fit(train, np.asarray(train_targets, np.float64)).predict(test)


def tagging_baseline(
    train_words: Sequence[Sequence[str]],
    train_tags: Sequence[Sequence[str]],
    test_words: Sequence[Sequence[str]],
) -> list[list[str]]:
    """Logistic regression that tags each word from its form and its neighbours.

    Rare tags weigh more (by the square root of how rare they are): without that, nearly
    everything is O; weighed in full, nearly nothing is.

    Args:
        train_words: words of each training sentence.
        train_tags: their tags.
        test_words: words of each sentence to tag.

    Returns:
        Tags of each test sentence.

    Raises:
        ValueError: no training words, or different lengths.

    Example:
        tagging_baseline([["in", "Rome"]], [["O", "B-place"]], [["near", "Rome"]])
    """
    for number, (words, tags) in enumerate(zip(train_words, train_tags, strict=True)):
        if len(words) != len(tags):
            raise ValueError(f"sentence {number} has {len(words)} words and {len(tags)} tags")
    tags = [tag for sentence in train_tags for tag in sentence]
    if not tags:
        raise ValueError("no words to learn from")
    if not any(test_words):
        return [[] for _ in test_words]
    # Plain sums of hashed features: signs would let two that meet cancel each other.
    hasher = FeatureHasher(HASHED_FEATURES, input_type="string", alternate_sign=False)
    train, test = (
        hasher.transform(
            _word_features(words, at) for words in sentences for at in range(len(words))
        )
        for sentences in (train_words, test_words)
    )
    seen, targets, counts = np.unique(
        np.asarray(tags, object), return_inverse=True, return_counts=True
    )
    weights = dict(enumerate(np.sqrt(counts.max() / counts)))
    predicted = iter(seen[_logistic(train, targets, test, 1.0, weights).argmax(axis=1)])
    return [[next(predicted) for _ in words] for words in test_words]


def _text_features(train_texts, test_texts, pairs):
    known = [*train_texts, *(pairs[0] if pairs else ())]
    letters = Counter(bool(CJK.match(c)) for text in known for c in text if c.isalnum())
    # Terms that occur once cost time and teach little, once there are many texts.
    options = {"sublinear_tf": True, "min_df": 2 if len(known) >= 1000 else 1}
    if letters[True] >= MOSTLY * max(letters.total(), 1):
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **options)
    else:  # punctuation is a word too: ! and ? tell something
        words = r"(?u)\b\w+\b|[^\w\s]"
        vectorizer = TfidfVectorizer(token_pattern=words, ngram_range=(1, 2), **options)
    try:
        vectorizer.fit(known)
    except ValueError:  # no term at all, as in blank texts: one constant column, so the priors
        return np.ones((len(train_texts), 1)), np.ones((len(test_texts), 1))
    sides = zip((train_texts, test_texts), pairs or (None, None))
    return [_side(vectorizer, texts, seconds) for texts, seconds in sides]


def _side(vectorizer, texts: Sequence[str], seconds: Sequence[str] | None) -> sparse.csr_matrix:
    first = vectorizer.transform(texts)
    if seconds is None:
        return first
    second = vectorizer.transform(seconds)
    both = first.multiply(second)  # a linear model cannot see by itself what two texts share
    return sparse.hstack([first, second, both, abs(first - second), both.sum(axis=1)], "csr")


def _logistic(train, targets, test, inverse_penalty, weights=None) -> np.ndarray:
    if targets.max() == 0:
        return np.ones((test.shape[0], 1))  # one class: nothing to learn
    model = LogisticRegression(
        C=inverse_penalty, max_iter=200, tol=1e-3 if weights else 1e-4, class_weight=weights
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a baseline
        return model.fit(train, targets).predict_proba(test)


def _word_features(words: Sequence[str], at: int) -> Iterable[str]:
    for offset in (-2, -1, 0, 1, 2):
        word = words[at + offset] if 0 <= at + offset < len(words) else "\n"  # an edge
        yield f"word {offset} {word.lower()}"
        if abs(offset) <= 1:
            yield f"shape {offset} {_shape(word)}"
    word = words[at].lower()
    for length in (2, 3, 4):
        yield f"start {word[:length]}"
        yield f"end {word[-length:]}"
    yield f"after {words[at - 1].lower() if at else ''} {word}"


def _shape(word: str) -> str:
    """How a word is written, "Xx" for "Rome": cases and digits, with runs cut to two."""
    kinds = (
        "0" if c.isdigit() else "X" if c.isupper() else "x" if c.islower() else c for c in word
    )
    return re.sub(r"(.)\1+", r"\1\1", "".join(kinds))


def _check(texts, targets, test_texts, pairs) -> None:
    if not len(texts) or len(texts) != len(targets):
        raise ValueError(f"{len(texts)} training texts, {len(targets)} labels; need as many")
    sizes = [len(texts), len(test_texts)]
    if pairs is not None and [len(side) for side in pairs] != sizes:
        raise ValueError(
            f"{[len(side) for side in pairs]} second texts for {sizes} training and test texts; "
            "need as many"
        )
