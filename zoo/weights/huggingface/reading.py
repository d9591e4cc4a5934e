"""A folder of transformers becomes a bundle."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from absl import logging

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import ConfigError, Fields
from zoo.files import BundleError, inside
from zoo.models.build import build
from zoo.models.configs import BertConfig
from zoo.models.weight_counts import count_backbone_weights
from zoo.text.config import TextConfig
from zoo.tokenizers import Tokenizer
from zoo.weights.assign import Source, assign_weights, check_size, model_weights
from zoo.weights.huggingface.architectures import SAME_HEAD
from zoo.weights.huggingface.reading_configs import Description, describe
from zoo.weights.huggingface.sentence_modules import SentenceModules, read_sentence_modules
from zoo.weights.huggingface.tensor_names import (
    BUFFERS,
    PREFIX,
    Tensors,
    backbone_tensors,
    head_tensors,
    twins,
)
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.safetensors_files import WeightFiles, open_weights

CONFIG_FILE = "config.json"
_LONGEST_TEXT = 512
# Parts of the file that a task may have no use for: next-sentence prediction, and the pooler.
_OPTIONAL = ("cls.seq_relationship.", "pooler.dense.")
_BACKBONE = ("embeddings.", "encoder.", "transformer.", "h.", "wte.", "wpe.", "ln_f.")


def read_huggingface(folder: Path, task: str | None = None) -> Bundle:
    """Loads a model of transformers.

    One tensor is in memory at a time beside the model. What the file has and the task does not
    use is logged by name, and so are new weights.

    Args:
        folder: with `config.json`, safetensors and a tokenizer.
        task: what to build on the backbone; `None` means what the file's architecture does: a
            bare encoder embeds texts. Another task has a new head with random weights.

    Raises:
        BundleError: an unsupported architecture, setting or tokenizer, damaged weights, tensors
            that are missing, too many or of a wrong shape; the message names file and tensor.

    Example: `read_huggingface(Path("downloads/distilgpt2")).lm.generate(["Once"])["text"]`
    """
    fields = Fields.read(inside(folder, CONFIG_FILE))
    description = describe(fields, task)
    modules = read_sentence_modules(folder) if description.task == "embed" else None
    # What is quickly read is checked before the weights are.
    tokenizer = _tokenizer(folder, description, modules)
    try:
        text = _text_config(description, modules)
        with open_weights(folder) as files:
            names = _canonical(files, description)
            description = _with_pooler(description, names, modules)
            layers = description.config.num_layers
            if layers > len(names):
                raise BundleError(
                    f"{fields.where}: {layers} layers (num_hidden_layers, n_layers or n_layer), "
                    f"and {files.path} has {len(names)} tensors"
                )
            tables = _tables(files, names, description)
            _check_size(files, fields, description)
            head = description.head if modules is None else modules.head
            model = build(description.config, description.task, head)
            sources = {name: _read(files, names, table) for name, table in tables.items()}
            if modules is not None and modules.dense is not None:
                sources["projection/kernel"] = modules.projection
            sources |= _new(model, sources, files)
            assign_weights(model, sources, where=str(files.path))
        return bundle_in_memory(folder, model, tokenizer, labels=description.labels, text=text)
    except BundleError:
        raise
    except ConfigError as error:
        raise BundleError(f"{fields.where}: {error}") from None
    except ValueError as error:  # from the text-level class: what does not fit together
        raise BundleError(f"{folder}: {error}") from error


def _tokenizer(
    folder: Path, description: Description, modules: SentenceModules | None
) -> Tokenizer:
    lowercase = modules is not None and modules.lowercase
    tokenizer = read_tokenizer(folder, description.model_type, lowercase)
    size = description.config.vocabulary_size
    if tokenizer.vocabulary_size > size:
        raise BundleError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} ids, and the embedding only "
            f"{size} rows (vocab_size in {CONFIG_FILE}): they do not belong together"
        )
    return tokenizer


def _text_config(description: Description, modules: SentenceModules | None) -> TextConfig | None:
    if description.task == "lm":
        return None
    length = _LONGEST_TEXT if modules is None else modules.max_length or _LONGEST_TEXT
    return TextConfig(max_length=min(length, description.config.context_length))


def _canonical(files: WeightFiles, description: Description) -> dict[str, str]:
    """Name without the backbone's prefix, in today's spelling -> name in the file."""
    prefix, names = PREFIX[description.model_type], {}
    for name in files.names():
        canonical = name.removeprefix(prefix)
        # Files from before 2019 call a norm's weights as TensorFlow does.
        canonical = re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", canonical)
        canonical = re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", canonical)
        if BUFFERS.fullmatch(canonical):
            continue
        if canonical in names:
            raise BundleError(
                f"{files.path}: {names[canonical]!r} and {name!r} are the same weight"
            )
        names[canonical] = name
    for copy, original in twins(description.model_type).items():
        if copy in names and original not in names:
            names[original] = names.pop(copy)
    return names


def _with_pooler(
    description: Description, names: Mapping[str, str], modules: SentenceModules | None
) -> Description:
    """The description with a pooler if the file has one that the task can keep."""
    # "cls" is the first token's own state to sentence-transformers, and through the pooler here.
    first_token = modules is not None and modules.head["pooling"] == "cls"
    if "pooler.dense.weight" not in names or first_token:
        return description
    config = dataclasses.replace(description.config, use_pooler=True)
    return dataclasses.replace(description, config=config)


def _check_size(files: WeightFiles, fields: Fields, description: Description) -> None:
    """The file has the backbone's weights; a pooler's and a head's may be new."""
    config = description.config
    if isinstance(config, BertConfig):
        config = dataclasses.replace(config, use_pooler=False)
    asked = count_backbone_weights(config)
    check_size(files.path, files.count(), fields.where, fields.values, asked)


def _tables(
    files: WeightFiles, names: dict[str, str], description: Description
) -> dict[str, Tensors]:
    """Variable name -> its tensors, for all variables that the file has a value for."""
    kind, config = description.model_type, description.config
    tables = backbone_tensors(kind, config, description.position_offset)
    pooler = getattr(config, "use_pooler", False) and "pooler.dense.weight" in names
    stored = SAME_HEAD.get(description.task, description.task)
    if description.keeps_head:
        tables |= head_tensors(kind, stored, pooler)
    elif pooler and (kind == "bert" or stored != "classify"):
        tables |= head_tensors(kind, "embed", pooler)
    missing = [name for table in tables.values() for name in table.names if name not in names]
    if missing:
        raise BundleError(
            f"{files.path}: missing tensors, which {description.architecture} has: "
            f"{_listed(missing)}"
        )
    _check_unused(files, names, description, tables)
    return tables


def _new(
    model: keras.Model, sources: Mapping[str, Source], files: WeightFiles
) -> dict[str, Source]:
    """For what has no value in the file, the random one that it has; said by name."""
    new = {name: _kept(w) for name, w in model_weights(model).items() if name not in sources}
    if new:
        logging.warning(
            "%s: new, random weights for task %r: %s", files.path, model.task, list(new)
        )
    return new


def _check_unused(
    files: WeightFiles,
    names: dict[str, str],
    description: Description,
    tables: dict[str, Tensors],
) -> None:
    used = {name for table in tables.values() for name in table.names}
    unused = [name for name in names if name not in used]
    for copy, original in twins(description.model_type).items():
        if copy in unused and description.keeps_head:
            if not np.array_equal(files.read(names[copy]), files.read(names[original])):
                raise BundleError(
                    f"{files.path}: {names[copy]!r} differs from {names[original]!r}, and the two "
                    "are one weight here (tie_word_embeddings)"
                )
            unused.remove(copy)
    wanted = [
        name
        for name in unused
        if not name.startswith(_OPTIONAL) and (description.keeps_head or name.startswith(_BACKBONE))
    ]
    if wanted:
        raise BundleError(
            f"{files.path}: tensors that {description.architecture} does not have: "
            f"{_listed([names[name] for name in wanted])}"
        )
    if unused:
        logging.info("%s: not used for task %r: %s", files.path, description.task, unused)


def _read(files: WeightFiles, names: dict[str, str], table: Tensors) -> Source:
    return lambda: table.to_variable([files.read(names[name]) for name in table.names])


def _kept(variable: keras.Variable) -> Source:
    return lambda: np.asarray(keras.ops.convert_to_numpy(variable))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
