"""Tasks "classify" and "pair" (labels) and "regress" (numbers) of texts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainers.config import TrainConfig
from trainers.data.augment import augment_texts
from trainers.data.examples import (
    class_weights,
    label_classes,
    label_ids,
    label_numbers,
    random_split,
    stratified_split,
)
from trainers.optim.losses import SparseCrossentropy
from trainers.report.baselines import MOST_CLASSES, ridge_baseline, tfidf_baseline
from trainers.report.scores import Predictions, classification_scores, regression_scores
from trainers.report.sections import Comparison, classification_sections, regression_sections
from trainers.tasks.encoder import (
    EncoderTask,
    Splits,
    clean_all,
    predict_all,
    read_splits,
    token_counts,
)
from zoo.config import ConfigError
from zoo.text.config import special_count
from zoo.text.packing import (
    cut_windows,
    pack,
    row_windows,
    take_windows,
    truncate_pair,
)

# Probabilities are clipped here for the validation loss.
_SMALLEST = 1e-7


def read_tables(config: TrainConfig, data_dir: str | None) -> Splits:
    """Splits of texts, or pairs where there is a `data.pair_column`, with labels (not embed)."""

    def split(rows, fraction):  # of each class alike
        if config.task in ("embed", "regress"):
            return random_split(len(rows), fraction, config.seed)
        return stratified_split(rows.label, fraction, config.seed)

    return read_splits(config, data_dir, split)


class _TableTask(EncoderTask):
    """Batches the texts of a table, or pairs of them.

    A long single text gives one row for each of its windows, which share its weight.
    """

    unit = "examples"
    fingerprint_columns = ("text", "text_pair", "label")

    def __init__(
        self, config: TrainConfig, data_dir: str | None, splits: Splits, *labels_and_head: Any
    ):
        def texts():
            return [*splits.train.text, *(splits.train.text_pair or [])]

        super().__init__(config, data_dir, splits, texts, *labels_and_head)

    def encode_table(self, targets: np.ndarray, weights: np.ndarray) -> None:
        """Plans the batches of training texts with their targets (N,) or (N, 1), weights (N,)."""
        limit, train = self.config.text.max_length, self.train
        columns = [train.text] if train.text_pair is None else [train.text, train.text_pair]
        columns = [clean_all(self.text_model, column) for column in columns]
        counts = [token_counts(self.tokenizer, column) for column in columns]
        if train.text_pair is None:
            text = self.config.text
            windows = cut_windows(tf.constant(counts[0]), text.window_size(), text.window_stride())
            self.rows = windows.rows.numpy()
            self.starts = windows.starts.numpy()
            weights = weights[self.rows] / windows.counts.numpy()
            lengths = windows.lengths.numpy() + special_count(pairs=False)
        else:
            self.rows = np.arange(len(train))
            self.starts = np.zeros(len(train), np.int64)
            added = special_count(True, self.tokenizer.pair_separators)
            lengths = np.minimum(counts[0] + counts[1] + added, limit)
        self.columns = [tf.constant(column, tf.string) for column in columns]
        self.targets = tf.constant(np.asarray(targets)[self.rows])
        self.weights = tf.constant(weights, tf.float32)
        self.plan_batches(lengths)

    def make_batch(self, step, rows, length):
        real = tf.cast(rows >= 0, tf.float32)
        rows = tf.maximum(rows, 0)
        texts = tf.gather(tf.constant(self.rows), rows)
        ids = [
            self.tokenizer.encode(self._augmented(tf.gather(column, texts), step * 2 + place))
            for place, column in enumerate(self.columns)
        ]
        if len(ids) == 1:
            # Augmentation may have left fewer tokens than there were.
            start = tf.gather(tf.constant(self.starts), rows)
            window = row_windows(ids[0], start, length - special_count(pairs=False))
            packed = pack(self.tokenizer, take_windows(ids[0], window), length=length)
        else:
            added = special_count(True, self.tokenizer.pair_separators)
            packed = pack(self.tokenizer, *truncate_pair(*ids, length - added), length=length)
        return packed, tf.gather(self.targets, rows), tf.gather(self.weights, rows) * real

    def _augmented(self, text, number):
        augment = self.config.data.augment
        if augment.is_off:
            return text
        return augment_texts(
            text, augment, tf.stack([tf.constant(self.config.seed, tf.int64), number])
        )

    def ask(self, examples, keep=None) -> dict[str, list]:
        """`predict` of every example."""
        columns = [examples.text] + ([] if examples.text_pair is None else [examples.text_pair])
        return predict_all(self.text_model.predict, *columns, keep=keep)

    def pairs(self, examples) -> tuple[list[str], list[str]] | None:
        """Second texts of training and of `examples`, for a baseline; None without."""
        if examples.text_pair is None:
            return None
        return self.train.text_pair, examples.text_pair


class ClassifyTask(_TableTask):
    """One label for each text, or pair of texts; chosen by accuracy."""

    metrics = {  # noqa: RUF012
        "val_accuracy": "max",
        "val_macro_f1": "max",
        "val_mcc": "max",
        "val_loss": "min",
    }
    loss_unit = "nats an example"

    def __init__(self, config: TrainConfig, data_dir: str | None):
        data = config.data
        if config.task == "pair" and data.pair_column is None:
            raise ConfigError('task "pair" needs data.pair_column, the column of the second text')
        if config.task == "classify" and data.pair_column is not None:
            raise ConfigError('data.pair_column is for task "pair"; task "classify" reads one text')
        splits = read_tables(config, data_dir)
        labels = label_classes(splits.train.label, splits.train.where)
        self.train_ids, self.validation_ids, self.test_ids = (
            None if rows is None else label_ids(rows.label, labels, rows.where) for rows in splits
        )
        super().__init__(config, data_dir, splits, labels, {"num_classes": len(labels)})
        weights = np.ones(len(labels), np.float32)
        if data.class_weights != "none":
            weights = class_weights(self.train_ids, len(labels), data.class_weights)
        self.encode_table(self.train_ids, weights[self.train_ids])

    def loss_target(self):
        return SparseCrossentropy(self.config.label_smoothing, reduction="mean_with_sample_weight")

    def predictions(self, examples, ids: np.ndarray) -> Predictions:
        """What is served for every example, of which little is kept: classes may be many."""

        def keep(rows, outputs):
            return Predictions.of(ids[rows], outputs["scores"].numpy())._asdict()

        kept = self.ask(examples, keep)
        return Predictions(*(np.array(kept[name]) for name in Predictions._fields))

    def evaluate(self, logs):
        predictions = self.predictions(self.validation, self.validation_ids)
        scores = classification_scores(self.validation_ids, predictions)
        loss = float(-np.log(np.maximum(predictions.of_labels, _SMALLEST)).mean())
        others = {f"val_{name}": value for name, value in scores.items() if name != "nll"}
        return {"val_loss": loss, **others}

    def compare(self, split, examples, folder):
        ids = self.validation_ids if split == "validation" else self.test_ids
        predictions = self.predictions(examples, ids)
        comparison = Comparison(
            split,
            f"{len(examples):,} examples",
            classification_scores(ids, predictions),
            self._baseline(examples, ids) if self.config.baseline else None,
            "logistic regression on TF-IDF",
        )
        return comparison, classification_sections(
            comparison, examples, ids, predictions, self.labels, folder
        )

    def _baseline(self, examples, ids) -> dict[str, float] | None:
        if len(self.labels) > MOST_CLASSES:
            logging.warning(
                "no baseline: logistic regression of %d classes needs too much memory",
                len(self.labels),
            )
            return None
        train = self.train
        probabilities = tfidf_baseline(
            train.text, train.label, examples.text, self.labels, self.pairs(examples)
        )
        return classification_scores(ids, Predictions.of(ids, probabilities))


class RegressTask(_TableTask):
    """A number for each text, or pair of texts; chosen by Spearman's rank correlation.

    Trains on targets of mean 0 and variance 1, whatever their unit; the saved model answers in the
    data's own unit.
    """

    metrics = {"val_spearman": "max", "val_pearson": "max", "val_loss": "min"}  # noqa: RUF012

    def __init__(self, config: TrainConfig, data_dir: str | None):
        if config.text.pairs != (config.data.pair_column is not None):
            raise ConfigError("set text.pairs=true together with data.pair_column, or neither")
        splits = read_tables(config, data_dir)
        super().__init__(config, data_dir, splits)
        self.numbers = label_numbers(splits.train.label, splits.train.where)
        self.mean, self.scale = float(np.mean(self.numbers)), float(np.std(self.numbers)) or 1.0
        targets = ((self.numbers - self.mean) / self.scale)[:, None]
        self.encode_table(targets, np.ones(len(splits.train), np.float32))

    def loss_target(self):
        return keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")

    def evaluate(self, logs):
        targets = label_numbers(self.validation.label, self.validation.where)
        outputs = np.array(self.ask(self.validation)["outputs"]) * self.scale + self.mean
        scores = regression_scores(targets, outputs)
        return {"val_loss": scores["mse"], **{f"val_{k}": v for k, v in scores.items()}}

    def save(self, workdir):
        layer = self.model.output_layer
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * self.scale, bias * self.scale + self.mean])
        return super().save(workdir)

    def compare(self, split, examples, folder):
        outputs = np.array(self.ask(examples)["outputs"])
        targets = label_numbers(examples.label, examples.where)
        baseline = None
        if self.config.baseline:
            train, pairs = self.train, self.pairs(examples)
            guesses = ridge_baseline(train.text, self.numbers, examples.text, pairs)
            baseline = regression_scores(targets, guesses)
        comparison = Comparison(
            split,
            f"{len(examples):,} examples",
            regression_scores(targets, outputs),
            baseline,
            "ridge regression on TF-IDF",
        )
        return comparison, regression_sections(comparison, examples, targets, outputs)
