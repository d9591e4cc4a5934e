"""What tensors a minGPT or nanoGPT checkpoint has: its config, their names and shapes, and ours."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import ClassVar, Literal

import keras
import numpy as np

from zoo.config import STRICT, ConfigError, from_dict
from zoo.files import BundleError
from zoo.models.build import build
from zoo.models.configs import GPTConfig
from zoo.weights.assign import Source, assign_weights
from zoo.weights.mingpt_json import TensorJson
from zoo.weights.safetensors_files import WeightFiles

Weights = WeightFiles | TensorJson
Activation = Literal["gelu", "gelu_tanh"]

# torch.compile wraps the model, and its name stands before all others.
_COMPILED = "_orig_mod."
# The causal mask, kept as a buffer beside the weights.
_BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_BLOCK = re.compile(r"transformer\.h\.(\d+)\.")
_TOKENS, _POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"
_HEAD = "lm_head.weight"
# Within a block, theirs and ours: norms, and dense layers.
_NORMS = {"ln_1": "attention_norm", "ln_2": "feedforward_norm"}
_DENSE = {
    "attn.c_attn": "attention/qkv",
    "attn.c_proj": "attention/output",
    "mlp.c_fc": "feedforward/expand",
    "mlp.c_proj": "feedforward/contract",
}
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What minGPT's and nanoGPT's own configs hold; None is read off the weights, but for n_head.

    Attributes:
        n_layer, n_head, n_embd, block_size, vocab_size: int.
        bias: bool, whether dense layers and norms have biases.
        dropout: float, nanoGPT's name; for training on. Defaults to 0.
        embd_pdrop, resid_pdrop, attn_pdrop: float, minGPT's names; all three must be the same.
        model_type: str, minGPT's name of the shape; not needed.

    Raises:
        ConfigError: rates of dropout that differ.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    block_size: int | None = None
    vocab_size: int | None = None
    bias: bool | None = None
    dropout: float = 0.0
    embd_pdrop: float | None = None
    resid_pdrop: float | None = None
    attn_pdrop: float | None = None
    model_type: str | None = None

    def __post_init__(self):
        if len({self.embd_pdrop, self.resid_pdrop, self.attn_pdrop} - {None}) > 1:
            raise ConfigError(
                "embd_pdrop, resid_pdrop and attn_pdrop differ, and a model has one dropout here. "
                "Give all three the same number: predictions do not depend on it"
            )

    def dropout_rate(self) -> float:
        """The one rate, by whichever name."""
        return self.dropout if self.resid_pdrop is None else self.resid_pdrop


def build_with_weights(
    weights: Weights, fields: CheckpointConfig, activation: Activation
) -> keras.Model:
    """The CausalLM of a checkpoint.

    Args:
        weights: where the tensors are.
        fields: what is known of the model beside its weights.
        activation: which GELU.

    Raises:
        BundleError: tensors that are missing, unknown or of the wrong shape, or that contradict
            `fields`; the message names file and tensor.
    """
    names = {name.removeprefix(_COMPILED): name for name in weights.names()}
    names = {name: key for name, key in names.items() if not _BUFFER.fullmatch(name)}
    for name in (_TOKENS, _POSITIONS):
        if name not in names or len(weights.shape(names[name])) != 2:
            raise BundleError(
                f"{weights.path}: no matrix {name!r}, so this is no minGPT or nanoGPT model"
            )
    config = _model_config(weights, names, fields, activation)
    expected = _expected_shapes(config, has_head=_HEAD in names)
    problems = [f"{name} is missing" for name in expected if name not in names]
    problems += [f"{name} is unknown" for name in names if name not in expected]
    if not problems:
        for name, shape in expected.items():
            found = weights.shape(names[name])
            if found != shape:
                problems.append(f"{name} has shape {list(found)} in place of {list(shape)}")
                if found == shape[::-1]:
                    problems.append("Hugging Face's GPT-2 is turned like that: load it as hf://")
    if problems:
        more = len(problems) - _SHOWN
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise BundleError(f"{weights.path}: {shown}")
    model = build(config)
    assign_weights(model, _sources(weights, names, config), where=str(weights.path))
    return model


def _model_config(weights, names, fields: CheckpointConfig, activation: Activation) -> GPTConfig:
    vocab_size, n_embd = weights.shape(names[_TOKENS])
    found = {
        "n_layer": len({match[1] for match in map(_BLOCK.match, names) if match}),
        "n_embd": n_embd,
        "block_size": weights.shape(names[_POSITIONS])[0],
        "vocab_size": vocab_size,
        "bias": "transformer.h.0.attn.c_attn.bias" in names,
    }
    for key, value in found.items():
        stated = getattr(fields, key)
        if stated not in (None, value):
            raise BundleError(
                f"{weights.path}: {key} is {value} by the weights, but the config says {stated}"
            )
    if fields.n_head is None:
        raise BundleError(
            f"{weights.path}: the number of attention heads cannot be read off the weights: pass "
            "n_head=..., or a config that has it"
        )
    values = {
        "vocabulary_size": vocab_size,
        "context_length": found["block_size"],
        "num_layers": found["n_layer"],
        "num_heads": fields.n_head,
        "hidden_dim": n_embd,
        "positions": "learned",
        "norm": "layer_norm",
        "norm_epsilon": 1e-5,
        "qk_norm": False,
        "activation": activation,
        "use_bias": found["bias"],
        "tie_embeddings": _is_tied(weights, names),
        "dropout": fields.dropout_rate(),
    }
    try:
        return from_dict(GPTConfig, values)
    except ConfigError as error:
        raise BundleError(f"{weights.path}: {error}") from None


def _is_tied(weights, names) -> bool:
    # A file of tied weights has the head as a copy, or not at all.
    if _HEAD not in names:
        return True
    if weights.shape(names[_HEAD]) != weights.shape(names[_TOKENS]):
        return False
    return np.array_equal(weights.read(names[_HEAD]), weights.read(names[_TOKENS]))


def _expected_shapes(config: GPTConfig, has_head: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors that a checkpoint of this config has."""
    width, inner = config.hidden_dim, config.feedforward_dim
    dense = {
        "attn.c_attn": (3 * width, width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (inner, width),
        "mlp.c_proj": (width, inner),
    }
    shapes = {
        _TOKENS: (config.vocabulary_size, width),
        _POSITIONS: (config.context_length, width),
    }
    for block in range(config.num_layers):
        start = f"transformer.h.{block}"
        shapes |= {f"{start}.{name}.weight": (width,) for name in _NORMS}
        shapes |= {f"{start}.{name}.weight": shape for name, shape in dense.items()}
    shapes["transformer.ln_f.weight"] = (width,)
    if config.use_bias:
        # Everything has one but the embeddings and the head.
        shapes |= {
            name.removesuffix("weight") + "bias": shape[:1]
            for name, shape in shapes.items()
            if name not in (_TOKENS, _POSITIONS)
        }
    if has_head:
        shapes[_HEAD] = (config.vocabulary_size, width)
    return shapes


def _sources(weights, names, config: GPTConfig) -> dict[str, Source]:
    """Our name of each variable -> what reads it."""

    def read(name):
        return weights.read(names[name])

    def read_turned(name):
        return read(name).T  # torch's linear layers keep (out, in)

    sources = {
        "token_embedding/embeddings": functools.partial(read, _TOKENS),
        "position_embedding/embeddings": functools.partial(read, _POSITIONS),
    }
    if not config.tie_embeddings:
        sources["token_embedding/reverse_embeddings"] = functools.partial(read_turned, _HEAD)
    norms, dense = {"final_norm": "transformer.ln_f"}, {}
    for block in range(config.num_layers):
        start = f"transformer.h.{block}"
        norms |= {f"block_{block}/{ours}": f"{start}.{name}" for name, ours in _NORMS.items()}
        dense |= {f"block_{block}/{ours}": f"{start}.{name}" for name, ours in _DENSE.items()}
    for layers, weight, bias, reader in (
        (norms, "gamma", "beta", read),
        (dense, "kernel", "bias", read_turned),
    ):
        for ours, name in layers.items():
            sources[f"{ours}/{weight}"] = functools.partial(reader, f"{name}.weight")
            if config.use_bias:
                sources[f"{ours}/{bias}"] = functools.partial(read, f"{name}.bias")
    return sources
