"""Text to a label with scores, to a number, or to a vector; one text or a pair of them."""

from __future__ import annotations

import tensorflow as tf

from zoo.text.base import Outputs, TextEncoder, run, string_function
from zoo.text.packing import take_windows, truncate, truncate_pair


class _WholeText(TextEncoder):
    """One output row for a text, long texts by the mean of their windows' outputs."""

    @property
    def pairs(self) -> bool:
        """Whether the model reads two texts at once."""
        return self.model.task == "pair" or self.config.pairs

    def make_functions(self):
        names = ["text", "text_pair"] if self.pairs else ["text"]
        return {"predict": string_function(self._predict, *names)}

    def predict(self, text, text_pair=None) -> Outputs:
        """Answers strings [B]; `text_pair` [B] is for a model of pairs."""
        if self.pairs != (text_pair is not None):
            raise ValueError(
                f"task {self.model.task!r} reads "
                f"{'text and text_pair' if self.pairs else 'text alone'}"
            )
        return run(self.functions["predict"], text, *([] if text_pair is None else [text_pair]))

    def _predict(self, text, text_pair=None):
        if text_pair is None:
            ids = self.encode(text)
            windows = self.windows_of(ids)
            outputs = self.forward(self.pack(take_windows(ids, windows)))  # (W, C)
            outputs = tf.math.segment_mean(outputs, windows.rows)  # (B, C)
        else:
            size = self.config.window_size(True, self.tokenizer.pair_separators)
            pair = truncate_pair(self.encode(text), self.encode(text_pair), size)
            outputs = self.forward(self.pack(*pair))  # (B, C)
        return self._answer(outputs)

    def _answer(self, outputs: tf.Tensor) -> Outputs:
        """The named outputs of a row each, from the model's outputs (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} does not read its model's outputs")


class TextClassifier(_WholeText):
    """Labels of texts: `predict`.

    Signature `predict`: `text` [B] (and `text_pair` [B] for a pair model) to `label` [B] string,
    `scores` [B, C] float32 probabilities, `classes` [B, C] string, in the labels' order. The
    scores of a text longer than `config.max_length` come from the mean logits of its windows.
    """

    def _answer(self, outputs):
        scores = tf.nn.softmax(outputs)
        labels = tf.constant(self.labels, tf.string)
        return {
            "label": tf.gather(labels, tf.argmax(outputs, axis=-1)),
            "scores": scores,
            "classes": tf.tile(labels[None], [tf.shape(scores)[0], 1]),
        }


class TextRegressor(_WholeText):
    """Numbers for texts: `predict`.

    Signature `predict`: `text` [B] (and `text_pair` [B] for a model of pairs) to `outputs` [B]
    float32, in the unit of the training data.
    """

    def _answer(self, outputs):
        return {"outputs": outputs[:, 0]}


class TextEmbedder(TextEncoder):
    """Vectors of texts, alike where the texts mean alike: `embed`.

    Signature `embed`: `text` [B] to `embedding` [B, D] float32, of length 1 if the model
    normalises. Of a text longer than `config.max_length` the beginning is read.
    """

    def make_functions(self):
        return {"embed": string_function(self._embed, "text")}

    def embed(self, text) -> Outputs:
        """Embeds strings [B]."""
        return run(self.functions["embed"], text)

    def _embed(self, text):
        packed = self.pack(truncate(self.encode(text), self.config.window_size()))
        return {"embedding": self.forward(packed)}
