"""Token streams to train and validate on: of one corpus, or of several that are mixed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.data.documents import Document
from trainers.data.mixture import MixedStream
from trainers.data.shards import Prepared, TokenShards, TokenStream
from zoo.tokenizers import Tokenizer

# Bounds the memory of encoding: one batch is about a million characters.
_CHUNK_CHARACTERS = 1 << 16
_BATCH_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Encoded text, ready to be cut into training windows.

    Attributes:
        train_ids: int32 [tokens], or TokenShards, which are read as they are needed.
        validation_ids: the same.
        tokenizer: what encoded them.
        train_characters: characters behind `train_ids` (for bits per character).
        validation_characters: characters behind `validation_ids`.
        num_documents: documents in (train, validation); a document cut in two counts in both.
    """

    train_ids: TokenStream
    validation_ids: TokenStream
    tokenizer: Tokenizer
    train_characters: int
    validation_characters: int
    num_documents: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SplitTexts:
    """Texts to train on and to validate on."""

    train: list[str]
    validation: list[str]
    ends: bool  # whether an end-of-text token follows each: there are several documents


def split_documents(
    documents: Sequence[Document],
    validation_fraction: float = 0.1,
    validation_documents: Sequence[Document] | None = None,
    seed: int = 0,
) -> SplitTexts:
    """What trains and what validates.

    One document is cut: its first `int(n * (1 - validation_fraction))` characters train, the
    rest validates. Several documents are shuffled by `seed`, and the last ones that together
    hold at most `validation_fraction` of the characters validate (at least one: the shortest if
    all exceed it); the end-of-text token follows each, in both streams. `validation_documents`
    validate instead, and then all of `documents` train.
    """
    documents = [document for document in documents if document.text]
    if not documents:
        raise ValueError("no text in the training documents; pass a source that is not empty.")
    # A model that trains on one text never sees the end token, so it is not asked to predict it.
    ends = len(documents) > 1
    if validation_documents is not None:
        train = [document.text for document in documents]
        held = [document.text for document in validation_documents if document.text]
        return SplitTexts(train, held, ends)
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction={validation_fraction}: use a number between 0 and 1, such as "
            "0.1, or pass validation_documents."
        )
    if not ends:
        text = documents[0].text
        cut = int(len(text) * (1 - validation_fraction))
        return SplitTexts([text[:cut]], [text[cut:]], ends)
    sizes = [len(document.text) for document in documents]
    parts = held_out(sizes, validation_fraction, seed)
    return SplitTexts(*([documents[index].text for index in part] for part in parts), ends)


def encode_texts(texts: SplitTexts, tokenizer: Tokenizer, context_length: int) -> Corpus:
    """Encodes both parts."""
    end_id = tokenizer.end_id if texts.ends else None
    streams = {}
    for part, split in (("training", texts.train), ("validation", texts.validation)):
        ids = streams[part] = _encode(tokenizer, split, end_id)
        if len(ids) < context_length + 1:
            raise ValueError(
                f"the {part} text has {len(ids)} tokens ({sum(map(len, split))} characters in "
                f"{len(split)} document(s)), fewer than context_length + 1 = "
                f"{context_length + 1}. Use more text, a smaller context_length, or another "
                "validation_fraction."
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
        train_characters=sum(map(len, texts.train)),
        validation_characters=sum(map(len, texts.validation)),
        num_documents=(len(texts.train), len(texts.validation)),
    )


def prepared_corpus(prepared: Prepared, context_length: int) -> Corpus:
    """The corpus of a prepared folder, read from its shards while it is used."""
    for part, stream in (("training", prepared.train), ("validation", prepared.validation)):
        if len(stream) < context_length + 1:
            raise ValueError(
                f"{prepared.folder}: {len(stream)} {part} tokens, fewer than context_length + 1 = "
                f"{context_length + 1}. Use a smaller context_length, or prepare more text."
            )
    return Corpus(
        train_ids=prepared.train,
        validation_ids=prepared.validation,
        tokenizer=prepared.tokenizer,
        train_characters=prepared.train.characters,
        validation_characters=prepared.validation.characters,
        num_documents=(prepared.train.documents, prepared.validation.documents),
    )


def held_out(sizes: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Which documents train and which validate, in shuffled order; see `split_documents`."""
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    room = fraction * sum(sizes)
    chosen: list[int] = []
    for index in reversed(order):
        if sizes[index] <= room:
            chosen.append(index)
            room -= sizes[index]
        elif chosen:
            break
        # Else a document over the whole allowance came last: it trains, the next one may fit.
    kept_out = set(chosen or [min(order, key=lambda index: sizes[index])])
    train = [index for index in order if index not in kept_out]
    return train, [index for index in order if index in kept_out]


def _encode(tokenizer: Tokenizer, texts: list[str], end_id: int | None) -> np.ndarray:
    """All texts as one int32 array, `end_id` (unless None) after each."""
    parts = [np.zeros(0, np.int32)]
    encoder = StreamEncoder(tokenizer, end_id, lambda ids, *_: parts.append(ids))
    for text in texts:
        encoder.add(text)
    encoder.flush()
    return np.concatenate(parts)


class StreamEncoder:
    """Encodes a stream of documents, about a million characters at once."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_id: int | None,
        sink: Callable[[np.ndarray, int, int], None],
    ):
        self._tokenizer, self._end_id, self._sink = tokenizer, end_id, sink
        self._batch: list[tuple[str, bool]] = []
        self._size = 0

    def add(self, text: str, is_last: bool = True) -> None:
        """Takes text in; `is_last` tells whether its document ends with it.

        A piece is encoded by itself: cut a document where its tokens do not reach across.
        """
        step = _CHUNK_CHARACTERS if self._tokenizer.splits_anywhere else max(len(text), 1)
        for start in range(0, max(len(text), 1), step):
            chunk = text[start : start + step]
            self._batch.append((chunk, is_last and start + step >= len(text)))
            self._size += len(chunk)
            if self._size >= _BATCH_CHARACTERS:
                self.flush()

    def flush(self) -> None:
        """Encodes what is waiting."""
        if not self._batch:
            return
        is_last = [last for _, last in self._batch]
        with tf.device("CPU"):  # String operations run there; their neighbours should not move.
            ids = self._tokenizer.encode([chunk for chunk, _ in self._batch])
        values = ids.flat_values.numpy()
        if self._end_id is not None:
            ends = ids.row_splits.numpy()[1:][is_last]
            values = np.insert(values, ends, self._end_id)
        characters = self._size
        self._batch, self._size = [], 0
        self._sink(values, characters, sum(is_last))


# Several corpora of one tokenizer.


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Corpora of one tokenizer that are read in proportion."""

    corpora: dict[str, Corpus]
    block: dict[str, int]

    @property
    def tokenizer(self) -> Tokenizer:
        """What encoded all of them."""
        return next(iter(self.corpora.values())).tokenizer

    @property
    def train_ids(self) -> MixedStream:
        """All training streams, to be read in proportion."""
        streams = tuple(corpus.train_ids for corpus in self.corpora.values())
        return MixedStream(streams, tuple(self.block[name] for name in self.corpora))

    @property
    def shares(self) -> dict[str, float]:
        """Name -> share of what is read, 1 in all."""
        size = sum(self.block.values())
        return {name: self.block[name] / size for name in self.corpora}

    def mean(self, values: Mapping[str, float]) -> float:
        """The mean over the mixture of something known of each corpus."""
        return sum(share * values[name] for name, share in self.shares.items())


def corpora_of(corpus: Corpus | Mixture) -> dict[str, Corpus]:
    """Name -> corpus; one by itself has the name ""."""
    return corpus.corpora if isinstance(corpus, Mixture) else {"": corpus}


def streams_fingerprint(corpus: Corpus | Mixture) -> str:
    """SHA-256 of all token streams, of prepared ones of their fingerprints."""
    digest = hashlib.sha256()
    for part in corpora_of(corpus).values():
        for ids in (part.train_ids, part.validation_ids):
            if isinstance(ids, TokenShards):
                digest.update(ids.fingerprint.encode())
                continue
            digest.update(np.int64(len(ids)).tobytes())
            digest.update(np.ascontiguousarray(ids, np.int32).tobytes())
    return digest.hexdigest()


def check_streams(corpus: Corpus | Mixture) -> None:
    """Reads every byte of what lies in shards, after reading them failed."""
    for part in corpora_of(corpus).values():
        for ids in (part.train_ids, part.validation_ids):
            if isinstance(ids, TokenShards):
                ids.check()


def corpus_summary(corpus: Corpus | Mixture) -> str:
    """How many tokens there are, in one line."""
    parts = corpora_of(corpus)
    train, validation = (
        sum(len(ids) for ids in streams)
        for streams in zip(*((part.train_ids, part.validation_ids) for part in parts.values()))
    )
    several = f" of {len(parts)} corpora" if len(parts) > 1 else ""
    return (
        f"{train:,} training tokens{several}, {validation:,} validation tokens, "
        f"vocabulary {corpus.tokenizer.vocabulary_size}"
    )
