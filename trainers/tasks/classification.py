"""Tasks "classify" and "pair" (labels) and "regress" (numbers) of texts."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainers.data.splits import class_weights, label_classes, label_ids, label_numbers
from trainers.metrics import write_scores
from trainers.optim.losses import SparseCrossentropy
from trainers.report.baselines import MOST_CLASSES, ridge_baseline, tfidf_baseline
from trainers.report.scores import Predictions, classification_scores, regression_scores
from trainers.report.understanding import classification_section, regression_section
from trainers.tasks.encoder import EncoderTask, digest_of, predict_all
from trainers.tasks.labeled import TextBatches, read_splits
from zoo import bundle
from zoo.config import ConfigError

# Probabilities are clipped here for the log likelihood.
_SMALLEST = 1e-7


class _LabeledTask(EncoderTask):
    """Reads a table, batches its texts."""

    numeric_labels = False

    def read(self, data_dir):
        data = self.config.data
        if self.config.task == "pair" and data.pair_column is None:
            raise ConfigError('task "pair" needs data.pair_column, the column of the second text')
        if self.config.task == "classify" and data.pair_column is not None:
            raise ConfigError('data.pair_column is for task "pair"; task "classify" reads one text')
        if self.numeric_labels and self.config.text.pairs != (data.pair_column is not None):
            raise ConfigError("set text.pairs=true together with data.pair_column, or neither")
        self.train, self.validation, self.test = read_splits(
            self.config, data_dir, data.pair_column, data.label_column, self.numeric_labels
        )

    def training_texts(self):
        return [*self.train.text, *(self.train.text_pair or [])]

    def training_data(self, start_step: int) -> tf.data.Dataset:
        return self.batches.dataset(start_step)

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        return self.batches.plan.real_tokens(start_step, stop_step)

    def fingerprint(self) -> str:
        splits = [split for split in (self.train, self.validation) if split is not None]
        return digest_of(*(c for s in splits for c in (s.text, s.text_pair or [], s.label)))

    def data_summary(self) -> str:
        parts = [f"{len(self.train):,} training and {len(self.validation):,} validation examples"]
        if self.test is not None:
            parts.append(f"{len(self.test):,} test examples")
        if self.labels:
            parts.append(f"{len(self.labels)} classes")
        return ", ".join([*parts, f"vocabulary {self.tokenizer.vocabulary_size}"])

    def _pairs(self, examples):
        """Second texts of training and of `examples`, for a baseline; None without."""
        if examples.text_pair is None:
            return None
        return self.train.text_pair, examples.text_pair

    def ask(self, text_model, examples) -> dict[str, list]:
        """`predict` of every example."""
        columns = [examples.text] + ([] if examples.text_pair is None else [examples.text_pair])
        return predict_all(text_model.predict, *columns)


class ClassifyTask(_LabeledTask):
    """One label for each text, or pair of texts; chosen by macro-F1 and accuracy."""

    metrics = {  # noqa: RUF012
        "val_accuracy": "max",
        "val_macro_f1": "max",
        "val_mcc": "max",
        "val_loss": "min",
    }
    loss_unit = "nats an example"

    def read(self, data_dir):
        super().read(data_dir)
        self.labels = label_classes(self.train.label, self.train.where)
        self.train_ids = self._ids(self.train)
        self.validation_ids = self._ids(self.validation)
        self.test_ids = None if self.test is None else self._ids(self.test)

    def _ids(self, examples) -> np.ndarray:
        return label_ids(examples.label, self.labels, examples.where)

    def head_options(self):
        return {"num_classes": len(self.labels)}

    def prepare(self):
        how = self.config.data.class_weights
        weights = np.ones(len(self.train), np.float32)
        if how != "none":
            weights = class_weights(self.train.label, self.labels, how)[self.train_ids]
        self.batches = TextBatches(
            self.text_model,
            self.config,
            self.train.text,
            self.train.text_pair,
            self.train_ids,
            weights,
        )

    def loss_target(self):
        return SparseCrossentropy(self.config.label_smoothing, reduction="mean_with_sample_weight")

    def predictions(self, examples, ids: np.ndarray) -> Predictions:
        """What is served for every example, of which little is kept: classes may be many."""

        def keep(rows, outputs):
            return Predictions.of(ids[rows], outputs["scores"].numpy())._asdict()

        columns = [examples.text] + ([] if examples.text_pair is None else [examples.text_pair])
        kept = predict_all(self.text_model.predict, *columns, keep=keep)
        return Predictions(*(np.array(kept[name]) for name in Predictions._fields))

    def evaluate(self, logs):
        probabilities = self.predictions(self.validation, self.validation_ids)
        return {
            "val_loss": log_loss(probabilities.of_labels),
            **{
                f"val_{name}": value
                for name, value in classification_scores(self.validation_ids, probabilities).items()
                if name != "nll"
            },
        }

    def report_sections(self, bundle: bundle.Bundle) -> list[str]:
        split, examples = self.reported()
        ids = self._ids(examples)
        probabilities = self.predictions(examples, ids)
        baseline = self._baseline(examples, ids) if self.config.baseline else None
        scores = classification_scores(ids, probabilities)
        write_scores(bundle.folder, split=split, model=scores, baseline=baseline)
        section = classification_section(
            examples.text,
            ids,
            probabilities,
            self.labels,
            folder=bundle.folder,
            text_pairs=examples.text_pair,
            baseline=baseline,
            where=examples.where,
        )
        return [f"## On the {split} examples", section]

    def _baseline(self, examples, ids) -> dict[str, float] | None:
        if len(self.labels) > MOST_CLASSES:
            logging.warning(
                "no baseline: logistic regression of %d classes needs too much memory",
                len(self.labels),
            )
            return None
        _, probabilities, _ = tfidf_baseline(
            self.train.text, self.train.label, examples.text, self._pairs(examples), self.labels
        )
        return classification_scores(ids, probabilities)


class RegressTask(_LabeledTask):
    """A number for each text, or pair of texts; chosen by Spearman's rank correlation.

    Trains on targets of mean 0 and variance 1, whatever their unit; the saved model answers in the
    data's own unit.
    """

    metrics = {"val_spearman": "max", "val_pearson": "max", "val_loss": "min"}  # noqa: RUF012
    numeric_labels = True

    def read(self, data_dir):
        super().read(data_dir)
        self.targets = label_numbers(self.train.label, self.train.where)
        self.mean, self.scale = float(np.mean(self.targets)), float(np.std(self.targets)) or 1.0

    def prepare(self):
        self.batches = TextBatches(
            self.text_model,
            self.config,
            self.train.text,
            self.train.text_pair,
            ((self.targets - self.mean) / self.scale)[:, None],
            np.ones(len(self.train), np.float32),
        )

    def loss_target(self):
        return keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")

    def evaluate(self, logs):
        targets = label_numbers(self.validation.label, self.validation.where)
        outputs = np.array(self.ask(self.text_model, self.validation)["outputs"])
        outputs = outputs * self.scale + self.mean
        scores = regression_scores(targets, outputs)
        return {"val_loss": scores["mse"], **{f"val_{k}": v for k, v in scores.items()}}

    def save(self, workdir):
        layer = self.model.output_layer
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * self.scale, bias * self.scale + self.mean])
        return super().save(workdir)

    def report_sections(self, bundle: bundle.Bundle) -> list[str]:
        split, examples = self.reported()
        outputs = np.array(self.ask(self.text_model, examples)["outputs"])
        targets = label_numbers(examples.label, examples.where)
        baseline = None
        if self.config.baseline:
            guesses = ridge_baseline(
                self.train.text, self.targets, examples.text, self._pairs(examples)
            )
            baseline = regression_scores(targets, guesses)
        scores = regression_scores(targets, outputs)
        write_scores(bundle.folder, split=split, model=scores, baseline=baseline)
        section = regression_section(
            examples.text,
            targets,
            outputs,
            text_pairs=examples.text_pair,
            baseline=baseline,
            where=examples.where,
        )
        return [f"## On the {split} examples", section]


def log_loss(of_labels: np.ndarray) -> float:
    """Mean negative log probability of the right classes (N,), nats."""
    return float(-np.log(np.maximum(of_labels, _SMALLEST)).mean())
