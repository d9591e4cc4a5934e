"""What the optimizer of a run is: algorithm, learning-rate schedule, decay, accumulation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from zoo.config import STRICT, ConfigError


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule; see `trainers.optim.optimizers`.

    Attributes:
        name: "adamw" or "muon" (matrices by Muon, the rest by AdamW).
        learning_rate: float, the peak.
        schedule: "cosine", "linear", "exponential" or "constant" after the warm-up.
        warmup_steps: int, steps of linear rise from 0.
        final_fraction: float, share of the peak that the schedule ends at; "exponential" needs
            it above 0.
        decay_fraction: float in (0, 1], share of the run that decays: 1 decays from the end of
            the warm-up, 0.4 holds the peak until the last 40 % of the steps.
        weight_decay: float, decoupled; norms and biases are left out.
        beta_1, beta_2: float, Adam's decay rates.
        momentum: float, Muon's.
        newton_schulz_steps: int, Muon's iterations towards an orthogonal update. Defaults to 5.
        adam_lr_ratio: float, learning rate of Muon's AdamW part over that of its matrices.
        global_clipnorm: float, gradients are scaled to this norm at most; None is off.
        layer_decay: float in (0, 1], learning rate of a block over that of the one above it, for
            fine-tuning: the lower, the slower. Defaults to 1, the same rate everywhere.
        accumulation_steps: int, batches whose gradients are averaged into one update. A step is
            still one batch, here and in the whole config. Defaults to 1.

    Raises:
        ConfigError: a value is out of range; the message names the field.

    Example: `OptimizerConfig(learning_rate=5e-5, schedule="linear", layer_decay=0.9)`
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1
    decay_fraction: float = 1.0
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    momentum: float = 0.95
    newton_schulz_steps: int = 5
    adam_lr_ratio: float = 1.0
    global_clipnorm: float | None = 1.0
    layer_decay: float = 1.0
    accumulation_steps: int = 1

    def __post_init__(self):
        for name, holds, rule in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("warmup_steps", self.warmup_steps >= 0, "0 or more"),
            ("final_fraction", 0 <= self.final_fraction <= 1, "in [0, 1]"),
            (
                "final_fraction",
                self.final_fraction > 0 or self.schedule != "exponential",
                'above 0 where optimizer.schedule is "exponential", which never reaches 0',
            ),
            ("decay_fraction", 0 < self.decay_fraction <= 1, "in (0, 1]"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("beta_1", 0 <= self.beta_1 < 1, "in [0, 1)"),
            ("beta_2", 0 <= self.beta_2 < 1, "in [0, 1)"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("newton_schulz_steps", self.newton_schulz_steps >= 1, "at least 1"),
            ("adam_lr_ratio", self.adam_lr_ratio >= 0, "0 or more"),
            (
                "global_clipnorm",
                self.global_clipnorm is None or self.global_clipnorm > 0,
                "above 0",
            ),
            ("layer_decay", 0 < self.layer_decay <= 1, "in (0, 1]"),
            ("accumulation_steps", self.accumulation_steps >= 1, "at least 1"),
        ):
            if not holds:
                value = getattr(self, name)
                raise ConfigError(f"optimizer.{name} must be {rule}. Received: {value!r}")


def muon(
    learning_rate: float,
    warmup_steps: int = 100,
    weight_decay: float = 0.0,
    newton_schulz_steps: int = 5,
) -> OptimizerConfig:
    """Muon with a linear decay to zero; BUILD_NOTES.md has the search that chose it."""
    return OptimizerConfig(
        name="muon",
        learning_rate=learning_rate,
        schedule="linear",
        warmup_steps=warmup_steps,
        final_fraction=0.0,
        weight_decay=weight_decay,
        newton_schulz_steps=newton_schulz_steps,
    )
