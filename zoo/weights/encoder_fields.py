"""Fields of encoders' `config.json` that mean something only together, read and written."""

from dataclasses import dataclass
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError
from zoo.models.attention_options import RelativeAttention
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


@dataclass(frozen=True)
class Disentangled:
    """DeBERTa's relative positions, and whether absolute ones are added to the embeddings."""

    terms: tuple[str, ...] = ("c2p", "p2c")
    default_hidden: int = 1536  # of "hidden_size"

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        if not fields.flag("relative_attention", False):
            raise BundleError(
                f"{fields.where}: relative_attention must be true: without it this is a BERT"
            )
        for name in ("embedding_size", "pooler_hidden_size"):
            hidden = fields.whole("hidden_size", self.default_hidden)
            fields.require(name, (hidden,), "it is as wide as hidden states")
        norms = ("none", "layer_norm")
        norm = fields.require("norm_rel_ebd", norms, "no other norm is known")
        distance = fields.whole("max_relative_positions", -1, least=-1)
        buckets = fields.whole("position_buckets", -1, least=-1)
        context = fields.whole("max_position_embeddings", 512)
        relative = RelativeAttention(
            distance=context if distance < 1 else distance,
            buckets=None if buckets < 1 else buckets,
            terms=self._terms(fields),
            shared=fields.flag("share_att_key", False),
            norm=norm == "layer_norm",
        )
        added = fields.flag("position_biased_input", True)
        return {"relative_attention": relative, "positions": "learned" if added else "none"}

    def _terms(self, fields: Fields) -> tuple[Any, ...]:
        given: Any = fields.values.get("pos_att_type")
        names = given.lower().split("|") if isinstance(given, str) else given
        names = [str(name).strip() for name in names] if isinstance(names, list) else []
        if not names or not {*names} <= {*self.terms}:
            raise BundleError(
                f"{fields.where}: pos_att_type is {given!r:.80}; supported are one or both of "
                f"{', '.join(self.terms)}"
            )
        return tuple(term for term in self.terms if term in names)

    def write(self, config: BertConfig) -> dict[str, Any]:
        """Their fields, as both versions of transformers read them."""
        relative = config.relative_attention
        if relative is None:
            return {"relative_attention": False}
        return {
            "relative_attention": True,
            "max_relative_positions": relative.distance,
            "position_buckets": -1 if relative.buckets is None else relative.buckets,
            "pos_att_type": [*relative.terms],
            "share_att_key": relative.shared,
            "norm_rel_ebd": "layer_norm" if relative.norm else "none",
            "position_biased_input": config.positions == "learned",
        }


@dataclass(frozen=True)
class KerasHubDistances:
    """The relative positions of KerasHub's DeBERTa 3."""

    names: tuple[str, ...] = ("bucket_size",)

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        length, buckets = fields.whole("max_sequence_length", 512), fields.whole("bucket_size", 256)
        return {"relative_attention": RelativeAttention(length, buckets, norm=True)}

    def write(self, config: BertConfig) -> dict[str, Any]:
        """Their fields."""
        relative = config.relative_attention
        return {"bucket_size": None if relative is None else relative.buckets}
