"""What the tasks on encoders share: tokenizer, model, what it starts from, the bundle."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.data.sources import read_documents
from trainers.tasks.base import Task
from trainers.tasks.initial import build_from, read_initial
from trainers.tokenizers import encoder_tokenizer
from zoo import bundle
from zoo.models.lora import merge_lora
from zoo.presets import build
from zoo.strict_config import ConfigError
from zoo.text.models import TEXT_MODELS
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles

# Texts that are encoded at once, before training: bounds the memory of it.
ENCODE_BATCH = 4096


class EncoderTask(Task):
    """A task whose model reads token ids with `zoo.text.encoder`.

    A subclass reads its data, names the head's options and makes the batches.

    Args:
        config: TrainConfig. data_dir: where named data lie.

    Attributes:
        initial: Bundle the weights start from, or None.
        labels: names of classes or tags, () where there are none.
        text_model: the strings-in functions around `model`: evaluation asks what is served.
    """

    labels: tuple[str, ...] = ()
    train: Any
    validation: Any
    test: Any = None

    def __init__(self, config: TrainConfig, data_dir: str | None):
        self.config = config
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        self.initial = read_initial(config)
        self.read(data_dir)
        self.tokenizer = self._make_tokenizer(data_dir)
        self.model = self._build()
        self.trained_model = self.model
        self.text_model = TEXT_MODELS[config.task](
            self.tokenizer, self.model, config.text, self.labels
        )
        self.prepare()

    @classmethod
    def from_config(cls, config: TrainConfig, data_dir: str | None) -> EncoderTask:
        """The task with its data read."""
        return cls(config, data_dir)

    @abc.abstractmethod
    def read(self, data_dir: str | None) -> None:
        """Reads and splits the data, and sets `labels`."""

    @abc.abstractmethod
    def training_texts(self) -> Iterable[str]:
        """Texts to train a vocabulary on."""

    @abc.abstractmethod
    def prepare(self) -> None:
        """Encodes the data once, to know its lengths, and plans the batches."""

    def head_options(self) -> dict[str, Any]:
        """Options of the head that the data decide."""
        return {}

    def save(self, workdir: Path) -> bundle.Bundle:
        """Writes the bundle, low-rank factors merged into plain weights."""
        merge_lora(self.model)
        return bundle.save(
            workdir, self.model, self.tokenizer, labels=self.labels, text=self.config.text
        )

    def reported(self) -> tuple[str, Any]:
        """What the report is about: "test" and the test data, or "validation" without any."""
        if self.test is None:
            return "validation", self.validation
        return "test", self.test

    def loss_target(self) -> keras.losses.Loss:
        """The loss that `compile` sets."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Sets optimizer and loss; the other metrics are `evaluate`'s."""
        self.trained_model.compile(
            optimizer=optimizer, loss=self.loss_target(), jit_compile=self.jit_compile()
        )

    def _make_tokenizer(self, data_dir: str | None) -> Tokenizer:
        data = self.config.data
        if self.initial is not None:
            if data.vocabulary is not None:
                raise ConfigError(
                    "data.vocabulary cannot be set with finetune.init_from, whose tokenizer is kept"
                )
            return self.initial.tokenizer

        def texts() -> list[str]:
            texts = list(self.training_texts())
            if data.vocabulary_from is not None:
                further = read_documents(
                    data.vocabulary_from, data_dir=data_dir, split="lines", limits=data.limits
                )
                texts += [document.text for document in further]
            return texts

        tokenizer = encoder_tokenizer(data, texts)
        require_roles(tokenizer, *(["mask"] if self.config.task == "mlm" else []))
        return tokenizer

    def _build(self) -> keras.Model:
        config, initial = self.config, self.initial
        head = {**self.head_options(), **config.head}
        if initial is None:
            model_config = config.model_config(self.tokenizer.vocabulary_size)
            return build(model_config, task=config.task, head=head)
        return build_from(initial, config, head)


def read_three(data: DataConfig, read: Callable[[str], Any], split: Callable[[Any, float], tuple]):
    """Training, validation and test examples of labelled data.

    Args:
        data: names the sources; without `data.validation` a share is held out of the training
            examples, without `data.test` the share `data.test_fraction`; of 0 the test is None.
        read: source -> examples. split: examples, share -> (kept, held out) rows.
    """
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
        return train, read(data.validation), test
    kept, held_out = split(train, data.validation_fraction)
    return train.select(kept), train.select(held_out), test


def token_counts(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Tokens of each text, int64 (N,), special ones not counted."""
    counts = [np.zeros(0, np.int64)]
    for start in range(0, len(texts), ENCODE_BATCH):
        with tf.device("CPU"):  # string operations run there; their neighbours should not move
            counts.append(
                tokenizer.encode(texts[start : start + ENCODE_BATCH]).row_lengths().numpy()
            )
    return np.concatenate(counts)


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
    """Asks a strings-in function about every row, texts of like length together.

    Args:
        function: such as `TextClassifier.predict`.
        columns: its inputs, each a list of N strings.
        keep: what is kept of a batch's outputs: (row numbers, outputs) -> name -> array. Default:
            all of them, which are N x C values of a model of C classes.

    Returns:
        Output name -> N arrays or values in the order of the rows; padded outputs keep the
        padding of their batch.

    Example: `predict_all(text_model.tag, ["Ada spoke."])["tags"][0]`
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
