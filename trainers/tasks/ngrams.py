"""A linear model of token n-grams, learned after the network, and how much each of them counts."""

import warnings
from collections.abc import Iterable

import numpy as np
from keras import ops
from scipy import optimize, sparse, special
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from zoo.models.ngrams import NO_KEY, NgramLogits

# Those of one text alone teach little, once there are many texts.
_RARE, _MANY_TEXTS, _MOST_NGRAMS = 2, 1000, 100_000
# The inverse penalty is that of the baseline, for features of about length 1.
_INVERSE_PENALTY, _FEATURE_SCALE = 10.0, 1 / 3
# Halves count at first, as much as this many validation texts speak for other shares.
_PRIOR_TEXTS = 10.0


def fit_ngrams(
    batches: Iterable[dict[str, np.ndarray]],
    targets: np.ndarray,
    weights: np.ndarray,
    vocabulary_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Keys and kernel of `NgramLogits` and a bias (C,), by logistic regression on TF-IDF of the
    n-grams of packed texts; None where no n-gram stands in enough of them.

    Args:
        batches: `token_ids` and `padding_mask` (B, T) of all N texts, in order.
        targets: classes (N,).
        weights: of the texts (N,), float32.
    """
    probe = NgramLogits(1, 1, vocabulary_size)
    rows, keys, lengths, count = [], [], [], 0
    for batch in batches:
        real = np.asarray(batch["padding_mask"], bool)
        found = ops.convert_to_numpy(probe.ngrams(batch["token_ids"], real))
        is_real = found != NO_KEY
        rows.append(np.nonzero(is_real)[0] + count)
        keys.append(found[is_real])
        lengths.append(real.sum(axis=1))
        count += len(real)
    rows, lengths = np.concatenate(rows), np.concatenate(lengths)
    known, columns = np.unique(np.concatenate(keys), return_inverse=True)
    shape = len(lengths), len(known)
    counts = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape)
    texts = np.bincount(counts.indices, minlength=len(known))  # that have the n-gram
    kept = np.flatnonzero(texts >= (_RARE if len(lengths) >= _MANY_TEXTS else 1))
    if len(kept) > _MOST_NGRAMS:
        kept = np.sort(kept[np.argsort(-texts[kept], kind="stable")[:_MOST_NGRAMS]])
    if not len(kept):
        return None
    idf = _FEATURE_SCALE * (np.log((1 + len(lengths)) / (1 + texts[kept])) + 1)
    features = sparse.diags(1 / np.sqrt(lengths)) @ counts[:, kept] @ sparse.diags(idf)
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, targets, sample_weight=weights / weights.mean())
    # Of two classes sklearn keeps the difference alone.
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients = np.stack([-coefficients[0] / 2, coefficients[0] / 2])
        intercept = np.array([-intercept[0] / 2, intercept[0] / 2])
    return known[kept], np.float32(coefficients.T * idf[:, None]), np.float32(intercept)


def shares(network: np.ndarray, ngrams: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How much the logits (N, C) of the network and those of n-grams should count: what makes the
    labels (N,) of texts that neither has learned likeliest, from a half each on.
    """

    def loss(factors):
        logits = factors[0] * network + factors[1] * ngrams
        found = logits[np.arange(len(targets)), targets] - special.logsumexp(logits, axis=1)
        return _PRIOR_TEXTS * np.square(factors - 0.5).sum() - found.sum()

    return optimize.minimize(loss, [0.5, 0.5], bounds=[(0, None)] * 2).x
