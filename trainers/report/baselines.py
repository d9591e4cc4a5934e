"""Cheap models that a report prints beside the trained one; each trains in seconds on one core."""

import itertools
import math
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

from trainers.report.scores import CJK

# Logistic regression learns classes x terms weights, and L-BFGS keeps twenty copies of them.
MOST_CLASSES = 500
_CJK_SHARE = 0.3  # Chinese with many Latin names still has more CJK characters than this
_HASHED_FEATURES = 2**17
_LONGEST_ANSWER = 8  # words
_WORD = re.compile(rf"{CJK.pattern}|(?:(?!{CJK.pattern})\w)+(?:[.,'’-](?:(?!{CJK.pattern})\w)+)*")
# Words that ask for a number, which is the one kind of answer that shows in its characters.
_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|long|old|far|often)|when|what (?:year|percent\w*|date))\b"
    r"|多少|幾|几|哪一?年|何[時时年]|什[麼么][時时][候間间]"
)
_NUMBER = re.compile(r"\d|[一二三四五六七八九十百千萬万]")
_BREAK = re.compile(r"[,，、。;；:：()（）「」『』《》“”\"]")
_SENTENCE_END = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+")


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    classes: Sequence[str],
    pairs: tuple[Sequence[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """Probabilities (N, C) float64 of the test texts, by logistic regression on TF-IDF; `pairs` are
    the second texts of training and test rows. A class that training lacks has probability 0.
    """
    seen, targets = np.unique(np.asarray(train_labels, object), return_inverse=True)
    train, test = _text_features(train_texts, test_texts, pairs)
    probabilities = np.zeros((len(test_texts), len(classes)))
    columns = [list(classes).index(label) for label in seen]
    probabilities[:, columns] = _logistic(train, targets, test, inverse_penalty=10.0)
    return probabilities


def ridge_baseline(
    train_texts: Sequence[str],
    train_targets: Sequence[float],
    test_texts: Sequence[str],
    pairs: tuple[Sequence[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """(N,) values of the test texts, by ridge regression on `tfidf_baseline`'s features."""
    train, test = _text_features(train_texts, test_texts, pairs)
    return Ridge(alpha=1.0).fit(train, np.asarray(train_targets, np.float64)).predict(test)


def tagging_baseline(
    train_words: Sequence[Sequence[str]],
    train_tags: Sequence[Sequence[str]],
    test_words: Sequence[Sequence[str]],
) -> list[list[str]]:
    """Tags of the test sentences, by logistic regression on a word's form and its neighbours."""
    if not any(test_words):
        return [[] for _ in test_words]
    # Plain sums of hashed features: signs would let two that meet cancel each other.
    hasher = FeatureHasher(_HASHED_FEATURES, input_type="string", alternate_sign=False)
    train, test = (
        hasher.transform(
            _word_features(words, at) for words in sentences for at in range(len(words))
        )
        for sentences in (train_words, test_words)
    )
    tags = np.asarray([tag for sentence in train_tags for tag in sentence], object)
    seen, targets, counts = np.unique(tags, return_inverse=True, return_counts=True)
    # Without weights nearly everything is O; by how rare tags are, in full, nearly nothing is.
    weights = dict(enumerate(np.sqrt(counts.max() / counts)))
    predicted = iter(seen[_logistic(train, targets, test, 1.0, weights).argmax(axis=1)])
    return [[next(predicted) for _ in words] for words in test_words]


def sentences(text: str) -> list[str]:
    """The sentences of a text, one at least; the first is what a summary is compared with."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()] or [text]


def question_baseline(questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
    """Answers by shared words alone, untrained: the stretch nearest to the rarest ones."""
    split = {context: _SENTENCE_END.split(context) for context in contexts}
    number = sum(map(len, split.values()))
    counts = Counter(t for parts in split.values() for part in parts for t in _terms(part))
    rarity = {term: math.log((number + 1) / (count + 0.5)) for term, count in counts.items()}
    common = {t for t, n in counts.items() if n >= max(3, 0.05 * number) and not CJK.match(t)}
    answers = []
    for question, context in zip(questions, contexts):
        asked = _terms(question)
        # Sorted, so that rounding cannot choose among equals.
        best = max(
            split[context], key=lambda part: sum(map(rarity.get, sorted(asked & _terms(part))))
        )
        answers.append(_nearest_stretch(question.lower(), asked, best, rarity, common))
    return answers


def _nearest_stretch(
    question: str, asked: set[str], sentence: str, rarity: dict[str, float], common: set[str]
) -> str:
    words = list(_WORD.finditer(sentence))
    hits = {
        at: rarity.get(words[at][0].lower(), 1)
        for at in range(len(words))
        if _is_asked(words, at, asked)
    }
    stretches, end = [[]], 0
    for at, word in enumerate(words):
        taken = at in hits or word[0].lower() in common
        if taken or _BREAK.search(sentence[end : word.start()]):
            stretches.append([])
        stretches[-1] += [] if taken else [at]
        end = word.end()
    wants_number = bool(_ASKS_NUMBER.search(question))

    def text_of(stretch):
        return sentence[words[stretch[0]].start() : words[stretch[-1]].end()]

    def nearness(*places):
        return sum(w / (1 + min(abs(at - place) for place in places)) for at, w in hits.items())

    def worth(stretch):
        has_number = wants_number and bool(_NUMBER.search(text_of(stretch)))
        return has_number, nearness(stretch[0], stretch[-1])

    if not (found := max(filter(None, stretches), key=worth, default=[])):
        return ""
    from_left = nearness(found[0]) >= nearness(found[-1])
    return text_of(found[:_LONGEST_ANSWER] if from_left else found[-_LONGEST_ANSWER:])


def _is_asked(words: list[re.Match], at: int, asked: set[str]) -> bool:
    text = words[at][0].lower()
    if not CJK.match(text):
        return text in asked
    neighbours = zip(words[max(at - 1, 0) : at + 1], words[max(at, 1) : at + 2])
    return any(left[0] + right[0] in asked for left, right in neighbours)


def _terms(text: str) -> set[str]:
    """Words, and pairs of neighbours in CJK, where one character alone says little."""
    words = [word.lower() for word in _WORD.findall(text)]
    pairs = {a + b for a, b in itertools.pairwise(words) if CJK.match(a) and CJK.match(b)}
    return {*words, *pairs}


def fitted_vectorizer(texts: Sequence[str]) -> TfidfVectorizer:
    """TF-IDF over the terms of some texts; its `transform` gives sparse vectors (N, terms)."""
    letters = Counter(bool(CJK.match(c)) for text in texts for c in text if c.isalnum())
    # Terms that occur once cost time and teach little, once there are many texts.
    options = {"sublinear_tf": True, "min_df": 2 if len(texts) >= 1000 else 1}
    if letters[True] >= _CJK_SHARE * max(letters.total(), 1):
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **options)
    else:  # punctuation is a word too: ! and ? tell something
        words = r"(?u)\b\w+\b|[^\w\s]"
        vectorizer = TfidfVectorizer(token_pattern=words, ngram_range=(1, 2), **options)
    try:
        return vectorizer.fit(texts)
    except ValueError:  # no text has any term: class priors are learned
        return TfidfVectorizer(vocabulary=["none"]).fit(texts)


def _text_features(train_texts, test_texts, pairs) -> list:
    vectorizer = fitted_vectorizer([*train_texts, *(pairs[0] if pairs else ())])
    features = []
    for texts, seconds in zip((train_texts, test_texts), pairs or (None, None)):
        of_text = vectorizer.transform(texts)
        if seconds is not None:
            second = vectorizer.transform(seconds)
            both = of_text.multiply(second)  # a linear model cannot see by itself what two share
            of_text = sparse.hstack(
                [of_text, second, both, abs(of_text - second), both.sum(axis=1)], "csr"
            )
        features.append(of_text)
    return features


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
            # How a word is written, "Xx" for "Rome": cases and digits, with runs cut to two.
            kinds = (
                "0" if c.isdigit() else "X" if c.isupper() else "x" if c.islower() else c
                for c in word
            )
            yield f"shape {offset} " + re.sub(r"(.)\1+", r"\1\1", "".join(kinds))
    word = words[at].lower()
    for length in (2, 3, 4):
        yield f"start {word[:length]}"
        yield f"end {word[-length:]}"
    yield f"after {words[at - 1].lower() if at else ''} {word}"
