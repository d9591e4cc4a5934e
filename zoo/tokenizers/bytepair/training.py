"""Learns byte-pair merges from word counts, with Hugging Face's trainer, repeatably."""

import json
from collections.abc import Iterator, Mapping

from zoo.tokenizers.bytepair.alphabet import ALPHABET

_WORDS_A_LINE = 1000


def learn_merges(
    counts: Mapping[str, int], vocabulary_size: int, min_count: int = 2
) -> list[tuple[str, str]]:
    """Learns merges, the most frequent pair first, until there are `vocabulary_size` pieces.

    Args:
        counts: how often each word occurs, its bytes written as GPT-2's characters.
        vocabulary_size: the 256 single bytes included; fewer if the words offer no more.
        min_count: pairs seen fewer times are left.

    Raises ImportError without the package `tokenizers`.

    Example: `learn_merges({"aab": 3}, 257)` is `[("a", "a")]`.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=list(ALPHABET),
    )
    learner.train_from_iterator(_lines(counts), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(merge) for merge in merges]


def _lines(counts: Mapping[str, int]) -> Iterator[str]:
    for word, count in sorted(counts.items()):
        for begin in range(0, count, _WORDS_A_LINE):
            yield " ".join([word] * min(_WORDS_A_LINE, count - begin))
