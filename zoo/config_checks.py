"""Checks that several model configs share; each raises ConfigError and names the field."""

from __future__ import annotations

from zoo.strict_config import ConfigError

_LARGEST = 2**31 - 1  # ids, positions and sizes are int32 in a graph


def shrunk_with_depth(config) -> float:
    """Standard deviation of weights that write to a residual stream of `num_layers` blocks."""
    # Radford et al., 2019: the variance of the stream does not grow with the layer count.
    return config.initializer_range / (2 * config.num_layers) ** 0.5


def require_whole_heads(config):
    """The width is a multiple of the heads, and even in each for rotary positions."""
    if config.hidden_dim % config.num_heads:
        raise ConfigError(
            "hidden_dim must be a multiple of num_heads. "
            f"Received: hidden_dim={config.hidden_dim}, num_heads={config.num_heads}"
        )
    if config.positions == "rotary" and config.head_dim % 2:
        raise ConfigError(
            "rotary positions turn pairs of channels, so hidden_dim / num_heads must be even. "
            f"Received: {config.head_dim}"
        )


def require_positive(config, *names: str, optional: bool = False):
    """Each named field is from 1 to 2**31 - 1; where `optional`, it may be None."""
    for name in names:
        value = getattr(config, name)
        if optional and value is None:
            continue
        if value is None or value < 1:
            raise ConfigError(f"{name} must be at least 1. Received: {value}")
        if value > _LARGEST:
            raise ConfigError(f"{name} must be at most {_LARGEST}. Received: {value}")


def require_fraction(config, *names: str):
    """Each named field is in [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ConfigError(f"{name} must be in [0, 1). Received: {value}")
