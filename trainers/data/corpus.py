"""Documents to two streams of token ids: one to train on, one to validate on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.data.sources import Document
from zoo.tokenizers import Tokenizer

# Bounds the memory of encoding: one batch is about a million characters.
_CHUNK_CHARACTERS = 1 << 16
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Encoded text, ready to be cut into training windows.

    Attributes:
        train_ids: int32 [tokens].
        validation_ids: int32 [tokens].
        tokenizer: what encoded them.
        train_characters: characters behind `train_ids` (for bits per character).
        validation_characters: characters behind `validation_ids`.
        num_documents: documents in (train, validation); a document cut in two counts in both.
    """

    train_ids: np.ndarray
    validation_ids: np.ndarray
    tokenizer: Tokenizer
    train_characters: int
    validation_characters: int
    num_documents: tuple[int, int]


def build_corpus(
    documents: Sequence[Document],
    tokenizer: Tokenizer | Callable[[Iterable[str]], Tokenizer],
    *,
    context_length: int,
    validation_fraction: float = 0.1,
    validation_documents: Sequence[Document] | None = None,
    seed: int = 0,
) -> Corpus:
    """Splits documents into training and validation text and encodes both.

    One document is cut: its first `int(n * (1 - validation_fraction))` characters train, the
    rest validates. Several documents are shuffled by `seed`, and the last ones that together
    hold at most `validation_fraction` of the characters validate (at least one: the shortest if
    all exceed it); each document is followed by `tokenizer.end_id`, in both streams.

    Args:
        documents: the text; empty documents are left out.
        tokenizer: a tokenizer, or a function that makes one from the training texts only, such
            as `CharacterTokenizer.train`.
        context_length: tokens per training window; a stream must fill one.
        validation_fraction: share of the characters, above 0 and below 1.
        validation_documents: validates on these instead, and trains on all of `documents`.
        seed: of the shuffle.

    Raises ValueError if there is no text, if `validation_fraction` is out of range, or if a
    stream has fewer than `context_length + 1` tokens.

    Example: `build_corpus([Document("a", "to be " * 99)], ByteTokenizer(), context_length=8)`
    """
    documents = [document for document in documents if document.text]
    if not documents:
        raise ValueError("no text in the training documents; pass a source that is not empty.")
    if validation_documents is not None:
        train = [document.text for document in documents]
        validation = [document.text for document in validation_documents if document.text]
    elif not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction={validation_fraction}: use a number between 0 and 1, such as "
            "0.1, or pass validation_documents."
        )
    elif len(documents) == 1:
        text = documents[0].text
        cut = int(len(text) * (1 - validation_fraction))
        train, validation = [text[:cut]], [text[cut:]]
    else:
        train, validation = _split([d.text for d in documents], validation_fraction, seed)

    if not isinstance(tokenizer, Tokenizer):
        tokenizer = tokenizer(train)
    # A model that trains on one text never sees the end token, so it is not asked to predict it.
    end_id = tokenizer.end_id if len(documents) > 1 else None
    streams = {}
    for part, texts in (("training", train), ("validation", validation)):
        ids = streams[part] = _encode(tokenizer, texts, end_id)
        if len(ids) < context_length + 1:
            raise ValueError(
                f"the {part} text has {len(ids)} tokens ({sum(map(len, texts))} characters in "
                f"{len(texts)} document(s)), fewer than context_length + 1 = "
                f"{context_length + 1}. Use more text, a smaller context_length, or another "
                f"validation_fraction (now {validation_fraction})."
            )
        unknown = 0 if tokenizer.unknown_id is None else np.sum(ids == tokenizer.unknown_id)
        if unknown:
            logging.warning(
                "%d of %d %s tokens are unknown to the tokenizer", unknown, len(ids), part
            )
    return Corpus(
        train_ids=streams["training"],
        validation_ids=streams["validation"],
        tokenizer=tokenizer,
        train_characters=sum(map(len, train)),
        validation_characters=sum(map(len, validation)),
        num_documents=(len(train), len(validation)),
    )


def _split(texts: list[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    order = np.random.default_rng(seed).permutation(len(texts))
    room = fraction * sum(map(len, texts))
    chosen: list[int] = []
    for index in reversed(order):
        if len(texts[index]) <= room:
            chosen.append(index)
            room -= len(texts[index])
        elif chosen:
            break
        # Else a document over the whole allowance came last: it trains, the next one may fit.
    chosen = chosen or [min(order, key=lambda index: len(texts[index]))]
    held_out = set(chosen)
    train = [texts[index] for index in order if index not in held_out]
    return train, [texts[index] for index in order if index in held_out]


def _encode(tokenizer: Tokenizer, texts: list[str], end_id: int | None) -> np.ndarray:
    """All texts as one int32 array, `end_id` (unless None) after each."""
    parts = [np.zeros(0, np.int32)]
    with tf.device("CPU"):  # String operations run there; their neighbours should not move.
        for batch in _batches(texts, whole=not tokenizer.splits_anywhere):
            ids = tokenizer.encode([chunk for chunk, _ in batch])
            values = ids.flat_values.numpy()
            if end_id is not None:
                ends = ids.row_splits.numpy()[1:][[is_last for _, is_last in batch]]
                values = np.insert(values, ends, end_id)
            parts.append(values)
    return np.concatenate(parts)


def _batches(texts: list[str], *, whole: bool) -> Iterator[list[tuple[str, bool]]]:
    """Batches of (chunk of a text, whether it is the text's last), in order."""
    batch, size = [], 0
    for text in texts:
        step = max(len(text), 1) if whole else _CHUNK_CHARACTERS
        for start in range(0, len(text), step):
            batch.append((text[start : start + step], start + step >= len(text)))
            size += len(batch[-1][0])
            if size >= _BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
