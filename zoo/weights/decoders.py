"""Today's published decoders: one row of options and tensor names each."""

import dataclasses
from typing import Any

from zoo.models.configs import GPTConfig
from zoo.weights.decoder_fields import (
    Biases,
    Rotary,
    RotaryLayers,
    Windows,
    sliding_but_every,
    sliding_from,
    sliding_without_positions,
)
from zoo.weights.family import GATED, Family, Option


def _classes(name: str) -> dict[str, Any]:
    return {
        "classes": {f"{name}ForCausalLM": "lm", f"{name}Model": "lm"},
        "bare": f"{name}Model",
    }


_SUBLAYERS = {
    "attention/qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attention/output": "self_attn.o_proj",
    "feedforward/expand": "mlp.gate_proj mlp.up_proj",
    "feedforward/contract": "mlp.down_proj",
}
_QK_NORM = {"attention/query_norm": "self_attn.q_norm", "attention/key_norm": "self_attn.k_norm"}
# One epsilon for all norms there.
_QK_EPSILON = {"qk_norm_epsilon": Option("rms_norm_eps", 1e-6)}

_LLAMA = Family(
    config=GPTConfig,
    options={
        "vocabulary_size": Option("vocab_size", 32000),
        "context_length": Option("max_position_embeddings", 2048),
        "num_layers": Option("num_hidden_layers", 32),
        "num_heads": Option("num_attention_heads", 32),
        "num_kv_heads": Option("num_key_value_heads"),
        "key_dim": Option("head_dim"),
        "hidden_dim": Option("hidden_size", 4096),
        "intermediate_dim": Option("intermediate_size", 11008),
        "activation": Option("hidden_act", "silu", names=GATED),
        "norm_epsilon": Option("rms_norm_eps", 1e-6),
        "dropout": Option("attention_dropout", 0.0),
        "initializer_range": Option("initializer_range", 0.02),
        "tie_embeddings": Option("tie_word_embeddings", False),
    },
    groups=(Rotary(), Biases(has_feedforward=True)),
    fixed={"positions": "rotary", "norm": "rms_norm", "qk_norm": False, "norm_placement": "pre"},
    layers={"token_embedding": "embed_tokens", "final_norm": "norm"},
    block="layers.{}.",
    block_layers={
        **_SUBLAYERS,
        "attention_norm": "input_layernorm",
        "feedforward_norm": "post_attention_layernorm",
    },
    prefix="model.",
    buffers=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    twins={"lm_head.weight": "embed_tokens.weight"},
    tokenizer=("causal", "PreTrainedTokenizerFast"),
    **_classes("Llama"),
)
_MISTRAL = dataclasses.replace(
    _LLAMA,
    options={
        **_LLAMA.options,
        "context_length": Option("max_position_embeddings", 131072),
        "intermediate_dim": Option("intermediate_size", 14336),
        "num_kv_heads": Option("num_key_value_heads", 8),
    },
    groups=(Rotary(), Windows(default=4096, is_listed=False)),
    fixed={**_LLAMA.fixed, "use_bias": False},
    **_classes("Mistral"),
)
_QWEN2 = dataclasses.replace(
    _LLAMA,
    options={
        **_LLAMA.options,
        "vocabulary_size": Option("vocab_size", 151936),
        "context_length": Option("max_position_embeddings", 32768),
        "num_kv_heads": Option("num_key_value_heads", 32),
        "intermediate_dim": Option("intermediate_size", 22016),
    },
    groups=(Rotary(), Windows(default=4096, has_switch=True, unlisted=sliding_from)),
    fixed={**_LLAMA.fixed, "use_bias": "qkv"},
    required=(("use_mrope", (False,), "positions are those of one text"),),
    **_classes("Qwen2"),
)
_QWEN3 = dataclasses.replace(
    _QWEN2,
    options={**_QWEN2.options, **_QK_EPSILON, "key_dim": Option("head_dim", 128)},
    groups=(*_QWEN2.groups, Biases()),
    fixed={**_LLAMA.fixed, "qk_norm": True},
    block_layers={**_LLAMA.block_layers, **_QK_NORM},
    required=(),
    **_classes("Qwen3"),
)
_SMOLLM3 = dataclasses.replace(
    _LLAMA,
    options={
        **_LLAMA.options,
        "vocabulary_size": Option("vocab_size", 128256),
        "context_length": Option("max_position_embeddings", 32768),
        "num_layers": Option("num_hidden_layers", 36),
        "num_heads": Option("num_attention_heads", 16),
        "num_kv_heads": Option("num_key_value_heads", 4),
        "hidden_dim": Option("hidden_size", 2048),
        "tie_embeddings": Option("tie_word_embeddings", True),
    },
    groups=(
        Rotary(default_base=2e6),
        RotaryLayers(),
        Windows(has_switch=True, unlisted=sliding_without_positions),
        Biases(has_feedforward=True),
    ),
    **_classes("SmolLM3"),
)
_OLMO2 = dataclasses.replace(
    _LLAMA,
    options={
        **_LLAMA.options,
        "vocabulary_size": Option("vocab_size", 50304),
        "norm_epsilon": Option("rms_norm_eps", 1e-5),
        "qk_norm_epsilon": Option("rms_norm_eps", 1e-5),
    },
    groups=(Rotary(), Biases()),
    fixed={**_LLAMA.fixed, "qk_norm": "projection", "norm_placement": "output"},
    block_layers={
        **_SUBLAYERS,
        **_QK_NORM,
        "attention_output_norm": "post_attention_layernorm",
        "feedforward_output_norm": "post_feedforward_layernorm",
    },
    **_classes("Olmo2"),
)
_PHI3 = dataclasses.replace(
    _LLAMA,
    options={
        **_LLAMA.options,
        "vocabulary_size": Option("vocab_size", 32064),
        "context_length": Option("max_position_embeddings", 4096),
        "hidden_dim": Option("hidden_size", 3072),
        "intermediate_dim": Option("intermediate_size", 8192),
        "norm_epsilon": Option("rms_norm_eps", 1e-5),
        "dropout": Option("resid_pdrop", 0.0, ("embd_pdrop", "attention_dropout")),
    },
    groups=(
        # "longrope", the other kind that it has, turns all tokens otherwise in a longer text.
        Rotary(is_partial=True, kinds=("default",)),
        Windows(is_listed=False),
    ),
    fixed={**_LLAMA.fixed, "use_bias": False},
    block_layers={
        **_LLAMA.block_layers,
        "attention/qkv": "self_attn.qkv_proj",
        "feedforward/expand": "mlp.gate_up_proj",
    },
    **_classes("Phi3"),
)
_GPT_NEOX = Family(
    config=GPTConfig,
    options={
        "vocabulary_size": Option("vocab_size", 50432),
        "context_length": Option("max_position_embeddings", 2048),
        "num_layers": Option("num_hidden_layers", 44),
        "num_heads": Option("num_attention_heads", 64),
        "hidden_dim": Option("hidden_size", 6144),
        "intermediate_dim": Option("intermediate_size", 24576),
        "activation": Option("hidden_act", "gelu"),
        "norm_epsilon": Option("layer_norm_eps", 1e-5),
        "dropout": Option("hidden_dropout", 0.0, ("attention_dropout",)),
        "initializer_range": Option("initializer_range", 0.02),
        "tie_embeddings": Option("tie_word_embeddings", False),
        "parallel_residual": Option("use_parallel_residual", True),
    },
    groups=(
        Rotary(
            base="rotary_emb_base", fraction="rotary_pct", default_fraction=0.25, is_partial=True
        ),
    ),
    fixed={"positions": "rotary", "norm": "layer_norm", "qk_norm": False, "use_bias": True},
    layers={"token_embedding": "embed_in", "final_norm": "final_layer_norm"},
    block="layers.{}.",
    block_layers={
        "attention_norm": "input_layernorm",
        "attention/qkv": "attention.query_key_value",
        "attention/output": "attention.dense",
        "feedforward_norm": "post_attention_layernorm",
        "feedforward/expand": "mlp.dense_h_to_4h",
        "feedforward/contract": "mlp.dense_4h_to_h",
    },
    qkv_by_head=True,
    untied_head="embed_out.weight",
    prefix="gpt_neox.",
    buffers=r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    twins={"lm_head.weight": "embed_out.weight", "embed_out.weight": "embed_in.weight"},
    required=(("attention_bias", (True,), "either all dense layers have a bias or none"),),
    tokenizer=("causal", "PreTrainedTokenizerFast"),
    **_classes("GPTNeoX"),
)
_GEMMA = dataclasses.replace(
    _LLAMA,
    options={
        **_LLAMA.options,
        "num_layers": Option("num_hidden_layers", 26),
        "num_heads": Option("num_attention_heads", 8),
        "num_kv_heads": Option("num_key_value_heads", 4),
        "key_dim": Option("head_dim", 256),
        "hidden_dim": Option("hidden_size", 2304),
        "intermediate_dim": Option("intermediate_size", 9216),
        "activation": Option("hidden_activation", "gelu_pytorch_tanh", names=GATED),
        "tie_embeddings": Option("tie_word_embeddings", True),
        "query_scalar": Option("query_pre_attn_scalar", 256),
    },
    fixed={**_LLAMA.fixed, "scale_embeddings": True, "norm_placement": "both"},
    block_layers={
        **_SUBLAYERS,
        "attention_norm": "input_layernorm",
        "attention_output_norm": "post_attention_layernorm",
        "feedforward_norm": "pre_feedforward_layernorm",
        "feedforward_output_norm": "post_feedforward_layernorm",
    },
    norm_offset=1.0,
    required=(("use_bidirectional_attention", (False,), "a token sees the past only"),),
)
_GEMMA2 = dataclasses.replace(
    _GEMMA,
    options={
        **_GEMMA.options,
        "vocabulary_size": Option("vocab_size", 256000),
        "context_length": Option("max_position_embeddings", 8192),
        "attention_soft_cap": Option("attn_logit_softcapping", 50.0, nullable=True),
        "logit_soft_cap": Option("final_logit_softcapping", 30.0, nullable=True),
    },
    groups=(Rotary(), Windows(default=4096, unlisted=sliding_but_every(2)), Biases()),
    **_classes("Gemma2"),
)
_GEMMA3 = dataclasses.replace(
    _GEMMA,
    options={
        **_GEMMA.options,
        **_QK_EPSILON,
        "vocabulary_size": Option("vocab_size", 262208),
        "context_length": Option("max_position_embeddings", 131072),
        "logit_soft_cap": Option("final_logit_softcapping", nullable=True),
    },
    groups=(
        Rotary(default_base=1e6, local_base="rope_local_base_freq"),
        Windows(default=4096, unlisted=sliding_but_every(6)),
        Biases(),
    ),
    fixed={**_GEMMA.fixed, "qk_norm": True},
    block_layers={**_GEMMA.block_layers, **_QK_NORM},
    required=(
        *_GEMMA.required,
        ("attn_logit_softcapping", (None,), "transformers reads none in this architecture"),
    ),
    classes={"Gemma3ForCausalLM": "lm", "Gemma3TextModel": "lm"},
    bare="Gemma3TextModel",
)

# By transformers' `model_type`.
DECODERS = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "smollm3": _SMOLLM3,
    "olmo2": _OLMO2,
    "phi3": _PHI3,
    "gpt_neox": _GPT_NEOX,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
}
