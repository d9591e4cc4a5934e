"""Text to a label with scores, or to a number; one text or a pair of them."""

from __future__ import annotations

import tensorflow as tf

from zoo.text.batches import Outputs, at_least_one, require_same_rows, rows_of, run, string_function
from zoo.text.encoder import TextEncoder
from zoo.text.packing import take_windows, truncate_pair


class _WholeText(TextEncoder):
    """One output row for a text, long texts by the mean of their windows' outputs."""

    @property
    def pairs(self) -> bool:
        """Whether the model reads two texts at once."""
        return self.model.task == "pair" or self.config.pairs

    def make_functions(self):
        if self.pairs:
            return {"predict": string_function(self._predict, "text", "text_pair")}
        return {"predict": string_function(self._predict, "text")}

    def predict(self, text, text_pair=None) -> Outputs:
        """Answers strings [B]; `text_pair` [B] is for a model of pairs."""
        if self.pairs != (text_pair is not None):
            raise ValueError(
                f"task {self.model.task!r} reads "
                f"{'text and text_pair' if self.pairs else 'text alone'}"
            )
        return run(self.functions["predict"], text, *([] if text_pair is None else [text_pair]))

    def _predict(self, text, text_pair=None):
        given, text = text, at_least_one(text)
        if text_pair is None:
            return rows_of(given, self._answer(self._single(text)))
        with tf.control_dependencies(require_same_rows(text=given, text_pair=text_pair)):
            pair = at_least_one(text_pair)
        return rows_of(given, self._answer(self._pair(text, pair)))

    def _single(self, text):
        ids = self.tokenizer.encode(self.clean(text))
        windows = self.windows_of(ids)
        outputs = self.forward(self.pack(take_windows(ids, windows)))  # (W, C)
        return tf.math.segment_mean(outputs, windows.rows)  # (B, C)

    def _pair(self, text, text_pair):
        first, second = (self.tokenizer.encode(self.clean(part)) for part in (text, text_pair))
        size = self.config.window_size(True, self.tokenizer.pair_separators)
        return self.forward(self.pack(*truncate_pair(first, second, size)))

    def _answer(self, outputs: tf.Tensor) -> Outputs:
        """The named outputs of a row each, from the model's outputs (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} does not read its model's outputs")


class TextClassifier(_WholeText):
    """Labels of texts: `predict`.

    Signature `predict`: `text` [B] (and `text_pair` [B] for a pair model) to `label` [B] string,
    `scores` [B, C] float32 probabilities, `classes` [B, C] string, in the labels' order. The
    scores of a text longer than `config.max_length` come from the mean logits of its windows.

    Example: `TextClassifier(tokenizer, model, labels=("neg", "pos")).predict(["good"])["label"]`
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

    Example: `TextRegressor(tokenizer, model).predict(["good"])["outputs"]`
    """

    def _answer(self, outputs):
        return {"outputs": outputs[:, 0]}
