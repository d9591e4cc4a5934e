"""Scores of texts that were written: BLEU and chrF of translations, ROUGE of summaries.

By sacrebleu (Post, 2018, arXiv:1804.08771) and by rouge-score, as published figures are; what they
cannot split into words, Chinese above all, goes by characters.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from trainers.report.baselines import sentences
from trainers.report.scores import CJK, answer_tokens

_OTHER_SCRIPT = 0.3  # share of letters from which a text is not in Latin letters, or is Chinese
_ROUGE = ("rouge1", "rouge2", "rougeL")
References = Sequence[Sequence[str]]  # of each text all that are right


def translation_scores(
    written: Sequence[str], references: References
) -> tuple[dict[str, float], str]:
    """BLEU and chrF of a corpus, 0 to 100, and sacrebleu's signature of the former."""
    letters = [c for own in references for text in own for c in text if c.isalpha()]
    characters = sum(map(bool, map(CJK.match, letters))) > _OTHER_SCRIPT * len(letters)
    bleu, chrf = BLEU(tokenize="zh" if characters else "13a"), CHRF()
    streams = list(itertools.zip_longest(*references))  # sacrebleu takes None for no more
    scores = {
        name: metric.corpus_score(list(written), streams).score
        for name, metric in {"bleu": bleu, "chrf": chrf}.items()
    }
    return scores, str(bleu.get_signature())


def chrf_of_each(written: Sequence[str], references: References) -> np.ndarray:
    """chrF of each text by itself, 0 to 100, (N,)."""
    chrf = CHRF()
    pairs = zip(written, references)
    return np.array([chrf.sentence_score(text, list(own)).score for text, own in pairs])


def rouge_of_each(written: Sequence[str], references: References) -> dict[str, np.ndarray]:
    """ROUGE-1, 2 and L of each text, the F1 with the nearest reference, 0 to 1, (N,)."""
    score = _rouge(references)
    rows = [score(own, text) for text, own in zip(written, references)]
    return {name: np.array([row[name].fmeasure for row in rows]) for name in _ROUGE}


def extractive_oracle(sources: Sequence[str], references: References) -> list[str]:
    """Of each source the sentence that is nearest to a reference, which a summary may well beat."""
    score, best = _rouge(references), []
    for source, own in zip(sources, references):
        # The first of equals.
        parts = sentences(source)
        worth = [sum(one.fmeasure for one in score(own, part).values()) for part in parts]
        best.append(parts[int(np.argmax(worth))])
    return best


def _rouge(references: References) -> Callable[[Sequence[str], str], dict[str, Any]]:
    # Imported here: nltk, which it takes a stemmer from, costs every run a second.
    from rouge_score import rouge_scorer, tokenizers

    letters = [c for own in references for text in own for c in text if c.isalpha()]
    other = sum(not c.isascii() for c in letters) > _OTHER_SCRIPT * len(letters)
    words = _Words() if other else tokenizers.DefaultTokenizer(use_stemmer=True)
    return rouge_scorer.RougeScorer(_ROUGE, tokenizer=words).score_multi


class _Words:
    """Words, and characters of scripts without spaces: rouge-score itself drops all but a to z."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return answer_tokens(text, "chinese")
