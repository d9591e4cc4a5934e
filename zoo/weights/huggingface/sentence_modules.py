"""What sentence-transformers puts on an encoder: pooling, a projection, normalisation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from zoo.config import Fields, read_json
from zoo.files import BundleError, inside, replacing
from zoo.weights.safetensors_files import open_weights

MODULES_FILE = "modules.json"
_SUPPORTED = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
# transformers writes 1e30 for "as long as you like".
_NO_LIMIT = 1e9
_TYPES = "sentence_transformers.models."


@dataclasses.dataclass(frozen=True)
class SentenceModules:
    """What stands in `modules.json` and the folders it names.

    `head` are options of our `SentenceEncoder`; at most `max_length` tokens of a text are read,
    lowercased first if `lowercase`; `dense` is the folder of a projection's weights.
    """

    head: dict[str, Any]
    max_length: int | None = None
    lowercase: bool = False
    dense: Path | None = None

    def projection(self) -> np.ndarray:
        """The projection's kernel (D, E)."""
        with open_weights(self.dense) as weights:
            return weights.read("linear.weight").T


def read_sentence_modules(folder: Path) -> SentenceModules | None:
    """What a folder has beside its encoder, or None; a BundleError says what is not supported."""
    path = inside(folder, MODULES_FILE)
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, list):
        raise BundleError(f"{path}: not a list of modules. Fetch it again.")
    modules = [Fields(item, f"{path}: [{index}]") for index, item in enumerate(content)]
    kinds = [(module.text("type", "")).rsplit(".", 1)[-1] for module in modules]
    expected = ["Transformer", "Pooling", "Dense", "Normalize"]
    if kinds != [kind for kind in expected if kind in kinds] or kinds[:2] != expected[:2]:
        raise BundleError(
            f"{path}: modules {', '.join(kinds)}; supported are Transformer, Pooling, then perhaps "
            "Dense, then perhaps Normalize"
        )
    if modules[0].text("path", ""):
        raise BundleError(
            f"{path}: the Transformer lies in {modules[0].text('path')!r}. Load that folder."
        )
    settings = Fields.read(inside(folder, "sentence_bert_config.json"), optional=True)
    prompts = Fields.read(inside(folder, "config_sentence_transformers.json"), optional=True)
    prompts.require("default_prompt_name", (None,), "it would put a prompt before every text")
    why = "other outputs than hidden states are not pooled here"
    settings.require("transformer_task", ("feature-extraction",), why)
    head: dict[str, Any] = {
        "pooling": _pooling(_module_file(folder, modules[1], "config.json")),
        "normalize": "Normalize" in kinds,
    }
    dense = None
    if "Dense" in kinds:
        file = _module_file(folder, modules[2], "config.json")
        dense, head["embedding_dim"] = file.parent, _dense_width(file)
        with open_weights(dense) as weights:
            outputs = weights.shape("linear.weight")[:1]
            if outputs != (head["embedding_dim"],):
                raise BundleError(
                    f"{file}: out_features is {head['embedding_dim']}, and linear.weight in "
                    f"{weights.path} has {outputs} outputs"
                )
    return SentenceModules(
        head,
        max_length=settings.whole("max_seq_length", None) or _tokenizer_length(folder),
        lowercase=settings.flag("do_lower_case", False),
        dense=dense,
    )


def _module_file(folder: Path, module: Fields, name: str) -> Path:
    return inside(folder, module.text("path", ""), name, where=module.where)


def write_sentence_modules(folder: Path, head: dict[str, Any], width: int, max_length: int) -> None:
    """Writes the files of an encoder without a projection, whose states are `width` wide."""
    flags = {f"pooling_mode_{mode}": head["pooling"] == ours for mode, ours in _SUPPORTED.items()}
    files = {
        "1_Pooling/config.json": {"word_embedding_dimension": width, **flags},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules += [("Normalize", "2_Normalize")] * head["normalize"]
    files[MODULES_FILE] = [
        {"idx": index, "name": str(index), "path": path, "type": _TYPES + kind}
        for index, (kind, path) in enumerate(modules)
    ]
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tokenizer_length(folder: Path) -> int | None:
    """The tokenizer's limit, which counts where sentence-transformers has none of its own."""
    config = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
    length = config.number("model_max_length")
    return None if length is None or length > _NO_LIMIT else int(length)


def _pooling(path: Path) -> str:
    fields = Fields.read(path)
    modes = [
        name.removeprefix("pooling_mode_")
        for name, value in fields.values.items()
        if name.startswith("pooling_mode_") and value is True
    ]
    if not modes:  # newer files have one name in place of the flags
        modes = [fields.text("pooling_mode", "mean")]
        if modes[0] in _SUPPORTED.values():
            return modes[0]
    if len(modes) != 1 or modes[0] not in _SUPPORTED:
        raise BundleError(
            f"{path}: pooling_mode {' and '.join(modes)}; supported is one of "
            f"{', '.join(_SUPPORTED)}"
        )
    return _SUPPORTED[modes[0]]


def _dense_width(path: Path) -> int:
    fields = Fields.read(path)
    fields.require("bias", (False,), "a projection here has no bias")
    identity = "torch.nn.modules.linear.Identity"
    why = "a projection here has no activation"
    fields.require("activation_function", (identity,), why)
    return fields.whole("out_features")
