"""Published encoder-decoders: one row of options and tensor names each."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError
from zoo.models.configs import EncoderDecoderConfig
from zoo.weights.family import ACTIVATIONS, KERAS, Family, Option

# Of T5, whose names say whether one half is multiplied by the other.
_T5_ACTIVATIONS = {"relu": "relu", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu"}
_T5_ACTIVATIONS |= {"gated-gelu_new": "geglu_tanh", **ACTIVATIONS, "silu": "silu"}
_KERAS_HUB_ACTIVATIONS = {
    ("relu", False): "relu",
    ("gelu", False): "gelu",
    ("silu", False): "silu",
    ("gelu", True): "geglu",
    ("silu", True): "swiglu",
}
_ACTIVATIONS = {**ACTIVATIONS, "relu": "relu", "swish": "silu", "silu": "silu"}


@dataclass(frozen=True)
class T5Output:
    """Whether the output is the token embedding, and hidden states are scaled before it.

    Up to transformers 4 "tie_word_embeddings" says both, in 5 "scale_decoder_outputs" the second.
    """

    can_scale: bool = True  # an mT5 does not, whatever its fields say

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        is_tied = fields.flag("tie_word_embeddings", True)
        scales = self.can_scale and fields.flag("scale_decoder_outputs", is_tied)
        return {"tie_embeddings": is_tied, "scale_logits": scales}

    def write(self, config: EncoderDecoderConfig) -> dict[str, Any]:
        """Their fields."""
        return {
            "tie_word_embeddings": config.tie_embeddings,
            "scale_decoder_outputs": config.scale_logits,
        }


@dataclass(frozen=True)
class SpelledActivation:
    """ "dense_act_fn" and "is_gated_act", which say once more what "feed_forward_proj" says."""

    default: str

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Nothing; a BundleError if they say otherwise."""
        name = fields.text("feed_forward_proj", self.default)
        spelled = self._spelled(name)
        for field, value in spelled.items():
            fields.require(field, (value,), f"feed_forward_proj is {name!r}")
        return {}

    def write(self, config: EncoderDecoderConfig) -> dict[str, Any]:
        """Their fields."""
        name = next((n for n, ours in _T5_ACTIVATIONS.items() if ours == config.activation), "")
        return self._spelled(name)

    def _spelled(self, name: str) -> dict[str, Any]:
        function = "gelu_new" if name == "gated-gelu" else name.removeprefix("gated-")
        return {"dense_act_fn": function, "is_gated_act": name.startswith("gated-")}


@dataclass(frozen=True)
class KerasHubT5:
    """Fields of KerasHub's T5Backbone that mean something only together."""

    names: tuple[str, ...] = ("activation", "use_gated_activation", "tie_embedding_weights")

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Fields of our config."""
        name, gated = fields.text("activation", "relu"), fields.flag("use_gated_activation", True)
        if (name, gated) not in _KERAS_HUB_ACTIVATIONS:
            known = ", ".join(str(pair) for pair in _KERAS_HUB_ACTIVATIONS)
            raise BundleError(
                f"{fields.where}: activation and use_gated_activation are {name!r:.80} and "
                f"{gated}; known are {known}"
            )
        is_tied = fields.flag("tie_embedding_weights", True)
        activation = _KERAS_HUB_ACTIVATIONS[name, gated]
        # As its T5Seq2SeqLM does.
        return {"activation": activation, "tie_embeddings": is_tied, "scale_logits": is_tied}


@dataclass(frozen=True)
class OneWidth:
    """Sizes of the decoder, which are the encoder's here; these are written by their options."""

    names: tuple[str, ...] = ("attention_heads", "ffn_dim")

    def read(self, fields: Fields, num_layers: int) -> dict[str, Any]:
        """Nothing; a BundleError if they differ."""
        for name in self.names:
            sizes = [fields.whole(f"{side}_{name}") for side in ("encoder", "decoder")]
            if sizes[0] != sizes[1]:
                raise BundleError(
                    f"{fields.where}: decoder_{name} is {sizes[1]} and encoder_{name} {sizes[0]}: "
                    "encoder and decoder have the same sizes here"
                )
        return {}

    def write(self, config: EncoderDecoderConfig) -> dict[str, Any]:
        """No fields."""
        return {}


def _classes(name: str) -> dict[str, Any]:
    classes = {f"{name}ForConditionalGeneration": "seq2seq", f"{name}Model": "seq2seq"}
    return {"classes": classes, "bare": f"{name}Model"}


_SHARED = {f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")}
_T5_SELF = {
    "attention/qkv": "layer.0.SelfAttention.q layer.0.SelfAttention.k layer.0.SelfAttention.v",
    "attention/output": "layer.0.SelfAttention.o",
    "attention_norm": "layer.0.layer_norm",
}
_T5_CROSS = {
    "cross_attention/query": "layer.1.EncDecAttention.q",
    "cross_attention/key_value": "layer.1.EncDecAttention.k layer.1.EncDecAttention.v",
    "cross_attention/output": "layer.1.EncDecAttention.o",
    "cross_attention_norm": "layer.1.layer_norm",
}


def _t5_feedforward(layer: str) -> dict[str, str]:
    dense = f"{layer}.DenseReluDense"
    return {
        "feedforward/expand": f"{dense}.wi",
        "feedforward/gated_expand": f"{dense}.wi_0 {dense}.wi_1",
        "feedforward/contract": f"{dense}.wo",
        "feedforward_norm": f"{layer}.layer_norm",
    }


_RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias"
_T5 = Family(
    config=EncoderDecoderConfig,
    options={
        "vocabulary_size": Option("vocab_size", 32128),
        # Positions are distances, so this is no limit there.
        "context_length": Option("n_positions", 512),
        "num_layers": Option("num_layers", 6),
        "decoder_layers": Option("num_decoder_layers"),
        "num_heads": Option("num_heads", 8),
        "key_dim": Option("d_kv", 64),
        "hidden_dim": Option("d_model", 512),
        "intermediate_dim": Option("d_ff", 2048),
        "relative_buckets": Option("relative_attention_num_buckets", 32),
        "relative_distance": Option("relative_attention_max_distance", 128),
        "activation": Option("feed_forward_proj", "relu", names=_T5_ACTIVATIONS),
        "norm_epsilon": Option("layer_norm_epsilon", 1e-6),
        "dropout": Option("dropout_rate", 0.1),
    },
    groups=(T5Output(), SpelledActivation("relu")),
    fixed={
        "positions": "relative",
        "norm": "rms_norm",
        "norm_placement": "pre",
        "use_bias": False,
        "query_scalar": 1,
        "qk_norm": False,
        "embedding_norm": False,
        "scale_embeddings": False,
        "logit_bias": False,
    },
    layers={
        "token_embedding": "shared",
        "encoder/relative_positions/bucket_embedding": f"encoder.{_RELATIVE}",
        "encoder/final_norm": "encoder.final_layer_norm",
        "decoder/relative_positions/bucket_embedding": f"decoder.{_RELATIVE}",
        "decoder/final_norm": "decoder.final_layer_norm",
    },
    block="encoder.block.{}.",
    block_layers={**_T5_SELF, **_t5_feedforward("layer.1")},
    decoder_block="decoder.block.{}.",
    decoder_block_layers={**_T5_SELF, **_T5_CROSS, **_t5_feedforward("layer.2")},
    # In old files, and used by no version.
    buffers=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    twins={**_SHARED, "lm_head.weight": "shared.weight"},
    finds_untied_head=True,
    default_task="summarize",
    tokenizer=("sentencepiece", "T5Tokenizer"),
    special_tokens={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    **_classes("T5"),
)
_MT5 = dataclasses.replace(
    _T5,
    options={
        **_T5.options,
        "vocabulary_size": Option("vocab_size", 250112),
        "num_layers": Option("num_layers", 8),
        "num_heads": Option("num_heads", 6),
        "intermediate_dim": Option("d_ff", 1024),
        "activation": Option("feed_forward_proj", "gated-gelu", names=_T5_ACTIVATIONS),
    },
    groups=(T5Output(can_scale=False), SpelledActivation("gated-gelu")),
    **_classes("MT5"),
)
_BART_SELF = {
    "attention/qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attention/output": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "feedforward/expand": "fc1",
    "feedforward/contract": "fc2",
    "feedforward_norm": "final_layer_norm",
}
_BART_CROSS = {
    "cross_attention/query": "encoder_attn.q_proj",
    "cross_attention/key_value": "encoder_attn.k_proj encoder_attn.v_proj",
    "cross_attention/output": "encoder_attn.out_proj",
    "cross_attention_norm": "encoder_attn_layer_norm",
}


def _in_stacks(**layers: str) -> dict[str, str]:
    """The same layers of encoder and decoder."""
    return {
        f"{stack}/{ours}": f"{stack}.{theirs}"
        for stack in ("encoder", "decoder")
        for ours, theirs in layers.items()
    }


def _fields_of_old(**values: bool) -> tuple[tuple[str, tuple[Any, ...], str], ...]:
    """Fields of old files, in which the architecture has no choice."""
    why = "the architecture has no choice in it"
    return tuple(
        (name, (value,), why) for name, value in {**values, "add_bias_logits": False}.items()
    )


_BART = Family(
    config=EncoderDecoderConfig,
    options={
        "vocabulary_size": Option("vocab_size", 50265),
        "context_length": Option("max_position_embeddings", 1024),
        "num_layers": Option("encoder_layers", 12),
        "decoder_layers": Option("decoder_layers", 12),
        "num_heads": Option("encoder_attention_heads", 16, ("decoder_attention_heads",)),
        "hidden_dim": Option("d_model", 1024),
        "intermediate_dim": Option("encoder_ffn_dim", 4096, ("decoder_ffn_dim",)),
        "activation": Option("activation_function", "gelu", names=_ACTIVATIONS),
        "dropout": Option("dropout", 0.1, ("attention_dropout",)),
        "initializer_range": Option("init_std", 0.02),
        "scale_embeddings": Option("scale_embedding", False),
        "tie_embeddings": Option("tie_word_embeddings", True),
    },
    groups=(OneWidth(),),
    fixed={
        "positions": "learned",
        "norm": "layer_norm",
        "norm_placement": "post",
        "norm_epsilon": 1e-5,
        "use_bias": True,
        "qk_norm": False,
        "embedding_norm": True,
        "scale_logits": False,
        "logit_bias": True,
    },
    layers={
        "token_embedding": "shared",
        **_in_stacks(position_embedding="embed_positions", embedding_norm="layernorm_embedding"),
    },
    block="encoder.layers.{}.",
    block_layers=_BART_SELF,
    decoder_block="decoder.layers.{}.",
    decoder_block_layers={**_BART_SELF, **_BART_CROSS},
    logit_bias="final_logits_bias",
    prefix="model.",
    buffers=r"(encoder|decoder)\.version",
    twins={**_SHARED, "lm_head.weight": "shared.weight"},
    default_task="summarize",
    required=_fields_of_old(
        normalize_before=False,
        normalize_embedding=True,
        static_position_embeddings=False,
        add_final_layer_norm=False,
    ),
    first_position=2,
    tokenizer=("bytepair", "BartTokenizer"),
    special_tokens={"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>"}
    | {"unk_token": "<unk>", "mask_token": "<mask>"},
    **_classes("Bart"),
)
_MBART = dataclasses.replace(
    _BART,
    fixed={**_BART.fixed, "norm_placement": "pre"},
    layers={**_BART.layers, **_in_stacks(final_norm="layer_norm")},
    default_task="translate",
    required=_fields_of_old(
        normalize_before=True,
        normalize_embedding=True,
        static_position_embeddings=False,
        add_final_layer_norm=True,
    ),
    tokenizer=("sentencepiece", "MBartTokenizer"),
    special_tokens=_T5.special_tokens,
    **_classes("MBart"),
)
_SINUSOIDAL = r"(encoder|decoder)\.embed_positions\.weights?"
_PEGASUS = dataclasses.replace(
    _MBART,
    fixed={**_MBART.fixed, "positions": "sinusoidal", "embedding_norm": False},
    layers={"token_embedding": "shared", **_in_stacks(final_norm="layer_norm")},
    buffers=_SINUSOIDAL,
    first_position=0,
    default_task="summarize",
    required=_fields_of_old(
        normalize_before=True,
        normalize_embedding=False,
        static_position_embeddings=True,
        add_final_layer_norm=True,
    ),
    tokenizer=("sentencepiece", "PegasusTokenizer"),
    **_classes("Pegasus"),
)
_MARIAN = dataclasses.replace(
    _PEGASUS,
    options={**_PEGASUS.options, "vocabulary_size": Option("vocab_size", 58101)},
    fixed={**_PEGASUS.fixed, "norm_placement": "post"},
    layers={"token_embedding": "shared"},
    default_task="translate",
    required=(
        *_fields_of_old(
            normalize_before=False,
            normalize_embedding=False,
            static_position_embeddings=True,
            add_final_layer_norm=False,
        ),
        (
            "share_encoder_decoder_embeddings",
            (True,),
            "source and target have one token embedding here",
        ),
    ),
    tokenizer=("marian", "MarianTokenizer"),
    special_tokens=_T5.special_tokens,
    classes={"MarianMTModel": "seq2seq", "MarianModel": "seq2seq"},
    bare="MarianModel",
)

# By transformers' `model_type`.
ENCODER_DECODERS = {
    "t5": _T5,
    "mt5": _MT5,
    "bart": _BART,
    "mbart": _MBART,
    "pegasus": _PEGASUS,
    "marian": _MARIAN,
}

_NORM = "t5_layer_norm"
_HUB_SELF = {
    "attention/qkv": "self_attention/query_projector self_attention/key_projector "
    "self_attention/value_projector",
    "attention/output": "self_attention/output_projector",
    "attention_norm": f"{_NORM}_0",
    "feedforward/expand": "input_projector",
    "feedforward/gated_expand": "input_projector gate_projector",
    "feedforward/contract": "output_projector",
}
# KerasHub's. The names of norms, and of numbers of distances, are `unique_paths`.
KERAS_HUB_T5 = Family(
    config=EncoderDecoderConfig,
    options={
        "vocabulary_size": Option("vocabulary_size"),
        "num_layers": Option("num_layers"),
        "num_heads": Option("num_heads"),
        "key_dim": Option("key_value_dim"),
        "hidden_dim": Option("hidden_dim"),
        "intermediate_dim": Option("intermediate_dim"),
        "dropout": Option("dropout", 0.1),
        "norm_epsilon": Option("layer_norm_epsilon", 1e-6),
    },
    groups=(KerasHubT5(),),
    # Distances of tokens have no limit there, and KerasHub has the published kinds of them.
    fixed={**_T5.fixed, "context_length": 512, "relative_buckets": 32, "relative_distance": 128},
    layers={
        "token_embedding": "token_embedding",
        "encoder/relative_positions/bucket_embedding": "encoder/self_attention",
        "encoder/final_norm": "encoder_output_layer_norm",
        "decoder/relative_positions/bucket_embedding": "decoder/self_attention",
        "decoder/final_norm": "decoder_output_layer_norm",
    },
    block="transformer_encoder_layer_{}/",
    block_layers={**_HUB_SELF, "feedforward_norm": f"{_NORM}_1"},
    decoder_block="transformer_decoder_layer_{}/",
    decoder_block_layers={
        **_HUB_SELF,
        "cross_attention/query": "cross_attention/query_projector",
        "cross_attention/key_value": "cross_attention/key_projector "
        "cross_attention/value_projector",
        "cross_attention/output": "cross_attention/output_projector",
        "cross_attention_norm": f"{_NORM}_1",
        "feedforward_norm": f"{_NORM}_2",
    },
    dense="columns",
    weights={**KERAS, "scale": "/weight"},
    untied_head="token_embedding/reverse_embeddings",
    default_task="summarize",
)


def unique_paths(paths: Iterable[str]) -> Iterator[str]:
    """Paths of a T5Backbone's weights in their order, where KerasHub counts norms of all models
    together and calls what both stacks have by one name.
    """
    seen: dict[str, int] = {}
    stacks = iter(("encoder", "decoder"))
    for path in paths:
        before, _, rest = path.partition(f"/{_NORM}")
        if path == "self_attention/embeddings":
            yield f"{next(stacks)}/{path}"
        elif rest:
            number = seen.setdefault(before, 0)
            seen[before] += 1
            yield f"{before}/{_NORM}_{number}/weight"
        else:
            yield path
