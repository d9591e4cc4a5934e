"""`zoo.load`: a bundle from wherever a model can be. A file `load.py` would hide `zoo.load`."""

from __future__ import annotations

import os
from pathlib import Path

from absl import logging

from zoo.bundle import (
    CONFIG_FILE,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    Bundle,
    BundleConfig,
    bundle_in_memory,
    read_config,
)
from zoo.config import ConfigError, from_dict
from zoo.files import BundleError, file_sha256, inside
from zoo.models.build import build, check_task, count_weights
from zoo.models.configs import MODEL_CONFIGS
from zoo.models.token_model import quantize_layers
from zoo.text.config import TextConfig
from zoo.tokenizers import Tokenizer, load_tokenizer
from zoo.tokenizers.base import FILE_NAME
from zoo.weights.assign import backbone_weights, check_size, model_weights
from zoo.weights.hdf5_files import count_stored
from zoo.weights.huggingface.configs import is_huggingface
from zoo.weights.huggingface.reading import read_huggingface
from zoo.weights.kerashub import PREFIX, load_kerashub
from zoo.weights.kerashub_folders import is_kerashub
from zoo.weights.locations import locate

_LABELLED = {"classify": "num_classes", "pair": "num_classes", "tag": "num_tags"}
_ONE_NETWORK = {"classify", "pair"}


def load(folder: str | os.PathLike[str], task: str | None = None) -> Bundle:
    """Reads a bundle, or a model of Hugging Face's transformers, and checks that all fits together.

    Models of transformers are bert, distilbert, roberta and gpt2 in safetensors format, those of
    sentence-transformers included. Pickles are not read.

    Args:
        folder: a bundle or a folder with transformers' `config.json`; or "hf://owner/name" or
            "hf://owner/name@revision", which is downloaded into the Hub's cache; or
            "package://module/folder", inside an installed Python package; or
            "gs://bucket/folder", a --workdir of a training run in an object store; or
            "kerashub://preset", a preset of KerasHub by name, or its folder.
        task: another task than the one that was saved, on the same backbone: the head's weights
            are random then, and logged by name. Defaults to what was saved; a bare encoder of
            transformers embeds texts.

    Returns:
        Bundle.

    Raises:
        BundleError: not a model, unfinished, damaged weights, a tokenizer that is not the one the
            weights were trained with, a newer format, or what cannot be done here; the message
            names the file.

    Example:
        >>> import zoo
        >>> tokenizer = zoo.CharacterTokenizer("abc")
        >>> model = zoo.build("lstm_char_cpu", vocabulary_size=tokenizer.vocabulary_size)
        >>> _ = zoo.save("mine", model, tokenizer)
        >>> zoo.load("mine").config.family
        'lstm'
    """
    if os.fspath(folder).startswith(PREFIX):
        bundle = load_kerashub(folder)
    else:
        folder = locate(folder)
        if is_huggingface(folder):
            return read_huggingface(folder, task)
        bundle = load_kerashub(folder) if is_kerashub(folder) else _load_own(folder)
    return bundle if task in (None, bundle.config.task) else _with_task(bundle, task)


def _load_own(folder: Path) -> Bundle:
    config = read_config(folder)
    tokenizer = _load_tokenizer(folder, config)
    weights, config_file = inside(folder, WEIGHTS_FILE), folder / CONFIG_FILE
    if not weights.is_file():
        raise BundleError(f"{weights}: no such file, though {CONFIG_FILE} is there. Train again.")
    if file_sha256(weights) != config.weights_sha256:
        raise BundleError(
            f"{weights}: checksum differs from {CONFIG_FILE}: the file was damaged or replaced. "
            "Restore it, or run the training again to write it anew."
        )
    model_class = MODEL_CONFIGS.get(config.family)
    if model_class is None:
        raise BundleError(
            f"{config_file}: unknown family {config.family!r}; known: {', '.join(MODEL_CONFIGS)}"
        )
    try:
        where = f"{config_file}: model"
        model_config = from_dict(model_class, config.model, where)
        where = f"{config_file}: head"
        check_task(model_config, config.task, config.head)
        needed = count_weights(model_config, config.task, config.head)
        # int4 holds two weights in one number.
        stored = count_stored([weights]) * (2 if config.quantization else 1)
        check_size(weights, stored, config_file, config.model, needed)
        model = build(model_config, task=config.task, head=config.head)
    except ConfigError as error:
        message = str(error)
        raise BundleError(message if message.startswith(where) else f"{where}: {error}") from None
    try:
        quantize_layers(model, config.quantization)
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{config_file}: {error}") from error
    try:
        model.load_weights(weights)
    # For a file of another shape Keras raises what its layers and h5py raise.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(
            f"{weights}: not the weights of the model that {CONFIG_FILE} describes: {reason}"
        ) from error
    bundle = Bundle(folder, config, tokenizer, model)
    try:
        # Each checks that tokenizer, labels and ids fit the model.
        getattr(bundle, "lm" if config.task == "lm" else "text_model")
    except BundleError:
        raise
    except ValueError as error:
        raise BundleError(f"{config_file}: {error}") from None
    return bundle


def _load_tokenizer(folder: Path, config: BundleConfig) -> Tokenizer:
    try:
        inside(folder, TOKENIZER_FOLDER, FILE_NAME)
        tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    except ValueError as error:
        raise BundleError(str(error)) from error
    if tokenizer.fingerprint != config.tokenizer_fingerprint:
        raise BundleError(
            f"{folder / TOKENIZER_FOLDER}: this is not the tokenizer that the weights were trained "
            f"with: its fingerprint is {tokenizer.fingerprint}, {CONFIG_FILE} says "
            f"{config.tokenizer_fingerprint}. Restore the right one."
        )
    return tokenizer


def _with_task(bundle: Bundle, task: str) -> Bundle:
    """The bundle's backbone with a new head, whose random weights are logged by name.

    "classify" and "pair" are one network: between the two the head is kept, too.
    """
    labels = bundle.config.labels if task in _LABELLED else ()
    if task in _LABELLED and not labels:
        raise BundleError(
            f"{bundle.folder}: task {task!r} needs labels, and a model of task "
            f"{bundle.config.task!r} has none: fine-tune it with finetune.init_from"
        )
    head = {_LABELLED[task]: len(labels)} if labels else {}
    keeps_head = {bundle.config.task, task} <= _ONE_NETWORK
    if keeps_head:
        head = bundle.model.head_config()
    try:
        model = build(bundle.model.backbone.config, task, head)
    except ConfigError as error:
        raise BundleError(f"{bundle.folder}: {error}") from None
    here, there = model_weights(model), model_weights(bundle.model)
    copied = there if keeps_head else backbone_weights(bundle.model.backbone)
    for name in copied:
        here[name].assign(there[name].value)
    new = [name for name in here if name not in copied]
    if new:
        logging.warning("%s: new, random weights for task %r: %s", bundle.folder, task, new)
    text = bundle.config.text
    if task != "lm" and text is None:
        text = TextConfig(max_length=min(128, model.context_length))
    try:
        return bundle_in_memory(bundle.folder, model, bundle.tokenizer, labels=labels, text=text)
    except ValueError as error:
        raise BundleError(f"{bundle.folder}: {error}") from error
