"""Task "embed": vectors of texts, trained by contrast within a batch."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.data.buckets import BucketPlan, default_buckets
from trainers.data.pipeline import mapped
from trainers.metrics import write_scores
from trainers.optim.losses import InBatchContrastiveLoss, in_batch_contrastive_loss
from trainers.report.scores import retrieval_scores
from trainers.report.understanding import retrieval_section
from trainers.tasks.encoder import EncoderTask, digest_of, predict_all, token_counts
from trainers.tasks.labeled import clean_all, read_splits
from zoo import bundle
from zoo.config import ConfigError
from zoo.text.config import special_count
from zoo.text.packing import pack, truncate


class EmbedTask(EncoderTask):
    """Texts that belong together get vectors that are near; chosen by how often the partner is
    found first among all validation texts.

    A row of the table is a pair, such as a question and its answer; the other rows of the batch
    are what it must be told from.
    """

    metrics = {"val_mrr": "max", "val_accuracy_at_1": "max", "val_loss": "min"}  # noqa: RUF012

    def read(self, data_dir):
        column = self.config.data.pair_column
        if column is None:
            raise ConfigError('task "embed" needs data.pair_column, the text that belongs to text')
        if self.config.batch_size < 2:
            raise ConfigError('task "embed" needs batch_size of 2 or more: others are contrasted')
        self.train, self.validation, self.test = read_splits(self.config, data_dir, column, None)

    def training_texts(self):
        return [*self.train.text, *self.train.text_pair]

    def prepare(self):
        self.trained_model = PairedEmbeddings(self.model)
        columns = [clean_all(self.text_model, c) for c in (self.train.text, self.train.text_pair)]
        self.columns = [tf.constant(column, tf.string) for column in columns]
        limit = self.config.text.max_length
        longest = np.maximum(*(token_counts(self.tokenizer, column) for column in columns))
        lengths = np.minimum(longest + special_count(pairs=False), limit)
        buckets = self.config.data.buckets or default_buckets(lengths, limit)
        self.plan = BucketPlan(lengths, self.config.batch_size, buckets, self.config.seed)

    def training_data(self, start_step: int) -> tf.data.Dataset:
        batches = self.plan.batches(start_step, self.config.steps)
        return mapped(batches, self._batch)

    def _batch(self, step, examples, length):
        del step
        real = tf.cast(examples >= 0, tf.float32)
        examples = tf.maximum(examples, 0)
        pair = tf.stack([tf.gather(column, examples) for column in self.columns], axis=1)  # (B, 2)
        # Partners lie side by side, so that a batch may be cut between pairs for several devices.
        ids = truncate(
            self.tokenizer.encode(tf.reshape(pair, [-1])), length - special_count(pairs=False)
        )
        packed = pack(self.tokenizer, ids, length=length)
        inputs = {
            name: tf.reshape(value, tf.stack([-1, 2, length]))
            for name, value in packed.inputs().items()
        }
        return inputs, tf.zeros_like(real), real

    def compile(self, optimizer):
        self.trained_model.compile(
            optimizer=optimizer,
            loss=InBatchContrastiveLoss(
                self.config.temperature, reduction="mean_with_sample_weight"
            ),
            jit_compile=self.jit_compile(),
        )

    def trained_tokens(self, start_step, stop_step):
        return self.plan.real_tokens(start_step, stop_step)

    def evaluate(self, logs):
        return self._scores(self.text_model, self.validation)

    def _scores(self, text_model, examples) -> dict[str, float]:
        first, second = self._vectors(text_model, examples)
        loss = in_batch_contrastive_loss(first, second, self.config.temperature)
        return {
            "val_loss": float(np.mean(ops.convert_to_numpy(loss))),
            **{f"val_{k}": v for k, v in retrieval_scores(first @ second.T).items()},
        }

    def _vectors(self, text_model, examples):
        return [
            np.stack(predict_all(text_model.embed, column)["embedding"])
            for column in (examples.text, examples.text_pair)
        ]

    def fingerprint(self):
        splits = (self.train, self.validation)
        return digest_of(*(column for s in splits for column in (s.text, s.text_pair)))

    def data_summary(self):
        return (
            f"{len(self.train):,} training and {len(self.validation):,} validation pairs, "
            f"vocabulary {self.tokenizer.vocabulary_size}"
        )

    def report_sections(self, bundle: bundle.Bundle) -> list[str]:
        split, examples = self.reported()
        first, second = self._vectors(self.text_model, examples)
        similarities = first @ second.T
        scores = retrieval_scores(similarities)
        write_scores(bundle.folder, split=split, model=scores, baseline=None)
        section = retrieval_section(examples.text, examples.text_pair, similarities)
        return [f"## On the {split} pairs", section]


class PairedEmbeddings(keras.Model):
    """A SentenceEncoder over pairs: inputs (B, 2, T) to vectors (B, 2, D).

    Args:
        model: SentenceEncoder.
    """

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(name="paired_embeddings", **kwargs)
        self.model = model
        self.built = True

    def call(self, inputs, training=None):
        flat = {
            name: ops.reshape(value, (-1, ops.shape(value)[-1])) for name, value in inputs.items()
        }
        vectors = self.model(flat, training=training)  # (2B, D)
        return ops.reshape(vectors, (-1, 2, vectors.shape[-1]))
