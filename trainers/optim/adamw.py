"""AdamW that clips in less time, and learning rates that fall from block to block."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import keras
from keras import ops

# Parts of a variable's path: the names that zoo's backbones give their layers.
_BLOCK = re.compile(r"(?:\w+_)?(?:block|lstm)_(\d+)(?:_\w+)?")
_EMBEDDING = re.compile(r"(?:token|position|segment)_embedding|embedding_norm")


class GlobalNormClipping:
    """Clips by the norm of dense gradients, taken as inner products; inherited first.

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


def stack_index(path: str) -> float:
    """Where in the stack of a backbone the variable at `path` is: -1 for the embeddings, i for
    block or LSTM layer i, infinity for what is above (final norm, pooler, head)."""
    parts = path.split("/")
    for part in parts:
        block = _BLOCK.fullmatch(part)
        if block:
            return int(block[1])
        # An output projection that is not tied to the embedding is kept in the same layer.
        if _EMBEDDING.fullmatch(part) and not parts[-1].startswith("reverse"):
            return -1
    return math.inf


def rate_scales(paths: Sequence[str], layer_decay: float) -> list[float]:
    """What layer-wise decay multiplies the learning rate of each variable with.

    1 above the blocks, `layer_decay` for the top block, one factor more for each block below and
    for the embeddings. ELECTRA fine-tunes so (Clark et al., 2020, arXiv:2003.10555); the exponents
    are BEiT's (Bao et al., 2021, arXiv:2106.08254).
    """
    indices = [stack_index(path) for path in paths]
    top = max((index for index in indices if index != math.inf), default=-1)
    return [1.0 if index == math.inf else layer_decay ** (top + 1 - index) for index in indices]


class LayerwiseRates:
    """Scales learning rate and weight decay of each variable by `rate_scales`; inherited first.

    Both happen in `update_step`, which Keras calls for every variable on every backend and under
    every distribution strategy. Adds no variable, so checkpoints are the plain optimizer's.
    """

    def __init__(self, *args, layer_decay: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.layer_decay = layer_decay

    def build(self, variables):
        super().build(variables)
        self._rate_scales = tuple(rate_scales([v.path for v in variables], self.layer_decay))
        self._weight_decays = tuple(self._decay_of(v) for v in variables)

    def _decay_of(self, variable) -> float:
        return (self.weight_decay or 0.0) if self._use_weight_decay(variable) else 0.0

    def _apply_weight_decay(self, variables):
        if self.layer_decay == 1:  # Keras' own knows one rate for all variables
            super()._apply_weight_decay(variables)

    def update_step(self, gradient, variable, learning_rate):
        if self.layer_decay != 1:
            index = self._get_variable_index(variable)
            learning_rate = ops.cast(learning_rate, variable.dtype) * self._rate_scales[index]
            if self._weight_decays[index]:
                decay = ops.cast(self._weight_decays[index], variable.dtype)
                self.assign_sub(variable, variable * decay * learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "layer_decay": self.layer_decay}


@keras.saving.register_keras_serializable(package="trainers")
class AdamW(GlobalNormClipping, LayerwiseRates, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that clips in less time, and with `layer_decay`.

    The same variables and, but for `layer_decay`, arguments.
    """
