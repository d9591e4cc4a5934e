"""transformers' `config.json`, both ways: every field that changes a number is either translated
or refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from zoo.config import ConfigError, Fields, read_json
from zoo.files import BundleError, inside
from zoo.models.configs import BertConfig, ModelConfig
from zoo.tokenizers import Tokenizer
from zoo.weights.families import HUGGINGFACE, Family, Option

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    # Three ways to compute the same tanh approximation; the first one is written.
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu2": "squared_relu",
}
# Several tasks, one network.
SAME_HEAD = {"pair": "classify", "regress": "classify"}
_REFUSED = (
    ("is_decoder", (False,), "it hides what comes after a token from it"),
    ("add_cross_attention", (False,), "there is no other text to attend to"),
    ("is_encoder_decoder", (False,), "there is one stack of layers here"),
    ("pruned_heads", ({},), "all layers have the same heads here"),
)
# Labels that a number alone makes, where nothing else in the file must agree with it.
_MAX_UNNAMED_LABELS = 100_000


def is_huggingface(folder: Path) -> bool:
    """Whether a folder holds a model of transformers: its config.json says so."""
    try:
        content = read_json(inside(folder, "config.json"))
    except BundleError:
        return False
    if not isinstance(content, dict) or "format_version" in content:
        return False
    return "model_type" in content or "architectures" in content


@dataclasses.dataclass(frozen=True)
class Description:
    """What a `config.json` says of a model."""

    model_type: str  # key of `HUGGINGFACE`
    family: Family
    architecture: str  # transformers' class
    stored: str  # task whose head the file holds; "classify" for a regressor
    task: str  # to build
    config: ModelConfig
    head: dict[str, Any]  # options, but for those that sentence-transformers decides
    labels: tuple[str, ...]
    position_offset: int = 0  # rows of the position embedding that no token uses

    @property
    def keeps_head(self) -> bool:
        """Whether the file's head is the one that is built."""
        return self.stored == SAME_HEAD.get(self.task, self.task)


def describe(fields: Fields, task: str | None = None) -> Description:
    """Translates a `config.json`; a `task` of None is what its architecture does.

    Raises:
        BundleError: an unsupported model type, architecture, activation or other setting, or a
            value that makes no sense; the message names the file and the field.
    """
    where = fields.where
    model_type = fields.text("model_type", "")
    family = HUGGINGFACE.get(model_type)
    if family is None:
        raise BundleError(
            f"{where}: model_type {model_type!r} is not supported; supported are "
            f"{', '.join(HUGGINGFACE)}"
        )
    names = fields.values.get("architectures") or [family.bare]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise BundleError(
            f"{where}: architectures must be a list of names. Received: {names!r:.80}"
        )
    stored = family.classes.get(names[0], "")
    if not stored and task is None:
        raise BundleError(
            f"{where}: architecture {names[0]!r} is not supported; supported for model_type "
            f"{model_type!r} are {', '.join(family.classes)}. If only its backbone matters, load "
            "it with task='embed' or another task."
        )
    for name, allowed, why in (*_REFUSED, *family.required):
        fields.require(name, allowed, why)
    if fields.values.get("quantization_config") is not None:
        raise BundleError(
            f"{where}: quantization_config: quantised weights are not read; take the model's "
            "float weights"
        )
    labels = _read_labels(fields)
    task = task or _stored_task(fields, stored, labels)
    offset = fields.whole("pad_token_id", 1, least=0) + 1 if family.offset_positions else 0
    try:
        config = _read_config(fields, family, offset, names[0])
        head = _read_head(fields, model_type, task, labels, config)
        if SAME_HEAD.get(task, task) == "classify" and isinstance(config, BertConfig):
            config = dataclasses.replace(config, use_pooler=True)
    except ConfigError as error:
        raise BundleError(f"{where}: {error}") from None
    labels = labels if task in ("classify", "pair", "tag") else ()
    return Description(
        model_type, family, names[0], stored, task, config, head, labels, position_offset=offset
    )


def _read_labels(fields: Fields) -> tuple[str, ...]:
    """Names of classes or tags in order of their ids; "LABEL_0" and so on where they have none."""
    given = fields.values.get("id2label")
    if given is None:
        count = fields.whole("num_labels", 2)
        if count > _MAX_UNNAMED_LABELS:
            raise BundleError(
                f"{fields.where}: num_labels is {count}, and without id2label, which names them, "
                f"at most {_MAX_UNNAMED_LABELS} are read"
            )
        return tuple(f"LABEL_{index}" for index in range(count))
    ids = [str(index) for index in range(len(given))] if isinstance(given, dict) else None
    if not ids or sorted(given) != sorted(ids):
        raise BundleError(f"{fields.where}: id2label must give ids 0, 1, 2... a name each")
    labels = tuple(given[index] for index in ids)
    if not all(isinstance(label, str) for label in labels):
        raise BundleError(f"{fields.where}: id2label must give names. Received: {labels!r:.80}")
    return labels


def _stored_task(fields: Fields, stored: str, labels: tuple[str, ...]) -> str:
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


def _read_config(fields: Fields, family: Family, offset: int, architecture: str) -> ModelConfig:
    values = {ours: _read_option(fields, ours, o, offset) for ours, o in family.options.items()}
    if family.config is BertConfig:
        values |= {"use_pooler": False, "pooler_activation": family.pooler_activation}
        fields.require("embedding_size", (values["hidden_dim"],), "it must be hidden_size")
    else:
        is_bare = architecture == family.bare
        values["tie_embeddings"] = fields.flag("tie_word_embeddings", True) or is_bare
    if offset and values["num_segments"] != 1:
        raise BundleError(
            f"{fields.where}: type_vocab_size is {values['num_segments']}, and only 1 is "
            "supported for roberta"
        )
    return family.config(**values, **family.fixed)


def _read_option(fields: Fields, ours: str, option: Option, offset: int) -> Any:
    if ours == "activation":
        value = fields.text(option.name, option.default)
        if value not in _ACTIVATIONS:
            raise BundleError(
                f"{fields.where}: {option.name} is {value!r}; supported are "
                f"{', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[value]
    if isinstance(option.default, float):
        return fields.number(option.name, option.default)
    offset = offset if ours == "context_length" else 0
    value = fields.whole(option.name, option.default, least=1 + offset)
    return value - offset if offset else value


def _read_head(
    fields: Fields, model_type: str, task: str, labels: tuple[str, ...], config: ModelConfig
) -> dict[str, Any]:
    family = HUGGINGFACE[model_type]
    if task == "mlm":
        fields.require("tie_word_embeddings", (True,), "the output is the token embedding here")
        if model_type == "roberta" and config.activation != "gelu":
            raise BundleError(
                f"{fields.where}: hidden_act must be 'gelu' for a masked language model: "
                "roberta's head has that one whatever its layers have"
            )
    if task not in ("classify", "pair", "regress", "tag", "span"):
        return {}
    field, default = family.head_dropout.get(SAME_HEAD.get(task, task), (None, 0.0))
    default = config.dropout if default is None else default
    dropout = default if field is None else fields.number(field, default)
    if task == "span":
        return {"dropout": dropout}
    if task == "tag":
        return {"num_tags": len(labels), "dropout": dropout}
    head = {"pooling": "cls", "dropout": dropout}
    return head if task == "regress" else {"num_classes": len(labels), **head}


def model_type_for(model: keras.Model, tokenizer: Tokenizer) -> str:
    """Which model of transformers a model is.

    Raises:
        ValueError: none of them; the message names the fields and what they would have to be.
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


def _conditions(
    model: keras.Model, tokenizer: Tokenizer, model_type: str
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(field, value, allowed values) of all that transformers has no choice in."""
    config, task, family = model.backbone.config, model.task, HUGGINGFACE[model_type]
    for name, value in family.fixed.items():
        yield f"model.{name}", getattr(config, name), (value,)
    mlm_of_roberta = model_type == "roberta" and task == "mlm"
    activations = ("gelu",) if mlm_of_roberta else tuple(dict.fromkeys(_ACTIVATIONS.values()))
    yield "model.activation", config.activation, activations
    yield "tokenizer", tokenizer.kind, (family.tokenizer[0],)
    if task == "lm":
        yield "model.num_kv_heads", config.key_value_heads, (config.num_heads,)
        return
    head = model.head_config()
    if task in ("classify", "pair", "regress"):
        yield "head.pooling", head["pooling"], ("cls",)
        yield "model.use_pooler", config.use_pooler, (True,)
        yield "model.pooler_activation", config.pooler_activation, (family.pooler_activation,)
    if task == "embed":
        yield "head.embedding_dim", head["embedding_dim"], (None,)
        if head["pooling"] == "cls":
            yield "model.use_pooler", config.use_pooler, (False,)
        elif model_type != "distilbert" and config.use_pooler:
            yield "model.pooler_activation", config.pooler_activation, ("tanh",)


def architecture_for(model_type: str, task: str) -> str:
    """The class of transformers that does a task."""
    wanted = SAME_HEAD.get(task, task)
    return next(name for name, does in HUGGINGFACE[model_type].classes.items() if does == wanted)


def position_offset(tokenizer: Tokenizer, model_type: str) -> int:
    """Rows before the first position's: RoBERTa counts positions from the pad id on."""
    return tokenizer.pad_id + 1 if HUGGINGFACE[model_type].offset_positions else 0


def huggingface_config(
    model: keras.Model, tokenizer: Tokenizer, labels: Sequence[str], model_type: str
) -> dict[str, Any]:
    """The content of `config.json`."""
    config, family = model.backbone.config, HUGGINGFACE[model_type]
    values: dict[str, Any] = {
        "architectures": [architecture_for(model_type, model.task)],
        "model_type": model_type,
        "dtype": "float32",
        "tie_word_embeddings": getattr(config, "tie_embeddings", True),
    }
    for ours, option in family.options.items():
        value = config.feedforward_dim if ours == "intermediate_dim" else getattr(config, ours)
        if ours == "activation":
            value = next(theirs for theirs, name in _ACTIVATIONS.items() if name == value)
        elif ours == "context_length":
            value += position_offset(tokenizer, model_type)
        values |= dict.fromkeys((option.name, *option.copies), value)
    values |= family.written
    if model_type == "gpt2":
        return values | {"bos_token_id": tokenizer.end_id, "eos_token_id": tokenizer.end_id}
    values["pad_token_id"] = tokenizer.pad_id
    if model_type == "roberta":
        values |= {"bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    head_dropout = model.head_config().get("dropout", config.dropout)
    values |= {name: head_dropout for name, _ in family.head_dropout.values() if name}
    return values | _labels(model.task, labels)


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
