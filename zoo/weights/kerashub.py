"""KerasHub presets of BERT and GPT-2 as our models: from a preset's folder or name to a bundle."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import Fields
from zoo.files import BundleError
from zoo.models.build import build
from zoo.weights.assign import Source, assign_weights, listed
from zoo.weights.families import KERAS_HUB, Tensors
from zoo.weights.kerashub_folders import (
    check_folder,
    convert_config,
    convert_tokenizer,
    read_pooling,
    unknown_class,
)

PREFIX = "kerashub://"


def load_kerashub(preset: str | os.PathLike[str]) -> Bundle:
    """A bundle of a preset with a BERT or GPT-2 backbone and its tokenizer.

    A preset is a folder as `save_to_preset` of backbone and tokenizer write it, a name such as
    "gpt2_base_en", or a handle such as "kaggle://keras/gpt2/keras/gpt2_base_en"; each also after
    "kerashub://". GPT-2 becomes a language model, BERT a sentence encoder, with the pooling of the
    preset's BertTextEmbedder, or mean and unit length. A trained head is not read: KerasHub's
    masked-LM head, say, computes otherwise than BERT's own.

    KerasHub itself reads the weights, so that all versions of its format load; while this runs,
    they are in memory twice. Of a folder everything is checked before, and the tokenizer is read
    here: KerasHub makes whatever object a file names, of any size.
    """
    name = os.fspath(preset).removeprefix(PREFIX)
    folder = Path(name)
    tokenizer = check_folder(folder) if folder.is_dir() else None
    keras_hub = _import_keras_hub()
    try:
        kind = _class_of(name, folder, keras_hub)
        pooling, head = None, {}
        if kind == "GPT2Backbone":
            backbone = keras_hub.models.GPT2Backbone.from_preset(name)
        elif folder.is_dir():
            backbone = keras_hub.models.BertBackbone.from_preset(name)
            pooling, normalize = read_pooling(folder)
            head = {"pooling": pooling, "normalize": normalize}
        else:
            embedder = keras_hub.models.BertTextEmbedder.from_preset(name, preprocessor=None)
            backbone, pooling = embedder.backbone, embedder.pooling_mode
            head = {"pooling": pooling, "normalize": embedder.normalize}
        if tokenizer is None:
            tokenizer = convert_tokenizer(keras_hub.tokenizers.Tokenizer.from_preset(name), name)
    except BundleError:
        raise
    # For damaged files KerasHub raises what Keras, h5py and its downloaders raise.
    except (
        *(OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
        *(ImportError, AttributeError),
    ) as error:
        raise BundleError(_explain(name, folder, error)) from error
    kind = type(backbone).__name__
    config = convert_config(name, backbone.get_config(), kind, pooling)
    model = build(config, "lm" if pooling is None else "embed", head)
    tables = KERAS_HUB[kind].backbone_tensors(config)
    assign_weights(model, _sources(backbone, tables, name), where=name)
    try:
        return bundle_in_memory(folder, model, tokenizer)
    except ValueError as error:
        raise BundleError(f"{name}: {error}") from None


def _sources(backbone: keras.Model, tables: dict[str, Tensors], where: str) -> dict[str, Source]:
    weights = {weight.path: weight for weight in backbone.weights}
    used = {path for table in tables.values() for path in table.names}
    # A pooler that sentence vectors do not need is left out.
    unmatched = [path for path in {*weights} ^ used if not path.startswith("pooled_dense/")]
    if unmatched:
        raise BundleError(
            f"{where}: this version of KerasHub has other weights than the one that this release "
            f"knows: {listed(sorted(unmatched))}"
        )
    for path, weight in weights.items():
        if "float" not in keras.backend.standardize_dtype(weight.dtype):
            raise BundleError(
                f"{where}: {path} is {weight.dtype}: quantised weights are not read. Take the "
                "preset without quantisation"
            )

    def read(path: str) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(weights[path]), np.float32)

    return {
        name: lambda table=table: table.to_variable([read(path) for path in table.names])
        for name, table in tables.items()
    }


def _class_of(name: str, folder: Path, keras_hub) -> str:
    """The name of the backbone's class; downloads no weights."""
    if folder.is_dir():
        return Fields.read(folder / "config.json").text("class_name")
    if "://" in name:
        kind = type(keras_hub.models.Backbone.from_preset(name, load_weights=False)).__name__
        if kind not in KERAS_HUB:
            raise unknown_class(name, kind, KERAS_HUB)
        return kind
    presets = {kind: getattr(keras_hub.models, kind).presets for kind in KERAS_HUB}
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
