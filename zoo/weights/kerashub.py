"""KerasHub presets as our models: from a folder or name to a bundle."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from zoo.bundle import Bundle, bundle_in_memory
from zoo.config import Fields
from zoo.files import BundleError, blaming, check_links, existing, inside
from zoo.models.build import build, count_backbone_weights
from zoo.models.configs import BertConfig, ModelConfig
from zoo.text.config import Seq2SeqConfig
from zoo.tokenizers import (
    BytePairTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.base import ROLES
from zoo.tokenizers.bytepair.tokenizer import END_OF_TEXT
from zoo.weights.assign import assign_weights, check_size, count_stored, listed, sources_of
from zoo.weights.encoder_decoders import unique_paths
from zoo.weights.families import KERAS_HUB
from zoo.weights.safetensors_files import indexed_files

PREFIX = "kerashub://"
# Keras' own, without a meaning for the numbers. A dtype is checked weight by weight.
_KERAS_FIELDS = ("name", "trainable", "dtype")
_PACKAGES = ("keras_hub", "keras_nlp")
# Of a serialized object; the last two are in presets of 2023.
_PARTS = ("module", "class_name", "config", "registered_name", "build_config", "assets", "weights")
# Class -> its files, and the settings that must be as ours are.
_TOKENIZERS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "BertTokenizer": (
        ("vocabulary.txt",),
        {"split": True, "suffix_indicator": "##", "oov_token": "[UNK]", "special_tokens": None},
    ),
    "GPT2Tokenizer": (("vocabulary.json", "merges.txt"), {"add_prefix_space": False}),
    "RobertaTokenizer": (("vocabulary.json", "merges.txt"), {"add_prefix_space": False}),
    **{
        f"{name}Tokenizer": (("vocabulary.spm",), {"add_bos": False, "add_eos": False})
        for name in ("T5", "Albert", "DebertaV3")
    },
}
# What special tokens of encoders are for.
_ROLES = {
    "RobertaTokenizer": dict(zip(ROLES, ("<s>", "</s>", "<pad>", "<mask>", "<unk>"))),
    "AlbertTokenizer": dict(zip(ROLES, ("[CLS]", "[SEP]", "<pad>", "[MASK]", "<unk>"))),
    "DebertaV3Tokenizer": dict(zip(ROLES, ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"))),
}
# For damaged files KerasHub raises what Keras, h5py and its downloaders raise.
_ERRORS = (OSError, TypeError, LookupError, ArithmeticError, RuntimeError, ImportError)
_ERRORS += (AttributeError,)
_HOW = "backbone.save_to_preset(folder) and tokenizer.save_to_preset(folder)"
_WRITE = f"Write the preset anew with {_HOW}"


def load_kerashub(preset: str | os.PathLike[str]) -> Bundle:
    """A language model of a GPT-2 preset, a model that summarises of a T5's, a sentence encoder of
    the others': a folder, name or handle.

    KerasHub reads the weights, so that all versions of its format load. It would make whatever
    registered class a file names, and read whatever file one names: so all is checked before.
    """
    name = os.fspath(preset).removeprefix(PREFIX)
    folder, fields, kind, config, head = _described(name)
    family = KERAS_HUB[kind]
    tokenizer = _read_tokenizer(folder)
    weights = _weight_files(folder)
    check_size(weights[0], count_stored(weights), fields, count_backbone_weights(config))
    if (folder / "task.weights.h5").is_file():  # its masked-LM head, say, differs from BERT's own
        logging.warning("%s: the trained head in task.weights.h5 is not read", folder)
    with blaming(f"{name}: KerasHub cannot read this preset. {_WRITE}", *_ERRORS):
        import keras_hub  # takes seconds

        backbone = keras_hub.models.Backbone.from_preset(str(folder))
    paths = [family.twins.get(weight.path, weight.path) for weight in backbone.weights]
    if kind == "T5Backbone":
        paths = [*unique_paths(paths)]
    stored = dict(zip(paths, backbone.weights, strict=True))
    for path, weight in stored.items():
        if "float" not in keras.backend.standardize_dtype(weight.dtype):
            raise BundleError(
                f"{name}: {path} is {weight.dtype}: quantised weights are not read. Take the "
                "preset without quantisation"
            )
    tables = family.backbone_tensors(config)
    used = {path for table in tables.values() for path in table.names}
    # A pooler that sentence vectors do not need is left out.
    unmatched = [path for path in {*stored} ^ used if not path.startswith("pooled_dense/")]
    if unmatched:
        raise BundleError(
            f"{name}: this version of KerasHub has other weights than the one that this release "
            f"knows: {listed(sorted(unmatched))}"
        )
    model = build(config, _task(kind, head), head)

    def read(path: str) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(stored[path]), np.float32)

    assign_weights(model, sources_of(tables, read), where=name)
    with blaming(name):
        if kind == "T5Backbone":
            end, start = (tokenizer.end_id,), (tokenizer.pad_id,)
            seq2seq = Seq2SeqConfig(source_end=end, target_start=start)
            return bundle_in_memory(folder, model, tokenizer, seq2seq=seq2seq)
        return bundle_in_memory(folder, model, tokenizer)


def outline_of_kerashub(preset: str | os.PathLike[str]) -> tuple[str, ModelConfig]:
    """Task and model config of what `load_kerashub` makes of a preset, without its weights."""
    _, _, kind, config, head = _described(os.fspath(preset).removeprefix(PREFIX))
    return _task(kind, head), config


def _task(kind: str, head: dict[str, Any] | None) -> str:
    """The task of a preset with a pooling head or without."""
    return KERAS_HUB[kind].default_task or ("lm" if head is None else "embed")


def _described(name: str) -> tuple[Path, Fields, str, ModelConfig, dict[str, Any] | None]:
    """Folder, checked settings, class, our config and the pooling head (encoders) of a preset."""
    folder = Path(name) if Path(name).is_dir() else _download(name)
    check_links(folder)
    kind, fields = _checked(folder, "config.json", KERAS_HUB)
    family, head = KERAS_HUB[kind], None
    known = [option.name for option in family.options.values()]
    known += [name for group in family.groups for name in group.names]
    fields.only([*_KERAS_FIELDS, *known, *(name for name, _, _ in family.required)])
    for field, allowed, why in family.required:
        fields.require(field, allowed, why)
    with blaming(fields.where):
        values = family.read_options(fields)
        if family.config is BertConfig:
            head = _pooling(folder)
            # KerasHub takes the first token as it is, and ours would go through the pooler.
            values["use_pooler"] = "pooler" in family.layers and head["pooling"] != "cls"
        return folder, fields, kind, family.config(**values), head


def _download(name: str) -> Path:
    """The folder on this machine where KerasHub has put the files of a preset."""
    import keras_hub
    from keras_hub.src.utils.preset_utils import get_file  # the only private name of it here

    known = sorted(n for kind in KERAS_HUB for n in getattr(keras_hub.models, kind).presets)
    if "://" not in name and name not in known:
        raise BundleError(
            f"{name}: no such folder, and no KerasHub preset of "
            f"{', '.join(kind.removesuffix('Backbone') for kind in KERAS_HUB)}. These are: "
            f"{', '.join(known)}"
        )

    def fetch(file: str, optional: bool = True) -> Path | None:
        try:
            return Path(get_file(name, file))
        except FileNotFoundError:
            if not optional:
                raise
            return None

    why = (
        f"{name}: KerasHub cannot download this preset. Without network, save it to a folder where "
        f"there is one, with {_HOW}, and load that folder"
    )
    with blaming(why, *_ERRORS):
        folder = fetch("config.json", optional=False).parent
        _checked(folder, "config.json", KERAS_HUB)  # before anything large
        assets = [f"assets/tokenizer/{file}" for files, _ in _TOKENIZERS.values() for file in files]
        for file in (*assets, "tokenizer.json", "task.json"):
            fetch(file)
        if fetch("model.weights.h5") is None:
            index = fetch("model.weights.json", optional=False)
            for shard in {file.name for files in indexed_files(index).values() for file in files}:
                fetch(shard, optional=False)
    return folder


def _checked(folder: Path, file: str, known: Collection[str]) -> tuple[str, Fields]:
    """Class and settings of a serialized object, which is exactly what it says it is."""
    path = existing(folder, file, advice=_WRITE)
    content = Fields.read(path)
    if "model_type" in content.values:
        raise BundleError(f"{path}: a Hugging Face model, no KerasHub preset: load it as hf://")
    kind = content.text("class_name")
    if kind not in known:
        names = ", ".join(known)
        raise BundleError(f"{path}: class {kind!r:.80} is not known here; known are {names}")
    names = tuple(f"{package}>{kind}" for package in _PACKAGES)
    content.require("registered_name", names, "Keras would make another class of it")
    if content.text("module", "keras_hub").partition(".")[0] not in _PACKAGES:
        raise BundleError(f"{path}: module is {content.text('module')!r:.80}, none of KerasHub's")
    content.only(_PARTS)
    options = content.part("config")
    for name, value in options.values.items():
        if name == "dtype" and value is not None and not isinstance(value, str):
            policy = options.part("dtype")
            plain = {"class_name": "DTypePolicy", "module": "keras", "registered_name": None}
            for field, expected in plain.items():
                policy.require(field, (expected,), "take the preset without quantisation")
            policy.part("config").only(["name"])
            policy.part("config").text("name")
        elif isinstance(value, dict):
            raise BundleError(f"{path}: {name!r:.80} is an object, where KerasHub has a value")
    return kind, options


def _pooling(folder: Path) -> dict[str, Any]:
    """How a BERT preset makes sentence vectors: what its task says, or KerasHub's defaults."""
    task = Fields.read(inside(folder, "task.json"), optional=True)
    if task.text("class_name") != "BertTextEmbedder":
        return {"pooling": "mean", "normalize": True}
    options = task.part("config")
    pooling = options.require("pooling_mode", ("mean", "cls", "max"), "no other pooling is known")
    return {"pooling": pooling, "normalize": options.flag("normalize", True)}


def _weight_files(folder: Path) -> list[Path]:
    names, index = {"model.weights.h5"}, inside(folder, "model.weights.json")
    if not inside(folder, *names).is_file() and index.is_file():
        names = {f.name for files in indexed_files(index).values() for f in files} or names
    return [existing(folder, name, advice=_WRITE) for name in sorted(names)]


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Our tokenizer from a preset's files, which KerasHub's own would take as they are."""
    kind, options = _checked(folder, "tokenizer.json", _TOKENIZERS)
    names, settings = _TOKENIZERS[kind]
    for field in ("vocabulary", "merges", "proto"):
        options.require(field, (None,), "it lies in the folder assets/tokenizer")
    options.require("config_file", ("tokenizer.json",), "there is one tokenizer")
    for field, value in settings.items():
        options.require(field, (value,), f"{kind} has no other rules here")
    files = [existing(folder, "assets", "tokenizer", name, advice=_WRITE) for name in names]
    with blaming(files[-1], TypeError):
        if kind == "T5Tokenizer":
            return SentencePieceTokenizer.from_file(files[0])
        if kind in _ROLES and names == ("vocabulary.spm",):
            return _read_unigram(files[0], _ROLES[kind])
        with open(files[-1], encoding="utf-8") as text:
            lines = [line.rstrip() for line in text]
        if kind == "BertTokenizer":
            return WordPieceTokenizer(
                lines,
                lowercase=options.flag("lowercase", False),
                # KerasHub keeps accents unless asked to, whatever `lowercase` is.
                strip_accents=options.flag("strip_accents", False),
                split_cjk=options.flag("split_on_cjk", True),
            )
        if kind == "RobertaTokenizer":
            vocabulary, roles = Fields.read(files[0]).values, _ROLES[kind]
            roles = {role: name for role, name in roles.items() if name in vocabulary}
            return BytePairTokenizer(
                vocabulary,
                [merge for merge in lines if not merge.startswith("#version:")],
                special_tokens=[*roles.values()],
                end=roles["sep"],
                roles=roles,
                parse_special=True,
                pair_separators=2,
            )
        # Written out in a text, special tokens are text here, as in tiktoken; KerasHub parses them.
        return BytePairTokenizer(
            Fields.read(files[0]).values,
            [merge for merge in lines if not merge.startswith("#version:")],
            special_tokens=options.values.get("unsplittable_tokens") or [END_OF_TEXT],
        )


def _read_unigram(path: Path, roles: dict[str, str]) -> SentencePieceTokenizer:
    """A SentencePiece tokenizer with these roles; a mask that it lacks comes behind the pieces."""
    pieces, charsmap = spm.read_unigram_model(path.read_bytes())
    if roles["mask"] not in [text for text, _, _ in pieces]:
        pieces.append((roles["mask"], 0.0, spm.CONTROL))
    model = spm.write_unigram_model(pieces, charsmap)
    return SentencePieceTokenizer(model, end=roles["sep"], roles=roles, parse_special=True)
