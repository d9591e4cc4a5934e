"""Fields of encoders' `config.json` that mean something only together, read and written."""

from dataclasses import dataclass
from typing import Any

from zoo.config import Fields
from zoo.models.configs import BertConfig
from zoo.weights.decoder_fields import Rotary, Windows, sliding_behind

_ROTARY = Rotary(
    base="global_rope_theta",
    default_base=160000.0,
    local_base="local_rope_theta",
    kinds=("default",),
)
_INTERVAL = "global_attn_every_n_layers"
_WINDOWS = Windows(unlisted=sliding_behind(_INTERVAL, 3))


@dataclass(frozen=True)
class LocalAndGlobal:
    """ModernBERT's layers, with a window and without, whose rotary positions have two bases.

    `local_attention` counts the tokens on both sides of one; which layers have no window say
    `global_attn_every_n_layers` (transformers 4) and `layer_types` (5).
    """

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        rotary = _ROTARY.read(fields, num_layers)
        values = {name: rotary[name] for name in ("rotary_base", "local_rotary_base")}
        window = fields.whole("local_attention", 128) // 2 + 1
        types = _WINDOWS.layer_types(fields, num_layers)
        if "sliding_attention" not in types:
            return {**values, "local_rotary_base": None, "sliding_window": None, "layer_types": ()}
        return values | {"sliding_window": window, "layer_types": types}

    def write(self, config: BertConfig) -> dict[str, Any]:
        """Their fields, as both versions of transformers read them."""
        window = 65 if config.sliding_window is None else config.sliding_window
        types = [*map(config.layer_type, range(config.num_layers))]
        values = {"local_attention": 2 * (window - 1), "layer_types": types}
        for interval in range(1, config.num_layers + 1):
            one = _WINDOWS.layer_types(Fields({_INTERVAL: interval}, ""), config.num_layers)
            if types == [one[layer % interval] for layer in range(config.num_layers)]:
                values[_INTERVAL] = interval
                break
        base, local = config.rotary_base, config.local_rotary_base
        values["global_rope_theta"] = base
        return values | ({} if local is None else {"local_rope_theta": local})


@dataclass(frozen=True)
class EmbeddingWidth:
    """The width of the embeddings, which a dense layer widens if hidden states have another one."""

    default: int
    default_hidden: int  # of "hidden_size"

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        width = fields.whole("embedding_size", self.default)
        hidden = fields.whole("hidden_size", self.default_hidden)
        return {"embedding_dim": None if width == hidden else width}

    def write(self, config: BertConfig) -> dict[str, Any]:
        """Their fields."""
        return {"embedding_size": config.token_dim}
