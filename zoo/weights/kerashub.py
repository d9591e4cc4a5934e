"""KerasHub presets of BERT and GPT-2 as our models: from a preset's folder or name to a bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from zoo.bundle import Bundle
from zoo.bundle_error import BundleError
from zoo.configs import BertConfig, GPTConfig, ModelConfig
from zoo.presets import build
from zoo.strict_config import ConfigError, from_dict
from zoo.weights.assign import assign_weights
from zoo.weights.in_memory import bundle_in_memory
from zoo.weights.kerashub_tensors import sources_for
from zoo.weights.kerashub_tokenizers import TOKENIZERS, convert_tokenizer

PREFIX = "kerashub://"
# Class in a preset's config.json -> our config's class, and what is built into KerasHub's class.
_FAMILIES: dict[str, tuple[type[ModelConfig], dict[str, Any]]] = {
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


def load_kerashub(preset: str | os.PathLike[str]) -> Bundle:
    """A KerasHub preset with a BERT or GPT-2 backbone, and its tokenizer.

    GPT-2 becomes a language model, BERT a sentence encoder (task "embed"), as which KerasHub's own
    BertTextEmbedder reads it: pooling and normalisation are the preset's, or mean and unit length.
    Training can start from its backbone. A trained head in the preset, such as a classifier, is
    not read: KerasHub's masked-LM head, say, computes otherwise than BERT's own.

    KerasHub itself reads the files, so that all versions of its format load; while this runs, the
    weights are in memory twice.

    Args:
        preset: a folder as `backbone.save_to_preset` and `tokenizer.save_to_preset` write it, a
            name such as "bert_tiny_en_uncased" or "gpt2_base_en", or a handle that KerasHub takes,
            such as "kaggle://keras/gpt2/keras/gpt2_base_en"; each also after "kerashub://", as
            `zoo.load` takes it. Names are downloaded once, to KerasHub's own cache.

    Returns:
        Bundle, in memory; `zoo.save` writes it.

    Raises:
        BundleError: unknown name, no network, another architecture, a file that is missing or
            damaged, or a setting that has no counterpart here; the message names it.

    Example: `load_kerashub("gpt2_base_en").lm.generate(["The quick brown fox"])["text"]`
    """
    name = os.fspath(preset).removeprefix(PREFIX)
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
    keras_hub = _import_keras_hub()
    try:
        kind = _class_of(name, folder, keras_hub)
        if kind == "BertBackbone":
            embedder = keras_hub.models.BertTextEmbedder.from_preset(name, preprocessor=None)
            backbone = embedder.backbone
            pooling, head = embedder.pooling_mode, {"normalize": embedder.normalize}
        else:
            backbone = keras_hub.models.GPT2Backbone.from_preset(name)
            pooling, head = None, {}
        tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(name)
    except BundleError:
        raise
    # For damaged files KerasHub raises what Keras, h5py and its downloaders raise.
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise BundleError(_explain(name, folder, error)) from error
    config = _convert_config(backbone, pooling, name)
    if pooling is not None:
        head["pooling"] = pooling
    model = build(config, "lm" if pooling is None else "embed", head)
    _copy_weights(backbone, model, name)
    try:
        return bundle_in_memory(folder, model, convert_tokenizer(tokenizer, name))
    except ValueError as error:
        raise BundleError(f"{name}: {error}") from None


def _convert_config(backbone: keras.Model, pooling: str | None, where: str) -> ModelConfig:
    config_class, built_in = _FAMILIES[type(backbone).__name__]
    fields = backbone.get_config()
    _check_settings(fields, where)
    values = {ours: fields[theirs] for theirs, ours in _FIELDS.items() if theirs in fields}
    if pooling == "cls":
        # KerasHub takes the first token as it is, and ours would go through the pooler.
        values["use_pooler"] = False
    try:
        return from_dict(config_class, {**values, **built_in}, where)
    except ConfigError as error:
        raise BundleError(str(error)) from None


def _copy_weights(backbone: keras.Model, model: keras.Model, where: str) -> None:
    weights = {weight.path: weight for weight in backbone.weights}
    for path, weight in weights.items():
        if "float" not in keras.backend.standardize_dtype(weight.dtype):
            raise BundleError(
                f"{where}: {path} is {weight.dtype}: quantised weights are not read. Take the "
                "preset without quantisation"
            )

    def read(path: str) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(weights[path]), np.float32)

    assign_weights(model, sources_for(model.backbone.config, weights, read, where), where)


def _check_folder(folder: Path) -> None:
    """Tells what is wrong with a folder before KerasHub, whose import takes seconds, is asked."""
    for file, known, how in (
        ("config.json", _FAMILIES, "backbone.save_to_preset(folder)"),
        ("tokenizer.json", TOKENIZERS, "tokenizer.save_to_preset(folder)"),
    ):
        path = folder / file
        if not path.is_file():
            raise BundleError(f"{path}: no such file; KerasHub's {how} writes it")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BundleError(f"{path}: not valid JSON ({error}). Write the preset anew") from None
        if isinstance(content, dict) and "model_type" in content:
            raise BundleError(f"{path}: a Hugging Face model, no KerasHub preset: load it as hf://")
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise BundleError(f"{path}: not a KerasHub config with 'class_name' and 'config'")
        if content.get("class_name") not in known:
            raise BundleError(_unknown_class(path, content.get("class_name"), known))
        if file == "config.json":
            # KerasHub itself passes over what it does not know.
            _check_settings(content["config"], path)
    if not any(folder.glob("model*.weights.h5")):
        raise BundleError(f"{folder / 'model.weights.h5'}: no such file. Write the preset anew")
    if (folder / "task.weights.h5").is_file():
        logging.warning("%s: the trained head in task.weights.h5 is not read", folder)


def _check_settings(fields: Collection[str], where: str | Path) -> None:
    unknown = sorted(set(fields) - _FIELDS.keys() - _KERAS_FIELDS)
    if unknown:
        raise BundleError(f"{where}: settings that are not known here: {', '.join(unknown)}")


def _class_of(name: str, folder: Path, keras_hub) -> str:
    """The name of the backbone's class; downloads no weights.

    Raises:
        BundleError: unknown name, or a class that is not known here.
    """
    if folder.is_dir():
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["class_name"]
    if "://" in name:
        kind = type(keras_hub.models.Backbone.from_preset(name, load_weights=False)).__name__
        if kind not in _FAMILIES:
            raise BundleError(_unknown_class(name, kind))
        return kind
    presets = {kind: getattr(keras_hub.models, kind).presets for kind in _FAMILIES}
    for kind, names in presets.items():
        if name in names:
            return kind
    known = sorted(name for names in presets.values() for name in names)
    raise BundleError(
        f"{name}: no such folder, and no KerasHub preset of BERT or GPT-2. These are: "
        f"{', '.join(known)}"
    )


def _explain(name: str, folder: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if folder.is_dir():
        return (
            f"{name}: KerasHub cannot read this preset: {type(error).__name__}: {reason}. Write it "
            "anew with backbone.save_to_preset and tokenizer.save_to_preset"
        )
    return (
        f"{name}: KerasHub cannot download this preset: {type(error).__name__}: {reason}. Without "
        "network, save it to a folder where there is one, with backbone.save_to_preset(folder) and "
        "tokenizer.save_to_preset(folder), and load that folder"
    )


def _unknown_class(
    where: str | Path, kind: object, known: Collection[str] = tuple(_FAMILIES)
) -> str:
    return f"{where}: class {kind!r} is not known here; known are {', '.join(known)}"


def _import_keras_hub():
    try:
        import keras_hub
    except ImportError as error:
        raise BundleError(
            f"KerasHub cannot be imported ({error}): install it with `pip install keras-hub`"
        ) from error
    if not hasattr(keras_hub.models, "BertTextEmbedder"):
        raise BundleError(
            f"KerasHub {keras_hub.__version__} is too old: `pip install --upgrade keras-hub`"
        )
    return keras_hub
