"""Published architectures: one row of options and tensor names each. A new family is a new row."""

import dataclasses
from typing import Any

from zoo.models.configs import BertConfig, GPTConfig, ModelConfig
from zoo.weights.decoders import DECODERS
from zoo.weights.encoder_decoders import ENCODER_DECODERS, KERAS_HUB_T5
from zoo.weights.family import KERAS, Family, Option


def _classes(name: str) -> dict[str, str]:
    return {
        f"{name}Model": "embed",
        f"{name}ForMaskedLM": "mlm",
        f"{name}ForSequenceClassification": "classify",
        f"{name}ForTokenClassification": "tag",
        f"{name}ForQuestionAnswering": "span",
    }


_OF_2018 = {"norm": "layer_norm", "positions": "learned", "qk_norm": False}
_LIKE_BERT = {**_OF_2018, "use_bias": True, "norm_placement": "post"}
_LIKE_GPT2 = {**_OF_2018, "token_shift": 0}
_MLM = ("transform", "transform_norm", "output_bias")
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
    buffers=r"embeddings\.(position_ids|token_type_ids)",
    # Next-sentence prediction, and the pooler.
    optional=("cls.seq_relationship.", "pooler.dense."),
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
    # The last one's next-sentence prediction is not read.
    classes={**_classes("Bert"), "BertForPreTraining": "mlm"},
    bare="BertModel",
    required=(("position_embedding_type", ("absolute",), "positions are learned and absolute"),),
    written={"tie_word_embeddings": True},
    head_dropout={"classify": ("classifier_dropout", None), "tag": ("classifier_dropout", None)},
    tokenizer=("wordpiece", "BertTokenizer"),
    special_tokens={f"{n}_token": f"[{n.upper()}]" for n in ("unk", "sep", "pad", "cls", "mask")},
)
_ROBERTA = dataclasses.replace(
    _BERT,
    options={
        **_BERT.options,
        "vocabulary_size": Option("vocab_size", 50265),
        "num_segments": Option("type_vocab_size", 1),
    },
    prefix="roberta.",
    heads={
        **_BERT.heads,
        "classify": {"pooler": "classifier.dense", "output": "classifier.out_proj"},
        "mlm": dict(zip(_MLM, ("lm_head.dense", "lm_head.layer_norm", "lm_head"))),
    },
    twins={
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    classes=_classes("Roberta"),
    bare="RobertaModel",
    required=(*_BERT.required, ("type_vocab_size", (1,), "all tokens are of one segment")),
    mlm_activation="gelu",
    offset_positions=True,
    tokenizer=("bytepair", "RobertaTokenizer"),
    special_tokens={"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>"}
    | {"unk_token": "<unk>", "mask_token": "<mask>"},
)
XLM_ROBERTA = dataclasses.replace(
    _ROBERTA,
    options={**_ROBERTA.options, "vocabulary_size": Option("vocab_size", 250002)},
    classes=_classes("XLMRoberta"),
    bare="XLMRobertaModel",
    tokenizer=("sentencepiece", "XLMRobertaTokenizer"),
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
        "mlm": dict(zip(_MLM, ("vocab_transform", "vocab_layer_norm", "vocab_projector"))),
    },
    twins={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    classes=_classes("DistilBert"),
    bare="DistilBertModel",
    required=(),
    written={**_BERT.written, "sinusoidal_pos_embds": False},
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
HUGGINGFACE = {"bert": _BERT, "distilbert": _DISTILBERT, "roberta": _ROBERTA, "gpt2": _GPT2}
HUGGINGFACE |= {"xlm-roberta": XLM_ROBERTA} | DECODERS | ENCODER_DECODERS

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
    own["layers"] |= {name: name for name in ("token_embedding", "position_embedding")}
    form = {"block": "transformer_layer_{}/", "dense": "split_heads", "weights": KERAS}
    return Family(config=config, block_layers=block_layers, **form, **own)


# By KerasHub's class.
KERAS_HUB = {
    "BertBackbone": _keras_hub(
        BertConfig,
        512,
        "self_attention_layer",
        options={"num_segments": Option("num_segments", 2)},
        # The published BERT has exact GELU; KerasHub computes its approximation.
        fixed={"activation": "gelu_tanh", "norm_epsilon": 1e-12},
        layers={
            "segment_embedding": "segment_embedding",
            "embedding_norm": "embeddings_layer_norm",
            "pooler": "pooled_dense",
        },
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
