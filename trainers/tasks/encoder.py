"""The engine of tasks on labelled texts: splits, tokenizer, model, batches, scores, report."""

import abc
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.data.corpus import read_documents
from trainers.data.datasets import read_examples
from trainers.data.examples import random_split
from trainers.data.pipeline import BucketPlan, default_buckets, host_rows, mapped
from trainers.metrics import write_scores
from trainers.optim.losses import DistillationLoss, SparseCrossentropy
from trainers.report.sections import Comparison
from trainers.tasks.base import Task, build_model, read_initial
from trainers.tokenizers import encoder_tokenizer
from zoo import bundle
from zoo.config import ConfigError
from zoo.text.base import TextEncoder, TextModel
from zoo.text.cleaning import clean
from zoo.text.config import special_count
from zoo.text.models import TEXT_MODELS
from zoo.text.packing import Windows, cut_windows, pack, row_windows, take_windows
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles

# Texts that are encoded at once, before training: bounds the memory of it.
_ENCODE_BATCH = 4096


class EncoderTask(Task):
    """A task on labelled examples; evaluation asks `text_model`, the strings-in functions around
    the model: what is served.
    """

    fingerprint_columns: ClassVar[tuple[str, ...]]  # of the examples
    unit: ClassVar[str]  # what the examples are called
    baseline_method: ClassVar[str]  # what the baseline is
    label_option: ClassVar[str] = ""  # option of the head with the number of labels

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        self.config, self.data_dir = config, data_dir
        self.train, self.validation, self.test = self._read_splits(data_dir)
        self.labels = self.find_labels()
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        initial = read_initial(config)
        self.tokenizer = self.choose_tokenizer(initial, data_dir)
        head = {self.label_option: len(self.labels)} if self.labels else {}
        self.model = build_model(config, self.tokenizer, initial, {**head, **config.head})
        self.trained_model = self.model
        self.text_model, self.bundle_options = self.make_text_model(initial)
        self.plan = self.make_plan(self.encode())

    def choose_tokenizer(self, initial: bundle.Bundle | None, data_dir: str | None) -> Tokenizer:
        """The tokenizer of the weights to start from, or one for the data."""
        return make_tokenizer(self.config, initial, self.vocabulary_texts, data_dir)

    def make_text_model(self, initial: bundle.Bundle | None) -> tuple[TextModel, dict[str, Any]]:
        """The strings-in functions around the model, and what of them the bundle holds."""
        text, served = self.config.text, TEXT_MODELS[self.config.task]
        options = {"labels": self.labels, "text": text}
        return served(self.tokenizer, self.model, text, self.labels), options

    def make_plan(self, lengths: np.ndarray) -> BucketPlan:
        """The batches of rows of so many tokens (N,)."""
        config = self.config
        buckets = config.data.buckets or default_buckets(lengths, config.text.max_length)
        return BucketPlan(lengths, config.batch_size, buckets, config.seed)

    def split(self, examples: Any, share: float) -> tuple[np.ndarray, np.ndarray]:
        """(kept, held out) rows, where the config names no examples to hold out."""
        return random_split(len(examples), share, self.config.seed)

    def find_labels(self) -> tuple[str, ...]:
        """What the examples of `train` are labelled with; ValueError where others do not fit."""
        return ()

    @abc.abstractmethod
    def vocabulary_texts(self) -> list[str]:
        """What a vocabulary is trained on."""

    @abc.abstractmethod
    def encode(self) -> np.ndarray:
        """Keeps the training rows as `make_batch` needs them; gives their tokens (N,)."""

    @abc.abstractmethod
    def make_batch(self, step: tf.Tensor, rows: tf.Tensor, length: tf.Tensor) -> tuple:
        """`(inputs (B, T), targets, weights (B, ...))` of training rows (B,)."""

    def losses(self) -> dict[str, Any]:
        smoothing, distill = self.config.label_smoothing, self.config.distill
        options = {"label_smoothing": smoothing, "reduction": "mean_with_sample_weight"}
        if distill.teacher is None:
            return {"loss": SparseCrossentropy(**options)}
        return {"loss": DistillationLoss(distill.weight, **options)}

    @abc.abstractmethod
    def answers(self, examples: Any) -> Any:
        """What the model says of examples."""

    @abc.abstractmethod
    def scores(self, examples: Any, answers: Any) -> dict[str, Any]:
        """How good the answers are, the score to compare by first."""

    def validation_scores(self, answers: Any, scores: dict[str, Any]) -> dict[str, float]:
        """What is logged of an evaluation."""
        return scores

    @abc.abstractmethod
    def baseline(self, examples: Any) -> dict[str, Any] | None:
        """The scores of a simple model."""

    @abc.abstractmethod
    def sections(
        self, comparison: Comparison, examples: Any, answers: Any, folder: Path
    ) -> list[str]:
        """The sections of the report, whose pictures lie in `folder`."""

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        """As `Task`: whole batches are made on every host, which keeps its rows."""
        own = host_rows(self.config.batch_size, host, num_hosts)

        def batch(step, rows, length):
            real = tf.cast(rows >= 0, tf.float32)  # rows of -1 are padding
            inputs, targets, weights = self.make_batch(step, tf.maximum(rows, 0), length)
            weights *= tf.reshape(real, [-1] + [1] * (weights.shape.rank - 1))
            whole = inputs, targets, weights
            return whole if num_hosts == 1 else tf.nest.map_structure(lambda part: part[own], whole)

        return mapped(self.plan.batches(start_step, self.config.steps), batch)

    def cut(self, counts: np.ndarray) -> Windows:
        """Windows of texts of so many tokens (N,): from now on they are the training rows."""
        text = self.config.text
        windows = cut_windows(tf.constant(counts), text.window_size(), text.window_stride())
        self.rows, self.starts = windows.rows.numpy(), windows.starts.numpy()
        return windows

    def pack_windows(
        self, rows: tf.Tensor, length: tf.Tensor, ids: tf.RaggedTensor, *along: tf.RaggedTensor
    ) -> tuple[dict[str, tf.Tensor], list[tf.RaggedTensor]]:
        """The windows of rows, packed, and what stands along their tokens."""
        start = tf.gather(tf.constant(self.starts), rows)
        window = row_windows(ids, start, length - special_count(pairs=False))
        packed = pack(self.tokenizer, take_windows(ids, window), length=length)
        return packed, [take_windows(values, window) for values in along]

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        return self.plan.real_tokens(start_step, stop_step)

    def fingerprint(self) -> str:
        """SHA-256 over the values of all columns, in order."""
        digest = hashlib.sha256()
        splits, names = (self.train, self.validation), self.fingerprint_columns
        for column in (getattr(split, name) or [] for split in splits for name in names):
            for value in column:
                encoded = repr(value).encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(b"|")
        return digest.hexdigest()

    def data_summary(self) -> str:
        parts = [f"{len(self.train):,} training", f"{len(self.validation):,} validation"]
        left_out = getattr(self.test, "left_out", 0)
        if self.test is not None:
            parts.append(f"{len(self.test):,} test")
        text = f"{', '.join(parts[:-1])} and {parts[-1]} {self.unit}"
        text += f" ({left_out:,} left out)" if left_out else ""
        if self.labels:
            text += f", {len(self.labels)} {'tags' if self.unit == 'sentences' else 'classes'}"
        return f"{text}, vocabulary {self.tokenizer.vocabulary_size}"

    def evaluate(self, logs: dict[str, float]) -> dict[str, float]:
        answers = self.answers(self.validation)
        found = self.validation_scores(answers, self.scores(self.validation, answers))
        return {f"val_{name}": value for name, value in found.items()}

    def report(
        self, saved: bundle.Bundle, validation: dict[str, float], steps: int
    ) -> tuple[Comparison, list[str]]:
        split = "validation" if self.test is None else "test"
        examples = getattr(self, split)
        answers = self.answers(examples)
        rows = f"{len(examples):,} {self.unit}"
        left_out = getattr(examples, "left_out", None)
        if left_out:
            rows += f" ({left_out:,} more of the file left out: answers not at their offsets)"
        model = self.scores(examples, answers)
        baseline = self.baseline(examples) if self.config.baseline else None
        comparison = Comparison(split, rows, model, baseline, self.baseline_method)
        known = {} if left_out is None else {"left_out": left_out}
        write_scores(saved.folder, split=split, model=model, baseline=baseline, **known)
        return comparison, self.sections(comparison, examples, answers, saved.folder)

    def _read_splits(self, data_dir: str | None) -> tuple[Any, Any, Any]:
        """The examples that `config.data` names, or shares of the training ones."""
        data = self.config.data
        read = functools.partial(read_examples, self.config.task, data=data, data_dir=data_dir)
        train = read(data.train)
        test = None if data.test is None else read(data.test)
        if test is None and data.test_fraction:
            try:
                kept, held_out = self.split(train, data.test_fraction)
            except ValueError as error:
                raise ValueError(
                    f"{data.train}: no test examples can be held out: {error} Or train without a "
                    "test: --set=data.test_fraction=0."
                ) from error
            train, test = train.select(kept), train.select(held_out)
        if data.validation is not None:
            return train, read(data.validation), test
        kept, held_out = self.split(train, data.validation_fraction)
        return train.select(kept), train.select(held_out), test


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


def token_counts(tokenizer: Tokenizer, texts: Sequence[str | bytes]) -> np.ndarray:
    """Tokens of each text, int64 (N,), special ones not counted."""
    counts = [np.zeros(0, np.int64)]
    for part in _parts(texts):
        with tf.device("CPU"):  # string operations run there; their neighbours should not move
            counts.append(tokenizer.encode(part).row_lengths().numpy())
    return np.concatenate(counts)


def clean_all(text_model: TextEncoder, texts: list[str]) -> list[bytes]:
    """The texts as `text_model` cleans them, once and for all epochs."""
    cleaning = text_model.config.cleaning
    parts = (clean(tf.constant(part, tf.string), cleaning) for part in _parts(texts))
    return [text for part in parts for text in part.numpy().tolist()]


def _parts(texts: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (texts[start : start + _ENCODE_BATCH] for start in range(0, len(texts), _ENCODE_BATCH))


def predict_all(
    function, *columns: list[str], batch_size: int = 64, keep=None
) -> dict[str, list[np.ndarray]]:
    """Output name -> its N values, from a strings-in function such as `TextClassifier.predict`, or
    what `keep` makes of (row numbers, outputs) of each batch. Texts of like length go together.
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
