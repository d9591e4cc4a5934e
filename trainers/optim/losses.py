"""Losses that Keras has not; all read logits in float32, compile with XLA, and give one number an
example.

Where padding has weight 0 take `reduction="mean_with_sample_weight"`: the default counts it.
"""

import keras
from keras import ops

from trainers.distribution.rows import of_all_replicas


@keras.saving.register_keras_serializable(package="trainers")
class SparseCrossentropy(keras.losses.Loss):
    """Cross entropy of integer labels (...) and logits (..., C); `label_smoothing` goes to all C
    classes alike (Szegedy et al., 2016, arXiv:1512.00567).
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "sparse_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        y_true = ops.cast(y_true, "int32")
        loss = ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        if not self.label_smoothing:
            return loss
        # Mean over classes of -log p, without a (..., C) tensor of targets or of log p.
        uniform = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
        return (1 - self.label_smoothing) * loss + self.label_smoothing * uniform

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="trainers")
class SpanLoss(keras.losses.Loss):
    """Mean cross entropy of first and last token (Devlin et al., 2018): (B, 2); (B, T, 2)."""

    def call(self, y_true, y_pred):
        y_true, logits = ops.cast(y_true, "int32"), ops.transpose(y_pred, (0, 2, 1))  # (B, 2, T)
        losses = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)  # (B, 2)
        return ops.mean(losses, axis=-1)


@keras.saving.register_keras_serializable(package="trainers")
class InBatchContrastiveLoss(keras.losses.Loss):
    """Symmetric InfoNCE (van den Oord et al., 2018, arXiv:1807.03748) of unit vectors (B, 2, D).

    The other rows of the global batch are the negatives, so two rows of one meaning work against
    it. The temperature is SimCSE's. `y_true` is not read.
    """

    # For the training loop: XLA cannot compile a part of a step in which replicas meet.
    reads_other_replicas = True

    def __init__(self, temperature: float = 0.05, name: str = "in_batch_contrastive", **kwargs):
        super().__init__(name=name, **kwargs)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        pairs = ops.cast(y_pred, "float32")
        everyone = of_all_replicas(pairs)  # (N, 2, D)

        def among(vectors, candidates):  # (B, D), (N, D) -> (B,)
            similarities = ops.matmul(vectors, ops.transpose(candidates))
            return ops.logsumexp(similarities / self.temperature, axis=1)

        to_positive = among(pairs[:, 0], everyone[:, 1])
        to_anchor = among(pairs[:, 1], everyone[:, 0])
        own = ops.sum(pairs[:, 0] * pairs[:, 1], axis=-1) / self.temperature
        return 0.5 * (to_positive + to_anchor) - own

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="trainers")
class DistillationLoss(keras.losses.Loss):
    """Cross entropy with the label, and how far logits (..., C) are from a teacher's.

    `y_true` (..., 1 + C) float32 has the label, -1 for none, and the teacher's logits less their
    mean; the mean square of the difference counts `weight` (Ba & Caruana, 2014).
    """

    def __init__(
        self,
        weight: float = 0.8,
        label_smoothing: float = 0.0,
        name: str = "distillation",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.weight = weight
        self.label_smoothing = label_smoothing
        self._labels = SparseCrossentropy(label_smoothing, reduction=None)

    def call(self, y_true, y_pred):
        labels = ops.cast(y_true[..., 0], "int32")
        own = self._labels.call(ops.maximum(labels, 0), y_pred)
        own = ops.where(labels >= 0, own, 0.0)
        centred = y_pred - ops.mean(y_pred, axis=-1, keepdims=True)
        apart = ops.mean(ops.square(centred - y_true[..., 1:]), axis=-1)
        return (1 - self.weight) * own + self.weight * apart

    def get_config(self):
        options = {"weight": self.weight, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **options}


@keras.saving.register_keras_serializable(package="trainers")
class SimilarityLoss(keras.losses.Loss):
    """How far the cosines of texts (B, 2, D) with all partners of the batch are from a teacher's.

    `y_true` are the teacher's vectors, of any width. Relational distillation (Park et al., 2019,
    arXiv:1904.05068); of several replicas each compares its own rows.
    """

    def call(self, y_true, y_pred):
        wanted, found = (self._cosines(ops.cast(x, "float32")) for x in (y_true, y_pred))
        return ops.mean(ops.square(found - wanted), axis=-1)

    def _cosines(self, pairs):
        """(B, B) of vectors (B, 2, D)."""
        squares = ops.sum(ops.square(pairs), axis=-1, keepdims=True)
        pairs = pairs * ops.rsqrt(ops.maximum(squares, 1e-12))
        return ops.matmul(pairs[:, 0], ops.transpose(pairs[:, 1]))
