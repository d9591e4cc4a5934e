"""The optimizer that a config names."""

from __future__ import annotations

import keras

from trainers.config import OptimizerConfig
from trainers.optim.adamw import AdamW
from trainers.optim.muon import Muon
from trainers.optim.schedule import schedule_of
from zoo.config import ConfigError

# Decaying a norm's scale or a bias pulls it to 0, which regularises nothing. Keras compares with
# a variable's own name, not with its layer's: these are the names of norms' weights and of biases.
_UNDECAYED = ["scale", "gamma", "beta", "bias"]
# Muon is for the matrices inside a network: its authors leave input and output layers to AdamW.
_NOT_MUON = r"^(?!.*(?:(?:block|lstm)_\d|backbone/projection/)|projection/)"


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
