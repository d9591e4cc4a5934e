"""What attention can do in a layer: options of the model configurations, checked as these are."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from zoo.config import ConfigError, Size, config_dataclass

Positive = Annotated[float, Field(gt=0)]
LayerType = Literal["full_attention", "sliding_attention"]


@config_dataclass
class RotaryScaling:
    """Slower rotary positions, for texts longer than those of the first training.

    Attributes:
        kind: "linear" (all wavelengths times `factor`; Chen et al., 2023) or "llama3" (Llama 3.1).
        factor: how much longer the longest wavelengths become.
        original_length: tokens of the first training's texts; with the next two for "llama3" only.
        low_frequency_factor: wavelengths that fit less often into those texts become longer.
        high_frequency_factor: those that fit more often stay; the ones between are a mix.

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    kind: Literal["linear", "llama3"] = "linear"
    factor: Positive = 1.0
    original_length: Size = 8192
    low_frequency_factor: Positive = 1.0
    high_frequency_factor: Positive = 4.0

    def __post_init__(self) -> None:
        if self.kind == "llama3" and self.high_frequency_factor <= self.low_frequency_factor:
            raise ConfigError(
                "high_frequency_factor must be above low_frequency_factor. "
                f"Received: {self.high_frequency_factor}, {self.low_frequency_factor}"
            )


class Rotary(NamedTuple):
    """How rotary positions turn queries and keys."""

    base: float
    channels: int  # of each head, the first ones
    scaling: RotaryScaling | None = None


class AttentionOptions(NamedTuple):
    """What attention does in one layer, beside the number and width of its heads."""

    query_scale: float  # of queries before the scores
    rotary: Rotary | None  # None: no rotary positions in this layer
    window: int | None = None  # tokens see each other at distances below it
    soft_cap: float | None = None  # of scores


@config_dataclass
class RelativeAttention:
    """Scores of contents against relative positions (DeBERTa; He et al., 2020).

    Attributes:
        distance: the longest distance of two tokens that is told from others.
        buckets: kinds of distances in each direction: up to half of them one each, beyond by their
            logarithm; `None` means one for each distance.
        terms: "c2p" (a query's content and its distance from a key) and "p2c" (a key's).
        shared: positions have the dense layers of contents.
        norm: a norm of the distances' embeddings.

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    distance: Annotated[Size, Field(ge=2)] = 512
    buckets: Annotated[Size, Field(ge=4)] | None = None
    terms: Annotated[tuple[Literal["c2p", "p2c"], ...], Field(min_length=1)] = ("c2p", "p2c")
    shared: bool = True
    norm: bool = False

    def __post_init__(self) -> None:
        if len({*self.terms}) < len(self.terms):
            raise ConfigError(f"terms must each be there once. Received: {self.terms}")
        if self.buckets is not None and self.distance <= self.buckets // 2 + 1:
            raise ConfigError(
                "distance must be above half of buckets + 1. "
                f"Received: distance={self.distance}, buckets={self.buckets}"
            )

    @property
    def size(self) -> int:
        """Kinds of distances in each direction."""
        return self.distance if self.buckets is None else self.buckets
