"""Our model config as a `config.json` of transformers, or the fields that it has no words for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from zoo.models.configs import BertConfig, GPTConfig
from zoo.tokenizers import Tokenizer
from zoo.weights.huggingface.architectures import architecture_for
from zoo.weights.huggingface.tokenizer_files import KINDS

# The names that transformers itself writes.
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "squared_relu": "relu2"}


def model_type_for(model: keras.Model, tokenizer: Tokenizer) -> str:
    """Which model of transformers a bundle's model is.

    Raises:
        ValueError: none of them; the message names the fields and what they would have to be.

    Example: `model_type_for(zoo.load("hf://distilbert/distilgpt2"))  # "gpt2"`
    """
    config = model.backbone.config
    if config.family == "gpt":
        model_type = "gpt2"
    elif config.family == "bert":
        one_segment = "bert" if tokenizer.kind == "wordpiece" else "roberta"
        model_type = {0: "distilbert", 1: one_segment}.get(config.num_segments, "bert")
    else:
        raise ValueError(
            f"model.family is {config.family!r}: transformers has no such model; only gpt and bert "
            "can be saved for it"
        )
    problems = [
        f"{name} is {value!r}, not {' or '.join(map(repr, allowed))}"
        for name, value, allowed in _conditions(model, tokenizer, model_type)
        if value not in allowed
    ]
    if problems:
        raise ValueError(
            f"transformers' {model_type} cannot express this model: {'; '.join(problems)}"
        )
    return model_type


def huggingface_config(
    model: keras.Model, tokenizer: Tokenizer, labels: Sequence[str], model_type: str
) -> dict[str, Any]:
    """The content of `config.json`."""
    config = model.backbone.config
    common = {
        "architectures": [architecture_for(model_type, model.task)],
        "model_type": model_type,
        "dtype": "float32",
        "vocab_size": config.vocabulary_size,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": getattr(config, "tie_embeddings", True),
    }
    if model_type == "gpt2":
        end = tokenizer.end_id
        return common | {"bos_token_id": end, "eos_token_id": end} | _gpt2(config)
    common |= {"pad_token_id": tokenizer.pad_id} | _labels(model.task, labels)
    if model_type == "roberta":
        common |= {"bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    head_dropout = model.head_config().get("dropout", config.dropout)
    if model_type == "distilbert":
        return common | _distilbert(config, head_dropout)
    return common | _bert(config, head_dropout, position_offset(tokenizer, model_type))


def position_offset(tokenizer: Tokenizer, model_type: str) -> int:
    """Rows before the first position's: RoBERTa counts positions from the pad id on."""
    return tokenizer.pad_id + 1 if model_type == "roberta" else 0


def _conditions(model: keras.Model, tokenizer: Tokenizer, model_type: str):
    """(field, value, allowed values) of all that transformers has no choice in."""
    config, task = model.backbone.config, model.task
    yield "model.norm", config.norm, ("layer_norm",)
    yield "model.positions", config.positions, ("learned",)
    yield "model.qk_norm", config.qk_norm, (False,)
    yield "model.use_bias", config.use_bias, (True,)
    mlm_of_roberta = model_type == "roberta" and task == "mlm"
    activations = ("gelu",) if mlm_of_roberta else tuple(ACTIVATIONS)
    yield "model.activation", config.activation, activations
    yield "tokenizer", tokenizer.kind, (KINDS[model_type],)
    if model_type == "gpt2":
        yield "model.num_kv_heads", config.key_value_heads, (config.num_heads,)
        yield "model.token_shift", config.token_shift, (0,)
        return
    yield "model.norm_placement", config.norm_placement, ("post",)
    if model_type == "distilbert":
        yield "model.norm_epsilon", config.norm_epsilon, (1e-12,)
    head = model.head_config()
    if task in ("classify", "pair", "regress"):
        yield "head.pooling", head["pooling"], ("cls",)
        yield "model.use_pooler", config.use_pooler, (True,)
        activation = "relu" if model_type == "distilbert" else "tanh"
        yield "model.pooler_activation", config.pooler_activation, (activation,)
    if task == "embed":
        yield "head.embedding_dim", head["embedding_dim"], (None,)
        if head["pooling"] == "cls":
            yield "model.use_pooler", config.use_pooler, (False,)
        elif model_type != "distilbert" and config.use_pooler:
            yield "model.pooler_activation", config.pooler_activation, ("tanh",)


def _gpt2(config: GPTConfig) -> dict[str, Any]:
    return {
        "n_positions": config.context_length,
        "n_embd": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.feedforward_dim,
        "activation_function": ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
    }


def _bert(config: BertConfig, head_dropout: float, offset: int) -> dict[str, Any]:
    return {
        "max_position_embeddings": config.context_length + offset,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.feedforward_dim,
        "type_vocab_size": config.num_segments,
        "hidden_act": ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "classifier_dropout": head_dropout,
    }


def _distilbert(config: BertConfig, head_dropout: float) -> dict[str, Any]:
    return {
        "max_position_embeddings": config.context_length,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "dim": config.hidden_dim,
        "hidden_dim": config.feedforward_dim,
        "activation": ACTIVATIONS[config.activation],
        "sinusoidal_pos_embds": False,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "seq_classif_dropout": head_dropout,
        "qa_dropout": head_dropout,
    }


def _labels(task: str, labels: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if task == "regress":
        labels, fields["problem_type"] = ("LABEL_0",), "regression"
    elif task in ("classify", "pair"):
        fields["problem_type"] = "single_label_classification"
    if labels:
        fields["id2label"] = {str(index): label for index, label in enumerate(labels)}
        fields["label2id"] = {label: index for index, label in enumerate(labels)}
    return fields
