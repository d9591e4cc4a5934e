"""The artifact between trainer and exporter: a folder with config, tokenizer and weights.

    config.json         what the model is, and checksums of the rest
    tokenizer/          see `zoo.tokenizers`
    model.weights.h5    Keras weights, without optimizer state

A trainer's work directory is a bundle once training has finished; it also holds `metrics.jsonl`,
`report.md` and `checkpoints/`, which no reader of a bundle needs.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from zoo.atomic_write import replacing
from zoo.bundle_config import (
    CONFIG_FILE,
    BundleConfig,
    read_config,
)
from zoo.bundle_error import BundleError
from zoo.inner_paths import inside
from zoo.models.configs import MODEL_CONFIGS
from zoo.models.weight_counts import count_weights
from zoo.presets import build, check_task
from zoo.serialization import quantize_layers
from zoo.strict_config import ConfigError, from_dict, to_dict
from zoo.text import TEXT_MODELS
from zoo.text.base import TextConfig, TextEncoder
from zoo.text.lm import TextLM
from zoo.tokenizers import Tokenizer, load_tokenizer
from zoo.tokenizers.base import FILE_NAME
from zoo.weights.hdf5_files import count_stored

WEIGHTS_FILE = "model.weights.h5"
TOKENIZER_FOLDER = "tokenizer"
_HDF5_OVERHEAD = 1 << 20


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model, its tokenizer and what is known of them; from `load` or `save`.

    Example:
        bundle = zoo.load("runs/shakespeare")
        bundle.lm.generate(["ROMEO:"], max_new_tokens=100)["text"]
    """

    folder: Path
    config: BundleConfig
    tokenizer: Tokenizer
    model: keras.Model

    @functools.cached_property
    def lm(self) -> TextLM:
        """Text in, text out: `generate`, `score`, `next_token`; for task "lm".

        Raises:
            BundleError: another task.
        """
        if self.config.task != "lm":
            raise BundleError(
                f"{self.folder}: a model of task {self.config.task!r} writes no text; use "
                f"`text_model`, which has {', '.join(self.text_model.functions)}"
            )
        return TextLM(self.tokenizer, self.model, self.config.start_id)

    @functools.cached_property
    def text_model(self) -> TextEncoder:
        """Text in, labels, tags, answers, vectors or numbers out; for every task but "lm".

        Raises:
            BundleError: task "lm".
        """
        config = self.config
        if config.task not in TEXT_MODELS:
            raise BundleError(f"{self.folder}: task {config.task!r} is a language model: use `lm`")
        return TEXT_MODELS[config.task](self.tokenizer, self.model, config.text, config.labels)

    def save_huggingface(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the model for transformers: `AutoModelForX.from_pretrained(folder)` reads it.

        `config.json`, `model.safetensors` and the tokenizer's files; for task "embed" also those
        of sentence-transformers. A pair classifier becomes a sequence classifier; `load` with
        task="pair" reads it back as what it was.

        Args:
            folder: created if missing.

        Returns:
            Path of the folder.

        Raises:
            ValueError: a model that none of transformers' bert, distilbert, roberta and gpt2 can
                express (the fields are named), or a folder that holds a bundle.
            OSError: the folder cannot be written.

        Example: `zoo.load("runs/topics").save_huggingface("for_transformers/topics")`
        """
        from zoo.weights.huggingface.writing import write_bundle  # it needs this class

        return write_bundle(self, folder)


def save(
    folder: str | os.PathLike[str],
    model: keras.Model,
    tokenizer: Tokenizer,
    start_id: int | None = None,
    labels: Sequence[str] = (),
    text: TextConfig | None = None,
) -> Bundle:
    """Writes a bundle; an older one in the folder is replaced.

    `config.json` is written last and carries the checksums, so a bundle whose writing was
    interrupted does not load.

    Args:
        folder: created if missing.
        model: zoo.models.causal_lm.CausalLM or a model of zoo.models.encoder_heads, trained in
        whatever way. tokenizer: the tokenizer it was trained with.
        start_id: int, the token that an empty text reads, for a language model. Defaults to the
            tokenizer's `end_id`.
        labels: names of classes or tags, in the order of the model's outputs.
        text: TextConfig, how text is read; not for a language model.

    Returns:
        Bundle.

    Raises:
        ValueError: tokenizer, labels or text config do not fit the model, or the folder holds a
            model of transformers, whose config.json would be lost.
        OSError: the folder cannot be written; what was there stays.

    Example: `zoo.save("runs/mine", model, tokenizer)`
    """
    # Not at the top: these modules make bundles.
    from zoo.weights.huggingface.reading import is_huggingface
    from zoo.weights.in_memory import bundle_in_memory

    folder = Path(folder)
    if is_huggingface(folder):
        raise ValueError(f"{folder} holds a model of transformers; choose another folder")
    # Before anything is written: it refuses what does not fit together.
    config = bundle_in_memory(folder, model, tokenizer, start_id, labels, text).config
    tokenizer.save(folder / TOKENIZER_FOLDER)
    weights = folder / WEIGHTS_FILE
    with replacing(weights) as temporary:
        save_weights(model, temporary)
        digest = sha256_of(temporary)
    config = dataclasses.replace(config, weights_sha256=digest)
    with replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
    return Bundle(folder, config, tokenizer, model)


def load(folder: str | os.PathLike[str], task: str | None = None) -> Bundle:
    """Reads a bundle, or a model of Hugging Face's transformers, and checks that all fits together.

    Models of transformers are bert, distilbert, roberta and gpt2 in safetensors format, those of
    sentence-transformers included; `zoo.weights.huggingface` says which of their classes. Pickles
    are not read.

    Args:
        folder: a bundle or a folder with transformers' `config.json`; or "hf://owner/name" or
            "hf://owner/name@revision", which is downloaded into the Hub's cache; or
            "package://module/folder", inside an installed Python package; or
            "gs://bucket/folder", a --workdir of a training run in an object store; or
            "kerashub://preset", a preset of KerasHub by name. A preset's folder, as its
            `save_to_preset` writes it, is told by its `config.json`.
        task: another task than the one that was saved, on the same backbone: the head's weights
            are random then, and logged by name. Defaults to what was saved; a bare encoder of
            transformers embeds texts.

    Raises:
        BundleError: not a model, unfinished, damaged weights, a tokenizer that is not the one the
            weights were trained with, a newer format, or what cannot be done here; the message
            names the file.

    Example:
        zoo.load("runs/shakespeare").model.summary()
        zoo.load("hf://sentence-transformers/all-MiniLM-L6-v2").text_model.embed(["good"])
    """
    # Not at the top: these modules make bundles.
    from zoo.weights.huggingface.reading import is_huggingface, read_bundle
    from zoo.weights.kerashub import PREFIX, load_kerashub
    from zoo.weights.kerashub_folders import is_kerashub
    from zoo.weights.locations import locate
    from zoo.weights.other_head import with_task

    if os.fspath(folder).startswith(PREFIX):
        bundle = load_kerashub(folder)
    else:
        folder = locate(folder)
        if is_huggingface(folder):
            return read_bundle(folder, task)
        bundle = load_kerashub(folder) if is_kerashub(folder) else _load_own(folder)
    return bundle if task in (None, bundle.config.task) else with_task(bundle, task)


def _load_own(folder: Path) -> Bundle:
    config = read_config(folder)
    tokenizer = _load_tokenizer(folder, config)
    weights = inside(folder, WEIGHTS_FILE)
    if not weights.is_file():
        raise BundleError(f"{weights}: no such file, though {CONFIG_FILE} is there. Train again.")
    if sha256_of(weights) != config.weights_sha256:
        raise BundleError(
            f"{weights}: checksum differs from {CONFIG_FILE}: the file was damaged or replaced. "
            "Restore it, or run the training again to write it anew."
        )
    model_class = MODEL_CONFIGS.get(config.family)
    if model_class is None:
        raise BundleError(
            f"{folder / CONFIG_FILE}: unknown family {config.family!r}; known: "
            f"{', '.join(MODEL_CONFIGS)}"
        )
    try:
        where = f"{folder / CONFIG_FILE}: model"
        model_config = from_dict(model_class, config.model, where)
        where = f"{folder / CONFIG_FILE}: head"
        check_task(model_config, config.task, config.head)
        asked = count_weights(model_config, config.task, config.head)
        # int4 holds two weights in one number.
        stored = count_stored([weights]) * (2 if config.quantization else 1)
        check_size(weights, stored, folder / CONFIG_FILE, config.model, asked)
        model = build(model_config, task=config.task, head=config.head)
    except ConfigError as error:
        message = str(error)
        raise BundleError(message if message.startswith(where) else f"{where}: {error}") from None
    try:
        quantize_layers(model, config.quantization)
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{folder / CONFIG_FILE}: {error}") from error
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
        raise BundleError(f"{folder / CONFIG_FILE}: {error}") from None
    return bundle


def check_size(
    weights: Path, stored: int, config_file: str | Path, fields: Mapping[str, Any], asked: int
) -> None:
    """Compares what a config asks for with what a file has, before a model is built.

    Args:
        weights: the file, or the index of several, for the message.
        stored: int, the number of weights in it.
        config_file: where the config comes from, for the message.
        fields: of the config, by the file's own names.
        asked: int, from `zoo.models.weight_counts`.

    Raises:
        BundleError: more are asked for than there are; the message names the config's sizes.
    """
    if asked > stored:
        sizes = {name: value for name, value in fields.items() if type(value) is int}
        raise BundleError(
            f"{config_file}: the model that it describes has {asked:,} weights, and {weights} "
            f"has {stored:,}: one of {sizes!r:.500} is wrong, or they do not belong together"
        )


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes the weights without the optimizer state that a compiled model carries along.

    Raises:
        OSError: too little room on the disk. Asked before writing, because HDF5 does not survive
            a disk that fills up under it: it ends the process.
    """
    values = model.get_weights()
    needed = sum(value.nbytes for value in values) + _HDF5_OVERHEAD
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"the weights need {needed:,} bytes and {free:,} are free", str(path)
        )
    twin = type(model).from_config(model.get_config())
    twin.set_weights(values)
    twin.save_weights(path)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
