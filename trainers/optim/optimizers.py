"""Optimizers by name, and the learning-rate schedule they share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import keras
from keras import ops

from trainers.optim.clipping import GlobalNormClipping
from trainers.optim.config import OptimizerConfig
from trainers.optim.muon import Muon
from zoo.config import ConfigError

# Decaying a norm's scale or a bias pulls it to 0, which regularises nothing. Keras compares with
# a variable's own name, not with its layer's: these are the names of norms' weights and of biases.
_UNDECAYED = ["scale", "gamma", "beta", "bias"]
# Muon is for the matrices inside a network: its authors leave input and output layers to AdamW.
_NOT_MUON = r"^(?!.*(?:(?:block|lstm)_\d|backbone/projection/)|projection/)"
# Parts of a variable's path: the names that zoo's backbones give their layers.
_BLOCK = re.compile(r"(?:\w+_)?(?:block|lstm)_(\d+)(?:_\w+)?")
_EMBEDDING = re.compile(r"(?:token|position|segment)_embedding|embedding_norm")


@keras.saving.register_keras_serializable(package="trainers")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise from 0, a plateau, then a decay to `final_fraction` of the peak.

    With p from 0 to 1 over the decaying steps and f = `final_fraction`, the rate over its peak is

        cosine       f + (1 - f) (1 + cos(pi p)) / 2
        linear       f + (1 - f) (1 - p)
        exponential  f^p
        constant     1

    Args:
        peak: float.
        steps: int, of the whole run.
        warmup_steps: int.
        decay_fraction: float in (0, 1], share of `steps` that decays (less if the warm-up
            reaches into it).
        shape: "cosine", "linear", "exponential" or "constant".
        final_fraction: float, above 0 for "exponential".

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


def stack_index(path: str) -> float:
    """Where in the stack of a backbone the variable at `path` is.

    Returns:
        -1 for the embeddings, i for block or LSTM layer i, infinity for what is above: final
        norm, pooler, head.

    Example: `stack_index("bert/backbone/block_3/attention/qkv/kernel")  # 3`
    """
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

    Args:
        paths: of all the trainable variables; the highest block among them is the top.
        layer_decay: float in (0, 1].

    Example: `rate_scales(["block_0/kernel", "block_1/kernel", "head/bias"], 0.5)  # [0.25, 0.5, 1]`
    """
    indices = [stack_index(path) for path in paths]
    top = max((index for index in indices if index != math.inf), default=-1)
    return [1.0 if index == math.inf else layer_decay ** (top + 1 - index) for index in indices]


class _LayerwiseRates:
    """Scales learning rate and weight decay of each variable by `rate_scales`.

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
        """Nothing: Keras' own knows one rate for all variables; `update_step` decays."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype) * self._rate_scales[index]
        if self._weight_decays[index]:
            decay = ops.cast(self._weight_decays[index], variable.dtype)
            self.assign_sub(variable, variable * decay * learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "layer_decay": self.layer_decay}


@keras.saving.register_keras_serializable(package="trainers")
class AdamW(GlobalNormClipping, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that clips in less time; the same arguments and variables.

    Example: `AdamW(1e-3, global_clipnorm=1.0)`
    """


@keras.saving.register_keras_serializable(package="trainers")
class LayerwiseAdamW(_LayerwiseRates, AdamW):
    """`AdamW` with a learning rate that falls from block to block.

    Args:
        layer_decay: float in (0, 1], see `rate_scales`. The rest as in AdamW.

    Example: `LayerwiseAdamW(5e-5, layer_decay=0.9)`
    """


@keras.saving.register_keras_serializable(package="trainers")
class LayerwiseMuon(_LayerwiseRates, Muon):
    """`trainers.optim.muon.Muon` with a learning rate that falls from block to block.

    Args:
        layer_decay: float in (0, 1], see `rate_scales`. The rest as in Muon.

    Example: `LayerwiseMuon(1e-3, layer_decay=0.9)`
    """

    def _decay_of(self, variable) -> float:
        if not self._use_weight_decay(variable):
            return 0.0
        by_adam = self._should_use_adamw(variable)
        return (self.adam_weight_decay if by_adam else self.weight_decay) or 0.0


def schedule_of(config: OptimizerConfig, steps: int) -> WarmupDecay:
    """The learning rate over a run of so many steps.

    Example: `schedule_of(OptimizerConfig(), 2000)(2000)  # 1e-4`
    """
    return WarmupDecay(
        config.learning_rate,
        steps,
        config.warmup_steps,
        config.decay_fraction,
        config.schedule,
        config.final_fraction,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer that `config` names, with its schedule over `steps`.

    Muon (Jordan et al., 2024; Liu et al., arXiv:2502.16982) orthogonalises the momentum of each
    weight matrix of the blocks; embeddings, heads and vectors go by AdamW (Loshchilov & Hutter,
    2019).

    Args:
        config: OptimizerConfig.
        steps: int, batches of the whole run. With `accumulation_steps` = k every k-th of them
            updates, at the rate that the schedule has for that batch: Keras counts batches too,
            so the schedule ends with the run.

    Raises:
        ConfigError: `steps` is not a multiple of `accumulation_steps`: the last batches would
            be read for nothing.

    Example: `make_optimizer(OptimizerConfig(name="muon", learning_rate=1e-2), steps=2000)`
    """
    accumulation = config.accumulation_steps
    if steps % accumulation:
        raise ConfigError(
            "steps must be a multiple of optimizer.accumulation_steps. "
            f"Received: steps={steps}, optimizer.accumulation_steps={accumulation}"
        )
    schedule = schedule_of(config, steps)
    options = {
        "weight_decay": config.weight_decay,
        "global_clipnorm": config.global_clipnorm,
        "gradient_accumulation_steps": accumulation if accumulation > 1 else None,
    }
    layerwise = config.layer_decay != 1
    if layerwise:
        options["layer_decay"] = config.layer_decay
    if config.name == "muon":
        optimizer = (LayerwiseMuon if layerwise else Muon)(
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
        optimizer = (LayerwiseAdamW if layerwise else AdamW)(
            schedule, beta_1=config.beta_1, beta_2=config.beta_2, **options
        )
    optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
    return optimizer
