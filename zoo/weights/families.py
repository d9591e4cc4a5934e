"""Published architectures: one row of options and tensor names each. A new family is a new row."""

import dataclasses
from typing import Any

from zoo.models.configs import BertConfig, GPTConfig, ModelConfig
from zoo.weights.decoders import DECODERS
from zoo.weights.encoder_decoders import ENCODER_DECODERS, KERAS_HUB_T5
from zoo.weights.encoder_fields import KerasHubDistances
from zoo.weights.encoders import ENCODERS, OF_2018
from zoo.weights.family import KERAS, Family, Option

_LIKE_GPT2 = {**OF_2018, "token_shift": 0}
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
        "tie_embeddings": Option("tie_word_embeddings", True),
    },
    fixed={**_LIKE_GPT2, "use_bias": True},
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
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
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
HUGGINGFACE = ENCODERS | {"gpt2": _GPT2} | DECODERS | ENCODER_DECODERS

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
    fixed={**_LIKE_GPT2, "norm_epsilon": 1e-5},
    dense="linear",
    twins={},
)


def _keras_hub(config: type[ModelConfig], length: int, attention: str, **own: Any) -> Family:
    names = ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim")
    own["options"] = {
        **{name: Option(name) for name in names},
        "dropout": Option("dropout", 0.1),
        "context_length": Option("max_sequence_length", length),
        **own.get("options", {}),
    }
    block_layers = {
        "attention/qkv": f"{attention}/query {attention}/key {attention}/value",
        "attention/output": f"{attention}/attention_output",
        "attention_norm": "self_attention_layer_norm",
        "feedforward/expand": "feedforward_intermediate_dense",
        "feedforward/contract": "feedforward_output_dense",
        "feedforward_norm": "feedforward_layer_norm",
    }
    tables = {name: name for name in ("token_embedding", "position_embedding")}
    own["layers"] = tables | own["layers"]
    form = {"block": "transformer_layer_{}/", "dense": "split_heads", "weights": KERAS}
    return Family(config=config, block_layers=block_layers, **(form | own))


_KERAS_HUB_BERT: dict[str, Any] = {
    "options": {"num_segments": Option("num_segments", 2)},
    # The published BERT has exact GELU; KerasHub computes its approximation.
    "fixed": {"activation": "gelu_tanh", "norm_epsilon": 1e-12},
    "layers": {
        "segment_embedding": "segment_embedding",
        "embedding_norm": "embeddings_layer_norm",
        "pooler": "pooled_dense",
    },
}
_ONE_GROUP = "all layers have the same weights"


# By KerasHub's class.
KERAS_HUB = {
    "BertBackbone": _keras_hub(BertConfig, 512, "self_attention_layer", **_KERAS_HUB_BERT),
    "AlbertBackbone": _keras_hub(
        BertConfig,
        512,
        "self_attention_layer",
        **{
            **_KERAS_HUB_BERT,
            "options": {**_KERAS_HUB_BERT["options"], "embedding_dim": Option("embedding_dim")},
            "fixed": {**_KERAS_HUB_BERT["fixed"], "shared_layers": True},
            "layers": {
                **_KERAS_HUB_BERT["layers"],
                "embedding_projection": "embedding_projection",
            },
        },
        block="group_0_inner_layer_0/",
        required=(("num_groups", (1,), _ONE_GROUP), ("num_inner_repetitions", (1,), _ONE_GROUP)),
    ),
    "RobertaBackbone": _keras_hub(
        BertConfig,
        512,
        "self_attention_layer",
        fixed={"num_segments": 0, "norm_epsilon": 1e-5},
        layers={
            "token_embedding": "embeddings/token_embedding",
            "position_embedding": "embeddings/position_embedding",
            "embedding_norm": "embeddings_layer_norm",
        },
    ),
    "DebertaV3Backbone": _keras_hub(
        BertConfig,
        512,
        "self_attention_layer",
        groups=(KerasHubDistances(),),
        fixed={"num_segments": 0, "norm_epsilon": 1e-7, "positions": "none"},
        layers={
            "embedding_norm": "embeddings_layer_norm",
            "distance_embedding/bucket_embedding": "rel_embedding",
            "distance_embedding/norm": "rel_embedding/rel_embeddings_layer_norm",
        },
        block="disentangled_attention_encoder_layer_{}/",
        twins={"rel_embedding/rel_embedding": "rel_embedding/embeddings"},
    ),
    "GPT2Backbone": _keras_hub(
        GPTConfig,
        1024,
        "self_attention",
        fixed={**_LIKE_GPT2, "use_bias": True, "activation": "gelu_tanh", "norm_epsilon": 1e-5},
        layers={"final_norm": "layer_norm"},
    ),
    "T5Backbone": KERAS_HUB_T5,
}
