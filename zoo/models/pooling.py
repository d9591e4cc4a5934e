"""From one hidden state a token to one vector a text, over real tokens only."""

from __future__ import annotations

from keras import ops

from zoo.config import ConfigError

POOLINGS = ("cls", "mean", "max")


def default_pooling(backbone) -> str:
    """What a classifier takes if not told: "cls" of BERT, "max" of an LSTM (Conneau, 2017)."""
    return "cls" if backbone.config.family == "bert" else "max"


def check_pooling(pooling: str, backbone) -> str:
    """`pooling` itself, if it is one and means something for the backbone.

    Raises:
        ConfigError: unknown pooling, or "cls" where the first token has seen only itself.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}. Received: {pooling!r}")
    if pooling == "cls" and backbone.is_causal:
        raise ConfigError(
            "pooling='cls' takes the first token, which in a model that reads forwards only has "
            "seen nothing but itself: use 'mean' or 'max', or bidirectional=True"
        )
    return pooling


def pool(hidden, padding_mask, pooling: str):
    """Hidden states (B, T, D) to (B, D), float32.

    Args:
        hidden: (B, T, D).
        padding_mask: (B, T) bool, True at real tokens, or `None`: all are real.
        pooling: "cls" (the first token), "mean" or "max". An empty row gives zeros for the
            latter two.
    """
    if pooling == "cls":
        return ops.cast(hidden[:, 0], "float32")
    # Before summing: half precision loses digits over many tokens.
    hidden = ops.cast(hidden, "float32")
    if padding_mask is None:
        return ops.mean(hidden, axis=1) if pooling == "mean" else ops.max(hidden, axis=1)
    real = ops.cast(padding_mask, "bool")[:, :, None]  # (B, T, 1)
    if pooling == "mean":
        weights = ops.cast(real, "float32")
        count = ops.maximum(ops.sum(weights, axis=1), 1.0)  # (B, 1)
        return ops.sum(weights * hidden, axis=1) / count
    highest = ops.max(ops.where(real, hidden, -1e30), axis=1)
    return ops.where(ops.any(real, axis=1), highest, 0.0)
