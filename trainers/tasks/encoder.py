"""What the tasks on labelled texts share: splits, tokenizer, model, batches and the report."""

from __future__ import annotations

import abc
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.data.corpus import read_documents
from trainers.data.datasets import read_examples
from trainers.data.pipeline import BucketPlan, default_buckets, host_rows, mapped
from trainers.metrics import write_scores
from trainers.report.sections import Comparison
from trainers.tasks.base import Task, build_model, read_initial
from trainers.tokenizers import encoder_tokenizer
from zoo import bundle
from zoo.config import ConfigError
from zoo.models.lora import merge_lora
from zoo.text.base import TextEncoder
from zoo.text.cleaning import clean
from zoo.text.models import TEXT_MODELS
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles

# Texts that are encoded at once, before training: bounds the memory of it.
_ENCODE_BATCH = 4096


class Splits(NamedTuple):
    """Training, validation and test examples, of one of the classes of `trainers.data.examples`."""

    train: Any
    validation: Any
    test: Any | None


class EncoderTask(Task):
    """A task on labelled examples whose model reads token ids with `zoo.text.base`.

    A subclass reads its splits, calls this constructor, and then `plan_batches`.

    Args:
        splits: Splits. texts: to train a vocabulary on.
        labels: names of classes or tags, () where there are none.
        head: options of the task's head that the data decide.

    Attributes:
        text_model: the strings-in functions around `model`: evaluation asks what is served.
    """

    fingerprint_columns: Sequence[str]  # of the examples
    unit: str  # what they are called

    def __init__(
        self,
        config: TrainConfig,
        data_dir: str | None,
        splits: Splits,
        texts: Callable[[], list[str]],
        labels: tuple[str, ...] = (),
        head: dict[str, Any] | None = None,
    ):
        self.config = config
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        self.train, self.validation, self.test = splits
        self.labels = labels
        initial = read_initial(config)
        self.tokenizer = make_tokenizer(config, initial, texts, data_dir)
        self.model = build_model(config, self.tokenizer, initial, {**(head or {}), **config.head})
        self.trained_model = self.model
        self.text_model = TEXT_MODELS[config.task](self.tokenizer, self.model, config.text, labels)

    def plan_batches(self, lengths: np.ndarray) -> None:
        """Plans batches of rows of like length; `lengths` (N,) are tokens of each training row."""
        data, limit = self.config.data, self.config.text.max_length
        buckets = data.buckets or default_buckets(lengths, limit)
        self.plan = BucketPlan(lengths, self.config.batch_size, buckets, self.config.seed)

    @abc.abstractmethod
    def make_batch(self, step: tf.Tensor, rows: tf.Tensor, length: tf.Tensor) -> tuple:
        """`(inputs (B, T), targets, weights)` of rows (B,); one of -1 is padding of weight 0."""

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        """As `Task`: whole batches are made on every host, which keeps its rows."""
        own = host_rows(self.config.batch_size, host, num_hosts)

        def batch(*element):
            return tf.nest.map_structure(lambda part: part[own], self.make_batch(*element))

        batches = self.plan.batches(start_step, self.config.steps)
        return mapped(batches, self.make_batch if num_hosts == 1 else batch)

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        return self.plan.real_tokens(start_step, stop_step)

    def loss_target(self) -> keras.losses.Loss:
        """The loss that `compile` sets."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Sets optimizer and loss; the other metrics are `evaluate`'s."""
        self.trained_model.compile(
            optimizer=optimizer, loss=self.loss_target(), jit_compile=self.jit_compile()
        )

    def fingerprint(self) -> str:
        splits, names = (self.train, self.validation), self.fingerprint_columns
        return digest_of(*(getattr(split, name) or [] for split in splits for name in names))

    def data_summary(self) -> str:
        parts = [f"{len(self.train):,} training", f"{len(self.validation):,} validation"]
        left_out = getattr(self.test, "left_out", 0)
        if self.test is not None:
            parts.append(f"{len(self.test):,} test")
        text = f"{', '.join(parts[:-1])} and {parts[-1]} {self.unit}"
        text += f" ({left_out:,} left out)" if left_out else ""
        labels = f", {len(self.labels)} {'tags' if self.unit == 'sentences' else 'classes'}"
        vocabulary = f", vocabulary {self.tokenizer.vocabulary_size}"
        return text + (labels if self.labels else "") + vocabulary

    def save(self, workdir: Path) -> bundle.Bundle:
        merge_lora(self.model)
        return bundle.save(
            workdir, self.model, self.tokenizer, labels=self.labels, text=self.config.text
        )

    def reported(self) -> tuple[str, Any]:
        """What the report is about: "test" and the test data, or "validation" without any."""
        if self.test is None:
            return "validation", self.validation
        return "test", self.test

    def report(
        self, saved: bundle.Bundle, validation: dict[str, float], steps: int
    ) -> tuple[Comparison, list[str]]:
        split, examples = self.reported()
        comparison, sections = self.compare(split, examples, saved.folder)
        left_out = getattr(examples, "left_out", None)
        write_scores(
            saved.folder,
            split=split,
            model=comparison.model,
            baseline=comparison.baseline,
            **({} if left_out is None else {"left_out": left_out}),
        )
        return comparison, sections

    @abc.abstractmethod
    def compare(self, split: str, examples: Any, folder: Path) -> tuple[Comparison, list[str]]:
        """The model's and a baseline's scores on examples, and the sections of the report."""


def make_tokenizer(
    config: TrainConfig,
    initial: bundle.Bundle | None,
    texts: Callable[[], list[str]],
    data_dir: str | None,
) -> Tokenizer:
    """The tokenizer of the weights to start from, of `data.vocabulary`, or trained on texts."""
    data = config.data
    if initial is not None:
        if data.vocabulary is not None:
            raise ConfigError(
                "data.vocabulary cannot be set with finetune.init_from, whose tokenizer is kept"
            )
        return initial.tokenizer

    def all_texts() -> list[str]:
        further = []
        if data.vocabulary_from is not None:
            lines = DataConfig(train=data.vocabulary_from, split="lines", limits=data.limits)
            further = read_documents(data.vocabulary_from, lines, data_dir)
        return [*texts(), *(document.text for document in further)]

    tokenizer = encoder_tokenizer(data, all_texts)
    require_roles(tokenizer, *(["mask"] if config.task == "mlm" else []))
    return tokenizer


def read_splits(
    config: TrainConfig, data_dir: str | None, split: Callable[[Any, float], tuple]
) -> Splits:
    """The splits that `config.data` names, or shares of the training examples.

    `split` gives (kept, held out) rows of examples and a share; a test share of 0 is no test.
    """
    data = config.data
    read = functools.partial(read_examples, config.task, data=data, data_dir=data_dir)
    train = read(data.train)
    test = None if data.test is None else read(data.test)
    if test is None and data.test_fraction:
        try:
            kept, held_out = split(train, data.test_fraction)
            train, test = train.select(kept), train.select(held_out)
        except ValueError as error:
            raise ValueError(
                f"{data.train}: no test examples can be held out: {error} Or train without a test: "
                "--set=data.test_fraction=0."
            ) from error
    if data.validation is not None:
        return Splits(train, read(data.validation), test)
    kept, held_out = split(train, data.validation_fraction)
    return Splits(train.select(kept), train.select(held_out), test)


def token_counts(tokenizer: Tokenizer, texts: Sequence[str | bytes]) -> np.ndarray:
    """Tokens of each text, int64 (N,), special ones not counted."""
    counts = [np.zeros(0, np.int64)]
    for start in range(0, len(texts), _ENCODE_BATCH):
        with tf.device("CPU"):  # string operations run there; their neighbours should not move
            counts.append(
                tokenizer.encode(texts[start : start + _ENCODE_BATCH]).row_lengths().numpy()
            )
    return np.concatenate(counts)


def clean_all(text_model: TextEncoder, texts: list[str]) -> list[bytes]:
    """The texts as `text_model` cleans them, once and for all epochs."""
    cleaned = []
    for start in range(0, len(texts), _ENCODE_BATCH):
        part = tf.constant(texts[start : start + _ENCODE_BATCH], tf.string)
        cleaned += clean(part, text_model.config.cleaning).numpy().tolist()
    return cleaned


def digest_of(*columns: Iterable[Any]) -> str:
    """SHA-256 over the values of columns, in order."""
    digest = hashlib.sha256()
    for column in columns:
        for value in column:
            encoded = repr(value).encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"|")
    return digest.hexdigest()


def predict_all(
    function, *columns: list[str], batch_size: int = 64, keep=None
) -> dict[str, list[np.ndarray]]:
    """Output name -> its N values, from a strings-in function such as `TextClassifier.predict`.

    Texts of like length go together; padded outputs keep the padding of their batch. `keep` takes
    (row numbers, outputs) of a batch and gives what is kept, name -> array; default: everything.
    """
    order = np.argsort([sum(map(len, row)) for row in zip(*columns)], kind="stable")
    answers: dict[str, list] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        outputs = function(*([column[row] for row in rows] for column in columns))
        kept = {k: v.numpy() for k, v in outputs.items()} if keep is None else keep(rows, outputs)
        for name, value in kept.items():
            answers.setdefault(name, [None] * len(order))
            for row, answer in zip(rows, value):
                answers[name][row] = answer
    return answers
