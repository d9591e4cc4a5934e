"""Task "embed": vectors of texts, trained by contrast within a batch."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.config import TrainConfig
from trainers.optim.losses import InBatchContrastiveLoss
from trainers.report.baselines import tfidf_similarities
from trainers.report.scores import retrieval_scores
from trainers.report.sections import Comparison, retrieval_sections
from trainers.tasks.classify import read_tables
from trainers.tasks.encoder import EncoderTask, clean_all, predict_all, token_counts
from trainers.tasks.training_models import PairedEmbeddings
from zoo.config import ConfigError
from zoo.text.config import special_count
from zoo.text.packing import pack, truncate


class EmbedTask(EncoderTask):
    """Texts that belong together get vectors that are near; chosen by how often the partner is
    found first among all validation texts.

    A row of the table is a pair, such as a question and its answer; the other rows of the batch
    are what it must be told from.
    """

    metrics = {"val_mrr": "max", "val_accuracy@1": "max", "val_loss": "min"}  # noqa: RUF012
    unit = "pairs"
    fingerprint_columns = ("text", "text_pair")

    def __init__(self, config: TrainConfig, data_dir: str | None):
        if config.data.pair_column is None:
            raise ConfigError('task "embed" needs data.pair_column, the text that belongs to text')
        if config.batch_size < 2:
            raise ConfigError('task "embed" needs batch_size of 2 or more: others are contrasted')
        splits = read_tables(config, data_dir)
        both = splits.train.text, splits.train.text_pair
        super().__init__(config, data_dir, splits, lambda: [*both[0], *both[1]])
        self.trained_model = PairedEmbeddings(self.model)
        columns = [clean_all(self.text_model, column) for column in both]
        self.columns = [tf.constant(column, tf.string) for column in columns]
        longest = np.maximum(*(token_counts(self.tokenizer, column) for column in columns))
        lengths = longest + special_count(pairs=False)
        self.plan_batches(np.minimum(lengths, config.text.max_length))

    def make_batch(self, step, rows, length):
        real = tf.cast(rows >= 0, tf.float32)
        rows = tf.maximum(rows, 0)
        pair = tf.stack([tf.gather(column, rows) for column in self.columns], axis=1)  # (B, 2)
        # Partners lie side by side, so that a batch may be cut between pairs for several devices.
        ids = truncate(
            self.tokenizer.encode(tf.reshape(pair, [-1])), length - special_count(pairs=False)
        )
        packed = pack(self.tokenizer, ids, length=length)
        inputs = {
            name: tf.reshape(value, tf.stack([-1, 2, length])) for name, value in packed.items()
        }
        return inputs, tf.zeros_like(real), real

    def loss_target(self) -> keras.losses.Loss:
        return InBatchContrastiveLoss(self.config.temperature, reduction="mean_with_sample_weight")

    def evaluate(self, logs):
        first, second = self._vectors(self.validation)
        each = InBatchContrastiveLoss(self.config.temperature, reduction=None)
        loss = each(np.zeros(len(first)), np.stack([first, second], axis=1))
        return {
            "val_loss": float(np.mean(ops.convert_to_numpy(loss))),
            **{f"val_{k}": v for k, v in retrieval_scores(first @ second.T).items()},
        }

    def _vectors(self, examples) -> list[np.ndarray]:
        return [
            np.stack(predict_all(self.text_model.embed, column)["embedding"])  # (N, D)
            for column in (examples.text, examples.text_pair)
        ]

    def compare(self, split, examples, folder):
        first, second = self._vectors(examples)
        baseline = None
        if self.config.baseline:
            known = [*self.train.text, *self.train.text_pair]
            guesses = tfidf_similarities(known, examples.text, examples.text_pair)
            baseline = retrieval_scores(guesses)
        similarities = first @ second.T
        comparison = Comparison(
            split,
            f"{len(examples):,} pairs",
            retrieval_scores(similarities),
            baseline,
            "cosine of TF-IDF",
        )
        return comparison, retrieval_sections(comparison, examples, similarities)
