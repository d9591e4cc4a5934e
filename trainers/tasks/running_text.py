"""What tasks lm and mlm share: running text of one corpus or several, prepared or not."""

import abc
import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.config import DataConfig
from trainers.data.corpus import (
    Document,
    Mixture,
    SplitTexts,
    encode_texts,
    prepared_corpus,
    read_documents,
    split_documents,
)
from trainers.data.datasets import NAMED_DATASETS, Examples
from trainers.data.examples import Questions, TaggedTexts
from trainers.data.prepare.shards import (
    Prepared,
    TokenShards,
    TokenStream,
    find_prepared,
    open_prepared,
)
from trainers.data.sources import find_data_dir
from trainers.report.sections import Comparison
from trainers.tasks.base import Task
from zoo import bundle
from zoo.config import ConfigError
from zoo.output import cell, table
from zoo.tokenizers import Tokenizer

# Tokens of a validation batch: large enough to keep two cores busy, small enough for memory.
VALIDATION_TOKENS = 8192


class RunningTextTask(Task):
    """A task over token streams. Several corpora are validated one by one, `val_loss/NAME`, and
    `val_loss` and `val_accuracy` are the means, each corpus with its share of what is read.
    """

    corpus: Mixture
    length: int  # tokens of a window
    segment: int = 1  # consecutive windows that are read together

    @abc.abstractmethod
    def validation_set(self, ids: TokenStream) -> tf.data.Dataset:
        """What one corpus is validated on."""

    @abc.abstractmethod
    def samples(self, saved: bundle.Bundle) -> list[str]:
        """Sections that show what the model makes of some texts."""

    @property
    def metrics(self) -> dict[str, str]:
        """Metric name -> "min" or "max", those of single corpora behind those of all."""
        corpora = {f"val_loss/{corpus.title}": "min" for corpus in self.config.data.mixture}
        return {"val_loss": "min", "val_accuracy": "max", **corpora}

    @property
    def validation_data(self) -> dict[str, tf.data.Dataset]:
        parts = self.corpus.corpora.items()
        return {name: self.validation_set(part.validation_ids) for name, part in parts}

    def losses(self) -> dict[str, Any]:
        return {
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "weighted_metrics": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        }

    def fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def check_data(self) -> None:
        self.corpus.check()

    def data_summary(self) -> str:
        return self.corpus.summary()

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        """Every slot of a window is a token."""
        return (stop_step - start_step) * self.config.batch_size * self.length

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        """As `Task`: windows of the training text, with targets one token ahead."""
        config = self.config
        of_run = config.batch_size, self.length, config.seed, start_step, config.steps
        return pipeline.training_windows(
            self.corpus.train_ids, *of_run, self.segment, host, num_hosts
        )

    def validation_windows(self, ids: TokenStream) -> tf.data.Dataset:
        """Batches of as many rows for all corpora of a mixture, however small one of them is, so
        that the graph is compiled once.
        """
        streams = [part.validation_ids for part in self.corpus.corpora.values()]
        windows = max(math.ceil((len(stream) - 1) / self.length) for stream in streams)
        rows = min(max(VALIDATION_TOKENS // self.length, 1), windows)
        return pipeline.validation_windows(ids, rows, self.length, at_least=rows)

    def evaluate(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Loss, accuracy and perplexity; of several corpora the loss of each."""
        found, names = {}, {name: f"/{name}" if name else "" for name in self.corpus.corpora}
        for metric in ("val_loss", "val_accuracy"):
            shares = self.corpus.shares.items()
            found[metric] = float(sum(share * logs[metric + names[name]] for name, share in shares))
        found["val_perplexity"] = math.exp(min(found["val_loss"], 700.0))
        return found | {f"val_loss{s}": float(logs[f"val_loss{s}"]) for s in names.values() if s}

    def token_frequencies(self) -> np.ndarray:
        """Share of each token in training, (V,), half a token added for those that never come."""
        tokens = sum(len(part.train_ids) for part in self.corpus.corpora.values())

        def count(part):
            counts = _counts(part.train_ids, self.tokenizer.vocabulary_size)
            return tokens * counts / counts.sum()

        smoothed = self.corpus.mean(count) + 0.5
        return smoothed / smoothed.sum()

    def report(self, saved, validation, steps):
        baseline = None
        if self.config.baseline:
            logs = np.log(self.token_frequencies())

            def loss(part):
                counts = _counts(part.validation_ids, len(logs))
                return float(-counts @ logs / counts.sum())

            baseline = {"loss": self.corpus.mean(loss)}
        tokens = sum(len(part.validation_ids) for part in self.corpus.corpora.values())
        comparison = Comparison(
            "validation",
            f"{tokens:,} tokens",
            {"loss": validation["loss"]},
            baseline,
            "how frequent each token is",
        )
        mixture = [self._mixture_section(steps)] if self.config.data.mixture else []
        return comparison, [*mixture, *self.samples(saved)]

    def opening_of_validation(self, characters: int) -> str:
        """The first words of a line of the validation text, for a report's sample."""
        ids = next(iter(self.corpus.corpora.values())).validation_ids
        start = np.asarray(ids[: min(len(ids), 20 * characters)], "int32")
        text = self.tokenizer.decode(start[None]).numpy()[0].decode("utf-8", "ignore")
        # The first line may begin in the middle of a word.
        lines = [line.strip() for line in text.split("\n")]
        line = next((one for one in lines[1:] if len(one) > characters // 2), text.strip())
        cut = line[:characters]
        return cut.rsplit(" ", 1)[0] if " " in cut and len(line) > characters else cut

    def _mixture_section(self, steps: int) -> str:
        """What was read of each corpus, up to the last logged step."""
        config = self.config
        of_run = config.batch_size, self.length, config.seed, self.segment
        order = pipeline.WindowOrder(self.corpus.train_ids, *of_run)
        windows = order.windows_read(steps)
        passes = order.epochs(windows).tolist()
        rows = [
            [
                cell(corpus.title),
                f"{corpus.weight:g}",
                f"{100 * count / windows.sum():.2f} %",
                f"{count * order.length:,}",
                f"{passed:.2f}",
            ]
            for corpus, count, passed in zip(config.data.mixture, windows.tolist(), passes)
        ]
        header = ["corpus", "weight", "share read", "tokens read", "passes over it"]
        return (
            f"## Mixture\n\n{table(header, rows, numbers=(1, 2, 3, 4))}\n\nWhat the {steps:,} "
            "steps read. The validation loss is the mean over the corpora, weighed by their shares "
            f"of a block of {sum(self.corpus.block.values()):,} rows."
        )


def read_corpus(
    config: TrainConfig,
    data_dir: str | None,
    tokenizer: Tokenizer | Callable[[list[str]], Tokenizer],
    length: int,
) -> Mixture:
    """The text of a run, encoded for windows of `length`, or opened where the same tokenizer
    prepared it before. A function makes a tokenizer of texts, if none was prepared.
    """
    parts, known = _read_parts(config, data_dir, tokenizer)
    corpora = {}
    for name in [*parts]:
        part = parts.pop(name)  # the texts are forgotten
        with _naming_corpus(name):
            if isinstance(part, Prepared):
                corpora[name] = prepared_corpus(part, length)
            else:
                corpora[name] = encode_texts(part, known, length)
    block = config.data.block() if config.data.mixture else {"": 1}
    return Mixture(corpora, block, known)


def _read_parts(config, data_dir, tokenizer) -> tuple[dict[str, Prepared | SplitTexts], Tokenizer]:
    known = tokenizer if isinstance(tokenizer, Tokenizer) else None
    parts: dict[str, Prepared | SplitTexts] = {}
    documents: list[Document] = []
    for name, data in config.data.corpora().items():
        with _naming_corpus(name):
            part = _open_prepared(data, known, data_dir)
            if part is not None:
                known = known or part.tokenizer  # which the others must have as well
            else:
                texts, held_out = read_running_text(data, data.train, data_dir), None
                documents += texts
                if data.validation is not None:
                    held_out = read_running_text(data, data.validation, data_dir)
                part = split_documents(texts, data.validation_fraction, held_out, config.seed)
            parts[name] = part
    if known is None:
        # Words of an encoder's vocabulary come from whole documents, and not from halves of them.
        whole = [document.text for document in documents]
        training = [text for part in parts.values() for text in part.train]
        known = tokenizer(whole if config.task == "mlm" else training)
    return parts, known


def read_running_text(data: DataConfig, source: str, data_dir: str | None) -> list[Document]:
    """The documents of a source of running text, or the texts of a labelled data set by name, which
    a model gets used to before it sees labels (Gururangan et al., 2020, arXiv:2004.10964).
    """
    if source in NAMED_DATASETS:
        texts = texts_of(NAMED_DATASETS[source].read(find_data_dir(data_dir)))
        return [Document(f"{source}:{number}", text) for number, text in enumerate(texts, 1)]
    return read_documents(source, data, data_dir)


def texts_of(examples: Examples) -> list[str]:
    """The texts of labelled examples, each once, without their labels."""
    if isinstance(examples, TaggedTexts):
        return [" ".join(words) for words in examples.words]
    if isinstance(examples, Questions):
        return list(dict.fromkeys(examples.context))
    return examples.text


def fenced(text: str) -> str:
    """A Markdown code block that no run of backticks in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


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


def _open_prepared(
    data: DataConfig, tokenizer: Tokenizer | None, data_dir: str | None
) -> Prepared | None:
    """The prepared folder that `data.train` names, None if it names a text."""
    folder = find_prepared(data.train, data_dir)
    if folder is None:
        return None
    if data.validation is not None:
        raise ConfigError(
            f"data.validation={data.validation!r} cannot be set: {folder} holds its own validation "
            "split, chosen by --validation of trainers.data.prepare"
        )
    prepared = open_prepared(folder, tokenizer)
    if tokenizer is None and prepared.index.tokenizer != data.tokenizer:
        raise ConfigError(
            f"data.tokenizer={data.tokenizer!r}, but {folder} was prepared with "
            f"{prepared.index.tokenizer!r} (fingerprint {prepared.index.fingerprint}): set "
            f"--set=data.tokenizer={prepared.index.tokenizer}, or prepare the text anew"
        )
    return prepared
