"""A folder of transformers becomes a bundle: every field of its `config.json` that changes a number
is either translated or refused by name.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from absl import logging

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import Fields
from zoo.files import BundleError, blaming, inside
from zoo.models.build import build, count_backbone_weights
from zoo.models.configs import BertConfig, EncoderDecoderConfig, ModelConfig
from zoo.text.chat_form import ChatForm
from zoo.text.chat_template import ChatTemplateError
from zoo.text.config import Seq2SeqConfig, TextConfig
from zoo.text.models import TEXT_MODELS
from zoo.text.seq2seq import SEQ2SEQ_MODELS
from zoo.tokenizers import Tokenizer
from zoo.weights.assign import assign_weights, check_size, listed, model_weights, sources_of
from zoo.weights.families import HUGGINGFACE
from zoo.weights.family import SAME_HEAD, Family
from zoo.weights.huggingface.adapters import AdaptedFiles
from zoo.weights.huggingface.causal_tokenizers import read_chat_form
from zoo.weights.huggingface.sentence_modules import SentenceModules, read_sentence_modules
from zoo.weights.huggingface.seq2seq_files import read_seq2seq
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.safetensors_files import WeightFiles

_LONGEST_TEXT = 512
_REFUSED = (
    ("is_decoder", (False,), "it hides what comes after a token from it"),
    ("add_cross_attention", (False,), "there is no other text to attend to"),
    ("pruned_heads", ({},), "all layers have the same heads here"),
    ("quantization_config", (None,), "take the model's float weights"),
)
# Labels that a number alone makes, where nothing else in the file must agree with it.
_MAX_UNNAMED_LABELS = 100_000
_LABELLED = ("classify", "pair", "tag")


@dataclasses.dataclass(frozen=True)
class Description:
    """What a `config.json` says of a model."""

    family: Family
    architecture: str  # transformers' class
    keeps_head: bool  # whether the file's head is the one that is built
    task: str  # to build
    config: ModelConfig
    head: dict[str, Any]  # options, but for those that sentence-transformers decides
    labels: tuple[str, ...]
    skipped: int  # rows of the position embedding that no token uses
    where: str  # the file that says it


class TensorSource(Protocol):
    """Tensors by the names that transformers has for them; `path` is what to blame."""

    path: Path

    def names(self) -> list[str]:
        """The names of all tensors."""

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32."""


def read_huggingface(folder: Path, task: str | None = None, adapter: Path | None = None) -> Bundle:
    """A bundle of the model in a folder; a `task` of None is what its architecture does.

    The factors of an `adapter` are added into its weights.
    """
    fields, described = _read_description(folder, task)
    modules = read_sentence_modules(folder) if described.task == "embed" else None
    # What is quickly read is checked before the weights are.
    lowercase = modules is not None and modules.lowercase
    tokenizer = read_tokenizer(folder, fields.values["model_type"], lowercase)
    check_vocabulary(folder, fields, described, tokenizer)
    seq2seq, model_type = None, fields.values["model_type"]
    if described.task in SEQ2SEQ_MODELS:
        seq2seq = read_seq2seq(folder, fields, model_type, described.task, tokenizer)
    files = _weight_files(folder, fields, described, adapter)
    read_form = functools.partial(read_chat_form, folder)
    return bundle_of(folder, files, described, tokenizer, read_form, modules, seq2seq)


def check_vocabulary(
    where: Path, fields: Fields, described: Description, tokenizer: Tokenizer
) -> None:
    """Raises BundleError for more ids than the embedding has rows."""
    rows = described.config.vocabulary_size
    if tokenizer.vocabulary_size > rows:
        raise BundleError(
            f"{where}: the tokenizer has {tokenizer.vocabulary_size} ids, and the embedding only "
            f"{rows} rows (vocab_size in {fields.where}): they are of two models"
        )


def bundle_of(
    where: Path,
    files: TensorSource,
    described: Description,
    tokenizer: Tokenizer,
    read_form: Callable[[], ChatForm | None],
    modules: SentenceModules | None = None,
    seq2seq: Seq2SeqConfig | None = None,
) -> Bundle:
    """The bundle of what is described; errors blame `where`. `read_form` gives a chat's form."""
    text, length = None, modules and modules.max_length
    with blaming(described.where):
        if described.task in TEXT_MODELS:
            longest = min(length or _LONGEST_TEXT, described.config.context_length)
            text = TextConfig(max_length=longest)
            if modules is not None:
                own = {"prompts": modules.prompts, "default_prompt": modules.default_prompt}
                text = dataclasses.replace(text, **own)
        model = read_described(files, described, modules)
    form, no_chat = None, Bundle.no_chat
    if described.task == "lm":
        try:
            form = read_form()
        except ChatTemplateError as error:
            no_chat = str(error)
            logging.warning("%s: the model loads without chat: %s", where, error)
    with blaming(where):  # the text-level class says what does not fit together
        bundle = bundle_in_memory(
            where,
            model,
            tokenizer,
            labels=described.labels,
            text=text,
            chat=form,
            seq2seq=seq2seq,
        )
    return dataclasses.replace(bundle, no_chat=no_chat)


def read_model(folder: Path, adapter: Path | None = None) -> keras.Model:
    """The model in a folder, without its tokenizer."""
    fields, described = _read_description(folder, None)
    files = _weight_files(folder, fields, described, adapter)
    with blaming(fields.where):
        return read_described(files, described, None)


def outline_of_folder(folder: Path) -> tuple[str, ModelConfig]:
    """What the architecture of the model in a folder does, and its model config."""
    described = _read_description(folder, None)[1]
    return described.task, described.config


def _read_description(folder: Path, task: str | None) -> tuple[Fields, Description]:
    fields = Fields.read(inside(folder, "config.json"))
    with blaming(fields.where):
        return fields, describe(fields, task)


def _weight_files(
    folder: Path, fields: Fields, described: Description, adapter: Path | None
) -> TensorSource:
    """The files of weights, which hold as many as the config asks for."""
    files = WeightFiles(folder)
    check_size(files.path, files.count(), fields, count_backbone_weights(described.config))
    if adapter is None:
        return files
    is_tied = getattr(described.config, "tie_embeddings", True)
    return AdaptedFiles(files, adapter, described.family, is_tied)


def describe(fields: Fields, task: str | None) -> Description:
    """What the fields of a `config.json` say; a BundleError names what is not known."""
    model_type, where = fields.text("model_type", ""), fields.where
    if model_type not in HUGGINGFACE:
        known = ", ".join(HUGGINGFACE)
        raise BundleError(
            f"{where}: model_type {model_type!r} is not supported; supported are {known}"
        )
    family = HUGGINGFACE[model_type]
    names = fields.values.get("architectures") or [family.bare]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise BundleError(f"{where}: architectures must be a list. Received: {names!r:.80}")
    stored = family.classes.get(names[0], "")
    if not stored and task is None:
        raise BundleError(
            f"{where}: architecture {names[0]!r} is not supported; supported for model_type "
            f"{model_type!r} are {', '.join(family.classes)}. If only its backbone matters, load "
            f"it with task={family.default_task or 'embed'!r} or another task."
        )
    stacks = family.config is EncoderDecoderConfig
    why = f"{model_type} has {'two stacks' if stacks else 'one stack'} of layers here"
    fields.require("is_encoder_decoder", (stacks,), why)
    for name, allowed, why in (*_REFUSED, *family.required):
        fields.require(name, allowed, why)
    labels = _read_labels(fields)
    if task is None and stored == "classify":
        why = (
            "a classifier here has one answer, and not, as with multi_label_classification, a "
            "probability of its own for each label. Load it with task='embed' for its backbone"
        )
        kinds = ("single_label_classification", "regression")
        if fields.require("problem_type", kinds, why) == "regression" and len(labels) > 1:
            raise BundleError(
                f"{where}: problem_type is 'regression' with {len(labels)} outputs; a regression "
                "here has one"
            )
        task = "regress" if len(labels) == 1 else "classify"
    task = task or family.default_task or stored
    values = family.read_options(fields)
    if "tie_embeddings" in values:
        values["tie_embeddings"] |= names[0] == family.bare
    if stacks:  # what the tensors alone say, at its smallest; see `_as_stored`
        values["logit_bias"] = False
        values["tie_embeddings"] |= family.finds_untied_head
    if family.config is BertConfig:
        values |= {"use_pooler": False, "pooler_activation": family.pooler_activation}
    config = family.config(**values)
    if task == "mlm":
        fields.require("tie_word_embeddings", (True,), "the output is the token embedding here")
        if family.mlm_activation not in (None, config.activation):
            raise BundleError(
                f"{where}: hidden_act must be {family.mlm_activation!r} for a masked language "
                f"model: {model_type}'s head has that one whatever its layers have"
            )
    same = SAME_HEAD.get(task, task)
    head: dict[str, Any] = {}
    if same in ("classify", "tag", "span"):
        field, default = family.head_dropout.get(same, (None, 0.0))
        dropout = config.dropout if default is None else default
        head["dropout"] = dropout if field is None else fields.number(field, dropout)
    if same == "classify":
        head["pooling"] = "cls"
        if family.pooling_field:
            why = "a classifier reads the first token, or the mean of all"
            head["pooling"] = fields.require(family.pooling_field, ("cls", "mean"), why)
    if task in _LABELLED:
        head["num_tags" if task == "tag" else "num_classes"] = len(labels)
    labels, skipped = labels if task in _LABELLED else (), family.skipped_positions(fields)
    keeps_head = stored == same
    return Description(family, names[0], keeps_head, task, config, head, labels, skipped, where)


def _read_labels(fields: Fields) -> tuple[str, ...]:
    """Names of classes or tags in order of their ids; "LABEL_0" and so on where they have none."""
    if fields.values.get("id2label") is None:
        count = fields.whole("num_labels", 2, most=_MAX_UNNAMED_LABELS)
        return tuple(f"LABEL_{index}" for index in range(count))
    given = fields.part("id2label").values
    labels = tuple(given.get(str(index)) for index in range(len(given)))
    if not labels or not all(isinstance(label, str) for label in labels):
        raise BundleError(
            f"{fields.where}: id2label must give ids 0, 1, 2... a name each. "
            f"Received: {given!r:.80}"
        )
    return labels


def read_described(
    files: TensorSource, described: Description, modules: SentenceModules | None
) -> keras.Model:
    """The model that is described, with its weights."""
    family, config, task = described.family, described.config, described.task
    names = family.stored_names(files.names(), files.path)
    # "cls" is the first token's own state to sentence-transformers, and through the pooler here.
    has_pooler = f"{family.bare_pooler}.weight" in names
    if isinstance(config, BertConfig):
        first_token = modules is not None and modules.head["pooling"] == "cls"
        classifies = "pooler" in family.heads.get(SAME_HEAD.get(task, task), {})
        config = dataclasses.replace(
            config, use_pooler=classifies or (has_pooler and not first_token)
        )
        has_pooler &= config.use_pooler
    if isinstance(config, EncoderDecoderConfig):
        config = _as_stored(files, names, family, config)
    tables = family.backbone_tensors(config, described.skipped)
    tables |= family.head_tensors(config, task, described.keeps_head, has_pooler)
    missing = [name for table in tables.values() for name in table.names if name not in names]
    if missing:
        raise BundleError(
            f"{files.path}: missing tensors, which {described.architecture} has: {listed(missing)}"
        )
    _check_unused(files, names, described, {n for table in tables.values() for n in table.names})
    model = build(config, task, described.head if modules is None else modules.head)
    sources = sources_of(tables, lambda name: files.read(names[name]))
    if modules is not None and modules.dense is not None:
        dense = modules.dense
        sources["projection/kernel"] = lambda: dense.read("linear.weight").T  # (D, E)
    # What has no value in the file keeps the random one that it has.
    new = {name: w for name, w in model_weights(model).items() if name not in sources}
    if new:
        logging.warning("%s: new, random weights for task %r: %s", files.path, task, list(new))
    sources |= {name: lambda w=w: keras.ops.convert_to_numpy(w) for name, w in new.items()}
    assign_weights(model, sources, where=files.path)
    return model


def _as_stored(
    files: TensorSource, names: dict[str, str], family: Family, config: EncoderDecoderConfig
) -> EncoderDecoderConfig:
    """The config with what the tensors alone say."""
    config = dataclasses.replace(config, logit_bias=family.logit_bias in names)
    head = family.untied_head
    if not family.finds_untied_head or {head, family.twins[head]} - names.keys():
        is_tied = config.tie_embeddings or family.finds_untied_head
    else:
        table, output = (files.read(names[name]) for name in (family.twins[head], head))
        is_tied = np.array_equal(table, output)
    return dataclasses.replace(config, tie_embeddings=is_tied)


def _check_unused(
    files: TensorSource, names: dict[str, str], described: Description, used: Collection[str]
) -> None:
    """Tensors that no variable takes: they belong to another head, are copies, or are an error."""
    family, unused = described.family, [name for name in names if name not in used]
    for copy, original in family.twins.items():
        if copy in unused and described.keeps_head:
            if not np.array_equal(files.read(names[copy]), files.read(names[original])):
                raise BundleError(
                    f"{files.path}: {names[copy]!r} differs from {names[original]!r}, and the two "
                    "are one weight here (tie_word_embeddings)"
                )
            unused.remove(copy)
    layers = (*family.layers.values(), family.block)
    backbone = tuple({name.split(".")[0] + "." for name in layers})
    refused = [name for name in unused if described.keeps_head or name.startswith(backbone)]
    unknown = [names[name] for name in refused if not name.startswith(family.optional)]
    if unknown:
        raise BundleError(
            f"{files.path}: tensors that {described.architecture} does not have: {listed(unknown)}"
        )
    if unused:
        logging.info("%s: not used for task %r: %s", files.path, described.task, unused)
