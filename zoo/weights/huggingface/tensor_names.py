"""What our variables are called in transformers' files, and how their numbers lie there."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import numpy as np

from zoo.models.configs import BertConfig, GPTConfig

# In front of every tensor of the backbone, where the file is of a model with a head.
PREFIX = {
    "bert": "bert.",
    "distilbert": "distilbert.",
    "roberta": "roberta.",
    "gpt2": "transformer.",
}
# Parts of a file that hold no weights: positions 0, 1, 2... and causal masks.
BUFFERS = re.compile(r"embeddings\.(position_ids|token_type_ids)|h\.\d+\.attn\.(bias|masked_bias)")


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Where the numbers of one variable are.

    Attributes:
        names: tensors in the file, the backbone's without `PREFIX`; several lie one after the
            other in our variable.
        layout: "same"; "linear", PyTorch's dense layer, which stores outputs before inputs;
            or "positions", where unused rows come first.
        skipped: int, those rows.
    """

    names: tuple[str, ...]
    layout: Literal["same", "linear", "positions"] = "same"
    skipped: int = 0

    def to_variable(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The variable's value, from the tensors' in the order of `names`."""
        if self.layout == "linear":
            return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).T
        return arrays[0][self.skipped :]

    def to_tensors(self, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """(name, array) of each tensor, from the variable's value; unused rows become zeros."""
        if self.layout == "linear":
            return list(zip(self.names, np.split(value.T, len(self.names))))
        unused = np.zeros((self.skipped, *value.shape[1:]), value.dtype)
        whole = np.concatenate([unused, value]) if self.skipped else value
        return [(self.names[0], whole)]


def backbone_tensors(
    model_type: str, config: BertConfig | GPTConfig, position_offset: int = 0
) -> dict[str, Tensors]:
    """Variable name within a backbone -> its tensors; a pooler is a matter of `head_tensors`.

    Args:
        model_type: "bert", "distilbert", "roberta" or "gpt2".
        config: of our backbone.
        position_offset: int, rows before the first position's.

    Example: `backbone_tensors("gpt2", config)["block_0/attention/qkv/kernel"].names`
    """
    if model_type == "gpt2":
        return _gpt2(config)
    tables = {
        "token_embedding/embeddings": Tensors(("embeddings.word_embeddings.weight",)),
        "position_embedding/embeddings": Tensors(
            ("embeddings.position_embeddings.weight",), "positions", position_offset
        ),
    }
    if config.num_segments:
        tables["segment_embedding/embeddings"] = Tensors(
            ("embeddings.token_type_embeddings.weight",)
        )
    tables |= _norm("embedding_norm", "embeddings.LayerNorm")
    layers, names = _BLOCKS["distilbert" if model_type == "distilbert" else "bert"]
    for index in range(config.num_layers):
        layer = layers.format(index)
        parts = {key: tuple(layer + name for name in value) for key, value in names.items()}
        block = f"block_{index}"
        tables |= _dense(f"{block}/attention/qkv", *parts["qkv"])
        tables |= _dense(f"{block}/attention/output", *parts["output"])
        tables |= _norm(f"{block}/attention_norm", *parts["attention_norm"])
        tables |= _dense(f"{block}/feedforward/expand", *parts["expand"])
        tables |= _dense(f"{block}/feedforward/contract", *parts["contract"])
        tables |= _norm(f"{block}/feedforward_norm", *parts["feedforward_norm"])
    return tables


def head_tensors(model_type: str, task: str, pooler: bool = False) -> dict[str, Tensors]:
    """Variable name -> tensors of a task's head, and of the pooler that belongs to it.

    Args:
        model_type: "bert", "distilbert", "roberta" or "gpt2".
        task: "mlm", "classify", "tag", "span", "embed" or "lm".
        pooler: bool, whether the backbone has one. A classifier of RoBERTa or DistilBERT has its
            own, which the other tasks know nothing of.
    """
    tables = {}
    if task == "classify":
        dense, output = {
            "bert": ("pooler.dense", "classifier"),
            "distilbert": ("pre_classifier", "classifier"),
            "roberta": ("classifier.dense", "classifier.out_proj"),
        }[model_type]
        tables = _dense("pooler", dense) | _dense("output", output)
    elif pooler:
        tables = _dense("pooler", "pooler.dense")
    if task == "tag":
        tables |= _dense("output", "classifier")
    elif task == "span":
        tables |= _dense("output", "qa_outputs")
    elif task == "mlm":
        transform, norm, bias = _MASKED_LM[model_type]
        tables |= _dense("transform", transform) | _norm("transform_norm", norm)
        tables["output_bias"] = Tensors((bias,))
    return tables


def twins(model_type: str) -> dict[str, str]:
    """Tensors that some files hold twice: name of the copy -> name of the one that is read."""
    return {
        "bert": {
            "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        "distilbert": {"vocab_projector.weight": "embeddings.word_embeddings.weight"},
        "roberta": {
            "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        "gpt2": {"lm_head.weight": "wte.weight"},
    }[model_type]


# Name of a layer, and of its parts within it.
_BLOCKS = {
    "bert": (
        "encoder.layer.{}.",
        {
            "qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
            "output": ("attention.output.dense",),
            "attention_norm": ("attention.output.LayerNorm",),
            "expand": ("intermediate.dense",),
            "contract": ("output.dense",),
            "feedforward_norm": ("output.LayerNorm",),
        },
    ),
    "distilbert": (
        "transformer.layer.{}.",
        {
            "qkv": tuple(f"attention.{part}_lin" for part in "qkv"),
            "output": ("attention.out_lin",),
            "attention_norm": ("sa_layer_norm",),
            "expand": ("ffn.lin1",),
            "contract": ("ffn.lin2",),
            "feedforward_norm": ("output_layer_norm",),
        },
    ),
}
# Dense layer, norm and bias over the vocabulary.
_MASKED_LM = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}


def _gpt2(config: GPTConfig) -> dict[str, Tensors]:
    tables = {
        "token_embedding/embeddings": Tensors(("wte.weight",)),
        "position_embedding/embeddings": Tensors(("wpe.weight",)),
    }
    if not config.tie_embeddings:
        tables["token_embedding/reverse_embeddings"] = Tensors(("lm_head.weight",), "linear")
    for index in range(config.num_layers):
        block, layer = f"block_{index}", f"h.{index}"
        tables |= _norm(f"{block}/attention_norm", f"{layer}.ln_1")
        tables |= _norm(f"{block}/feedforward_norm", f"{layer}.ln_2")
        # GPT-2's "Conv1D" stores inputs before outputs, as Keras does, and fuses q, k and v.
        tables |= _dense(f"{block}/attention/qkv", f"{layer}.attn.c_attn", layout="same")
        tables |= _dense(f"{block}/attention/output", f"{layer}.attn.c_proj", layout="same")
        tables |= _dense(f"{block}/feedforward/expand", f"{layer}.mlp.c_fc", layout="same")
        tables |= _dense(f"{block}/feedforward/contract", f"{layer}.mlp.c_proj", layout="same")
    return tables | _norm("final_norm", "ln_f")


def _dense(variable: str, *tensors: str, layout="linear") -> dict[str, Tensors]:
    return {
        f"{variable}/kernel": Tensors(tuple(f"{name}.weight" for name in tensors), layout),
        f"{variable}/bias": Tensors(tuple(f"{name}.bias" for name in tensors), layout),
    }


def _norm(variable: str, tensor: str) -> dict[str, Tensors]:
    return {
        f"{variable}/gamma": Tensors((f"{tensor}.weight",)),
        f"{variable}/beta": Tensors((f"{tensor}.bias",)),
    }
