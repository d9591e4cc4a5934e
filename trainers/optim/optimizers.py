"""The optimizer that a config names, AdamW or Muon, and its learning rate over a run."""

import dataclasses
import math
import re
from collections.abc import Sequence

import keras
from keras import ops

from trainers.config import OptimizerConfig
from zoo.config import ConfigError

# Decaying a norm's scale or a bias pulls it to 0, which regularises nothing. Keras compares with
# a variable's own name, not with its layer's: these are the names of norms' weights and of biases.
_UNDECAYED = ["scale", "gamma", "beta", "bias"]
# Muon is for the matrices inside a network: its authors leave input and output layers to AdamW.
_NOT_MUON = r"^(?!.*(?:(?:block|lstm)_\d|backbone/projection/)|projection/)"
# Parts of a variable's path: the names that zoo's backbones give their layers.
_BLOCK = re.compile(r"(?:\w+_)?(?:block|lstm)_(\d+)(?:_\w+)?")
_EMBEDDING = re.compile(r"(?:token|position|segment)_embedding|embedding_norm")
_LONG = 2  # ratio of a matrix's sides: from here on two iterations of one Gram matrix cost less


def make_optimizer(config: OptimizerConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer that `config` names, with its schedule over a run of `steps` batches."""
    accumulation = config.accumulation_steps
    # Every so many batches one updates, at the rate that the schedule has for that batch.
    if steps % accumulation:  # the last batches would be read for nothing
        raise ConfigError(
            "steps must be a multiple of optimizer.accumulation_steps. "
            f"Received: steps={steps}, optimizer.accumulation_steps={accumulation}"
        )
    schedule = schedule_of(config, steps)
    options = {
        "weight_decay": config.weight_decay,
        "global_clipnorm": config.global_clipnorm,
        "gradient_accumulation_steps": accumulation if accumulation > 1 else None,
        "layer_decay": config.layer_decay,
    }
    if config.name == "muon":
        optimizer = Muon(
            schedule,
            adam_beta_1=config.beta_1,
            adam_beta_2=config.beta_2,
            adam_weight_decay=config.weight_decay,
            momentum=config.momentum,
            ns_steps=config.newton_schulz_steps,
            adam_lr_ratio=config.adam_lr_ratio,
            exclude_layers=[_NOT_MUON],
            **options,
        )
    else:
        optimizer = AdamW(schedule, beta_1=config.beta_1, beta_2=config.beta_2, **options)
    optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
    return optimizer


@keras.saving.register_keras_serializable(package="trainers")
@dataclasses.dataclass(eq=False)
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A rise from 0, a plateau, in the last `decay_fraction` a fall to `final_fraction`."""

    peak: float
    steps: int
    warmup_steps: int = 0
    decay_fraction: float = 1.0
    shape: str = "cosine"
    final_fraction: float = 0.1

    def __call__(self, step):
        step = ops.cast(step, "float32")
        decay_start = max(self.warmup_steps, self.steps * (1 - self.decay_fraction))
        progress = (step - decay_start) / max(self.steps - decay_start, 1)
        progress = ops.clip(progress, 0.0, 1.0)
        if self.shape == "constant":
            rate = ops.ones_like(progress)
        elif self.shape == "exponential":
            rate = ops.power(self.final_fraction, progress)
        else:
            is_cosine = self.shape == "cosine"
            remaining = 0.5 * (1 + ops.cos(math.pi * progress)) if is_cosine else 1 - progress
            rate = self.final_fraction + (1 - self.final_fraction) * remaining
        # step 0 is the first update: it should already move.
        rise = ops.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        return self.peak * rate * rise

    def get_config(self):
        return dataclasses.asdict(self)


def schedule_of(config: OptimizerConfig, steps: int) -> WarmupDecay:
    """The learning rate over a run of so many steps."""
    return WarmupDecay(
        config.learning_rate,
        steps,
        config.warmup_steps,
        config.decay_fraction,
        config.schedule,
        config.final_fraction,
    )


def stack_index(path: str) -> float:
    """-1 for embeddings, i for block or LSTM layer i, infinity for what is above."""
    parts = path.split("/")
    for part in parts:
        if block := _BLOCK.fullmatch(part):
            return int(block[1])
        # An output projection that is not tied to the embedding is kept in the same layer.
        if _EMBEDDING.fullmatch(part) and not parts[-1].startswith("reverse"):
            return -1
    return math.inf


def rate_scales(paths: Sequence[str], layer_decay: float) -> list[float]:
    """Factors of learning rates: 1 above the blocks, `layer_decay` for the top block, one factor
    more for each below and for the embeddings (BEiT's; Bao et al., 2021, arXiv:2106.08254).
    """
    indices = [stack_index(path) for path in paths]
    top = max((index for index in indices if index != math.inf), default=-1)
    return [1.0 if index == math.inf else layer_decay ** (top + 1 - index) for index in indices]


class _LayerwiseRates:
    """Scales rate and decay of each variable; adds none: checkpoints are the plain optimizer's."""

    weight_decay: float | None

    def __init__(self, *args, layer_decay: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.layer_decay = layer_decay

    def get_config(self):
        return {**super().get_config(), "layer_decay": self.layer_decay}

    def build(self, variables):
        super().build(variables)
        self._rate_scales = tuple(rate_scales([v.path for v in variables], self.layer_decay))
        self._weight_decays = tuple(
            (self._decay_of(v) or 0.0) if self._use_weight_decay(v) else 0.0 for v in variables
        )

    def _decay_of(self, variable) -> float | None:
        return self.weight_decay

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

    def _clip_gradients(self, grads):
        """XLA makes three passes of Keras' sum of squares, one of a product."""
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


@keras.saving.register_keras_serializable(package="trainers")
class AdamW(_LayerwiseRates, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` (Loshchilov & Hutter, 2019) with `layer_decay`."""


@keras.saving.register_keras_serializable(package="trainers")
class Muon(_LayerwiseRates, keras.optimizers.Muon):
    """`keras.optimizers.Muon` that orthogonalises all matrices together, and with `layer_decay`.

    Jordan et al., 2024; Liu et al., arXiv:2502.16982. The same update and variables but for
    rounding. Not for Keras' own `fit` on several replicas, which sums gradients later.
    """

    # Whether the training loop gives gradients that are summed over the replicas.
    gradients_are_summed = False

    def _decay_of(self, variable) -> float | None:
        return self.adam_weight_decay if self._should_use_adamw(variable) else self.weight_decay

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        strategy = getattr(self, "_distribution_strategy", None)
        replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        if replicas > 1 and not self.gradients_are_summed:
            raise RuntimeError(
                "this Muon needs gradients that are summed over the replicas: train by "
                "trainers.distribution.strategy_loop.StrategyLoop, or with keras.optimizers.Muon"
            )
        grads = list(grads)
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        matrices = [at for at, index in enumerate(indices) if self.adam_velocities[index] is None]
        moved = [self._direction(grads[at], self.momentums[indices[at]]) for at in matrices]
        coefficients = (self.muon_a, self.muon_b, self.muon_c)
        for at, update in zip(matrices, orthogonalized(moved, self.ns_steps, coefficients)):
            # `update_step` is called with one tensor for each variable, on its device.
            grads[at] = ops.stack([grads[at], update])  # (2, R, C)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _direction(self, gradient, momentum):
        """What is orthogonalised: the next momentum, or Nesterov's look ahead of it."""
        following = ops.convert_to_tensor(momentum) * self.momentum + gradient
        return gradient + self.momentum * following if self.nesterov else following

    def _muon_update_step(self, gradient, variable, lr, m):
        gradient, update = ops.unstack(gradient)
        self.assign(m, m * self.momentum + gradient)
        self.assign_sub(variable, self.lr_adjust(lr * update))


def orthogonalized(
    matrices: list,
    steps: int = 5,
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
) -> list:
    """Matrices with the same singular vectors, whose singular values are all about 1.

    Muon's Newton-Schulz iteration x <- p(g) x with g = x x'. For long matrices two iterations share
    a g: that of the second is p(g) g p(g), and 224 x 896 takes 0.78 of the operations. More of that
    (Amsel et al., 2025, arXiv:2505.16932) loses in g what is small in x: devices then differed.
    """
    a, b, c = coefficients

    def gram_of(x):  # (N, S, L) -> (N, S, S)
        return ops.matmul(x, ops.transpose(x, (0, 2, 1)))

    def polynomial(gram):
        return b * gram + c * ops.matmul(gram, gram)

    result = [None] * len(matrices)
    wide = [x if x.shape[0] <= x.shape[1] else ops.transpose(x) for x in matrices]
    same_shape: dict[tuple, list[int]] = {}
    for at, matrix in enumerate(wide):
        same_shape.setdefault(tuple(matrix.shape), []).append(at)
    for places in same_shape.values():
        x = ops.stack([wide[at] for at in places])  # (N, S, L)
        x = x / (ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True)) + 1e-7)
        pairs = steps // 2 if x.shape[2] >= _LONG * x.shape[1] else 0
        for _ in range(pairs):
            gram = gram_of(x)
            first = a * ops.eye(x.shape[1], dtype=x.dtype) + polynomial(gram)
            gram = ops.matmul(ops.matmul(first, gram), first)
            x = ops.matmul(a * first + ops.matmul(polynomial(gram), first), x)
        for _ in range(steps - 2 * pairs):
            x = a * x + ops.matmul(polynomial(gram_of(x)), x)
        for at, one in zip(places, ops.unstack(x)):
            shape = matrices[at].shape
            result[at] = one if shape[0] <= shape[1] else ops.transpose(one)
    return result
