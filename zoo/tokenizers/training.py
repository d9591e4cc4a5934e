"""Learns vocabularies: characters by counting, pieces and merges with Hugging Face's trainers.

Equal texts, in any order, give equal vocabularies.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# Of the ids of WordPiece, the single characters get at most this share; the rest is for longer
# pieces.
_CHARACTER_SHARE = 0.9
_BATCH = 1024
_WORDS_PER_LINE = 1000


def batches(texts: Iterable[str | bytes]) -> Iterator[list[str | bytes]]:
    """The texts in lists of 1,024, the last one shorter; TypeError for a single string."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one string; pass a list of strings.")
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def frequent_characters(texts: Iterable[str | bytes], min_count: int) -> list[str]:
    """The characters seen `min_count` times, the most frequent first; ValueError for none."""
    counts = collections.Counter()
    for batch in batches(texts):
        for text in batch:
            counts.update(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    ranked = [character for character, count in _ranked(counts) if count >= min_count]
    if not ranked:
        raise ValueError(
            f"no character occurs {min_count} times in the texts ({len(counts)} distinct ones); "
            "pass more text or a lower min_count."
        )
    return ranked


def learn_pieces(
    counts: Mapping[str, int],
    vocabulary_size: int,
    special_tokens: Sequence[str],
    continuation: str,
    min_count: int,
) -> list[str]:
    """Learns WordPiece's pieces from word counts: special tokens, characters, longer pieces.

    The characters that occur `min_count` times are kept, the most frequent first, as long as they
    fit into nine tenths of the vocabulary. Words with any other character would be unknown
    anyway and teach nothing.
    """
    from tokenizers import models, trainers

    of_characters = collections.Counter()
    for word, count in counts.items():
        for character in word:
            of_characters[character] += count
    inner = {character for word in counts for character in word[1:]}
    capacity = int((vocabulary_size - len(special_tokens)) * _CHARACTER_SHARE)
    kept, forms = set(), set()
    for character, count in _ranked(of_characters):
        # The library knows each one as the start of a word in any case.
        own = {character, continuation + character} if character in inner else {character}
        if count < min_count or len(forms) + len(own) > max(2, capacity):
            break
        kept.add(character)
        forms |= own
    if not forms:
        raise ValueError(
            f"no character occurs {min_count} times in the texts ({len(counts)} distinct words); "
            "pass more text or a lower min_count."
        )
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
    """Learns byte-pair merges from word counts, the most frequent pair first.

    Args:
        counts: how often each word occurs, its bytes written as characters of the alphabet.
        vocabulary_size: the alphabet included; fewer if the words offer no more.
        alphabet: a character for each of the 256 bytes.
        min_count: pairs seen fewer times are left.
    """
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
    learner.train_from_iterator(_lines(counts), trainer)
    return learner


def _lines(counts: Mapping[str, int]) -> Iterator[str]:
    for word, count in sorted(counts.items()):
        for start in range(0, count, _WORDS_PER_LINE):
            yield " ".join([word] * min(_WORDS_PER_LINE, count - start))


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
