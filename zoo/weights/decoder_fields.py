"""Fields of decoders' `config.json` that mean something only together, read and written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError
from zoo.models.configs import GPTConfig, RotaryScaling

# In a config that lists no layers, only so many can be of two kinds: the file's size is not known.
_MAX_LAYERS = 10_000
_SCALING = {  # our field -> theirs, of `RotaryScaling`
    "factor": "factor",
    "original_length": "original_max_position_embeddings",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
}


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: "rope_theta" and "rope_scaling" (transformers 4), or "rope_parameters"."""

    base: str = "rope_theta"
    default_base: float = 10000.0
    fraction: str = "partial_rotary_factor"
    default_fraction: float = 1.0
    is_partial: bool = False  # whether it can turn a part of a head's channels
    local_base: str = ""  # of layers with a window, where they have their own
    kinds: tuple[str, ...] = ("default", "linear", "llama3")

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        values: dict[str, Any] = {}
        # As in transformers 5: what is said in the older way counts.
        name = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
        part = fields.part(name) if fields.values.get(name) else Fields({}, fields.where)
        if self.local_base:
            local = Fields({}, fields.where)
            if name == "rope_parameters" and part.values:
                part.only(["full_attention", "sliding_attention"])
                local, part = part.part("sliding_attention"), part.part("full_attention")
                local.only(["rope_type", "rope_theta"], "layers with a window have plain positions")
                local.require("rope_type", ("default",), "layers with a window are not scaled")
            base = fields.number(self.local_base, 10000.0)
            values["local_rotary_base"] = local.number("rope_theta", base)
        part.only(["rope_type", "type", "rope_theta", "partial_rotary_factor", *_SCALING.values()])
        base = fields.number(self.base, self.default_base)
        values["rotary_base"] = part.number("rope_theta", base)
        fraction = fields.number(self.fraction, self.default_fraction)
        values["rotary_fraction"] = part.number("partial_rotary_factor", fraction)
        if not self.is_partial and values["rotary_fraction"] != 1:
            raise BundleError(
                f"{fields.where}: partial_rotary_factor is {values['rotary_fraction']}, and this "
                "architecture turns all channels of a head"
            )
        values["rotary_scaling"] = self._scaling(fields, part)
        return values

    def _scaling(self, fields: Fields, part: Fields) -> RotaryScaling | None:
        key = "type" if part.values.get("rope_type") is None else "rope_type"
        kind = part.require(key, self.kinds, "no other rotary positions are known here")
        if kind == "default":
            return None
        context = fields.whole("max_position_embeddings")
        original = _SCALING["original_length"]
        found: dict[str, Any] = {"factor": part.number("factor")}
        if kind == "llama3":
            length = part.whole(original, context)
            found["original_length"] = fields.whole(original, length)
            found |= {name: part.number(_SCALING[name]) for name in [*_SCALING][2:]}
        missing = [_SCALING[name] for name, value in found.items() if value is None]
        if missing:
            raise BundleError(f"{part.where}: {', '.join(missing)} missing, for type {kind!r}")
        return RotaryScaling(kind, **found)

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """Their fields, as both versions of transformers read them."""
        values: dict[str, Any] = {self.base: config.rotary_base}
        if self.is_partial:
            values[self.fraction] = config.rotary_fraction
        if self.local_base and config.local_rotary_base is not None:
            values[self.local_base] = config.local_rotary_base
        if (scaling := config.rotary_scaling) is not None:
            names = [*_SCALING] if scaling.kind == "llama3" else ["factor"]
            values["rope_scaling"] = {
                "rope_type": scaling.kind,
                **{_SCALING[name]: getattr(scaling, name) for name in names},
            }
        return values


def all_sliding(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """All layers have a window, if there is one."""
    return ("sliding_attention",)


def sliding_from(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """The layers from `max_window_layers` on."""
    full = fields.whole("max_window_layers", 28, least=0)
    if full >= num_layers:
        return ("full_attention",)
    if num_layers > _MAX_LAYERS:
        raise BundleError(f"{fields.where}: more than {_MAX_LAYERS} layers, with a window in some")
    return ("full_attention",) * full + ("sliding_attention",) * (num_layers - full)


def sliding_but_every(default: int) -> Callable[[Fields, int], tuple[str, ...]]:
    """All layers but every so many, by `sliding_window_pattern`."""

    def layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
        interval = fields.whole("sliding_window_pattern", default, most=_MAX_LAYERS)
        return ("sliding_attention",) * (interval - 1) + ("full_attention",)

    return layer_types


def sliding_behind(name: str, default: int) -> Callable[[Fields, int], tuple[str, ...]]:
    """All layers but the first of every so many, by the field `name`."""

    def layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
        interval = fields.whole(name, default, most=_MAX_LAYERS)
        return ("full_attention",) + ("sliding_attention",) * (interval - 1)

    return layer_types


def sliding_without_positions(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """The layers without rotary positions (SmolLM3)."""
    turns = RotaryLayers().read(fields, num_layers)["rotary_layers"]
    return tuple("full_attention" if turn else "sliding_attention" for turn in turns)


@dataclass(frozen=True)
class Windows:
    """Which layers attend over a window, and how wide it is."""

    default: int | None = None  # where "sliding_window" is missing
    has_switch: bool = False  # "use_sliding_window", off by default
    is_listed: bool = True  # "layer_types"; else all layers are of one kind
    unlisted: Callable[[Fields, int], tuple[str, ...]] = all_sliding

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        # Null means none here, and not the default.
        given = "sliding_window" in fields.values
        window = fields.whole("sliding_window", None if given else self.default)
        if self.has_switch and not fields.flag("use_sliding_window", False):
            window = None
        types = self.layer_types(fields, num_layers)
        if window is None or "sliding_attention" not in types:
            return {"sliding_window": None, "layer_types": ()}
        return {"sliding_window": window, "layer_types": types}

    def layer_types(self, fields: Fields, num_layers: int) -> tuple[str, ...]:
        """The kinds of the layers; where they are fewer than `num_layers` they begin anew."""
        types = fields.values.get("layer_types") if self.is_listed else None
        if types is None:
            return self.unlisted(fields, num_layers)
        known = ("full_attention", "sliding_attention")
        if not _is_list(types, num_layers, known):
            raise BundleError(
                f"{fields.where}: layer_types must be one of {', '.join(known)} for each of the "
                f"{num_layers} layers. Received: {types!r:.80}"
            )
        return tuple(types)

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """Their fields."""
        values: dict[str, Any] = {"sliding_window": config.sliding_window}
        if self.has_switch:
            values["use_sliding_window"] = config.sliding_window is not None
        if self.is_listed:
            values["layer_types"] = [*map(config.layer_type, range(config.num_layers))]
        return values


@dataclass(frozen=True)
class RotaryLayers:
    """Which layers have rotary positions: "no_rope_layers" has 1 for those that do (SmolLM3)."""

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        turns = fields.values.get("no_rope_layers")
        if turns is None:
            interval = fields.whole("no_rope_layer_interval", 4, most=_MAX_LAYERS)
            return {"rotary_layers": (True,) * (interval - 1) + (False,)}
        if not _is_list(turns, num_layers, (0, 1)):
            raise BundleError(
                f"{fields.where}: no_rope_layers must be 0 or 1 for each of the {num_layers} "
                f"layers. Received: {turns!r:.80}"
            )
        return {"rotary_layers": tuple(map(bool, turns))}

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """Their fields."""
        layers = range(config.num_layers)
        return {"no_rope_layers": [int(config.has_rotary_positions(layer)) for layer in layers]}


@dataclass(frozen=True)
class Biases:
    """Which dense layers have a bias: "attention_bias", and perhaps "mlp_bias"."""

    has_feedforward: bool = False

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        attention = fields.flag("attention_bias", False)
        feedforward = fields.flag("mlp_bias", False) if self.has_feedforward else False
        if attention and feedforward:
            return {"use_bias": True}
        return {"use_bias": "attention" if attention else "feedforward" if feedforward else False}

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """Their fields."""
        values = {"attention_bias": config.has_bias("output")}
        return values | ({"mlp_bias": config.has_bias("expand")} if self.has_feedforward else {})


def _is_list(values: Any, length: int, known: tuple[Any, ...]) -> bool:
    """Whether `values` is a list of so many `known` ones."""
    return isinstance(values, list) and len(values) == length and all(v in known for v in values)
