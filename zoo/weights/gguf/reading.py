"""A GGUF file becomes a bundle: its metadata as transformers' `config.json` would have them, its
tensors under transformers' names, and the row of `zoo.weights.decoders` does the rest.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from zoo.bundle import Bundle
from zoo.config import Fields
from zoo.files import BundleError, blaming
from zoo.models.build import count_backbone_weights
from zoo.models.configs import ModelConfig
from zoo.weights.assign import check_size
from zoo.weights.decoders import DECODERS
from zoo.weights.family import Family
from zoo.weights.gguf.files import GGUFFile
from zoo.weights.gguf.tokenizers import read_gguf_chat_form, read_gguf_tokenizer
from zoo.weights.huggingface.reading import bundle_of, check_vocabulary, describe

# `general.architecture` -> transformers' `model_type`.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
# llama.cpp turns neighbouring channels in these, transformers those half a head apart: it has
# written the rows of queries and keys in another order.
_TURNS_NEIGHBOURS = ("llama", "smollm3")
_SIZES = {  # key without the architecture -> field
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_NUMBERS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_READ = (
    *(*_SIZES, *_NUMBERS, "vocab_size", "attention.head_count_kv"),
    *("attention.key_length", "attention.value_length", "rope.dimension_count"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned"),
    *("rope.scaling.original_context_length", "expert_count", "expert_used_count"),
    "tensor_data_layout",
)
_READ_BY = {
    "gemma2": ("attention.sliding_window", *_CAPS),
    "gemma3": (
        *("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"),
        *_CAPS,
    ),
    "phi3": ("attention.sliding_window",),
}
# The layers of Gemma's largest models, whose queries are scaled in another way.
_LARGEST = {"gemma2": 46, "gemma3": 62}
# How much slower each frequency of Llama 3.1 and later turns; such files do not say why.
_FREQUENCIES = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_LENGTH = 8192


def read_gguf(path: Path, task: str | None = None) -> Bundle:
    """A bundle of the model in a file; a `task` of None is to continue texts.

    Raises:
        BundleError: an architecture, key, tensor, type or tokenizer that is not known here, missing
            tensors, a file that is damaged or smaller than its own sizes ask for.
    """
    file = GGUFFile(path)
    metadata = Fields(file.metadata, path)
    with blaming(path):
        architecture, config = _read_config(file, metadata)
        fields = Fields(config, path)
        described = describe(fields, task)
        # Its norms are multiplied by what the file has.
        family = dataclasses.replace(described.family, norm_offset=0.0)
        described = dataclasses.replace(described, family=family)
        check_size(path, file.count(), fields, count_backbone_weights(described.config))
        tokenizer = read_gguf_tokenizer(metadata, architecture)
        check_vocabulary(path, fields, described, tokenizer)
        tables = family.backbone_tensors(described.config).values()
        tensors = (name for table in tables for name in table.names)
        source = _Renamed(file, architecture, config, family, tensors)
        read_form = functools.partial(read_gguf_chat_form, metadata)
        return bundle_of(path, source, described, tokenizer, read_form)


def outline_of_gguf(path: Path) -> tuple[str, ModelConfig]:
    """Task and model config of what `read_gguf` makes of a file, without its weights."""
    file = GGUFFile(path)
    with blaming(path):
        _, config = _read_config(file, Fields(file.metadata, path))
        described = describe(Fields(config, path), None)
    return described.task, described.config


def _read_config(file: GGUFFile, metadata: Fields) -> tuple[str, dict[str, Any]]:
    """The architecture, and the fields of a `config.json` that says the same."""
    architecture = metadata.text("general.architecture", "")
    if architecture not in ARCHITECTURES:
        raise BundleError(
            f"{file.path}: general.architecture {architecture!r:.80} is not supported; supported "
            f"are {', '.join(ARCHITECTURES)}"
        )
    prefix = f"{architecture}."
    own = {
        key.removeprefix(prefix): value
        for key, value in metadata.values.items()
        if key.startswith(prefix)
    }
    fields = Fields(own, f"{file.path}: {architecture}")
    fields.only((*_READ, *_READ_BY.get(architecture, ())))
    fields.require("expert_count", (0,), "there are no experts here")
    layout = "Meta AI original pth"  # that of these files always, whichever wrote them
    fields.require("tensor_data_layout", (layout,), "it is the only one of these files")
    values = {field: fields.whole(key) for key, field in _SIZES.items()}
    values |= {field: _number(fields, key) for key, field in _NUMBERS.items()}
    needed = {**_SIZES, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
    if missing := [key for key, field in needed.items() if values[field] is None]:
        raise BundleError(f"{fields.where}: {', '.join(missing)} missing")
    heads, width = values["num_attention_heads"], values["hidden_size"]
    head_dim = fields.whole("attention.key_length", max(width // heads, 1))
    fields.require("attention.value_length", (head_dim,), "keys and values are of one length")
    family, names = DECODERS[ARCHITECTURES[architecture]], file.names()
    values |= {
        "model_type": ARCHITECTURES[architecture],
        "architectures": [name for name, task in family.classes.items() if task == "lm"][:1],
        "vocab_size": file.shape("token_embd.weight")[0],
        "num_key_value_heads": fields.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "query_pre_attn_scalar": head_dim,
    }
    values["partial_rotary_factor"] = fields.whole("rope.dimension_count", head_dim) / head_dim
    values["rope_scaling"] = _read_scaling(file, fields, values)
    if values["num_hidden_layers"] == _LARGEST.get(architecture):
        values["query_pre_attn_scalar"] = width // heads
    values["sliding_window"] = fields.whole("attention.sliding_window")
    # What is said; where nothing is, the row knows what is meant.
    values["sliding_window_pattern"] = fields.whole("attention.sliding_window_pattern")
    values["rope_local_base_freq"] = _number(fields, "rope.freq_base_swa")
    values |= {name: _number(fields, name) for name in _CAPS}
    said = {name: value for name, value in values.items() if value is not None}
    if architecture in ("gemma3", "phi3"):  # without a window unless they say so
        said.setdefault("sliding_window", None)
    return architecture, said


def _number(fields: Fields, key: str) -> float | None:
    """A float32, as the shortest text that means it: 1e-05 and not 9.999999747378752e-06."""
    value = fields.number(key)
    return None if value is None else float(str(np.float32(value)))


def _read_scaling(file: GGUFFile, fields: Fields, values: dict[str, Any]) -> dict[str, Any] | None:
    """The field "rope_scaling"."""
    kind = fields.text("rope.scaling.type", "none")
    if kind != "none":  # the row refuses what it does not know
        return {"rope_type": kind, "factor": _number(fields, "rope.scaling.factor")}
    if _FREQUENCIES not in file.names():
        return None
    found = file.read(_FREQUENCIES).ravel()
    length = fields.whole("rope.scaling.original_context_length", _LLAMA3_LENGTH)
    base, size = values["rope_theta"] or 10000.0, 2 * len(found)
    turns = length / (2 * math.pi) * base ** (-np.arange(0, size, 2) / size)
    low, high = _LLAMA3.values()
    share = np.clip((turns - low) / (high - low), 0, 1)
    # The last frequency is the slowest, whose share is 0 in every published model.
    slowest = 1 / float(found[-1]) - float(share[-1])
    factor = float(np.float32((1 - float(share[-1])) / slowest)) if slowest > 0 else 0.0
    if factor <= 0 or not np.allclose(found, 1 / ((1 - share) / factor + share), rtol=1e-4):
        raise BundleError(
            f"{file.path}: {_FREQUENCIES} is not what Llama 3's scaling makes with {_LLAMA3}, the "
            f"factor {factor} and {length} tokens, and no other is known here"
        )
    scaling = {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    return scaling | {"original_max_position_embeddings": length}


class _Renamed:
    """The tensors of a file under transformers' names, rows in transformers' order."""

    def __init__(
        self,
        file: GGUFFile,
        architecture: str,
        config: dict[str, Any],
        family: Family,
        tensors: Iterable[str],
    ):
        self.path, self._file = file.path, file
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
        stored = [name for name in file.names() if name != _FREQUENCIES]
        self._names = {name: name for name in stored}  # what no variable takes keeps its name
        for tensor in tensors:
            full = tensor if tensor == family.untied_head else family.prefix + tensor
            name = table.get_name(full, try_suffixes=(".weight", ".bias"))
            if name in stored:
                self._names.pop(name, None)
                self._names[full] = name
        # Heads of queries and keys whose rows are in another order.
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        self._heads = heads if architecture in _TURNS_NEIGHBOURS else {}

    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._names)

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        stored = self._names[name]
        array = self._file.read(stored)
        heads = self._heads.get(stored.split(".")[-2])
        if heads is None or len(array) % (2 * heads):
            return array
        # Channels 0, 1, 2... of a head are halves' firsts and seconds in turn.
        pairs = array.reshape(heads, -1, 2, *array.shape[1:])
        return np.swapaxes(pairs, 1, 2).reshape(array.shape)
