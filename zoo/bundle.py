"""The artifact between trainer and exporter: a folder with config, tokenizer and weights.

config.json         what the model is, and checksums of the rest
tokenizer/          see `zoo.tokenizers`
model.weights.h5    Keras weights, without optimizer state
"""

import dataclasses
import errno
import functools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from zoo.config import Fields, config_dataclass, from_dict, to_dict
from zoo.files import BundleError, blaming, file_sha256, inside, replacing, write_json
from zoo.models.token_model import quantization_config
from zoo.text.base import TextEncoder, TextModel
from zoo.text.chat import TextChat
from zoo.text.chat_form import ChatForm
from zoo.text.config import Seq2SeqConfig, TextConfig
from zoo.text.lm import TextLM
from zoo.text.models import TEXT_MODELS
from zoo.text.seq2seq import SEQ2SEQ_MODELS, TextSeq2Seq
from zoo.tokenizers import Tokenizer
from zoo.weights.huggingface.writing import write_huggingface
from zoo.weights.locations import writer_of

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
TOKENIZER_FOLDER = "tokenizer"
FORMAT_VERSION = 2
# Version 1 had language models only; every field since then has a default.
_READ_VERSIONS = (1, 2)
_HDF5_OVERHEAD = 1 << 20


@config_dataclass
class BundleConfig:
    """What `config.json` holds."""

    format_version: int  # raised when older code could not read the folder
    family: str  # "gpt", "lstm", "bert" or "encoder_decoder"
    task: str  # "lm", or one of `TEXT_MODELS` or `SEQ2SEQ_MODELS` of `zoo.text`
    model: dict[str, Any]  # the model config
    tokenizer_kind: str
    tokenizer_fingerprint: str
    start_id: int | None  # the token that an empty text reads; None but for task "lm"
    weights_sha256: str  # "" for a model that another program saved
    parameters: int  # number of weights
    versions: dict[str, str]  # of the packages that wrote it
    head: dict[str, Any] = dataclasses.field(default_factory=dict)  # such as {"num_classes": 2}
    labels: tuple[str, ...] = ()  # of classes or tags, in the order of the model's outputs
    text: TextConfig | None = None  # how text is read; None for task "lm"
    quantization: dict[str, Any] = dataclasses.field(default_factory=dict)  # by model.quantize
    chat: ChatForm | None = None  # of task "lm": how conversations become prompts
    seq2seq: Seq2SeqConfig | None = None  # of an encoder-decoder: how its texts are put together


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model, its tokenizer and what is known of them; from `zoo.load` or `zoo.save`."""

    folder: Path
    config: BundleConfig
    tokenizer: Tokenizer
    model: keras.Model
    no_chat: str = "no chat template came with it"  # why `config.chat` is None, where it is

    @functools.cached_property
    def lm(self) -> TextLM:
        """Text in, text out: `generate`, `score`, `next_token`; BundleError unless task "lm".

        With a chat template's form it is a TextChat, which has `chat`, too.
        """
        if self.config.task != "lm":
            raise BundleError(
                f"{self.folder}: a model of task {self.config.task!r} continues no text; use "
                f"`served`, which has {', '.join(self.served.functions)}"
            )
        if self.config.chat is not None:
            return TextChat(self.tokenizer, self.model, self.config.chat, self.config.start_id)
        return TextLM(self.tokenizer, self.model, self.config.start_id)

    @property
    def chat(self) -> TextChat:
        """`lm`, if it answers conversations; a BundleError says why it does not."""
        lm = self.lm
        if not isinstance(lm, TextChat):
            raise BundleError(f"{self.folder}: the model does not chat: {self.no_chat}")
        return lm

    @functools.cached_property
    def text_model(self) -> TextEncoder:
        """Text in, labels, tags, answers, vectors or numbers out; BundleError for other tasks."""
        config = self.config
        if config.task not in TEXT_MODELS:
            kind = "lm" if config.task == "lm" else "seq2seq"
            raise BundleError(f"{self.folder}: task {config.task!r} writes text: use `{kind}`")
        return TEXT_MODELS[config.task](self.tokenizer, self.model, config.text, config.labels)

    @functools.cached_property
    def seq2seq(self) -> TextSeq2Seq:
        """Text in, its translation or summary out; BundleError unless task "translate" or
        "summarize".
        """
        config = self.config
        if config.task not in SEQ2SEQ_MODELS:
            raise BundleError(
                f"{self.folder}: a model of task {config.task!r} writes no translation or summary; "
                f"use `served`, which has {', '.join(self.served.functions)}"
            )
        return SEQ2SEQ_MODELS[config.task](self.tokenizer, self.model, config.seq2seq)

    @property
    def served(self) -> TextModel:
        """The one of `lm`, `seq2seq` and `text_model` that the task has: what is exported."""
        if self.config.task == "lm":
            return self.lm
        return self.seq2seq if self.config.task in SEQ2SEQ_MODELS else self.text_model

    def save_huggingface(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the model for transformers: `AutoModelForX.from_pretrained(folder)` reads it.

        `config.json`, `model.safetensors` and the tokenizer's files; for task "embed" also those
        of sentence-transformers. A pair classifier becomes a sequence classifier; `load` with
        task="pair" reads it back as what it was.

        Raises:
            ValueError: a model that none of the families in docs/weights.md can express (the
                fields are named), or a folder that holds a bundle.
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        if writer_of(folder) == "zoo":
            raise ValueError(
                f"{folder} holds a bundle, whose {CONFIG_FILE} would be lost; choose another"
            )
        if self.config.chat is not None:
            logging.warning("%s: without a chat template: a form of one is not written", folder)
        labels, text = self.config.labels, self.config.text
        write_huggingface(folder, self.model, self.tokenizer, labels, text, self.config.seq2seq)
        return folder


def bundle_in_memory(
    source: Path,
    model: keras.Model,
    tokenizer: Tokenizer,
    start_id: int | None = None,
    labels: Sequence[str] = (),
    text: TextConfig | None = None,
    chat: ChatForm | None = None,
    seq2seq: Seq2SeqConfig | None = None,
) -> Bundle:
    """A bundle without files, of a model from `source`; other arguments and errors as in `save`."""
    if model.task == "lm":
        start_id = TextLM(tokenizer, model, start_id).start_id
        if chat is not None:
            TextChat(tokenizer, model, chat, start_id)
    elif chat is not None:
        raise ValueError(f"a model of task {model.task!r} does not chat, so it has no chat form")
    elif model.task in SEQ2SEQ_MODELS:
        seq2seq = SEQ2SEQ_MODELS[model.task](tokenizer, model, seq2seq).config
    else:
        text = TEXT_MODELS[model.task](tokenizer, model, text, tuple(labels)).config
    config = BundleConfig(
        format_version=FORMAT_VERSION,
        family=model.backbone.config.family,
        task=model.task,
        model=json.loads(json.dumps(to_dict(model.backbone.config))),  # lists for tuples
        tokenizer_kind=tokenizer.kind,
        tokenizer_fingerprint=tokenizer.fingerprint,
        start_id=start_id,
        weights_sha256="",
        parameters=model.count_params(),
        versions={
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "tensorflow": tf.__version__,
        },
        head={} if model.task == "lm" else model.head_config(),
        labels=tuple(labels),
        text=text,
        quantization=quantization_config(model),
        chat=chat,
        seq2seq=seq2seq,
    )
    return Bundle(source, config, tokenizer, model)


def save(
    folder: str | os.PathLike[str],
    model: keras.Model,
    tokenizer: Tokenizer,
    start_id: int | None = None,
    labels: Sequence[str] = (),
    text: TextConfig | None = None,
    chat: ChatForm | None = None,
    seq2seq: Seq2SeqConfig | None = None,
) -> Bundle:
    """Writes a bundle; an older one in the folder is replaced.

    `config.json` is written last and carries the checksums, so a bundle whose writing was
    interrupted does not load.

    Args:
        folder: created if missing.
        model: CausalLM or a model of another task, trained in whatever way.
        tokenizer: the tokenizer it was trained with.
        start_id: the token that an empty text reads, for a language model. Defaults to the
            tokenizer's `start_id`, or `end_id`.
        labels: names of classes or tags, in the order of the model's outputs.
        text: how text is read; not for a language model.
        chat: the form of a chat template, such as `bundle.config.chat` of the model that this one
            was fine-tuned from; for a language model alone.
        seq2seq: how source and target are put together; for an encoder-decoder alone.

    Raises:
        ValueError: tokenizer, labels, text config or chat form do not fit the model, or the folder
            holds a model of transformers, whose config.json would be lost.
        OSError: the folder cannot be written; what was there stays.

    Example:
        >>> import zoo
        >>> tokenizer = zoo.CharacterTokenizer("abc")
        >>> model = zoo.build("lstm_char_cpu", vocabulary_size=tokenizer.vocabulary_size)
        >>> zoo.save("mine", model, tokenizer).config.task
        'lm'
    """
    folder = Path(folder)
    if (writer := writer_of(folder)) in ("transformers", "peft"):
        raise ValueError(f"{folder} holds a model of {writer}; choose another folder")
    # Before anything is written: it refuses what does not fit together.
    parts = (start_id, labels, text, chat, seq2seq)
    config = bundle_in_memory(folder, model, tokenizer, *parts).config
    tokenizer.save(folder / TOKENIZER_FOLDER)
    with replacing(folder / WEIGHTS_FILE) as temporary:
        values = model.get_weights()
        # Asked before: HDF5 does not survive a disk that fills up under it, it ends the process.
        needed = sum(value.nbytes for value in values) + _HDF5_OVERHEAD
        if (free := shutil.disk_usage(folder).free) < needed:
            problem = f"the weights need {needed:,} bytes and {free:,} are free"
            raise OSError(errno.ENOSPC, problem, str(folder / WEIGHTS_FILE))
        # A twin, without the optimizer state that a compiled model carries along.
        twin = type(model).from_config(model.get_config())
        twin.set_weights(values)
        twin.save_weights(temporary)
        config = dataclasses.replace(config, weights_sha256=file_sha256(temporary))
    write_json(folder / CONFIG_FILE, to_dict(config), indent=2)
    return Bundle(folder, config, tokenizer, model)


def read_config(folder: Path) -> BundleConfig:
    """The `config.json` of a bundle; a BundleError says what it is if it is none."""
    path = inside(folder, CONFIG_FILE)
    if not path.is_file():
        if (folder / "train_config.json").is_file():
            raise BundleError(
                f"{folder}: the training run in it has not finished, so there is no {CONFIG_FILE} "
                "yet. Run `python -m trainers` with the same arguments to finish it."
            )
        missing = f"{path}: no such file" if folder.is_dir() else f"{folder}: no such folder"
        raise BundleError(f"{missing}. Give the --workdir of a training run.")
    fields = Fields.read(path)
    fields.require("format_version", _READ_VERSIONS, "use the release that wrote it")
    with blaming(path):
        return from_dict(BundleConfig, fields.values, where=str(path))
