"""transformers' `config.json` as our model config: every field that changes a number is either
translated or refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from zoo.config import ConfigError, Fields
from zoo.files import BundleError
from zoo.models.configs import BertConfig, GPTConfig, ModelConfig
from zoo.weights.huggingface.architectures import BARE, SAME_HEAD, task_of

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    # Three ways to compute the same tanh approximation.
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu2": "squared_relu",
}

# Labels that a number alone makes, where nothing else in the file must agree with it.
_MOST_UNNAMED = 100_000


@dataclasses.dataclass(frozen=True)
class Description:
    """What a `config.json` says of a model.

    Attributes:
        model_type: "bert", "distilbert", "roberta" or "gpt2".
        architecture: transformers' class.
        stored: the task of that class: whose head the file holds; "classify" for a regressor.
        task: the task to build.
        config: model config, with a pooler where the task needs one.
        head: options of the head, but for those that sentence-transformers decides.
        labels: names of classes or tags.
        position_offset: int, rows of the position embedding that no token uses.
    """

    model_type: str
    architecture: str
    stored: str
    task: str
    config: ModelConfig
    head: dict[str, Any]
    labels: tuple[str, ...]
    position_offset: int = 0

    @property
    def keeps_head(self) -> bool:
        """Whether the file's head is the one that is built."""
        return self.stored == SAME_HEAD.get(self.task, self.task)


def describe(fields: Fields, task: str | None = None) -> Description:
    """Translates a `config.json`.

    Args:
        fields: the file.
        task: what to build; `None` means what the architecture does.

    Raises:
        BundleError: an unsupported model type, architecture, activation or other setting, or a
            value that makes no sense; the message names the file and the field.
    """
    where = fields.where
    model_type = fields.text("model_type", "")
    names = fields.values.get("architectures") or [BARE.get(model_type, "")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise BundleError(
            f"{where}: architectures must be a list of names. Received: {names!r:.80}"
        )
    if task is None or model_type not in BARE:
        stored = task_of(model_type, names[0], where)
    else:
        try:
            stored = task_of(model_type, names[0], where)
        except BundleError:
            stored = ""  # a head that is unknown here and not wanted, either
    _refuse_everywhere(fields)
    labels = read_labels(fields)
    if task is None:
        task = _task(fields, stored, labels)
    try:
        if model_type == "gpt2":
            config = _gpt2(fields, names[0])
            head, offset = {}, 0
        else:
            offset = fields.whole("pad_token_id", 1, least=0) + 1 if model_type == "roberta" else 0
            config = _distilbert(fields) if model_type == "distilbert" else _bert(fields, offset)
            head = _head(fields, model_type, task, labels, config)
            if SAME_HEAD.get(task, task) == "classify":
                config = dataclasses.replace(config, use_pooler=True)
    except ConfigError as error:
        raise BundleError(f"{where}: {error}") from None
    labels = labels if task in ("classify", "pair", "tag") else ()
    return Description(model_type, names[0], stored, task, config, head, labels, offset)


def read_labels(fields: Fields) -> tuple[str, ...]:
    """Names of classes or tags in order of their ids; as many "LABEL_0" as there are, without any.

    Raises:
        BundleError: ids that are not 0, 1, 2..., or labels that are no strings.
    """
    given = fields.values.get("id2label")
    if given is None:
        count = fields.whole("num_labels", 2)
        if count > _MOST_UNNAMED:
            raise BundleError(
                f"{fields.where}: num_labels is {count}, and without id2label, which names them, "
                f"at most {_MOST_UNNAMED} are read"
            )
        return tuple(f"LABEL_{index}" for index in range(count))
    ids = [str(index) for index in range(len(given))] if isinstance(given, dict) else None
    if not ids or sorted(given) != sorted(ids):
        raise BundleError(f"{fields.where}: id2label must give ids 0, 1, 2... a name each")
    labels = tuple(given[index] for index in ids)
    if not all(isinstance(label, str) for label in labels):
        raise BundleError(f"{fields.where}: id2label must give names. Received: {labels!r:.80}")
    return labels


def _task(fields: Fields, stored: str, labels: tuple[str, ...]) -> str:
    if stored != "classify":
        return stored
    problem = fields.text("problem_type", "single_label_classification")
    if problem == "multi_label_classification":
        raise BundleError(
            f"{fields.where}: problem_type is {problem!r}: each label has a probability of its "
            "own there, and a classifier here has one answer. Load it with task='embed' for its "
            "backbone."
        )
    known = ("single_label_classification", "regression")
    if problem not in known:
        raise BundleError(
            f"{fields.where}: problem_type is {problem!r}; known are {', '.join(known)}"
        )
    if len(labels) == 1:
        return "regress"
    if problem == "regression":
        raise BundleError(
            f"{fields.where}: problem_type is 'regression' with {len(labels)} outputs; a "
            "regression here has one"
        )
    return "classify"


def _refuse_everywhere(fields: Fields) -> None:
    fields.require("is_decoder", (False,), "it hides what comes after a token from it")
    fields.require("add_cross_attention", (False,), "there is no other text to attend to")
    fields.require("is_encoder_decoder", (False,), "there is one stack of layers here")
    fields.require("pruned_heads", ({},), "all layers have the same heads here")
    if fields.values.get("quantization_config") is not None:
        raise BundleError(
            f"{fields.where}: quantization_config: quantised weights are not read; take the "
            "model's float weights"
        )


def _activation(fields: Fields, name: str, default: str) -> str:
    value = fields.text(name, default)
    if value not in ACTIVATIONS:
        raise BundleError(
            f"{fields.where}: {name} is {value!r}; supported are {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def _bert(fields: Fields, offset: int) -> BertConfig:
    why = "positions here are learned and absolute"
    fields.require("position_embedding_type", ("absolute",), why)
    fields.require("embedding_size", (fields.whole("hidden_size", 768),), "it must be hidden_size")
    segments = fields.whole("type_vocab_size", 2)
    if offset and segments != 1:
        raise BundleError(
            f"{fields.where}: type_vocab_size is {segments}, and only 1 is supported for roberta"
        )
    return BertConfig(
        vocabulary_size=fields.whole("vocab_size", 50265 if offset else 30522),
        context_length=fields.whole("max_position_embeddings", 512, least=1 + offset) - offset,
        num_layers=fields.whole("num_hidden_layers", 12),
        num_heads=fields.whole("num_attention_heads", 12),
        hidden_dim=fields.whole("hidden_size", 768),
        intermediate_dim=fields.whole("intermediate_size", 3072),
        num_segments=segments,
        norm_epsilon=fields.number("layer_norm_eps", 1e-12),
        activation=_activation(fields, "hidden_act", "gelu"),
        use_pooler=False,
        dropout=fields.number("hidden_dropout_prob", 0.1),
        initializer_range=fields.number("initializer_range", 0.02),
    )


def _distilbert(fields: Fields) -> BertConfig:
    return BertConfig(
        vocabulary_size=fields.whole("vocab_size", 30522),
        context_length=fields.whole("max_position_embeddings", 512),
        num_layers=fields.whole("n_layers", 6),
        num_heads=fields.whole("n_heads", 12),
        hidden_dim=fields.whole("dim", 768),
        intermediate_dim=fields.whole("hidden_dim", 3072),
        num_segments=0,
        activation=_activation(fields, "activation", "gelu"),
        use_pooler=False,
        pooler_activation="relu",
        dropout=fields.number("dropout", 0.1),
        initializer_range=fields.number("initializer_range", 0.02),
    )


def _gpt2(fields: Fields, architecture: str) -> GPTConfig:
    why = "scores are divided by the root of the head's width"
    fields.require("scale_attn_weights", (True,), why)
    fields.require("scale_attn_by_inverse_layer_idx", (False,), why)
    fields.require("reorder_and_upcast_attn", (False,), "scores are computed in one order here")
    tied = fields.flag("tie_word_embeddings", True) or architecture == "GPT2Model"
    return GPTConfig(
        vocabulary_size=fields.whole("vocab_size", 50257),
        context_length=fields.whole("n_positions", 1024),
        num_layers=fields.whole("n_layer", 12),
        num_heads=fields.whole("n_head", 12),
        hidden_dim=fields.whole("n_embd", 768),
        intermediate_dim=fields.whole("n_inner", None),
        positions="learned",
        norm="layer_norm",
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        qk_norm=False,
        activation=_activation(fields, "activation_function", "gelu_new"),
        use_bias=True,
        tie_embeddings=tied,
        dropout=fields.number("resid_pdrop", 0.1),
        initializer_range=fields.number("initializer_range", 0.02),
    )


def _head(
    fields: Fields, model_type: str, task: str, labels: tuple[str, ...], config: BertConfig
) -> dict[str, Any]:
    """Options of the head."""
    if task == "mlm":
        fields.require("tie_word_embeddings", (True,), "the output is the token embedding here")
        if model_type == "roberta" and config.activation != "gelu":
            raise BundleError(
                f"{fields.where}: hidden_act must be 'gelu' for a masked language model: "
                "roberta's head has that one whatever its layers have"
            )
    distilbert = model_type == "distilbert"
    if task == "span":
        # BERT's and RoBERTa's have none before the last layer.
        return {"dropout": fields.number("qa_dropout", 0.1) if distilbert else 0.0}
    if task not in ("classify", "pair", "regress", "tag"):
        return {}
    dropout = fields.number("classifier_dropout", config.dropout)
    if distilbert:
        dropout = config.dropout if task == "tag" else fields.number("seq_classif_dropout", 0.2)
    if task == "tag":
        return {"num_tags": len(labels), "dropout": dropout}
    head = {"pooling": "cls", "dropout": dropout}
    return head if task == "regress" else {"num_classes": len(labels), **head}
