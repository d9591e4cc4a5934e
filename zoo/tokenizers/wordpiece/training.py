"""Learns a WordPiece vocabulary from word counts, with Hugging Face's trainer, repeatably."""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence

# Of the ids, the single characters get at most this share; the rest is for longer pieces.
_CHARACTER_SHARE = 0.9
_WORDS_A_LINE = 1000


def learn_vocabulary(
    counts: Mapping[str, int],
    vocabulary_size: int,
    special_tokens: Sequence[str],
    continuation: str,
    min_count: int = 2,
) -> list[str]:
    """Learns at most `vocabulary_size` pieces: special tokens, characters, then longer pieces.

    The characters that occur `min_count` times are kept, the most frequent first, as long as they
    fit into nine tenths of the vocabulary. Words with any other character would be unknown
    anyway and teach nothing.

    Args:
        counts: how often each word occurs.
        vocabulary_size: at most this many pieces; fewer if the words offer no more.
        special_tokens: the first pieces.
        continuation: what marks a piece that continues a word, "##".
        min_count: pieces and characters seen fewer times are left out.

    Raises ValueError if no character fits, ImportError without the package `tokenizers`.

    Example: `learn_vocabulary({"aab": 3}, 4, ["[UNK]"], "##")` is `["[UNK]", "a", "##a"]`.
    """
    room = vocabulary_size - len(special_tokens)
    kept, forms = set(), set()
    for character, continues in _frequent_characters(counts, min_count):
        own = {character, continuation + character} if continues else {character}
        if len(forms) + len(own) > max(2, int(room * _CHARACTER_SHARE)):
            break
        kept.add(character)
        forms |= own
    if not forms:
        raise ValueError(
            f"no character occurs {min_count} times in the texts ({len(counts)} distinct words); "
            "pass more text or a lower min_count."
        )
    known = {word: count for word, count in counts.items() if kept.issuperset(word)}
    # The library numbers single characters in the order of a hash table and breaks ties by
    # number: two runs would differ. Named beforehand, as if special, they keep their numbers.
    first = [*special_tokens, *sorted(forms, key=lambda form: (len(form), form))]
    return _merge(known, first, vocabulary_size, continuation, min_count)


def _frequent_characters(counts: Mapping[str, int], min_count: int) -> list[tuple[str, bool]]:
    # Each character, and whether it ever continues a word. The library knows each one as the
    # start of a word in any case.
    seen, inner = collections.Counter(), set()
    for word, count in counts.items():
        for character in word:
            seen[character] += count
        inner.update(word[1:])
    ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
    return [(character, character in inner) for character, n in ranked if n >= min_count]


def _merge(
    counts: Mapping[str, int],
    first: list[str],
    vocabulary_size: int,
    continuation: str,
    min_count: int,
) -> list[str]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.WordPiece(unk_token=first[0]))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=first,
        continuing_subword_prefix=continuation,
    )
    learner.train_from_iterator(_lines(counts), trainer)
    ids = learner.get_vocab(with_added_tokens=True)
    return sorted(ids, key=ids.get)[:vocabulary_size]


def _lines(counts: Mapping[str, int]) -> Iterator[str]:
    for word, count in sorted(counts.items()):
        for begin in range(0, count, _WORDS_A_LINE):
            yield " ".join([word] * min(_WORDS_A_LINE, count - begin))


def in_batches(texts: Iterable[str | bytes], size: int = 1024) -> Iterator[list[str | bytes]]:
    """The texts in lists of `size`, the last one shorter."""
    batch = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
