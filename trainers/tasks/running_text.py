"""What tasks lm and mlm share: running text of one corpus or a mixture, prepared or not."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.data.corpus import (
    Corpus,
    Document,
    Mixture,
    SplitTexts,
    check_streams,
    corpora_of,
    corpus_summary,
    encode_texts,
    prepared_corpus,
    split_documents,
    streams_fingerprint,
)
from trainers.data.pipeline import WindowOrder
from trainers.data.shards import Prepared, TokenShards, TokenStream, find_prepared, open_prepared
from trainers.report.sections import Comparison
from trainers.tasks.base import Task
from zoo.config import ConfigError
from zoo.output import cell, table
from zoo.tokenizers import Tokenizer

# Tokens of a validation batch: large enough to keep two cores busy, small enough for memory.
_VALIDATION_TOKENS = 8192


class RunningTextTask(Task):
    """A task over token streams.

    A mixture is validated corpus by corpus. `val_loss` and `val_accuracy` are the means over the
    mixture, each corpus with its share of what is read, and `val_loss/NAME` is that of one corpus;
    `monitor` may name any of them.
    """

    corpus: Corpus | Mixture

    @abc.abstractmethod
    def order(self) -> WindowOrder:
        """The order in which training reads windows."""

    @abc.abstractmethod
    def samples(self, saved: Any) -> list[str]:
        """Sections that show what the model makes of some texts."""

    @property
    def metrics(self) -> dict[str, str]:
        """Metric name -> "min" or "max", those of single corpora behind those of all."""
        corpora = {f"val_loss/{corpus.title}": "min" for corpus in self.config.data.mixture}
        return {"val_loss": "min", "val_accuracy": "max", **corpora}

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.trained_model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=self.jit_compile(),
        )

    def fingerprint(self) -> str:
        return streams_fingerprint(self.corpus)

    def check_data(self) -> None:
        """Names a damaged shard of a prepared corpus."""
        check_streams(self.corpus)

    def data_summary(self) -> str:
        return corpus_summary(self.corpus)

    def validation_sets(
        self, make: Callable[[TokenStream], tf.data.Dataset]
    ) -> tf.data.Dataset | dict[str, tf.data.Dataset]:
        """What `fit` validates on: a dataset, of a mixture one for each name."""
        sets = {n: make(part.validation_ids) for n, part in corpora_of(self.corpus).items()}
        return sets if isinstance(self.corpus, Mixture) else sets[""]

    def validation_rows(self, length: int) -> int:
        """Rows of a validation batch, the same for all corpora of a mixture.

        So that the graph is compiled once, however small one of them is.
        """
        streams = [part.validation_ids for part in corpora_of(self.corpus).values()]
        windows = max(math.ceil((len(ids) - 1) / length) for ids in streams)
        return min(max(_VALIDATION_TOKENS // length, 1), windows)

    def evaluate(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Loss, accuracy and perplexity; the loss of each corpus of a mixture."""
        means, losses = {}, {}
        for metric in ("loss", "accuracy"):
            if isinstance(self.corpus, Mixture):
                each = {name: logs[f"val_{metric}/{name}"] for name in self.corpus.corpora}
                means[f"val_{metric}"] = float(self.corpus.mean(each))
            else:
                means[f"val_{metric}"] = float(logs[f"val_{metric}"])
        means["val_perplexity"] = math.exp(min(means["val_loss"], 700.0))
        if isinstance(self.corpus, Mixture):
            names = [f"val_loss/{name}" for name in self.corpus.corpora]
            losses = {name: float(logs[name]) for name in names}
        return {**means, **losses}

    def mean_over_corpora(self, of_corpus: Callable[[Corpus], Any]) -> Any:
        """Something known of each corpus, its mean over a mixture."""
        values = {name: of_corpus(part) for name, part in corpora_of(self.corpus).items()}
        return self.corpus.mean(values) if isinstance(self.corpus, Mixture) else values[""]

    def token_frequencies(self) -> np.ndarray:
        """Share of each token in training, (V,), of a mixture in an even share of it.

        Half a token is added to each, for special ones and others that never come.
        """
        size, parts = self.tokenizer.vocabulary_size, corpora_of(self.corpus)
        counts = {name: _counts(part.train_ids, size) for name, part in parts.items()}
        if not isinstance(self.corpus, Mixture):
            smoothed = counts[""] + 0.5
        else:
            tokens = sum(len(part.train_ids) for part in parts.values())
            shares = {name: tokens * count / count.sum() for name, count in counts.items()}
            smoothed = self.corpus.mean(shares) + 0.5
        return smoothed / smoothed.sum()

    def report(self, saved, validation, steps):
        baseline = None
        if self.config.baseline:
            logs = np.log(self.token_frequencies())

            def loss(part):
                counts = _counts(part.validation_ids, len(logs))
                return float(-counts @ logs / counts.sum())

            baseline = {"loss": self.mean_over_corpora(loss)}
        tokens = sum(len(part.validation_ids) for part in corpora_of(self.corpus).values())
        comparison = Comparison(
            "validation",
            f"{tokens:,} tokens",
            {"loss": validation["loss"]},
            baseline,
            "how frequent each token is",
        )
        return comparison, [*self._mixture_section(steps), *self.samples(saved)]

    def opening_of_validation(self, characters: int) -> str:
        """The first words, of about so many characters, of a line of the validation text.

        What the report lets a model go on from, where nobody said what: text of its own kind.
        """
        ids = next(iter(corpora_of(self.corpus).values())).validation_ids
        start = np.asarray(ids[: min(len(ids), 20 * characters)], "int32")
        text = self.tokenizer.decode(start[None]).numpy()[0].decode("utf-8", "ignore")
        # The first line may begin in the middle of a word.
        lines = [line.strip() for line in text.split("\n")]
        line = next((one for one in lines[1:] if len(one) > characters // 2), text.strip())
        cut = line[:characters]
        return cut.rsplit(" ", 1)[0] if " " in cut and len(line) > characters else cut

    def _mixture_section(self, steps: int) -> list[str]:
        """What was read of each corpus, up to the last logged step."""
        if not isinstance(self.corpus, Mixture):
            return []
        order = self.order()
        windows = order.windows_read(steps)
        rows = [
            [
                cell(corpus.title),
                f"{corpus.weight:g}",
                f"{100 * count / windows.sum():.2f} %",
                f"{count * order.length:,}",
                f"{passes:.2f}",
            ]
            for corpus, count, passes in zip(
                self.config.data.mixture, windows.tolist(), order.epochs(windows).tolist()
            )
        ]
        header = ["corpus", "weight", "share read", "tokens read", "passes over it"]
        return [
            "## Mixture",
            table(header, rows, numbers=(1, 2, 3, 4)),
            f"What the {steps:,} steps read. The validation loss is the mean over the corpora, "
            f"weighed by their shares of a block of {sum(self.corpus.block.values()):,} rows.",
        ]


class RunningText:
    """The text of a run, read and split but not encoded: one corpus, or those of a mixture.

    Args:
        read: `(DataConfig, source)` to the documents of a text.
        tokenizer: what the run reads with, if that is known; then it must have made the ids of
            corpora that were prepared. Anything else than a Tokenizer leaves the choice to them.

    Attributes:
        documents: all that were read, but for those that only validate.
        tokenizer: what made the ids of prepared corpora, None where there are none.
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
            with _naming_corpus(name):
                prepared = _open_prepared(data, tokenizer, data_dir)
                self._parts[name] = self._split(data, read) if prepared is None else prepared
        self.tokenizer = self._tokenizer_of_prepared()

    def corpus(
        self, tokenizer: Tokenizer | Callable[[Iterable[str]], Tokenizer], context_length: int
    ) -> Corpus | Mixture:
        """All of it encoded, under one tokenizer. The texts are forgotten.

        A function makes the tokenizer from the training texts of all corpora, if none was prepared.
        """
        if not isinstance(tokenizer, Tokenizer):
            known = self.tokenizer is not None
            tokenizer = self.tokenizer if known else tokenizer(self._training_texts())
        self.documents, corpora = [], {}
        for name in [*self._parts]:
            part = self._parts.pop(name)
            with _naming_corpus(name):
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

    def _tokenizer_of_prepared(self) -> Tokenizer | None:
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


def _counts(ids: TokenStream, size: int) -> np.ndarray:
    chunks = ids.chunks() if isinstance(ids, TokenShards) else [ids]
    return sum(np.bincount(chunk, minlength=size) for chunk in chunks)


@contextlib.contextmanager
def _naming_corpus(corpus: str) -> Iterator[None]:
    """Puts the name of a mixture's corpus before what went wrong with it."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not corpus:
            raise
        kind = OSError if isinstance(error, OSError) else ConfigError
        raise kind(f"data.mixture: corpus {corpus!r}: {error}") from error


def _open_prepared(data: DataConfig, tokenizer: Any, data_dir: str | None) -> Prepared | None:
    """The prepared folder that `data.train` names, None if it names a text; as `RunningText`."""
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
