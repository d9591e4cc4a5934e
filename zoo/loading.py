"""`zoo.load`: a bundle from wherever a model can be. A file `load.py` would hide `zoo.load`."""

import dataclasses
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
from zoo.config import Fields, from_dict
from zoo.files import BundleError, blaming, existing, file_sha256, inside
from zoo.models.build import build, check_task, count_weights
from zoo.models.configs import MODEL_CONFIGS, ModelConfig
from zoo.models.token_model import quantize_layers
from zoo.text.config import TextConfig
from zoo.text.models import TEXT_MODELS
from zoo.tokenizers import load_tokenizer
from zoo.tokenizers.base import FILE_NAME
from zoo.weights.assign import backbone_weights, check_size, count_stored, model_weights
from zoo.weights.gguf.reading import outline_of_gguf, read_gguf
from zoo.weights.huggingface.adapters import base_of
from zoo.weights.huggingface.reading import outline_of_folder, read_huggingface
from zoo.weights.kerashub import PREFIX, load_kerashub, outline_of_kerashub
from zoo.weights.locations import is_gguf, locate, writer_of

_LABELLED = {"classify": "num_classes", "pair": "num_classes", "tag": "num_tags"}
_ONE_NETWORK = {"classify", "pair"}  # between the two the head is kept, too


def load(
    folder: str | os.PathLike[str],
    task: str | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Bundle:
    """Reads a bundle, or a model of Hugging Face's transformers, and checks that all fits together.

    Models of transformers are the families in docs/weights.md in safetensors format, those of
    sentence-transformers included. Pickles are not read.

    Args:
        folder: a bundle or a folder with transformers' `config.json`; or "hf://owner/name" or
            "hf://owner/name@revision", which is downloaded into the Hub's cache; or
            a file "model.gguf" of llama.cpp; or
            "package://module/folder", inside an installed Python package, or a .gguf file there; or
            "gs://bucket/folder", a --workdir of a training run in an object store; or
            "kerashub://preset", a preset of KerasHub by name, or its folder; or
            a LoRA adapter of PEFT, whose factors are added into the weights of its base.
        task: another task than the one that was saved, on the same backbone: the head's weights
            are random then, and logged by name. Defaults to what was saved; a bare encoder of
            transformers embeds texts.
        base: the model of transformers that an adapter is for. Defaults to what it names, in its
            own folder or on the Hub.

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
    if base is not None and writer_of(locate(folder)) != "peft":
        raise BundleError(f"{folder}: no adapter of PEFT, and only that has a base")
    if os.fspath(folder).startswith(PREFIX):
        bundle = load_kerashub(folder)
    else:
        folder = locate(folder)
        if is_gguf(folder):
            return read_gguf(folder, task)
        writer = writer_of(folder)
        if writer == "peft":
            found = read_huggingface(base_of(folder, base), task, folder)
            return dataclasses.replace(found, folder=folder)
        if writer == "transformers":
            return read_huggingface(folder, task)
        bundle = load_kerashub(folder) if writer == "kerashub" else _load_own(folder)
    return bundle if task in (None, bundle.config.task) else _with_task(bundle, task)


def outline(folder: str | os.PathLike[str]) -> tuple[str, ModelConfig]:
    """Task and model config of what `load` makes of a place: before any weights are read.

    Errors are as of `load`.
    """
    if os.fspath(folder).startswith(PREFIX):
        return outline_of_kerashub(folder)
    folder = locate(folder)
    if is_gguf(folder):
        return outline_of_gguf(folder)
    writer = writer_of(folder)
    if writer == "peft":
        return outline(base_of(folder, None))
    if writer == "transformers":
        return outline_of_folder(folder)
    if writer == "kerashub":
        return outline_of_kerashub(folder)
    config = read_config(folder)
    return config.task, _own_model_config(config, folder / CONFIG_FILE)


def _own_model_config(config: BundleConfig, config_file: Path) -> ModelConfig:
    if config.family not in MODEL_CONFIGS:
        raise BundleError(
            f"{config_file}: unknown family {config.family!r}; known: {', '.join(MODEL_CONFIGS)}"
        )
    with blaming(f"{config_file}: model"):
        return from_dict(MODEL_CONFIGS[config.family], config.model)


def _load_own(folder: Path) -> Bundle:
    config, config_file = read_config(folder), folder / CONFIG_FILE
    place = inside(folder, TOKENIZER_FOLDER, FILE_NAME).parent
    with blaming(place):
        tokenizer = load_tokenizer(place)
    if tokenizer.fingerprint != config.tokenizer_fingerprint:
        raise BundleError(
            f"{place}: this is not the tokenizer that the weights were trained with: its "
            f"fingerprint is {tokenizer.fingerprint}, {CONFIG_FILE} says "
            f"{config.tokenizer_fingerprint}. Restore the right one."
        )
    weights = existing(folder, WEIGHTS_FILE, advice=f"{CONFIG_FILE} is there: train again.")
    if file_sha256(weights) != config.weights_sha256:
        raise BundleError(
            f"{weights}: checksum differs from {CONFIG_FILE}: the file was damaged or replaced. "
            "Restore it, or run the training again to write it anew."
        )
    model_config = _own_model_config(config, config_file)
    with blaming(f"{config_file}: head"):
        check_task(model_config, config.task, config.head)
        needed = count_weights(model_config, config.task, config.head)
        # int4 holds two weights in one number.
        stored = count_stored([weights]) * (2 if config.quantization else 1)
        check_size(weights, stored, Fields(config.model, config_file), needed)
        model = build(model_config, task=config.task, head=config.head)
    with blaming(config_file, TypeError, KeyError):
        quantize_layers(model, config.quantization)
    # For a file of another shape Keras raises what its layers and h5py raise.
    kinds = (OSError, TypeError, KeyError, AttributeError, RuntimeError)
    with blaming(f"{weights}: not the weights of the model that {CONFIG_FILE} describes", *kinds):
        model.load_weights(weights)
    bundle = Bundle(folder, config, tokenizer, model)
    with blaming(config_file):
        # Each checks that tokenizer, labels and ids fit the model.
        bundle.served  # noqa: B018
    return bundle


def _with_task(bundle: Bundle, task: str) -> Bundle:
    """The bundle's backbone with a new head, whose random weights are logged by name."""
    config, text = bundle.config, bundle.config.text
    labels = config.labels if task in _LABELLED else ()
    if task in _LABELLED and not labels:
        raise BundleError(
            f"{bundle.folder}: task {task!r} needs labels, and a model of task {config.task!r} has "
            "none: fine-tune it with finetune.init_from"
        )
    keeps_head = {config.task, task} <= _ONE_NETWORK
    head = {_LABELLED[task]: len(labels)} if labels else {}
    with blaming(bundle.folder):
        head = bundle.model.head_config() if keeps_head else head
        model = build(bundle.model.backbone.config, task, head)
        here, there = model_weights(model), model_weights(bundle.model)
        copied = there if keeps_head else backbone_weights(bundle.model.backbone)
        for name in copied:
            here[name].assign(there[name].value)
        new = [name for name in here if name not in copied]
        if new:
            logging.warning("%s: new, random weights for task %r: %s", bundle.folder, task, new)
        if task in TEXT_MODELS and text is None:
            text = TextConfig(max_length=min(128, model.context_length))
        folder, tokenizer = bundle.folder, bundle.tokenizer
        form = config.seq2seq
        return bundle_in_memory(folder, model, tokenizer, labels=labels, text=text, seq2seq=form)
