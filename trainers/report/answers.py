"""Exact match and F1 of answers to questions, as the SQuAD scripts count them.

English scores equal those of the official SQuAD v1.1 script (as fractions, not percent). Chinese
scores do the same on characters: F1 over a bag of characters, as usual for DRCD and XQuAD. CMRC
2018's own script counts a longest common substring, which is stricter: do not compare with it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

# Han with its extensions and compatibility forms, kana: scripts written without spaces.
CJK = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
LANGUAGES = ("english", "chinese")
ARTICLE = re.compile(r"\b(?:an?|the)\b")
NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_tokens(text: str, language: str = "english") -> list[str]:
    """What of an answer counts: lower-case words, or characters for Chinese.

    English loses ASCII punctuation (nothing in its place: "U.S." is one word, "us"), then the
    articles a, an, the. Chinese loses ASCII and Unicode punctuation; each CJK character is a
    token and so is each run of others ("2017", "iphone"). It keeps articles: the A of 維生素A is
    none.

    Args:
        text: an answer.
        language: "english" (for every language with spaces) or "chinese".

    Raises:
        ValueError: unknown language.

    Example:
        answer_tokens("The U.S.") == ["us"]
        answer_tokens("《iPhone 7》手機", "chinese") == ["iphone", "7", "手", "機"]
    """
    text = text.lower()
    if language == "english":
        return ARTICLE.sub(" ", text.translate(NO_ASCII_PUNCTUATION)).split()
    if language == "chinese":
        kept = "".join(character for character in text if not _is_punctuation(character))
        return CJK.sub(lambda match: f" {match[0]} ", kept).split()
    raise ValueError(f"language {language!r}; expected one of {', '.join(LANGUAGES)}")


def normalize_answer(text: str, language: str = "english") -> str:
    """`answer_tokens` joined: equal strings are equal answers.

    Example:
        normalize_answer("An  Apple!") == "apple"
    """
    return (" " if language == "english" else "").join(answer_tokens(text, language))


def exact_match(answer: str, prediction: str, language: str = "english") -> float:
    """1.0 if both are the same after normalization, else 0.0."""
    return float(normalize_answer(answer, language) == normalize_answer(prediction, language))


def f1(answer: str, prediction: str, language: str = "english") -> float:
    """Harmonic mean of precision and recall over the tokens of two answers, 0..1.

    0.0 if one has no tokens, also if both have none: so SQuAD v1.1 has it.

    Example:
        f1("the black cat", "black dog") == 0.5
    """
    wanted, made = answer_tokens(answer, language), answer_tokens(prediction, language)
    common = (Counter(wanted) & Counter(made)).total()
    return 2 * common / (len(wanted) + len(made)) if common else 0.0


def answer_scores(
    answers: Sequence[str], prediction: str, language: str = "english"
) -> tuple[float, float]:
    """Exact match and F1 of one question: the best over its gold answers.

    A question without an answer (no gold answers, or blank ones only) gives 1.0 for a prediction
    without tokens, else 0.0, as SQuAD v2.0 does.
    """
    if not any(answer.strip() for answer in answers):
        right = float(not answer_tokens(prediction, language))
        return right, right
    return (
        max(exact_match(answer, prediction, language) for answer in answers),
        max(f1(answer, prediction, language) for answer in answers),
    )


def question_scores(
    answers: Sequence[Sequence[str]], predictions: Sequence[str], language: str = "english"
) -> dict[str, float]:
    """Mean exact match and F1 over questions, as fractions 0..1 (the papers print percent).

    Args:
        answers: gold answers of each question; none, or blank ones, for a question that the
            context does not answer.
        predictions: one for each question; "" for "no answer".
        language: "english" or "chinese".

    Returns:
        "exact_match" and "f1".

    Raises:
        ValueError: no questions, different lengths, or unknown language.

    Example:
        question_scores([["Denver Broncos", "The Broncos"]], ["broncos!"])["exact_match"] == 1.0
    """
    if len(answers) != len(predictions):
        raise ValueError(f"{len(answers)} questions, {len(predictions)} predictions; need as many")
    if not answers:
        raise ValueError("no questions to score")
    scores = [
        answer_scores(golds, prediction, language)
        for golds, prediction in zip(answers, predictions)
    ]
    exact, overlap = (sum(column) / len(scores) for column in zip(*scores))
    return {"exact_match": exact, "f1": overlap}


def _is_punctuation(character: str) -> bool:
    if unicodedata.category(character).startswith("P"):
        return True
    # ASCII counts symbols such as + and ~ as punctuation, so their full-width twins are too.
    half = chr(ord(character) - 0xFEE0) if "！" <= character <= "～" else character
    return half in string.punctuation
