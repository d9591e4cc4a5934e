"""Exact match and F1 of answers to questions, as the SQuAD scripts count them.

English scores equal those of the official SQuAD v1.1 script (as fractions, not percent). Chinese
scores do the same on characters, as usual for DRCD and XQuAD. CMRC 2018's own script counts a
longest common substring, which is stricter: do not compare with it.
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
_ARTICLE = re.compile(r"\b(?:an?|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_tokens(text: str, language: str = "english") -> list[str]:
    """What of an answer counts: lower-case words, or characters for Chinese.

    English loses ASCII punctuation (nothing in its place: "U.S." is one word, "us"), then the
    articles a, an, the. Chinese loses ASCII and Unicode punctuation; each CJK character is a token
    and so is each run of others ("2017"). It keeps articles: the A of 維生素A is none.
    """
    text = text.lower()
    if language == "english":
        return _ARTICLE.sub(" ", text.translate(_NO_PUNCTUATION)).split()
    if language == "chinese":
        kept = "".join(character for character in text if not _is_punctuation(character))
        return CJK.sub(lambda match: f" {match[0]} ", kept).split()
    raise ValueError(f"language {language!r}; expected one of english, chinese")


def answer_scores(
    answers: Sequence[str], prediction: str, language: str = "english"
) -> tuple[float, float]:
    """Exact match and F1 of one question: the best over its gold answers.

    A question without an answer (no gold answers, or blank ones only) gives 1.0 for a prediction
    without tokens, else 0.0, as SQuAD v2.0 does.
    """
    made = answer_tokens(prediction, language)
    if not any(answer.strip() for answer in answers):
        return float(not made), float(not made)
    golds = [answer_tokens(answer, language) for answer in answers]
    return max(float(gold == made) for gold in golds), max(_f1(gold, made) for gold in golds)


def question_scores(
    answers: Sequence[Sequence[str]], predictions: Sequence[str], language: str = "english"
) -> dict[str, float]:
    """Mean "f1" and "exact_match" over questions, as fractions 0..1 (the papers print percent).

    Args:
        answers: gold answers of each question; none, or blank ones, for one without an answer.
        predictions: one for each question; "" for "no answer".
        language: "english" (for every language with spaces) or "chinese".

    Raises:
        ValueError: no questions, different lengths, or unknown language.
    """
    if not answers or len(answers) != len(predictions):
        raise ValueError(
            f"{len(answers)} questions, {len(predictions)} predictions; need as many, at least one"
        )
    scores = [answer_scores(*pair, language) for pair in zip(answers, predictions)]
    exact, overlap = (sum(column) / len(scores) for column in zip(*scores))
    return {"f1": overlap, "exact_match": exact}


def _f1(wanted: list[str], made: list[str]) -> float:
    """0.0 if one has no tokens, also if both have none: so SQuAD v1.1 has it."""
    common = (Counter(wanted) & Counter(made)).total()
    return 2 * common / (len(wanted) + len(made)) if common else 0.0


def _is_punctuation(character: str) -> bool:
    # ASCII counts symbols such as + and ~ as punctuation, so their full-width twins are too.
    half = chr(ord(character) - 0xFEE0) if "！" <= character <= "～" else character
    return unicodedata.category(character).startswith("P") or half in string.punctuation
