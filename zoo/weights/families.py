"""Published architectures: one row of options and tensor names each. A new family is a new row."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from zoo.models.configs import BertConfig, GPTConfig, ModelConfig

# "linear" is PyTorch's dense layer, which stores outputs before inputs; "split_heads" has heads
# and their channels as two axes at the end, "merged_heads" has them at the start.
Layout = Literal["same", "linear", "split_heads", "merged_heads"]


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Where the numbers of one variable are: several tensors lie one after the other in it."""

    names: tuple[str, ...]
    layout: Layout = "same"
    skipped: int = 0  # rows at the start that no token uses

    def to_variable(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The variable's value, from the tensors' in the order of `names`."""
        if self.layout == "linear":
            return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).T
        if self.layout == "split_heads":  # (D, N, H) of a kernel, (N, H) of a bias
            return np.concatenate([a.reshape(*a.shape[:-2], -1) for a in arrays], axis=-1)
        if self.layout == "merged_heads":  # (N, H, D)
            return arrays[0].reshape(-1, arrays[0].shape[-1])
        return arrays[0][self.skipped :]

    def to_tensors(self, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """(name, array) of each tensor, from the variable's value; unused rows become zeros."""
        if self.layout == "linear":
            return list(zip(self.names, np.split(value.T, len(self.names))))
        unused = np.zeros((self.skipped, *value.shape[1:]), value.dtype)
        return [(self.names[0], np.concatenate([unused, value]) if self.skipped else value)]


@dataclasses.dataclass(frozen=True)
class Option:
    """A field of another program's config."""

    name: str
    default: Any = None  # what it means where it is missing
    copies: tuple[str, ...] = ()  # fields that are written with the same value


# Suffixes of a layer's weights, by our names for them.
_TORCH = {
    "embeddings": ".weight",
    "kernel": ".weight",
    "bias": ".bias",
    "gamma": ".weight",
    "beta": ".bias",
}
_KERAS = {name: f"/{name}" for name in _TORCH}


@dataclasses.dataclass(frozen=True)
class Family:
    """An architecture as another program keeps it; "there" is that program's files."""

    config: type[ModelConfig]
    options: dict[str, Option]  # our field -> theirs
    fixed: dict[str, Any]  # our fields in which the architecture has no choice
    layers: dict[str, str]  # our layer -> theirs, outside of blocks
    block: str  # what stands before a layer's name in block "{}"
    # Within a block. Several names, with blanks between, lie one after the other here.
    block_layers: dict[str, str]
    dense: Layout = "linear"  # how kernels lie there; "split_heads" only those of attention
    weights: dict[str, str] = dataclasses.field(default_factory=lambda: _TORCH)
    untied_head: str = "lm_head.weight"  # an output projection that is not the token embedding
    prefix: str = ""  # of the backbone's tensors, where the file is of a model with a head
    heads: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)  # by task
    # Tensors that some files hold twice: name of the copy -> name of what is read.
    twins: dict[str, str] = dataclasses.field(default_factory=dict)
    # Class there -> our task; of two with one task the first is written.
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    bare: str = ""  # the class without a head
    required: tuple[tuple[str, tuple[Any, ...], str], ...] = ()  # field, allowed values, why
    written: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields beside the options
    # Task -> field of the head's dropout, and its default. Where one is None it is the
    # backbone's dropout, and a task that is missing has none.
    head_dropout: dict[str, tuple[str | None, float | None]] = dataclasses.field(
        default_factory=dict
    )
    pooler_activation: str = "tanh"  # of a classifier's dense layer
    offset_positions: bool = False  # they count from the pad id on
    tokenizer: tuple[str, str] = ("", "")  # its kind here, and its class there

    def backbone_tensors(self, config: ModelConfig, skipped: int = 0) -> dict[str, Tensors]:
        """Variable name within our backbone -> its tensors, whose names have no `prefix`.

        `skipped` rows stand before the first position's.
        """
        layers = {
            ours: theirs
            for ours, theirs in self.layers.items()
            if (ours != "segment_embedding" or config.num_segments)
            and (ours != "pooler" or config.use_pooler)
        }
        for index in range(config.num_layers):
            start = self.block.format(index)
            for ours, theirs in self.block_layers.items():
                names = " ".join(start + name for name in theirs.split())
                layers[f"block_{index}/{ours}"] = names
        tables = self._tensors(layers, config.use_bias)
        position = tables["position_embedding/embeddings"]
        tables["position_embedding/embeddings"] = dataclasses.replace(position, skipped=skipped)
        if not getattr(config, "tie_embeddings", True):
            head = Tensors((self.untied_head,), "linear")
            tables["token_embedding/reverse_embeddings"] = head
        return tables

    def head_tensors(self, task: str, pooler: bool = False) -> dict[str, Tensors]:
        """Variable name -> tensors of a task's head, and of the pooler that belongs to it.

        A classifier of RoBERTa or DistilBERT has a dense layer of its own in the pooler's place.
        """
        layers = dict(self.heads.get(task, {}))
        if pooler and task != "classify":
            layers["pooler"] = "pooler.dense"
        return self._tensors(layers)

    def _tensors(self, layers: dict[str, str], use_bias: bool = True) -> dict[str, Tensors]:
        tables = {}
        for ours, theirs in layers.items():
            if ours == "output_bias":  # the head's own
                tables[ours] = Tensors((theirs + self.weights["bias"],))
                continue
            for weight in _weights_of(ours, use_bias):
                names = tuple(name + self.weights[weight] for name in theirs.split())
                tables[f"{ours}/{weight}"] = Tensors(names, self._layout(ours, weight))
        return tables

    def _layout(self, layer: str, weight: str) -> Layout:
        if self.dense == "split_heads":
            if layer.endswith("attention/qkv"):
                return "split_heads"
            is_mixing = layer.endswith("attention/output") and weight == "kernel"
            return "merged_heads" if is_mixing else "same"
        return self.dense if weight in ("kernel", "bias") else "same"


def _weights_of(layer: str, use_bias: bool) -> tuple[str, ...]:
    if layer.endswith("_embedding"):
        return ("embeddings",)
    names = ("gamma", "beta") if layer.endswith("norm") else ("kernel", "bias")
    return names if use_bias else names[:1]


def _classes(name: str) -> dict[str, str]:
    return {
        f"{name}Model": "embed",
        f"{name}ForMaskedLM": "mlm",
        f"{name}ForSequenceClassification": "classify",
        f"{name}ForTokenClassification": "tag",
        f"{name}ForQuestionAnswering": "span",
    }


_LIKE_BERT = {
    "norm": "layer_norm",
    "positions": "learned",
    "qk_norm": False,
    "use_bias": True,
    "norm_placement": "post",
}
_LIKE_GPT2 = {
    "norm": "layer_norm",
    "positions": "learned",
    "qk_norm": False,
    "use_bias": True,
    "token_shift": 0,
}
_BERT = Family(
    config=BertConfig,
    options={
        "vocabulary_size": Option("vocab_size", 30522),
        "context_length": Option("max_position_embeddings", 512),
        "num_layers": Option("num_hidden_layers", 12),
        "num_heads": Option("num_attention_heads", 12),
        "hidden_dim": Option("hidden_size", 768),
        "intermediate_dim": Option("intermediate_size", 3072),
        "num_segments": Option("type_vocab_size", 2),
        "activation": Option("hidden_act", "gelu"),
        "norm_epsilon": Option("layer_norm_eps", 1e-12),
        "dropout": Option("hidden_dropout_prob", 0.1, ("attention_probs_dropout_prob",)),
        "initializer_range": Option("initializer_range", 0.02),
    },
    fixed=_LIKE_BERT,
    layers={
        "token_embedding": "embeddings.word_embeddings",
        "position_embedding": "embeddings.position_embeddings",
        "segment_embedding": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
    },
    block="encoder.layer.{}.",
    block_layers={
        "attention/qkv": "attention.self.query attention.self.key attention.self.value",
        "attention/output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feedforward/expand": "intermediate.dense",
        "feedforward/contract": "output.dense",
        "feedforward_norm": "output.LayerNorm",
    },
    prefix="bert.",
    heads={
        "classify": {"pooler": "pooler.dense", "output": "classifier"},
        "tag": {"output": "classifier"},
        "span": {"output": "qa_outputs"},
        "mlm": {
            "transform": "cls.predictions.transform.dense",
            "transform_norm": "cls.predictions.transform.LayerNorm",
            "output_bias": "cls.predictions",
        },
    },
    twins={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    # What the last has more than the others, next-sentence prediction, is not read.
    classes={**_classes("Bert"), "BertForPreTraining": "mlm"},
    bare="BertModel",
    required=(
        ("position_embedding_type", ("absolute",), "positions here are learned and absolute"),
    ),
    head_dropout={"classify": ("classifier_dropout", None), "tag": ("classifier_dropout", None)},
    tokenizer=("wordpiece", "BertTokenizer"),
)
_ROBERTA = dataclasses.replace(
    _BERT,
    options={**_BERT.options, "vocabulary_size": Option("vocab_size", 50265)},
    prefix="roberta.",
    heads={
        **_BERT.heads,
        "classify": {"pooler": "classifier.dense", "output": "classifier.out_proj"},
        "mlm": {
            "transform": "lm_head.dense",
            "transform_norm": "lm_head.layer_norm",
            "output_bias": "lm_head",
        },
    },
    twins={
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    classes=_classes("Roberta"),
    bare="RobertaModel",
    offset_positions=True,
    tokenizer=("bytepair", "RobertaTokenizer"),
)
_DISTILBERT = dataclasses.replace(
    _BERT,
    options={
        "vocabulary_size": Option("vocab_size", 30522),
        "context_length": Option("max_position_embeddings", 512),
        "num_layers": Option("n_layers", 6),
        "num_heads": Option("n_heads", 12),
        "hidden_dim": Option("dim", 768),
        "intermediate_dim": Option("hidden_dim", 3072),
        "activation": Option("activation", "gelu"),
        "dropout": Option("dropout", 0.1, ("attention_dropout",)),
        "initializer_range": Option("initializer_range", 0.02),
    },
    fixed={**_LIKE_BERT, "num_segments": 0, "norm_epsilon": 1e-12},
    block="transformer.layer.{}.",
    block_layers={
        "attention/qkv": "attention.q_lin attention.k_lin attention.v_lin",
        "attention/output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "feedforward/expand": "ffn.lin1",
        "feedforward/contract": "ffn.lin2",
        "feedforward_norm": "output_layer_norm",
    },
    prefix="distilbert.",
    heads={
        **_BERT.heads,
        "classify": {"pooler": "pre_classifier", "output": "classifier"},
        "mlm": {
            "transform": "vocab_transform",
            "transform_norm": "vocab_layer_norm",
            "output_bias": "vocab_projector",
        },
    },
    twins={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    classes=_classes("DistilBert"),
    bare="DistilBertModel",
    required=(),
    written={"sinusoidal_pos_embds": False},
    head_dropout={
        "classify": ("seq_classif_dropout", 0.2),
        "tag": (None, None),
        "span": ("qa_dropout", 0.1),
    },
    pooler_activation="relu",
    tokenizer=("wordpiece", "DistilBertTokenizer"),
)
_SCORES = "scores are divided by the root of the head's width"
_GPT2 = Family(
    config=GPTConfig,
    options={
        "vocabulary_size": Option("vocab_size", 50257),
        "context_length": Option("n_positions", 1024),
        "num_layers": Option("n_layer", 12),
        "num_heads": Option("n_head", 12),
        "hidden_dim": Option("n_embd", 768),
        "intermediate_dim": Option("n_inner"),
        "activation": Option("activation_function", "gelu_new"),
        "norm_epsilon": Option("layer_norm_epsilon", 1e-5),
        "dropout": Option("resid_pdrop", 0.1, ("embd_pdrop", "attn_pdrop")),
        "initializer_range": Option("initializer_range", 0.02),
    },
    fixed=_LIKE_GPT2,
    layers={"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"},
    block="h.{}.",
    block_layers={
        "attention_norm": "ln_1",
        "attention/qkv": "attn.c_attn",
        "attention/output": "attn.c_proj",
        "feedforward_norm": "ln_2",
        "feedforward/expand": "mlp.c_fc",
        "feedforward/contract": "mlp.c_proj",
    },
    dense="same",  # its "Conv1D" stores inputs before outputs, as Keras does
    prefix="transformer.",
    twins={"lm_head.weight": "wte.weight"},
    classes={"GPT2LMHeadModel": "lm", "GPT2Model": "lm"},
    bare="GPT2Model",
    required=(
        ("scale_attn_weights", (True,), _SCORES),
        ("scale_attn_by_inverse_layer_idx", (False,), _SCORES),
        ("reorder_and_upcast_attn", (False,), "scores are computed in one order here"),
    ),
    tokenizer=("bytepair", "GPT2Tokenizer"),
)

# By transformers' `model_type`.
HUGGINGFACE = {"bert": _BERT, "distilbert": _DISTILBERT, "roberta": _ROBERTA, "gpt2": _GPT2}

# nanoGPT has GPT-2's names, PyTorch's dense layers, and perhaps no biases.
NANOGPT = dataclasses.replace(
    _GPT2,
    options={
        "vocabulary_size": Option("vocab_size"),
        "context_length": Option("block_size"),
        "num_layers": Option("n_layer"),
        "num_heads": Option("n_head"),
        "hidden_dim": Option("n_embd"),
        "use_bias": Option("bias"),
    },
    fixed={**{k: v for k, v in _LIKE_GPT2.items() if k != "use_bias"}, "norm_epsilon": 1e-5},
    dense="linear",
)

_KERAS_OPTIONS = {
    "vocabulary_size": Option("vocabulary_size"),
    "num_layers": Option("num_layers"),
    "num_heads": Option("num_heads"),
    "hidden_dim": Option("hidden_dim"),
    "intermediate_dim": Option("intermediate_dim"),
    "dropout": Option("dropout"),
    "context_length": Option("max_sequence_length"),
}
_KERAS_BLOCK = {
    "attention_norm": "self_attention_layer_norm",
    "feedforward/expand": "feedforward_intermediate_dense",
    "feedforward/contract": "feedforward_output_dense",
    "feedforward_norm": "feedforward_layer_norm",
}


def _keras_attention(name: str) -> dict[str, str]:
    return {
        "attention/qkv": f"{name}/query {name}/key {name}/value",
        "attention/output": f"{name}/attention_output",
    }


# By KerasHub's class.
KERAS_HUB = {
    "BertBackbone": Family(
        config=BertConfig,
        options={**_KERAS_OPTIONS, "num_segments": Option("num_segments")},
        # The published BERT has exact GELU; KerasHub computes its approximation.
        fixed={"activation": "gelu_tanh", "norm_epsilon": 1e-12},
        layers={
            "token_embedding": "token_embedding",
            "position_embedding": "position_embedding",
            "segment_embedding": "segment_embedding",
            "embedding_norm": "embeddings_layer_norm",
            "pooler": "pooled_dense",
        },
        block="transformer_layer_{}/",
        block_layers={**_keras_attention("self_attention_layer"), **_KERAS_BLOCK},
        dense="split_heads",
        weights=_KERAS,
    ),
    "GPT2Backbone": Family(
        config=GPTConfig,
        options=_KERAS_OPTIONS,
        fixed={**_LIKE_GPT2, "activation": "gelu_tanh", "norm_epsilon": 1e-5},
        layers={
            "token_embedding": "token_embedding",
            "position_embedding": "position_embedding",
            "final_norm": "layer_norm",
        },
        block="transformer_layer_{}/",
        block_layers={**_keras_attention("self_attention"), **_KERAS_BLOCK},
        dense="split_heads",
        weights=_KERAS,
    ),
}
