"""What tasks lm and mlm have in common: one corpus or a mixture, validated one by one."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainers.data.corpus import (
    Corpus,
    Mixture,
    check_streams,
    corpora_of,
    corpus_summary,
    streams_fingerprint,
)
from trainers.data.mixture import WindowOrder
from trainers.data.shards import TokenStream
from trainers.metrics import MetricsLog
from trainers.tasks.base import Task
from zoo.markdown import cell, table

# Of every corpus of a mixture: `fit` logs "val_loss/NAME".
_MEANS = ("loss", "accuracy")


class RunningTextTask(Task):
    """A task over token streams.

    A mixture is validated corpus by corpus. `val_loss` and `val_accuracy` are the means over the
    mixture, each corpus with its share of what is read, and `val_loss/NAME` is that of one corpus;
    `monitor` may name any of them.

    Attributes:
        corpus: Corpus, or Mixture.
    """

    reads_rows = True

    corpus: Corpus | Mixture

    @abc.abstractmethod
    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        """Batches of the steps from `start_step` to the end of the run.

        Args:
            start_step: int. host, num_hosts: int, gives a host's rows of each batch, which all
                hosts together make whole.
        """

    @abc.abstractmethod
    def order(self) -> WindowOrder:
        """The order in which training reads windows."""

    @property
    def metrics(self) -> dict[str, str]:
        """Metric name -> "min" or "max", those of single corpora behind those of all."""
        corpora = {f"val_loss/{corpus.title}": "min" for corpus in self.config.data.mixture}
        return {"val_loss": "min", "val_accuracy": "max", **corpora}

    def fingerprint(self) -> str:
        """SHA-256 of all token streams."""
        return streams_fingerprint(self.corpus)

    def check_data(self) -> None:
        """Names a damaged shard of a prepared corpus."""
        check_streams(self.corpus)

    def data_summary(self) -> str:
        """Tokens of both splits, and the vocabulary."""
        return corpus_summary(self.corpus)

    def validation_sets(
        self, make: Callable[[TokenStream], tf.data.Dataset]
    ) -> tf.data.Dataset | dict[str, tf.data.Dataset]:
        """What `fit` validates on: a dataset, of a mixture one for each name."""
        sets = {n: make(part.validation_ids) for n, part in corpora_of(self.corpus).items()}
        return sets if isinstance(self.corpus, Mixture) else sets[""]

    def validation_rows(self, tokens: int, length: int) -> int:
        """Rows of validation batches of about `tokens`, the same for all corpora of a mixture.

        So that the graph is compiled once, however small one of them is.
        """
        streams = [part.validation_ids for part in corpora_of(self.corpus).values()]
        windows = max(math.ceil((len(ids) - 1) / length) for ids in streams)
        return min(max(tokens // length, 1), windows)

    def validation_means(self, logs: Mapping[str, float]) -> dict[str, float]:
        """`val_loss` and `val_accuracy`, and the perplexity, of what `fit` logged."""
        means = {}
        for metric in _MEANS:
            if isinstance(self.corpus, Mixture):
                each = {name: logs[f"val_{metric}/{name}"] for name in self.corpus.corpora}
                means[f"val_{metric}"] = float(self.corpus.mean(each))
            else:
                means[f"val_{metric}"] = float(logs[f"val_{metric}"])
        return {**means, "val_perplexity": math.exp(min(means["val_loss"], 700.0))}

    def losses_of_corpora(self, logs: Mapping[str, float]) -> dict[str, float]:
        """`val_loss/NAME` of each corpus of a mixture."""
        names = self.corpus.corpora if isinstance(self.corpus, Mixture) else ()
        return {f"val_loss/{name}": float(logs[f"val_loss/{name}"]) for name in names}

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

    def mixture_sections(self, folder: Path) -> list[str]:
        """For the report: what was read of each corpus, up to the last logged step."""
        if not isinstance(self.corpus, Mixture):
            return []
        steps, order = MetricsLog(folder).read()[-1]["step"], self.order()
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
        told = f"What the {steps:,} steps read. The validation loss is the mean over the corpora, "
        told += f"weighed by their shares of a block of {sum(self.corpus.block.values()):,} rows."
        return ["## Mixture", table(header, rows, numbers=(1, 2, 3, 4)), told]
