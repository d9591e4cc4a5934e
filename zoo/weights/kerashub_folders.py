"""KerasHub preset folders of unknown origin: checked before KerasHub makes objects of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import logging

from zoo.config import ConfigError, Fields, from_dict, read_json
from zoo.files import BundleError, check_links, inside
from zoo.models.configs import BertConfig, GPTConfig, ModelConfig
from zoo.models.weight_counts import count_backbone_weights
from zoo.tokenizers import Tokenizer
from zoo.weights.assign import check_size
from zoo.weights.hdf5_files import count_stored
from zoo.weights.kerashub_tokenizers import TOKENIZERS, read_tokenizer

# Class in a preset's config.json -> our config's class, and what is built into KerasHub's class.
FAMILIES: dict[str, tuple[type[ModelConfig], dict[str, Any]]] = {
    # The published BERT has exact GELU; KerasHub computes its approximation.
    "BertBackbone": (BertConfig, {"activation": "gelu_tanh", "norm_epsilon": 1e-12}),
    "GPT2Backbone": (
        GPTConfig,
        {
            "activation": "gelu_tanh",
            "norm_epsilon": 1e-5,
            "positions": "learned",
            "norm": "layer_norm",
            "qk_norm": False,
            "use_bias": True,
        },
    ),
}
_FIELDS = {
    "vocabulary_size": "vocabulary_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "hidden_dim": "hidden_dim",
    "intermediate_dim": "intermediate_dim",
    "dropout": "dropout",
    "max_sequence_length": "context_length",
    "num_segments": "num_segments",
}
# Keras' own, without a meaning for the numbers. A dtype is checked weight by weight.
_KERAS_FIELDS = {"name", "trainable", "dtype"}
_PACKAGES = ("keras_hub", "keras_nlp")


def is_kerashub(folder: Path) -> bool:
    """Whether a folder holds a KerasHub preset: its config.json says so."""
    try:
        content = read_json(inside(folder, "config.json"))
    except BundleError:
        return False
    return isinstance(content, dict) and {"class_name", "registered_name"} <= content.keys()


def check_folder(folder: Path) -> Tokenizer:
    """Checks a preset before KerasHub, whose import takes seconds, is asked.

    Its loaders make whatever registered class a file names, with whatever sizes, and read whatever
    file one names.

    Returns:
        The tokenizer.

    Raises:
        BundleError: a file that is missing, damaged, or asks for what is not read here, or a
            config that does not belong to the weights; the message names file and field.
    """
    check_links(folder)
    _, backbone = _checked(folder, "config.json", FAMILIES, "backbone.save_to_preset(folder)")
    config = convert_config(backbone.where, backbone.values)
    kind, tokenizer = _checked(
        folder, "tokenizer.json", TOKENIZERS, "tokenizer.save_to_preset(folder)"
    )
    for field in ("vocabulary", "merges"):
        why = "it lies in the folder assets/tokenizer"
        tokenizer.require(field, (None,), why)
    tokenizer.require("config_file", ("tokenizer.json",), "there is one tokenizer")
    weights = _weight_files(folder)
    asked = count_backbone_weights(config)
    check_size(weights[0], count_stored(weights), backbone.where, backbone.values, asked)
    if (folder / "task.weights.h5").is_file():
        logging.warning("%s: the trained head in task.weights.h5 is not read", folder)
    return read_tokenizer(folder, kind, tokenizer)


def convert_config(
    where: str, fields: dict[str, Any], pooling: str | None = None, kind: str | None = None
) -> ModelConfig:
    """Our config of a backbone.

    Args:
        where: the file or preset to blame in messages.
        fields: the backbone's `get_config()`.
        pooling: how sentence vectors are made, where they are.
        kind: KerasHub's class. Defaults to what fits the fields: only BERT has segments.

    Raises:
        BundleError: a setting that is unknown here, or makes no sense.
    """
    check_settings(fields, where)
    kind = kind or ("BertBackbone" if "num_segments" in fields else "GPT2Backbone")
    config_class, built_in = FAMILIES[kind]
    values = {ours: fields[theirs] for theirs, ours in _FIELDS.items() if theirs in fields}
    if pooling == "cls":
        # KerasHub takes the first token as it is, and ours would go through the pooler.
        values["use_pooler"] = False
    try:
        return from_dict(config_class, {**values, **built_in}, where)
    except ConfigError as error:
        message = str(error)
        raise BundleError(message if message.startswith(where) else f"{where}: {message}") from None


def check_settings(fields: Collection[str], where: str | Path) -> None:
    """Raises BundleError if a backbone's config has fields that are not known here."""
    unknown = sorted(set(fields) - _FIELDS.keys() - _KERAS_FIELDS)
    if unknown:
        raise BundleError(f"{where}: settings that are not known here: {', '.join(unknown)}")


def read_pooling(folder: Path) -> tuple[str, bool]:
    """How a BERT preset makes sentence vectors: pooling, and whether to unit length.

    As in KerasHub, what the preset's task says, or mean and unit length.
    """
    path = inside(folder, "task.json")
    if not path.is_file():
        return "mean", True
    task = Fields.read(path)
    if task.text("class_name") != "BertTextEmbedder":
        return "mean", True
    options = task.part("config")
    pooling = options.require("pooling_mode", ("mean", "cls", "max"), "no other pooling is known")
    return pooling, options.flag("normalize", True)


def unknown_class(
    where: str | Path, kind: object, known: Collection[str] = tuple(FAMILIES)
) -> BundleError:
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
        parts = value if isinstance(value, list) and value else [value]
        for name in parts:
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
