"""A baseline for questions on a text: finds the answer by shared words alone, untrained."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from trainers.report.answers import CJK

LONGEST_ANSWER = 8  # tokens
COMMON_SHARE = 0.05  # of all sentences
# Words that ask for a number, which is the one kind of answer that shows in its characters.
ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|long|old|far|often)|when|what (?:year|percent\w*|date))\b"
    r"|多少|幾|几|哪一?年|何[時时年]|什[麼么][時时][候間间]"
)
NUMBER = re.compile(r"\d|[一二三四五六七八九十百千萬万]")
TOKEN = re.compile(rf"{CJK.pattern}|(?:(?!{CJK.pattern})\w)+(?:[.,'’-](?:(?!{CJK.pattern})\w)+)*")
SENTENCE_END = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+")
BREAK = re.compile(r"[,，、。;；:：()（）「」『』《》“”\"]")


def question_baseline(questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
    """Answers by overlap of words alone, untrained: the stretch beside the question's words.

    The sentence that shares the rarest words with the question is taken, and of it the stretch
    without words of the question that lies nearest to those it has. A question that asks for a
    number prefers a stretch with one.

    Args:
        questions: N questions.
        contexts: the text of each.

    Returns:
        N answers, each a piece of its context; "" where the best sentence has no words but those
        of the question.

    Raises:
        ValueError: different lengths.

    Example:
        question_baseline(["Who wrote Hamlet?"], ["Hamlet was written by William Shakespeare."])
    """
    if len(questions) != len(contexts):
        raise ValueError(f"{len(questions)} questions, {len(contexts)} contexts; need as many")
    sentences = {
        context: [_Sentence.of(part) for part in SENTENCE_END.split(context)]
        for context in dict.fromkeys(contexts)
    }
    everything = [sentence for parts in sentences.values() for sentence in parts]
    counts = Counter(term for sentence in everything for term in sentence.terms)

    def rarity(term: str) -> float:
        return math.log((len(everything) + 1) / (counts[term] + 0.5))

    # Words such as "the" and "of" answer nothing; a few sentences cannot tell which those are.
    often = max(3, COMMON_SHARE * len(everything))
    common = {term for term, count in counts.items() if count >= often and not CJK.match(term)}

    answers = []
    for question, context in zip(questions, contexts):
        asked = _terms(_tokens(question))
        best = max(
            sentences[context],
            # In one order, so that rounding cannot choose among equals.
            key=lambda sentence: sum(map(rarity, sorted(asked & sentence.terms))),
        )
        hits = {
            at: rarity(best.tokens[at].text)
            for at in range(len(best.tokens))
            if _is_asked(best.tokens, at, asked)
        }
        wants_number = bool(ASKS_NUMBER.search(question.lower()))
        answers.append(_nearest_stretch(best, hits, common, wants_number))
    return answers


class _Token(NamedTuple):
    text: str
    start: int
    end: int


class _Sentence(NamedTuple):
    text: str
    tokens: list[_Token]
    terms: set[str]

    @classmethod
    def of(cls, text: str) -> _Sentence:
        tokens = _tokens(text)
        return cls(text, tokens, _terms(tokens))


def _tokens(text: str) -> list[_Token]:
    return [_Token(match[0].lower(), *match.span()) for match in TOKEN.finditer(text)]


def _terms(tokens: list[_Token]) -> set[str]:
    """Tokens, and neighbours in CJK: one character alone says little there."""
    pairs = {
        left.text + right.text
        for left, right in itertools.pairwise(tokens)
        if CJK.match(left.text) and CJK.match(right.text)
    }
    return {token.text for token in tokens} | pairs


def _nearest_stretch(
    sentence: _Sentence, hits: dict[int, float], common: set[str], wants_number: bool
) -> str:
    """The stretch without hits or common words that is nearest to the hits, {place: weight}."""
    text, tokens, _ = sentence
    stretches: list[list[int]] = [[]]
    for at, token in enumerate(tokens):
        taken = at in hits or token.text in common
        if taken or BREAK.search(text[tokens[at - 1].end : token.start] if at else ""):
            stretches.append([])
        if not taken:
            stretches[-1].append(at)
    stretches = [stretch for stretch in stretches if stretch]
    if not stretches:
        return ""

    def nearness(*places: int) -> float:
        return sum(
            weight / (1 + min(abs(at - place) for place in places)) for at, weight in hits.items()
        )

    def worth(stretch: list[int]) -> tuple[bool, float]:
        piece = text[tokens[stretch[0]].start : tokens[stretch[-1]].end]
        return wants_number and bool(NUMBER.search(piece)), nearness(stretch[0], stretch[-1])

    best = max(stretches, key=worth)
    from_left = nearness(best[0]) >= nearness(best[-1])
    best = best[:LONGEST_ANSWER] if from_left else best[-LONGEST_ANSWER:]
    return text[tokens[best[0]].start : tokens[best[-1]].end]


def _is_asked(tokens: list[_Token], at: int, asked: set[str]) -> bool:
    if not CJK.match(tokens[at].text):
        return tokens[at].text in asked
    return any(
        left.text + right.text in asked
        for left, right in zip(tokens[max(at - 1, 0) : at + 1], tokens[max(at, 1) : at + 2])
    )
