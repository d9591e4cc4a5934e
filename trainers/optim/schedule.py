"""The learning rate over a run."""

from __future__ import annotations

import math

import keras
from keras import ops

from trainers.config import OptimizerConfig


@keras.saving.register_keras_serializable(package="trainers")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise from 0, a plateau, then a decay to `final_fraction` of the peak.

    With p from 0 to 1 over the decaying steps and f = `final_fraction`, the rate over its peak is

        cosine       f + (1 - f) (1 + cos(pi p)) / 2
        linear       f + (1 - f) (1 - p)
        exponential  f^p
        constant     1

    `decay_fraction` is the share of `steps` that decays, less if the warm-up reaches into it.
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
        elif self.shape == "exponential":
            rate = ops.power(self.final_fraction, progress)
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
