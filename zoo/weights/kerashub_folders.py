"""KerasHub presets of unknown origin: checked before KerasHub makes objects of them, and their
configs and tokenizers as ours."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from zoo.config import ConfigError, Fields, from_dict, read_json
from zoo.files import BundleError, check_links, inside
from zoo.models.build import count_backbone_weights
from zoo.models.configs import ModelConfig
from zoo.tokenizers import BytePairTokenizer, Tokenizer, WordPieceTokenizer
from zoo.tokenizers.bytepair.tokenizer import END_OF_TEXT
from zoo.weights.assign import check_size
from zoo.weights.families import KERAS_HUB
from zoo.weights.hdf5_files import count_stored

# Keras' own, without a meaning for the numbers. A dtype is checked weight by weight.
_KERAS_FIELDS = {"name", "trainable", "dtype"}
_PACKAGES = ("keras_hub", "keras_nlp")
# Class -> the settings of a tokenizer that must be as ours are.
_TOKENIZERS = {
    "BertTokenizer": {
        "split": True,
        "suffix_indicator": "##",
        "oov_token": "[UNK]",
        "special_tokens": None,
    },
    "GPT2Tokenizer": {"add_prefix_space": False},
}


def is_kerashub(folder: Path) -> bool:
    """Whether a folder holds a KerasHub preset: its config.json says so."""
    try:
        content = read_json(inside(folder, "config.json"))
    except BundleError:
        return False
    return isinstance(content, dict) and {"class_name", "registered_name"} <= content.keys()


def check_folder(folder: Path) -> Tokenizer:
    """Checks a preset before KerasHub, whose import takes seconds, is asked; reads its tokenizer.

    KerasHub's loaders make whatever registered class a file names, with whatever sizes, and read
    whatever file one names.

    Raises:
        BundleError: a file that is missing, damaged, or asks for what is not read here, or a
            config that does not belong to the weights; the message names file and field.
    """
    check_links(folder)
    kind, backbone = _checked(folder, "config.json", KERAS_HUB, "backbone.save_to_preset(folder)")
    config = convert_config(backbone.where, backbone.values, kind)
    kind, tokenizer = _checked(
        folder, "tokenizer.json", _TOKENIZERS, "tokenizer.save_to_preset(folder)"
    )
    for field in ("vocabulary", "merges"):
        tokenizer.require(field, (None,), "it lies in the folder assets/tokenizer")
    tokenizer.require("config_file", ("tokenizer.json",), "there is one tokenizer")
    weights = _weight_files(folder)
    needed = count_backbone_weights(config)
    check_size(weights[0], count_stored(weights), backbone.where, backbone.values, needed)
    if (folder / "task.weights.h5").is_file():
        logging.warning("%s: the trained head in task.weights.h5 is not read", folder)
    return _read_tokenizer(folder, kind, tokenizer)


def convert_config(
    where: str, fields: dict[str, Any], kind: str, pooling: str | None = None
) -> ModelConfig:
    """Our config of a backbone of class `kind`, whose `get_config()` is `fields`.

    `pooling` is how sentence vectors are made, where they are; `where` is to blame in messages.
    """
    family = KERAS_HUB[kind]
    ours = {option.name: name for name, option in family.options.items()}
    unknown = sorted(fields.keys() - ours.keys() - _KERAS_FIELDS)
    if unknown:
        raise BundleError(f"{where}: settings that are not known here: {', '.join(unknown)}")
    values = {name: fields[theirs] for theirs, name in ours.items() if theirs in fields}
    if pooling == "cls":
        # KerasHub takes the first token as it is, and ours would go through the pooler.
        values["use_pooler"] = False
    try:
        return from_dict(family.config, {**values, **family.fixed}, where)
    except ConfigError as error:
        message = str(error)
        raise BundleError(message if message.startswith(where) else f"{where}: {message}") from None


def read_pooling(folder: Path) -> tuple[str, bool]:
    """How a BERT preset makes sentence vectors: pooling, and whether to unit length.

    As in KerasHub, what the preset's task says, or mean and unit length.
    """
    task = Fields.read(inside(folder, "task.json"), optional=True)
    if task.text("class_name") != "BertTextEmbedder":
        return "mean", True
    options = task.part("config")
    pooling = options.require("pooling_mode", ("mean", "cls", "max"), "no other pooling is known")
    return pooling, options.flag("normalize", True)


def unknown_class(where: str | Path, kind: object, known: Collection[str]) -> BundleError:
    """The error of a class that is not read."""
    return BundleError(
        f"{where}: class {kind!r:.80} is not known here; known are {', '.join(known)}"
    )


def _checked(folder: Path, file: str, known: Collection[str], how: str) -> tuple[str, Fields]:
    """Class and settings of a serialized object, which is exactly what it says it is."""
    path = inside(folder, file)
    if not path.is_file():
        raise BundleError(f"{path}: no such file; KerasHub's {how} writes it")
    content = Fields.read(path)
    if "model_type" in content.values:
        raise BundleError(f"{path}: a Hugging Face model, no KerasHub preset: load it as hf://")
    if not isinstance(content.values.get("config"), dict):
        raise BundleError(f"{path}: not a KerasHub config with 'class_name' and 'config'")
    kind = content.values.get("class_name")
    if not isinstance(kind, str) or kind not in known:
        raise unknown_class(path, kind, known)
    names = tuple(f"{package}>{kind}" for package in _PACKAGES)
    content.require("registered_name", names, "Keras would make another class of it")
    if content.text("module", "keras_hub").partition(".")[0] not in _PACKAGES:
        raise BundleError(f"{path}: module is {content.text('module')!r:.80}, none of KerasHub's")
    for name in content.values:
        if name not in ("module", "class_name", "config", "registered_name", "build_config"):
            raise BundleError(f"{path}: {name!r:.80} is no part of a KerasHub config")
    options = Fields(content.values["config"], str(path))
    for name, value in options.values.items():
        if name == "dtype":
            _check_dtype(options)
        elif isinstance(value, dict):
            raise BundleError(f"{path}: {name!r:.80} is an object, where KerasHub has a value")
    return kind, options


def _check_dtype(options: Fields) -> None:
    dtype = options.values["dtype"]
    if dtype is None or isinstance(dtype, str):
        return
    policy = options.part("dtype")
    policy.require("class_name", ("DTypePolicy",), "take the preset without quantisation")
    policy.require("module", ("keras",), "it is Keras' own")
    policy.require("registered_name", (None,), "it is Keras' own")
    policy.part("config").text("name")
    if policy.part("config").values.keys() != {"name"}:
        raise BundleError(f"{policy.where}: config: only a name is known here")


def _weight_files(folder: Path) -> list[Path]:
    whole = inside(folder, "model.weights.h5")
    if whole.is_file():
        return [whole]
    index = inside(folder, "model.weights.json")
    if not index.is_file():
        raise BundleError(f"{whole}: no such file. Write the preset anew")
    names = set()
    for value in Fields.read(index).part("weight_map").values.values():
        for name in value if isinstance(value, list) and value else [value]:
            if not isinstance(name, str) or Path(name).name != name:
                raise BundleError(
                    f"{index}: weight_map must give the names of files beside it. "
                    f"Received: {name!r:.80}"
                )
            names.add(name)
    files = [inside(folder, name, where=index) for name in sorted(names)]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise BundleError(f"{(missing or [index])[0]}: no such file. Write the preset anew")
    return files


def _read_tokenizer(folder: Path, kind: str, options: Fields) -> Tokenizer:
    """Our tokenizer from a preset's files, which KerasHub's own would take as they are."""
    names = ("vocabulary.txt",) if kind == "BertTokenizer" else ("vocabulary.json", "merges.txt")
    files = [inside(folder, "assets", "tokenizer", name) for name in names]
    for file in files:
        if not file.is_file():
            raise BundleError(f"{file}: no such file. Write the preset anew")
    # The defaults of KerasHub's classes.
    found = types.SimpleNamespace(
        lowercase=options.flag("lowercase", False),
        strip_accents=options.flag("strip_accents", False),
        split_on_cjk=options.flag("split_on_cjk", True),
        unsplittable_tokens=options.values.get("unsplittable_tokens") or [END_OF_TEXT],
    )
    try:
        with open(files[-1], encoding="utf-8") as file:
            lines = [line.rstrip() for line in file]
    except UnicodeDecodeError as error:
        raise BundleError(f"{files[-1]}: not UTF-8: {error}") from None
    if kind == "BertTokenizer":
        found.get_vocabulary = lambda: lines
    else:
        found.vocabulary, found.merges = Fields.read(files[0]).values, lines
    return _converted(found, kind, options.values, str(files[0]))


def convert_tokenizer(tokenizer: Any, where: str) -> Tokenizer:
    """Our tokenizer with the vocabulary and the rules of KerasHub's BertTokenizer or GPT2Tokenizer.

    Raises:
        BundleError: another tokenizer, or a setting that ours has not; the message names it.
    """
    return _converted(tokenizer, type(tokenizer).__name__, tokenizer.get_config(), where)


def _converted(tokenizer: Any, kind: str, config: Mapping[str, Any], where: str) -> Tokenizer:
    if kind not in _TOKENIZERS:
        known = ", ".join(_TOKENIZERS)
        raise BundleError(f"{where}: tokenizer {kind} is not known; known: {known}")
    for setting, value in _TOKENIZERS[kind].items():
        if config.get(setting, value) != value:
            raise BundleError(
                f"{where}: {kind} has {setting}={config[setting]!r:.80}; only {value!r} can be read"
            )
    try:
        if kind == "BertTokenizer":
            return WordPieceTokenizer(
                tokenizer.get_vocabulary(),
                lowercase=tokenizer.lowercase,
                # KerasHub keeps accents unless asked to, whatever `lowercase` is.
                strip_accents=tokenizer.strip_accents,
                split_cjk=tokenizer.split_on_cjk,
            )
        merges = [merge for merge in tokenizer.merges if not merge.startswith("#version:")]
        # Written out in a text, special tokens are text here, as in tiktoken; KerasHub parses them.
        return BytePairTokenizer(
            dict(tokenizer.vocabulary), merges, special_tokens=tokenizer.unsplittable_tokens
        )
    except (ValueError, TypeError) as error:
        raise BundleError(f"{where}: {kind}: {error}") from None
