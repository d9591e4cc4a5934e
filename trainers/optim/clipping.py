"""Clipping by the global norm, as Keras does it but for less time."""

from __future__ import annotations

from keras import ops


class GlobalNormClipping:
    """Takes the norm of dense gradients as inner products, for a Keras optimizer to inherit first.

    Keras writes the squares of each gradient to memory and adds them up in three passes when XLA
    compiles them; a product of a vector with itself is one pass. Same numbers but for rounding.
    """

    def _clip_gradients(self, grads):
        clipnorm = self.global_clipnorm
        if not clipnorm or self.clipnorm:
            return super()._clip_gradients(grads)
        norm = ops.sqrt(sum(_squared_norm(grad) for grad in grads))
        # Of a norm that is infinite or no number nothing shall be left: `norm - norm` is no number.
        scale = clipnorm / ops.maximum(norm, clipnorm) + (norm - norm)
        return [grad * ops.cast(scale, grad.dtype) for grad in grads]


def _squared_norm(grad):
    if hasattr(grad, "indices"):  # only the rows of an embedding that were read
        return ops.cast(ops.sum(ops.square(grad)), "float32")
    row = ops.reshape(ops.cast(grad, "float32"), (1, -1))
    return ops.matmul(row, ops.transpose(row))[0, 0]
