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
from zoo.models.build import build, count_backbone_weights
from zoo.models.configs import BertConfig
from zoo.text.config import TextConfig
from zoo.weights.assign import Source, assign_weights, check_size, listed, model_weights
from zoo.weights.families import Tensors
from zoo.weights.huggingface.configs import SAME_HEAD, Description, describe
from zoo.weights.huggingface.sentence_modules import SentenceModules, read_sentence_modules
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.safetensors_files import WeightFiles, open_weights

_LONGEST_TEXT = 512
# What holds no weights: positions 0, 1, 2... and causal masks.
_BUFFERS = re.compile(r"embeddings\.(position_ids|token_type_ids)|h\.\d+\.attn\.(bias|masked_bias)")
# Parts of the file that a task may have no use for: next-sentence prediction, and the pooler.
_OPTIONAL = ("cls.seq_relationship.", "pooler.dense.")
_BACKBONE = ("embeddings.", "encoder.", "transformer.", "h.", "wte.", "wpe.", "ln_f.")


def read_huggingface(folder: Path, task: str | None = None) -> Bundle:
    """A bundle of the model in a folder with `config.json`, safetensors and a tokenizer.

    A `task` of None is what the file's architecture does; a bare encoder embeds texts. Another
    task has a new head. New weights, and what the file has and the task does not use, are logged
    by name. One tensor is in memory at a time beside the model.

    Raises:
        BundleError: an unsupported architecture, setting or tokenizer, damaged weights, tensors
            that are missing, too many or of a wrong shape; the message names file and tensor.
    """
    fields = Fields.read(inside(folder, "config.json"))
    description = describe(fields, task)
    modules = read_sentence_modules(folder) if description.task == "embed" else None
    # What is quickly read is checked before the weights are.
    lowercase = modules is not None and modules.lowercase
    tokenizer = read_tokenizer(folder, description.model_type, lowercase)
    size = description.config.vocabulary_size
    if tokenizer.vocabulary_size > size:
        raise BundleError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} ids, and the embedding only "
            f"{size} rows (vocab_size in config.json): they do not belong together"
        )
    try:
        text = _text_config(description, modules)
        with open_weights(folder) as files:
            model = _read_model(files, fields, description, modules)
        return bundle_in_memory(folder, model, tokenizer, labels=description.labels, text=text)
    except BundleError:
        raise
    except ConfigError as error:
        raise BundleError(f"{fields.where}: {error}") from None
    except ValueError as error:  # from the text-level class: what does not fit together
        raise BundleError(f"{folder}: {error}") from error


def _text_config(description: Description, modules: SentenceModules | None) -> TextConfig | None:
    if description.task == "lm":
        return None
    length = _LONGEST_TEXT if modules is None else modules.max_length or _LONGEST_TEXT
    return TextConfig(max_length=min(length, description.config.context_length))


def _read_model(
    files: WeightFiles, fields: Fields, description: Description, modules: SentenceModules | None
) -> keras.Model:
    names = _names_in(files, description)
    layers = description.config.num_layers
    if layers > len(names):
        raise BundleError(
            f"{fields.where}: {layers} layers (num_hidden_layers, n_layers or n_layer), "
            f"and {files.path} has {len(names)} tensors"
        )
    # "cls" is the first token's own state to sentence-transformers, and through the pooler here.
    first_token = modules is not None and modules.head["pooling"] == "cls"
    if "pooler.dense.weight" in names and not first_token:
        config = dataclasses.replace(description.config, use_pooler=True)
        description = dataclasses.replace(description, config=config)
    tables = _tables(files, names, description)
    _check_size(files, fields, description)
    head = description.head if modules is None else modules.head
    model = build(description.config, description.task, head)
    sources = {name: _source(files, names, table) for name, table in tables.items()}
    if modules is not None and modules.dense is not None:
        sources["projection/kernel"] = modules.projection
    sources |= _new_weights(model, sources, files)
    assign_weights(model, sources, where=str(files.path))
    return model


def _names_in(files: WeightFiles, description: Description) -> dict[str, str]:
    """Name without the backbone's prefix, in today's spelling -> name in the file."""
    names: dict[str, str] = {}
    for name in files.names():
        today = name.removeprefix(description.family.prefix)
        # Files from before 2019 call a norm's weights as TensorFlow does.
        today = re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", today)
        today = re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", today)
        if _BUFFERS.fullmatch(today):
            continue
        if today in names:
            raise BundleError(f"{files.path}: {names[today]!r} and {name!r} are the same weight")
        names[today] = name
    for copy, original in description.family.twins.items():
        if copy in names and original not in names:
            names[original] = names.pop(copy)
    return names


def _check_size(files: WeightFiles, fields: Fields, description: Description) -> None:
    config = description.config
    if isinstance(config, BertConfig):  # a pooler's and a head's weights may be new
        config = dataclasses.replace(config, use_pooler=False)
    needed = count_backbone_weights(config)
    check_size(files.path, files.count(), fields.where, fields.values, needed)


def _tables(
    files: WeightFiles, names: dict[str, str], description: Description
) -> dict[str, Tensors]:
    """Variable name -> its tensors, for all variables that the file has a value for."""
    family, config = description.family, description.config
    tables = family.backbone_tensors(config, description.position_offset)
    pooler = getattr(config, "use_pooler", False) and "pooler.dense.weight" in names
    stored = SAME_HEAD.get(description.task, description.task)
    if description.keeps_head:
        tables |= family.head_tensors(stored, pooler)
    elif pooler and (description.model_type == "bert" or stored != "classify"):
        tables |= family.head_tensors("embed", pooler)
    missing = [name for table in tables.values() for name in table.names if name not in names]
    if missing:
        raise BundleError(
            f"{files.path}: missing tensors, which {description.architecture} has: "
            f"{listed(missing)}"
        )
    _check_unused(files, names, description, tables)
    return tables


def _check_unused(
    files: WeightFiles,
    names: dict[str, str],
    description: Description,
    tables: dict[str, Tensors],
) -> None:
    used = {name for table in tables.values() for name in table.names}
    unused = [name for name in names if name not in used]
    for copy, original in description.family.twins.items():
        if copy in unused and description.keeps_head:
            if not np.array_equal(files.read(names[copy]), files.read(names[original])):
                raise BundleError(
                    f"{files.path}: {names[copy]!r} differs from {names[original]!r}, and the two "
                    "are one weight here (tie_word_embeddings)"
                )
            unused.remove(copy)
    unknown = [
        names[name]
        for name in unused
        if not name.startswith(_OPTIONAL) and (description.keeps_head or name.startswith(_BACKBONE))
    ]
    if unknown:
        raise BundleError(
            f"{files.path}: tensors that {description.architecture} does not have: "
            f"{listed(unknown)}"
        )
    if unused:
        logging.info("%s: not used for task %r: %s", files.path, description.task, unused)


def _source(files: WeightFiles, names: dict[str, str], table: Tensors) -> Source:
    return lambda: table.to_variable([files.read(names[name]) for name in table.names])


def _new_weights(
    model: keras.Model, sources: Mapping[str, Source], files: WeightFiles
) -> dict[str, Source]:
    """For what has no value in the file, the random one that it has; said by name."""
    new = {name: w for name, w in model_weights(model).items() if name not in sources}
    if new:
        logging.warning(
            "%s: new, random weights for task %r: %s", files.path, model.task, list(new)
        )
    return {name: lambda w=w: keras.ops.convert_to_numpy(w) for name, w in new.items()}
