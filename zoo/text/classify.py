"""Text to a label with scores, to a number, or to a vector; one text or a pair of them."""

from __future__ import annotations

import tensorflow as tf

from zoo.text.base import TextEncoder, signature
from zoo.text.packing import take_windows, truncate, truncate_pair


class _WholeText(TextEncoder):
    """One output row for a text, long texts by the mean of their windows' outputs."""

    def outputs(self, text, text_pair) -> tf.Tensor:
        """The model's outputs (B, C) for texts [B], or for pairs of them."""
        if text_pair is None:
            ids = self.encode(text)
            windows = self.windows_of(ids)
            outputs = self.forward(self.pack(take_windows(ids, windows)))  # (W, C)
            return tf.math.segment_mean(outputs, windows.rows)
        size = self.config.window_size(True, self.tokenizer.pair_separators)
        pair = truncate_pair(self.encode(text), self.encode(text_pair), size)
        return self.forward(self.pack(*pair))


class TextClassifier(_WholeText):
    """Labels of texts."""

    @signature
    def predict(self, text, text_pair=None):
        """`text` [B] (and `text_pair` [B] for a pair model) to `label` [B] string, `scores` [B, C]
        float32 probabilities, `classes` [B, C] string, in the labels' order.

        The scores of a text longer than `config.max_length` come from the mean logits of its
        windows.
        """
        outputs = self.outputs(text, text_pair)
        scores = tf.nn.softmax(outputs)
        labels = tf.constant(self.labels, tf.string)
        return {
            "label": tf.gather(labels, tf.argmax(outputs, axis=-1)),
            "scores": scores,
            "classes": tf.tile(labels[None], [tf.shape(scores)[0], 1]),
        }


class TextRegressor(_WholeText):
    """Numbers for texts."""

    @signature
    def predict(self, text, text_pair=None):
        """`text` [B] (and `text_pair` [B] for a model of pairs) to `outputs` [B] float32, in the
        unit of the training data."""
        return {"outputs": self.outputs(text, text_pair)[:, 0]}


class TextEmbedder(TextEncoder):
    """Vectors of texts, alike where the texts mean alike."""

    @signature
    def embed(self, text):
        """`text` [B] to `embedding` [B, D] float32, of length 1 if the model normalises.

        Of a text longer than `config.max_length` the beginning is read.
        """
        packed = self.pack(truncate(self.encode(text), self.config.window_size()))
        return {"embedding": self.forward(packed)}
