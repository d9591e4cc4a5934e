"""Learns vocabularies: characters by counting, pieces and merges with Hugging Face's trainers.

Equal texts, in any order, give equal vocabularies.
"""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_CHARACTER_SHARE = 0.9  # at most, of WordPiece's ids: the rest is for longer pieces
_BATCH = 1024
_WORDS_PER_LINE = 1000


def batches(texts: Iterable[str | bytes]) -> Iterator[list[str | bytes]]:
    """The texts in lists of 1,024, the last one shorter; TypeError for a single string."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one string; pass a list of strings.")
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def frequent_characters(counts: Mapping[str, int], min_count: int) -> list[str]:
    """The characters seen `min_count` times, the most frequent first; ValueError for none."""
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    kept = [character for character in ranked if counts[character] >= min_count]
    if not kept:
        raise ValueError(
            f"no character occurs {min_count} times in the texts ({len(counts)} distinct ones); "
            "pass more text or a lower min_count."
        )
    return kept


def learn_pieces(
    counts: Mapping[str, int],
    vocabulary_size: int,
    special_tokens: Sequence[str],
    continuation: str,
    min_count: int,
) -> list[str]:
    """WordPiece's pieces from word counts: special tokens, the most frequent characters that fit
    into nine tenths of the vocabulary, longer pieces. Words with other characters teach nothing.
    """
    from tokenizers import models, trainers

    of_characters: collections.Counter[str] = collections.Counter()
    for word, count in counts.items():
        for character in word:
            of_characters[character] += count
    inner = {character for word in counts for character in word[1:]}
    capacity = max(2, int((vocabulary_size - len(special_tokens)) * _CHARACTER_SHARE))
    kept, forms = set(), set()
    for character in frequent_characters(of_characters, min_count):
        # The library knows each one as the start of a word in any case.
        own = {character, continuation + character} if character in inner else {character}
        if len(forms) + len(own) > capacity:
            break
        kept.add(character)
        forms |= own
    # The library numbers single characters in the order of a hash table and breaks ties by
    # number: two runs would differ. Named beforehand, as if special, they keep their numbers.
    first = [*special_tokens, *sorted(forms, key=lambda form: (len(form), form))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=first,
        continuing_subword_prefix=continuation,
    )
    known = {word: count for word, count in counts.items() if kept.issuperset(word)}
    ids = _trained(models.WordPiece(unk_token=first[0]), trainer, known).get_vocab()
    return sorted(ids, key=ids.get)[:vocabulary_size]


def learn_merges(
    counts: Mapping[str, int], vocabulary_size: int, alphabet: Sequence[str], min_count: int
) -> list[tuple[str, str]]:
    """Byte-pair merges from counts of words in an alphabet of 256 bytes, best first."""
    from tokenizers import models, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=list(alphabet),
    )
    learned = json.loads(_trained(models.BPE(), trainer, counts).to_str())
    return [tuple(merge) for merge in learned["model"]["merges"]]


def _trained(model: Any, trainer: Any, counts: Mapping[str, int]) -> Any:
    from tokenizers import Tokenizer, pre_tokenizers

    learner = Tokenizer(model)
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    lines = (
        " ".join([word] * min(_WORDS_PER_LINE, count - start))
        for word, count in sorted(counts.items())
        for start in range(0, count, _WORDS_PER_LINE)
    )
    learner.train_from_iterator(lines, trainer)
    return learner
