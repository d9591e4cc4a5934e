"""What a row of `zoo.weights.families` says of an architecture as another program keeps it."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from zoo.config import ConfigError, Fields, to_dict
from zoo.files import BundleError
from zoo.models.blocks import GATED_ACTIVATIONS
from zoo.models.configs import EncoderDecoderConfig, ModelConfig

# "linear" is PyTorch's dense layer, which stores outputs before inputs; "split_heads" has heads
# and their channels as two axes at the end, "merged_heads" has them at the start.
# "columns" is Keras', inputs before outputs; "row" is a bias with an axis of one in front.
Layout = Literal["same", "linear", "split_heads", "merged_heads", "columns", "row"]

# Names of activations elsewhere -> ours. Of several with one meaning the first is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu2": "squared_relu",
}
# The same where the activation is of one half, multiplied by the other.
GATED = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu_tanh"}
# Suffixes of a layer's weights, by our names for them.
TORCH = dict.fromkeys(("embeddings", "kernel", "gamma", "scale"), ".weight")
TORCH |= dict.fromkeys(("bias", "beta"), ".bias")
KERAS = {name: f"/{name}" for name in TORCH}
# Several tasks, one network.
SAME_HEAD = {"pair": "classify", "regress": "classify"}
SAME_HEAD |= {"translate": "seq2seq", "summarize": "seq2seq"}


@dataclass(frozen=True)
class Tensors:
    """Where the numbers of one variable are: several tensors lie one after the other in it."""

    names: tuple[str, ...]
    layout: Layout = "same"
    skipped: int = 0  # rows at the start that no token uses
    sizes: tuple[int, ...] = ()  # rows of each tensor of "linear", () means that all have as many
    heads: int = 0  # where rows lie head by head, query, key and value of each: how many heads
    offset: float = 0.0  # is added to the tensor

    def to_variable(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The variable's value, from the tensors' in the order of `names`."""
        if self.sizes and [array.shape[:1] for array in arrays] != [(n,) for n in self.sizes]:
            shapes = ", ".join(f"{name} is {a.shape}" for name, a in zip(self.names, arrays))
            raise BundleError(f"{shapes} there, and the rows are {self.sizes} here")
        if self.heads:
            arrays = [_transpose_rows(array, self.heads, 3) for array in arrays]
        if self.layout == "linear":
            return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).T
        if self.layout == "split_heads":  # (D, N, H) of a kernel, (N, H) of a bias
            return np.concatenate([a.reshape(*a.shape[:-2], -1) for a in arrays], axis=-1)
        if self.layout == "merged_heads":  # (N, H, D)
            return arrays[0].reshape(-1, arrays[0].shape[-1])
        if self.layout == "columns":
            return np.concatenate(arrays, axis=-1)
        if self.layout == "row":
            return arrays[0].reshape(-1)
        value = arrays[0][self.skipped :]
        return value + np.float32(self.offset) if self.offset else value

    def to_tensors(self, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """(name, array) of each tensor, from the variable's value; unused rows become zeros."""
        if self.layout == "linear":
            edges = np.cumsum(self.sizes)[:-1] if self.sizes else len(self.names)
            arrays = np.split(value.T, edges)
            if self.heads:
                arrays = [_transpose_rows(array, 3, self.heads) for array in arrays]
            return list(zip(self.names, arrays))
        if self.layout == "row":
            return [(self.names[0], value[None])]
        value = value - np.float32(self.offset) if self.offset else value
        unused = np.zeros((self.skipped, *value.shape[1:]), value.dtype)
        return [(self.names[0], np.concatenate([unused, value]) if self.skipped else value)]


def _transpose_rows(array: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """Rows (outer * inner * H, ...) in the order of (inner * outer * H, ...)."""
    parts = array.reshape(outer, inner, -1, *array.shape[1:])
    return np.swapaxes(parts, 0, 1).reshape(array.shape)


@dataclass(frozen=True)
class Option:
    """A field of another program's config, of its default's type; None is a whole number's."""

    name: str
    default: Any = None  # what it means where it is missing
    copies: tuple[str, ...] = ()  # fields that are written with the same value
    names: dict[str, str] = field(default_factory=lambda: ACTIVATIONS)  # of activations
    nullable: bool = False  # a number, and null means none and not the default
    least: int = 1  # of a whole number

    def read(self, fields: Fields) -> Any:
        """Its value, as ours; a BundleError names the field."""
        if isinstance(self.default, str):
            why = "no other activation is known"
            names = tuple(dict.fromkeys((self.default, *self.names)))
            return self.names[fields.require(self.name, names, why)]
        if self.nullable:
            given = self.name in fields.values
            return fields.number(self.name, None if given else self.default)
        if isinstance(self.default, bool):
            return fields.flag(self.name, self.default)
        if isinstance(self.default, float):
            return fields.number(self.name, self.default)
        return fields.whole(self.name, self.default, self.least)

    def write(self, value: Any) -> dict[str, Any]:
        """Their fields with our value; an activation that they do not know is null."""
        if isinstance(self.default, str):
            value = next((theirs for theirs, ours in self.names.items() if ours == value), None)
        return dict.fromkeys((self.name, *self.copies), value)


class Group(Protocol):
    """Fields that mean something only together; see `zoo.weights.decoder_fields`."""

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""

    def write(self, config: Any) -> dict[str, Any]:
        """Their fields."""


# What a field of ours means in a config.
_RESOLVED: dict[str, Callable[[Any], Any]] = {
    "intermediate_dim": lambda config: config.feedforward_dim,
    "num_kv_heads": lambda config: config.key_value_heads,
    "key_dim": lambda config: config.head_dim,
    "query_scalar": lambda config: config.query_scalar or config.head_dim,
    "layer_types": lambda config: [*map(config.layer_type, range(config.num_layers))],
    "rotary_layers": lambda config: [*map(config.has_rotary_positions, range(config.num_layers))],
    "decoder_layers": lambda config: config.layers_of_decoder,
}


def resolved(config: ModelConfig, name: str) -> Any:
    """The value of a field, whatever stands for it."""
    return _RESOLVED.get(name, lambda config: getattr(config, name))(config)


def _relative(config: Any, term: str = "") -> bool:
    """Whether an encoder has relative positions, with layers of their own for a `term`."""
    relative = getattr(config, "relative_attention", None)
    if relative is None or not term:
        return relative is not None
    return not relative.shared and term in relative.terms


# Layers that only some models of a family have.
_SOMETIMES: dict[str, Callable[[Any], bool]] = {
    "segment_embedding": lambda config: config.num_segments > 0,
    "position_embedding": lambda config: config.positions == "learned",
    "embedding_projection": lambda config: config.embedding_dim is not None,
    "pooler": lambda config: config.use_pooler,
    "distance_embedding/bucket_embedding": _relative,
    "distance_embedding/norm": lambda config: _relative(config) and config.relative_attention.norm,
    "attention/distance_key": lambda config: _relative(config, "c2p"),
    "attention/distance_query": lambda config: _relative(config, "p2c"),
}


def _those_of(layers: dict[str, str], config: ModelConfig) -> dict[str, str]:
    """Of a table's layers those that a model of this config has."""
    return {
        ours: theirs
        for ours, theirs in layers.items()
        if ours not in _SOMETIMES or _SOMETIMES[ours](config)
    }


@dataclass(frozen=True)
class Family:
    """An architecture as another program keeps it; "there" is that program's files."""

    config: type[ModelConfig]
    options: dict[str, Option]  # our field -> theirs
    fixed: dict[str, Any]  # our fields in which the architecture has no choice
    layers: dict[str, str]  # our layer -> theirs, outside of blocks
    block: str  # what stands before a layer's name in block "{}"
    # Within a block. Several names, with blanks between, lie one after the other here. With a
    # gated activation "feedforward/gated_expand" takes the place of "feedforward/expand".
    block_layers: dict[str, str]
    # Of an encoder-decoder the two above are the encoder's, and these the decoder's.
    decoder_block: str = ""
    decoder_block_layers: dict[str, str] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()  # what more is read and written of a config
    norm_offset: float = 0.0  # norms multiply by this and what the file has
    qkv_by_head: bool = False  # query, key and value of one head lie together
    dense: Layout = "linear"  # how kernels lie there; "split_heads" only those of attention
    weights: dict[str, str] = field(default_factory=lambda: TORCH)
    untied_head: str = "lm_head.weight"  # an output projection that is not the token embedding
    finds_untied_head: bool = False  # the file's tensors say whether there is one, not the config
    logit_bias: str = ""  # a number for each token, zero where the file has none
    prefix: str = ""  # of the backbone's tensors, where the file is of a model with a head
    buffers: str = ""  # pattern of tensors that hold no weights: positions 0, 1, 2..., causal masks
    optional: tuple[str, ...] = ()  # prefixes of weights that not every task has a use for
    heads: dict[str, dict[str, str]] = field(default_factory=dict)  # by task
    # Tensors that some files hold twice: name of the copy -> name of what is read.
    twins: dict[str, str] = field(default_factory=dict)
    # Class there -> our task; of two with one task the first is written.
    classes: dict[str, str] = field(default_factory=dict)
    bare: str = ""  # the class without a head
    default_task: str = ""  # of a class with several
    required: tuple[tuple[str, tuple[Any, ...], str], ...] = ()  # field, allowed values, why
    written: dict[str, Any] = field(default_factory=dict)  # fields beside the options
    # Task -> field of the head's dropout, and its default. Where one is None it is the
    # backbone's dropout, and a task that is missing has none.
    head_dropout: dict[str, tuple[str | None, float | None]] = field(default_factory=dict)
    pooler_activation: str = "tanh"  # of a classifier's dense layer
    bare_pooler: str = "pooler.dense"  # the pooler of the class without a head, "" if it has none
    pooling_field: str = ""  # names what a classifier reads, the first token where there is none
    mlm_activation: str | None = None  # of a masked LM's head, None: as its layers
    offset_positions: bool = False  # they count from the pad id on
    first_position: int = 0  # if they do not: rows before the first one, which are not counted
    tokenizer: tuple[str, str] = ("", "")  # its kind here, and its class there
    special_tokens: dict[str, str] = field(default_factory=dict)  # by field there
    pair_separators: int = 1  # between two texts, where no file says so

    def read_options(self, fields: Fields) -> dict[str, Any]:
        """Fields of our config, from a file's."""
        values = {ours: option.read(fields) for ours, option in self.options.items()}
        if self.offset_positions:
            values["context_length"] -= self.skipped_positions(fields)
        for group in self.groups:
            values |= group.read(fields, values["num_layers"])
        return values | self.fixed

    def write_options(self, config: ModelConfig, skipped: int = 0) -> dict[str, Any]:
        """Their fields, from our config; `skipped` rows of positions."""
        values: dict[str, Any] = {}
        for ours, option in self.options.items():
            value = resolved(config, ours)
            counts_skipped = self.offset_positions and ours == "context_length"
            values |= option.write(value + skipped if counts_skipped else value)
        for group in self.groups:
            values |= group.write(config)
        return values | self.written

    def not_expressed(self, config: ModelConfig) -> Iterator[str]:
        """What of our config does not come back from their fields."""
        skipped = self.skipped_positions(Fields({}, "config.json"))
        written = Fields(self.write_options(config, skipped), "config.json")
        own = {"use_pooler", "pooler_activation"}  # a head's
        # How weights began changes no number of a trained model, and no bias is one of zeros.
        own |= {"initializer_range"} - {*self.options}
        own |= set() if getattr(config, "logit_bias", True) else {"logit_bias"}
        try:
            for name, allowed, why in self.required:
                written.require(name, allowed, why)
            again = self.config(**self.read_options(written))
        except (ConfigError, BundleError) as error:
            yield str(error)
            return
        for name in to_dict(config):
            value, expressed = resolved(config, name), resolved(again, name)
            if value != expressed and name not in own:
                yield f"model.{name} is {value!r:.80}, not {expressed!r:.80}"

    def skipped_positions(self, fields: Fields) -> int:
        """Rows of the position embedding that no token uses."""
        if not self.offset_positions:
            return self.first_position
        return fields.whole("pad_token_id", 1, least=0) + 1

    def backbone_tensors(self, config: ModelConfig, skipped: int = 0) -> dict[str, Tensors]:
        """Variable in our backbone -> tensors without `prefix`; `skipped` rows of positions."""
        tables = self._tensors(_those_of(self.layers, config) | self._block_layers(config), config)
        if getattr(config, "logit_bias", False):
            tables["logit_bias"] = Tensors((self.logit_bias,), "row")
        for name in tables if skipped else ():
            if name.endswith("position_embedding/embeddings"):
                tables[name] = replace(tables[name], skipped=skipped)
        if not getattr(config, "tie_embeddings", True):
            layout: Layout = "linear" if self.weights is TORCH else "same"
            head = Tensors((self.untied_head,), layout)
            tables["token_embedding/reverse_embeddings"] = head
        return tables

    def _block_layers(self, config: ModelConfig) -> dict[str, str]:
        """Our layer -> theirs, in all blocks."""
        count = 1 if getattr(config, "shared_layers", False) else config.num_layers
        stacks = [("", count, self.block, self.block_layers)]
        if isinstance(config, EncoderDecoderConfig):
            stacks = [("encoder/", *stacks[0][1:])]
            count = config.layers_of_decoder
            stacks.append(("decoder/", count, self.decoder_block, self.decoder_block_layers))
        found = {}
        for stack, count, block, block_layers in stacks:
            layers = _those_of(block_layers, config)
            gated = layers.pop("feedforward/gated_expand", None)
            if gated is not None and config.activation in GATED_ACTIVATIONS:
                layers["feedforward/expand"] = gated
            for index in range(count):
                start = block.format(index)
                for ours, theirs in layers.items():
                    if ours == "attention_norm" and not config.has_attention_norm(index):
                        continue
                    theirs = start + theirs.replace(" ", " " + start)
                    found[f"{stack}block_{index}/{ours}"] = theirs
        return found

    def head_tensors(
        self, config: ModelConfig, task: str, kept: bool, pooler: bool
    ) -> dict[str, Tensors]:
        """Variable name -> tensors of a task's head if it is `kept`, and of the bare `pooler`."""
        layers = self.heads.get(SAME_HEAD.get(task, task), {})
        tables = {}
        for ours, theirs in layers.items() if kept else ():
            # Heads have all biases, but for what goes by the config of the layers below.
            is_styled = ours.startswith("transform") and getattr(config, "head_transform", False)
            tables |= self._tensors({ours: theirs}, config if is_styled else None)
        # A classifier of RoBERTa or DistilBERT has a dense layer of its own in the pooler's place.
        if pooler and layers.get("pooler", self.bare_pooler) == self.bare_pooler:
            tables |= self._tensors({"pooler": self.bare_pooler})
        return tables

    def stored_names(self, names: Iterable[str], where: Path) -> dict[str, str]:
        """Tensor names as in this table -> as in the file `where`, without buffers."""
        found: dict[str, str] = {}
        for name in names:
            # torch.compile wraps a model, and its name stands before all others.
            today = name.removeprefix("_orig_mod.").removeprefix(self.prefix)
            # Files from before 2019 call a norm's weights as TensorFlow does.
            norm = re.fullmatch(r"(.*(?:LayerNorm|layer_norm))\.(gamma|beta)", today)
            today = norm[1] + TORCH[norm[2]] if norm else today
            if self.buffers and re.fullmatch(self.buffers, today):
                continue
            if today in found:
                raise BundleError(f"{where}: {found[today]!r} and {name!r} are the same weight")
            found[today] = name
        for copy, original in self.twins.items():
            if copy in found and original not in found:
                found[original] = found.pop(copy)
        return found

    def _tensors(
        self, layers: dict[str, str], config: ModelConfig | None = None
    ) -> dict[str, Tensors]:
        """Variable -> tensors of these layers; of a head, which has all biases, no `config`."""
        tables = {}
        for ours, theirs in layers.items():
            if ours == "output_bias":  # the head's own
                tables[ours] = Tensors((theirs + self.weights["bias"],))
                continue
            for weight in _weight_names(ours.rpartition("/")[2], config):
                names = tuple(name + self.weights[weight] for name in theirs.split())
                table = Tensors(names, self._layout(ours, weight))
                is_qkv = ours.endswith("attention/qkv")
                if is_qkv and self.qkv_by_head:
                    table = replace(table, heads=config.num_heads)
                elif is_qkv and table.layout == "linear" and len(names) == 3:
                    heads = (config.num_heads, config.key_value_heads, config.key_value_heads)
                    table = replace(table, sizes=tuple(config.head_dim * n for n in heads))
                elif weight == "scale":
                    table = replace(table, offset=self.norm_offset)
                tables[f"{ours}/{weight}"] = table
        return tables

    def _layout(self, layer: str, weight: str) -> Layout:
        if self.dense != "split_heads":
            return self.dense if weight in ("kernel", "bias") else "same"
        if layer.endswith("attention/qkv"):
            return "split_heads"
        is_mixing = layer.endswith("attention/output") and weight == "kernel"
        return "merged_heads" if is_mixing else "same"


def _weight_names(layer: str, config: ModelConfig | None) -> tuple[str, ...]:
    """Our names for the weights of a layer, by its own name."""
    if layer.endswith("_embedding"):
        return ("embeddings",)
    if not layer.endswith("norm"):
        return ("kernel", "bias") if config is None or config.has_bias(layer) else ("kernel",)
    if layer in ("query_norm", "key_norm") or (config is not None and config.norm == "rms_norm"):
        return ("scale",)
    return ("gamma", "beta") if config is None or config.use_bias is True else ("gamma",)
