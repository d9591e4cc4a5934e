"""What sentence-transformers puts on an encoder: pooling, a projection, normalisation, prompts."""

import dataclasses
from pathlib import Path
from typing import Any

from zoo.config import Fields, read_json
from zoo.files import BundleError, inside
from zoo.text.config import TextConfig
from zoo.weights.safetensors_files import WeightFiles

PROMPTS_FILE = "config_sentence_transformers.json"
_SUPPORTED = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
# transformers writes 1e30 for "as long as you like".
_NO_LIMIT = 1e9


@dataclasses.dataclass(frozen=True)
class SentenceModules:
    """What stands in `modules.json` and the folders it names."""

    head: dict[str, Any]  # options of our `SentenceEncoder`
    max_length: int | None  # tokens that are read of a text
    lowercase: bool
    dense: WeightFiles | None  # a projection's weights
    prompts: dict[str, str]  # before texts, by name
    default_prompt: str | None


def read_sentence_modules(folder: Path) -> SentenceModules | None:
    """What a folder has beside its encoder, or None; a BundleError says what is not supported."""
    path = inside(folder, "modules.json")
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, list):
        raise BundleError(f"{path}: not a list of modules. Fetch it again.")
    modules = [Fields(item, f"{path}: [{index}]") for index, item in enumerate(content)]
    kinds = [module.text("type", "").rsplit(".", 1)[-1] for module in modules]
    expected = ["Transformer", "Pooling", "Dense", "Normalize"]
    if kinds != [kind for kind in expected if kind in kinds] or kinds[:2] != expected[:2]:
        raise BundleError(
            f"{path}: modules {', '.join(kinds)}; supported are Transformer, Pooling, then perhaps "
            "Dense, then perhaps Normalize"
        )
    modules[0].require("path", ("",), "load the folder of the Transformer")

    def config_of(module: Fields) -> Fields:
        place = inside(folder, module.text("path", ""), "config.json", where=module.where)
        return Fields.read(place)

    settings = Fields.read(inside(folder, "sentence_bert_config.json"), optional=True)
    why = "other outputs than hidden states are not pooled here"
    settings.require("transformer_task", ("feature-extraction",), why)
    fields = config_of(modules[1])
    pooling = _pooling(fields)
    prompts, default_prompt = _prompts(inside(folder, PROMPTS_FILE))
    if prompts:
        fields.require("include_prompt", (True,), "tokens of a prompt are pooled as all others")
    head: dict[str, Any] = {"pooling": pooling, "normalize": "Normalize" in kinds}
    dense = None
    if "Dense" in kinds:
        fields = config_of(modules[2])
        identity = "torch.nn.modules.linear.Identity"
        fields.require("bias", (False,), "a projection here has no bias")
        fields.require("activation_function", (identity,), "a projection here has no activation")
        dense = WeightFiles(Path(fields.where).parent)
        width = head["embedding_dim"] = fields.whole("out_features")
        shape = dense.shape("linear.weight")
        if shape[:1] != (width,):
            raise BundleError(
                f"{fields.where}: out_features is {width}; linear.weight in {dense.path} is {shape}"
            )
    length = settings.whole("max_seq_length")
    if length is None:  # then the tokenizer's counts
        config = Fields.read(inside(folder, "tokenizer_config.json"), optional=True)
        limit = config.number("model_max_length", _NO_LIMIT)
        length = int(limit) if limit < _NO_LIMIT else None
    lowercase = settings.flag("do_lower_case", False)
    return SentenceModules(head, length, lowercase, dense, prompts, default_prompt)


def sentence_module_files(head: dict[str, Any], width: int, text: TextConfig) -> dict[str, Any]:
    """The contents by file of an encoder without a projection, whose states are `width` wide."""
    prompts = {"prompts": text.prompts, "default_prompt_name": text.default_prompt}
    flags = {f"pooling_mode_{mode}": head["pooling"] == ours for mode, ours in _SUPPORTED.items()}
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules += [("Normalize", "2_Normalize")] * head["normalize"]
    return {
        "1_Pooling/config.json": {"word_embedding_dimension": width, **flags},
        "sentence_bert_config.json": {"max_seq_length": text.max_length, "do_lower_case": False},
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
        **({PROMPTS_FILE: prompts} if text.prompts else {}),
    }


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """The prompts by name, none if all are empty, and the name of the one where none is named."""
    fields = Fields.read(path, optional=True)
    if not fields.values.get("prompts"):
        fields.require("default_prompt_name", (None,), "there are no prompts")
        return {}, None
    prompts = fields.part("prompts").values
    if wrong := [name for name, prompt in prompts.items() if not isinstance(prompt, str)]:
        raise BundleError(f"{fields.where}: prompts: {wrong[0]!r:.80} must be text")
    default = fields.require(
        "default_prompt_name", (None, *prompts), "a default prompt is one of prompts"
    )
    return (prompts, default) if any(prompts.values()) else ({}, None)


def _pooling(fields: Fields) -> str:
    flags = [name for name, value in fields.values.items() if value is True]
    modes = [n.removeprefix("pooling_mode_") for n in flags if n.startswith("pooling_mode_")]
    # Newer files have one name in place of the flags.
    modes = modes or [fields.text("pooling_mode", "mean")]
    known = _SUPPORTED | {ours: ours for ours in _SUPPORTED.values()}
    if len(modes) != 1 or modes[0] not in known:
        raise BundleError(
            f"{fields.where}: pooling_mode {' and '.join(modes)}; supported is one of "
            f"{', '.join(_SUPPORTED)}"
        )
    return known[modes[0]]
