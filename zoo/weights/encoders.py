"""Published encoders: one row of options and tensor names each, most of them as BERT's."""

import dataclasses

from zoo.models.configs import BertConfig
from zoo.weights.encoder_fields import Disentangled, EmbeddingWidth, LocalAndGlobal
from zoo.weights.family import Family, Option


def _classes(name: str) -> dict[str, str]:
    return {
        f"{name}Model": "embed",
        f"{name}ForMaskedLM": "mlm",
        f"{name}ForSequenceClassification": "classify",
        f"{name}ForTokenClassification": "tag",
        f"{name}ForQuestionAnswering": "span",
    }


OF_2018 = {"norm": "layer_norm", "positions": "learned", "qk_norm": False}
_LIKE_BERT = {**OF_2018, "use_bias": True, "norm_placement": "post"}
_MLM = ("transform", "transform_norm", "output_bias")
# Of an activation of one half, multiplied by the other.
_GATED = {"gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "silu": "swiglu"}
_HEAD = {"transform": "head.dense", "transform_norm": "head.norm"}
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
    pair_separators=2,
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
    bare_pooler="",
    tokenizer=("wordpiece", "DistilBertTokenizer"),
)
_WITHOUT_SEGMENTS = {name: o for name, o in _BERT.options.items() if name != "num_segments"}
_NO_BIAS = "either all layers have a bias or none, but for the output"
_MODERNBERT = Family(
    config=BertConfig,
    options={
        **_WITHOUT_SEGMENTS,
        "vocabulary_size": Option("vocab_size", 50368),
        "context_length": Option("max_position_embeddings", 8192),
        "num_layers": Option("num_hidden_layers", 22),
        "intermediate_dim": Option("intermediate_size", 1152),
        "activation": Option("hidden_activation", "gelu", names=_GATED),
        "norm_epsilon": Option("norm_eps", 1e-5),
        "dropout": Option("embedding_dropout", 0.0, ("attention_dropout", "mlp_dropout")),
    },
    groups=(LocalAndGlobal(),),
    fixed={
        **_LIKE_BERT,
        "positions": "rotary",
        "use_bias": False,
        "norm_placement": "pre",
        "embedding_norm": True,
        "num_segments": 0,
        "head_transform": True,
    },
    layers={
        "token_embedding": "embeddings.tok_embeddings",
        "embedding_norm": "embeddings.norm",
        "final_norm": "final_norm",
    },
    block="layers.{}.",
    block_layers={
        "attention/qkv": "attn.Wqkv",
        "attention/output": "attn.Wo",
        "attention_norm": "attn_norm",
        "feedforward/expand": "mlp.Wi",
        "feedforward/contract": "mlp.Wo",
        "feedforward_norm": "mlp_norm",
    },
    prefix="model.",
    heads={
        **{task: {**_HEAD, "output": "classifier"} for task in ("classify", "tag", "span")},
        "mlm": {**_HEAD, "output_bias": "decoder"},
    },
    twins={"decoder.weight": "embeddings.tok_embeddings.weight"},
    classes=_classes("ModernBert"),
    bare="ModernBertModel",
    required=(
        *((f"{name}_bias", (False,), _NO_BIAS) for name in ("attention", "mlp", "norm")),
        ("classifier_bias", (False,), _NO_BIAS),
        ("decoder_bias", (True,), "logits of masked tokens have a bias here"),
        ("classifier_activation", ("gelu",), "heads have that one whatever the layers have"),
        ("sliding_window", (None,), "local_attention says it"),
    ),
    written={"tie_word_embeddings": True},
    head_dropout=dict.fromkeys(("classify", "tag", "span"), ("classifier_dropout", 0.0)),
    bare_pooler="",
    pooling_field="classifier_pooling",
    tokenizer=("bytepair", "PreTrainedTokenizerFast"),
    special_tokens=_BERT.special_tokens,
)
_ELECTRA = dataclasses.replace(
    _BERT,
    options={
        **_BERT.options,
        "num_heads": Option("num_attention_heads", 4),
        "hidden_dim": Option("hidden_size", 256),
        "intermediate_dim": Option("intermediate_size", 1024),
    },
    groups=(EmbeddingWidth(128, 256),),
    layers={**_BERT.layers, "embedding_projection": "embeddings_project"},
    prefix="electra.",
    # What its discriminator was trained with.
    optional=("discriminator_predictions.",),
    heads={
        **_BERT.heads,
        "classify": {"pooler": "classifier.dense", "output": "classifier.out_proj"},
        "mlm": {
            "transform": "generator_predictions.dense",
            "transform_norm": "generator_predictions.LayerNorm",
            "output_bias": "generator_lm_head",
        },
    },
    twins={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
    classes={**_classes("Electra"), "ElectraForPreTraining": "embed"},
    bare="ElectraModel",
    pooler_activation="gelu",
    bare_pooler="",
    mlm_activation="gelu",
)
_ALBERT = dataclasses.replace(
    _BERT,
    options={
        **_BERT.options,
        "vocabulary_size": Option("vocab_size", 30000),
        "num_heads": Option("num_attention_heads", 64),
        "hidden_dim": Option("hidden_size", 4096),
        "intermediate_dim": Option("intermediate_size", 16384),
        "embedding_dim": Option("embedding_size", 128),
        "activation": Option("hidden_act", "gelu_new"),
        "dropout": Option("hidden_dropout_prob", 0.0, ("attention_probs_dropout_prob",)),
    },
    fixed={**_LIKE_BERT, "shared_layers": True},
    layers={**_BERT.layers, "embedding_projection": "encoder.embedding_hidden_mapping_in"},
    block="encoder.albert_layer_groups.0.albert_layers.0.",
    block_layers={
        "attention/qkv": "attention.query attention.key attention.value",
        "attention/output": "attention.dense",
        "attention_norm": "attention.LayerNorm",
        "feedforward/expand": "ffn",
        "feedforward/contract": "ffn_output",
        "feedforward_norm": "full_layer_layer_norm",
    },
    prefix="albert.",
    optional=("sop_classifier.", "pooler."),
    heads={
        **_BERT.heads,
        "classify": {"pooler": "pooler", "output": "classifier"},
        "mlm": dict(zip(_MLM, ("predictions.dense", "predictions.LayerNorm", "predictions"))),
    },
    twins={
        "predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    classes={**_classes("Albert"), "AlbertForPreTraining": "mlm"},
    bare="AlbertModel",
    required=(
        *_BERT.required,
        ("num_hidden_groups", (1,), "all layers have the same weights"),
        ("inner_group_num", (1,), "all layers have the same weights"),
    ),
    written={**_BERT.written, "num_hidden_groups": 1, "inner_group_num": 1},
    head_dropout=dict.fromkeys(("classify", "tag"), ("classifier_dropout_prob", 0.1)),
    bare_pooler="pooler",
    tokenizer=("sentencepiece", "AlbertTokenizer"),
    special_tokens={**_BERT.special_tokens, "unk_token": "<unk>", "pad_token": "<pad>"},
)
_DEBERTA = dataclasses.replace(
    _BERT,
    options={
        **_BERT.options,
        "vocabulary_size": Option("vocab_size", 128100),
        "num_layers": Option("num_hidden_layers", 24),
        "num_heads": Option("num_attention_heads", 24),
        "hidden_dim": Option("hidden_size", 1536),
        "intermediate_dim": Option("intermediate_size", 6144),
        "num_segments": Option("type_vocab_size", 0, least=0),
        "norm_epsilon": Option("layer_norm_eps", 1e-7),
    },
    groups=(Disentangled(),),
    fixed={name: value for name, value in _LIKE_BERT.items() if name != "positions"},
    layers={
        **_BERT.layers,
        "distance_embedding/bucket_embedding": "encoder.rel_embeddings",
        "distance_embedding/norm": "encoder.LayerNorm",
    },
    block_layers={
        **_BERT.block_layers,
        "attention/qkv": " ".join(f"attention.self.{n}_proj" for n in ("query", "key", "value")),
        "attention/distance_key": "attention.self.pos_key_proj",
        "attention/distance_query": "attention.self.pos_query_proj",
    },
    prefix="deberta.",
    # Heads of the first training, and positions that are not added to anything.
    optional=(
        *("cls.predictions.", "lm_predictions.", "mask_predictions.", "pooler.dense."),
        "embeddings.position_embeddings.",
    ),
    # Of version 3 the head has other names.
    twins={
        **_BERT.twins,
        **{
            f"lm_predictions.lm_head.{old}": f"cls.predictions.{new}"
            for old, new in {
                **{f"dense.{name}": f"transform.dense.{name}" for name in ("weight", "bias")},
                **{f"LayerNorm.{n}": f"transform.LayerNorm.{n}" for n in ("weight", "bias")},
                "bias": "bias",
            }.items()
        },
    },
    classes=_classes("DebertaV2"),
    bare="DebertaV2Model",
    required=(
        ("conv_kernel_size", (0,), "there is no convolution beside the first layer here"),
        ("pooler_hidden_act", ("gelu",), "a classifier's dense layer has that one here"),
        ("attention_head_size", (None,), "the heads share the width"),
    ),
    written={**_BERT.written, "legacy": True, "pooler_hidden_act": "gelu"},
    head_dropout={"classify": ("cls_dropout", None), "tag": (None, None)},
    pooler_activation="gelu",
    bare_pooler="",
    tokenizer=("sentencepiece", "DebertaV2Tokenizer"),
)

# By transformers' `model_type`.
ENCODERS = {
    "bert": _BERT,
    "distilbert": _DISTILBERT,
    "roberta": _ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "modernbert": _MODERNBERT,
    "electra": _ELECTRA,
    "albert": _ALBERT,
    "deberta-v2": _DEBERTA,
}
