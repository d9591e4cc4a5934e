"""Losses that Keras has not: smoothed integer labels, answer spans, contrast within a batch.

All read logits in float32, compile with XLA, and give one number an example, so sample weights
and Keras' reductions work on them. Where padding has weight 0 take
`reduction="mean_with_sample_weight"`: the default divides by the padding too.
"""

from __future__ import annotations

import keras
from keras import ops

from trainers.distribution.rows import of_all_replicas
from zoo.config import ConfigError


@keras.saving.register_keras_serializable(package="trainers")
class SparseCrossentropy(keras.losses.Loss):
    """Cross entropy of integer labels (...) and logits (..., C), with label smoothing.

    The target gives `label_smoothing` to all C classes alike and the rest to the label (Szegedy
    et al., 2016, arXiv:1512.00567). At 0 it is Keras' `SparseCategoricalCrossentropy`.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "sparse_crossentropy",
    ):
        super().__init__(name=name, reduction=reduction)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1). Received: {label_smoothing}")
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        loss = ops.sparse_categorical_crossentropy(
            ops.cast(y_true, "int32"), y_pred, from_logits=True
        )
        if not self.label_smoothing:
            return loss
        # Mean over classes of -log p, without a (..., C) tensor of targets or of log p.
        uniform = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
        return (1 - self.label_smoothing) * loss + self.label_smoothing * uniform

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="trainers")
class SpanLoss(keras.losses.Loss):
    """Mean cross entropy of an answer's first and last token (Devlin et al., 2018).

    Labels (B, 2) int, token indices of start and end; logits (B, T, 2).
    """

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str = "span_crossentropy"
    ):
        super().__init__(name=name, reduction=reduction)

    def call(self, y_true, y_pred):
        logits = ops.transpose(y_pred, (0, 2, 1))  # (B, 2, T)
        losses = ops.sparse_categorical_crossentropy(
            ops.cast(y_true, "int32"), logits, from_logits=True
        )  # (B, 2)
        return ops.mean(losses, axis=-1)


def in_batch_contrastive_loss(
    anchor, positive, temperature: float = 0.05, all_anchors=None, all_positives=None
):
    """Symmetric InfoNCE: each anchor finds its positive among the batch's, and the reverse.

    van den Oord et al., 2018 (arXiv:1807.03748), in both directions as in CLIP (Radford et al.,
    2021, arXiv:2103.00020); the temperature is SimCSE's (Gao et al., 2021, arXiv:2104.08821).
    The other rows of the batch are the negatives, so two rows of one meaning work against it.
    `anchor` and `positive` are (B, D), unit length; `all_anchors` and `all_positives` (N, D) are
    those to find each other among, where the given ones are a part of them. Returns (B,) float32.
    """
    anchor, positive = ops.cast(anchor, "float32"), ops.cast(positive, "float32")
    anchors = anchor if all_anchors is None else ops.cast(all_anchors, "float32")
    positives = positive if all_positives is None else ops.cast(all_positives, "float32")
    to_positive = ops.logsumexp(ops.matmul(anchor, ops.transpose(positives)) / temperature, axis=1)
    to_anchor = ops.logsumexp(ops.matmul(positive, ops.transpose(anchors)) / temperature, axis=1)
    own = ops.sum(anchor * positive, axis=-1) / temperature
    return 0.5 * (to_positive + to_anchor) - own


@keras.saving.register_keras_serializable(package="trainers")
class InBatchContrastiveLoss(keras.losses.Loss):
    """`in_batch_contrastive_loss` for `compile`: predictions (B, 2, D), anchor then positive.

    `y_true` is not read: give any tensor of B rows, such as zeros. Replicas of a `tf.distribute`
    strategy show each other their rows: the batch is the global one.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        reduction: str | None = "sum_over_batch_size",
        name: str = "in_batch_contrastive",
    ):
        super().__init__(name=name, reduction=reduction)
        if temperature <= 0:
            raise ConfigError(f"temperature must be above 0. Received: {temperature}")
        self.temperature = temperature

    # For the training loop: XLA cannot compile a part of a step in which replicas meet.
    reads_other_replicas = True

    def call(self, y_true, y_pred):
        del y_true
        everyone = of_all_replicas(y_pred)
        return in_batch_contrastive_loss(
            y_pred[:, 0], y_pred[:, 1], self.temperature, everyone[:, 0], everyone[:, 1]
        )

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
