"""Optimizers by name, and the learning-rate schedule they share."""

from __future__ import annotations

import math

import keras
from keras import ops

from trainers.config import OptimizerConfig

# Decaying a norm's scale or a bias pulls it to 0, which regularises nothing. Keras compares with
# a variable's own name, not with its layer's: these are the names of norms' weights and of biases.
_UNDECAYED = ["scale", "gamma", "beta", "bias"]


@keras.saving.register_keras_serializable(package="trainers")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise from 0, a plateau, then a decay to `final_fraction` of the peak.

    Args:
        peak: float.
        steps: int, of the whole run.
        warmup_steps: int.
        decay_fraction: float in (0, 1], share of `steps` that decays (less if the warm-up
            reaches into it).
        shape: "cosine", "linear" or "constant".
        final_fraction: float.

    Example: `WarmupDecay(1e-3, steps=2000, warmup_steps=100)(2000)  # 1e-4`
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_steps: int = 0,
        decay_fraction: float = 1.0,
        shape: str = "cosine",
        final_fraction: float = 0.1,
    ):
        self.peak = peak
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.decay_fraction = decay_fraction
        self.shape = shape
        self.final_fraction = final_fraction

    def __call__(self, step):
        step = ops.cast(step, "float32")
        decay_start = max(self.warmup_steps, self.steps * (1 - self.decay_fraction))
        progress = (step - decay_start) / max(self.steps - decay_start, 1)
        progress = ops.clip(progress, 0.0, 1.0)
        if self.shape == "cosine":
            remaining = 0.5 * (1 + ops.cos(math.pi * progress))
        elif self.shape == "linear":
            remaining = 1 - progress
        else:
            remaining = ops.ones_like(progress)
        rate = self.final_fraction + (1 - self.final_fraction) * remaining
        if self.shape == "constant":
            rate = remaining
        # step 0 is the first update: it should already move.
        rise = ops.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        return self.peak * rate * rise

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay_fraction": self.decay_fraction,
            "shape": self.shape,
            "final_fraction": self.final_fraction,
        }


def make_optimizer(config: OptimizerConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer that `config` names, with its schedule over `steps`.

    Muon (Jordan et al., 2024; Liu et al., arXiv:2502.16982) orthogonalises the momentum of each
    weight matrix; embeddings and vectors go by AdamW (Loshchilov & Hutter, 2019).

    Example: `make_optimizer(OptimizerConfig(name="muon", learning_rate=1e-2), steps=2000)`
    """
    schedule = WarmupDecay(
        config.learning_rate,
        steps,
        config.warmup_steps,
        config.decay_fraction,
        config.schedule,
        config.final_fraction,
    )
    if config.name == "muon":
        optimizer = keras.optimizers.Muon(
            schedule,
            adam_beta_1=config.beta_1,
            adam_beta_2=config.beta_2,
            weight_decay=config.weight_decay,
            adam_weight_decay=config.weight_decay,
            momentum=config.momentum,
            adam_lr_ratio=config.adam_lr_ratio,
            global_clipnorm=config.global_clipnorm,
        )
    else:
        optimizer = keras.optimizers.AdamW(
            schedule,
            weight_decay=config.weight_decay,
            beta_1=config.beta_1,
            beta_2=config.beta_2,
            global_clipnorm=config.global_clipnorm,
        )
    optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
    return optimizer
