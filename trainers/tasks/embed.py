"""Task "embed": vectors of texts, trained by contrast within a batch."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from keras import ops

from trainers.config import TrainConfig
from trainers.optim.losses import InBatchContrastiveLoss
from trainers.report.baselines import tfidf_vectors
from trainers.report.scores import rank_partners, retrieval_scores
from trainers.report.sections import retrieval_sections
from trainers.tasks.encoder import EncoderTask, clean_all, predict_all, token_counts
from trainers.tasks.training_models import PairedEmbeddings
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
    baseline_method = "cosine of TF-IDF"

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        super().__init__(config, data_dir)
        self.trained_model = PairedEmbeddings(self.model)

    def vocabulary_texts(self):
        return [*self.train.text, *self.train.text_pair]

    def encode(self):
        both = self.train.text, self.train.text_pair
        columns = [clean_all(self.text_model, column) for column in both]
        self.columns = [tf.constant(column, tf.string) for column in columns]
        longest = np.maximum(*(token_counts(self.tokenizer, column) for column in columns))
        return np.minimum(longest + special_count(pairs=False), self.config.text.max_length)

    def make_batch(self, step, rows, length):
        pair = tf.stack([tf.gather(column, rows) for column in self.columns], axis=1)  # (B, 2)
        # Partners lie side by side, so that a batch may be cut between pairs for several devices.
        ids = self.tokenizer.encode(tf.reshape(pair, [-1]))
        ids = truncate(ids, length - special_count(pairs=False))
        packed = pack(self.tokenizer, ids, length=length)
        inputs = {
            name: tf.reshape(value, tf.stack([-1, 2, length])) for name, value in packed.items()
        }
        ones = tf.ones_like(rows, tf.float32)
        return inputs, tf.zeros_like(ones), ones

    def losses(self):
        temperature = self.config.temperature
        return {"loss": InBatchContrastiveLoss(temperature, reduction="mean_with_sample_weight")}

    def answers(self, examples) -> list[np.ndarray]:
        """Vectors (N, D) of the texts and of their partners."""
        return [
            np.stack(predict_all(self.text_model.embed, column)["embedding"])
            for column in (examples.text, examples.text_pair)
        ]

    def scores(self, examples, answers):
        return retrieval_scores(rank_partners(*answers)[0])

    def validation_scores(self, answers, scores):
        each = InBatchContrastiveLoss(self.config.temperature, reduction=None)
        losses = each(np.zeros(len(answers[0])), np.stack(answers, axis=1))
        return {"loss": float(np.mean(ops.convert_to_numpy(losses))), **scores}

    def baseline(self, examples):
        known = self.vocabulary_texts()
        vectors = tfidf_vectors(known, examples.text, examples.text_pair)
        return retrieval_scores(rank_partners(*vectors)[0])

    def sections(self, comparison, examples, answers, folder):
        return retrieval_sections(comparison, examples, *rank_partners(*answers))
