"""What tasks lm and mlm share about running text: one corpus or several, prepared or not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.data.corpora import Mixture
from trainers.data.corpus import (
    Corpus,
    SplitTexts,
    encode_texts,
    prepared_corpus,
    split_documents,
)
from trainers.data.shards import Prepared, find_prepared, open_prepared
from trainers.data.sources import Document
from zoo.config import ConfigError
from zoo.tokenizers import Tokenizer

TokenizerOrTrainer = Tokenizer | Callable[[Iterable[str]], Tokenizer]


class RunningText:
    """The text of a run, read and split but not encoded: one corpus, or those of a mixture.

    Args:
        config: TrainConfig.
        read: `(DataConfig, source)` to the documents of a text.
        tokenizer: what the run reads with, if that is known; then it must have made the ids of
            corpora that were prepared. Anything else than a Tokenizer leaves the choice to them.
        data_dir: where relative paths are looked for after the working directory.

    Attributes:
        documents: all that were read, but for those that only validate.
        tokenizer: what made the ids of prepared corpora, None where there are none.

    Raises:
        ConfigError: of a mixture; names the corpus. Two that were prepared with different
            tokenizers. ValueError, OSError: of a single corpus; the message names the file.
    """

    def __init__(
        self,
        config: TrainConfig,
        read: Callable[[DataConfig, str], list[Document]],
        tokenizer: Any,
        data_dir: str | None,
    ):
        self.config = config
        self.documents: list[Document] = []
        self._parts: dict[str, Prepared | SplitTexts] = {}
        for name, data in config.data.corpora().items():
            with _told_of(name):
                prepared = open_named(data, tokenizer, data_dir)
                self._parts[name] = self._split(data, read) if prepared is None else prepared
        self.tokenizer = self._tokenizer_of_ids()

    def corpus(self, tokenizer: TokenizerOrTrainer, context_length: int) -> Corpus | Mixture:
        """All of it encoded, under one tokenizer. The texts are forgotten.

        Args:
            tokenizer: Tokenizer, or a function that makes one from the training texts of all
                corpora, which is asked if none was prepared.
            context_length: tokens per training window; every stream must fill one.
        """
        if not isinstance(tokenizer, Tokenizer):
            known = self.tokenizer is not None
            tokenizer = self.tokenizer if known else tokenizer(self._training_texts())
        self.documents, corpora = [], {}
        for name in [*self._parts]:
            part = self._parts.pop(name)
            with _told_of(name):
                if isinstance(part, Prepared):
                    corpora[name] = prepared_corpus(part, context_length)
                else:
                    corpora[name] = encode_texts(part, tokenizer, context_length)
        data = self.config.data
        return Mixture(corpora, data.block()) if data.mixture else corpora[""]

    def _split(self, data: DataConfig, read) -> SplitTexts:
        documents = read(data, data.train)
        held_out = None if data.validation is None else read(data, data.validation)
        self.documents += documents
        return split_documents(documents, data.validation_fraction, held_out, self.config.seed)

    def _training_texts(self) -> list[str]:
        texts = (part.train for part in self._parts.values() if isinstance(part, SplitTexts))
        return [text for part in texts for text in part]

    def _tokenizer_of_ids(self) -> Tokenizer | None:
        prepared = {n: part for n, part in self._parts.items() if isinstance(part, Prepared)}
        first = next(iter(prepared), None)
        for name, part in prepared.items():
            one, other = prepared[first].tokenizer, part.tokenizer
            if one.fingerprint != other.fingerprint:
                raise ConfigError(
                    f"data.mixture: {first!r} was prepared with a {one.kind} tokenizer with "
                    f"fingerprint {one.fingerprint}, {name!r} with a {other.kind} tokenizer with "
                    f"{other.fingerprint}. Prepare both with one: python -m trainers.data.prepare "
                    f"--tokenizer={prepared[first].folder}/tokenizer ..."
                )
        return None if first is None else prepared[first].tokenizer


@contextlib.contextmanager
def _told_of(corpus: str) -> Iterator[None]:
    """Puts the name of a mixture's corpus before what went wrong with it."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not corpus:
            raise
        kind = OSError if isinstance(error, OSError) else ConfigError
        raise kind(f"data.mixture: corpus {corpus!r}: {error}") from error


def reading_options(data: DataConfig) -> dict[str, Any]:
    """The options of `sources.read_documents` that a config sets."""
    return {
        "encoding": data.encoding,
        "invalid": data.invalid,
        "split": data.split,
        "max_bytes": data.max_bytes,
        "pattern": data.pattern,
        "format": data.format,
        "text_column": data.text_column,
        "header": data.header,
        "quotes": data.quotes,
        "limits": data.limits,
    }


def open_named(data: DataConfig, tokenizer: Any, data_dir: str | None) -> Prepared | None:
    """The prepared folder that `data.train` names, None if it names a text.

    Args:
        data: DataConfig. data_dir: where relative paths are looked for after the working directory.
        tokenizer: what the run reads with: then it must have made the ids. Anything else than a
            Tokenizer leaves the choice to the folder.

    Raises:
        ConfigError: settings that the folder has decided. ValueError: damaged, or made by another
            tokenizer.
    """
    folder = find_prepared(data.train, data_dir)
    if folder is None:
        return None
    if data.validation is not None:
        raise ConfigError(
            f"data.validation={data.validation!r} cannot be set: {folder} holds its own validation "
            "split, chosen by --validation of trainers.data.prepare"
        )
    prepared = open_prepared(folder, tokenizer if isinstance(tokenizer, Tokenizer) else None)
    if not isinstance(tokenizer, Tokenizer) and prepared.index.tokenizer != data.tokenizer:
        raise ConfigError(
            f"data.tokenizer={data.tokenizer!r}, but {folder} was prepared with "
            f"{prepared.index.tokenizer!r} (fingerprint {prepared.index.fingerprint}): set "
            f"--set=data.tokenizer={prepared.index.tokenizer}, or prepare the text anew"
        )
    return prepared
