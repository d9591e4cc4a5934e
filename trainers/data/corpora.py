"""One corpus, or several that are mixed: their streams, fingerprint and size."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from trainers.data.corpus import Corpus
from trainers.data.mixture import MixedStream
from trainers.data.shards import TokenShards
from zoo.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Corpora of one tokenizer that are read in proportion.

    Attributes:
        corpora: name -> Corpus.
        block: name -> examples of it in every block, see `mixture.block_counts`.

    Example: `Mixture({"web": web, "books": books}, {"web": 3, "books": 1}).train_ids`
    """

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
    """Reads every byte of what lies in shards, after reading them failed.

    Raises DamagedShard, naming the shard, if one is not what was written.
    """
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
