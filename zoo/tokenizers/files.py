"""Files of tokenizers as Hugging Face's libraries, OpenAI and BERT's programs write them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, blaming, replacing, write_json

VERSION = "#version: 0.2"  # the first line of a `merges.txt`
# The special tokens of RoBERTa and its kin, by what they are for.
_NAMES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"}
_ENDS = ("<|endoftext|>", "</s>")


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a `vocab.txt` or `merges.txt`; BundleError, naming the file, if not UTF-8."""
    with blaming(path), open(path, encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")  # A piece may be a line separator of Unicode.
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Writes lines, each with a line feed; a reader never sees half of them."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.writelines(line + "\n" for line in lines)


def read_byte_pairs(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`BytePairTokenizer`'s arguments; BundleError names the field of what it does not do."""
    content = Fields.read(Path(path))
    model = content.part("model")
    model.require("type", ("BPE",), "only BPE models are byte-pair tokenizers")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        model.require(field, (None, 0, ""), "GPT-2's kind has none")
    for field in ("byte_fallback", "ignore_merges"):
        model.require(field, (False,), "GPT-2's kind has it off")
    if "merges" not in model.values:
        raise BundleError(f"{model.where}: merges is missing")
    content.require("normalizer", (None,), "the text must be read as it is")
    splitter = content.part("pre_tokenizer")
    if splitter.values.get("type") == "Sequence" and len(splitter.parts("pretokenizers")) == 1:
        splitter = splitter.parts("pretokenizers")[0]
    splitter.require("type", ("ByteLevel",), "no pattern but GPT-2's is known")
    splitter.require("use_regex", (True,), "no pattern but GPT-2's is known")
    if content.values.get("decoder") is not None:
        content.part("decoder").require("type", ("ByteLevel",), "pieces are bytes")
    special: dict[str, int] = {}
    for token in content.parts("added_tokens"):
        name = token.text("content") or ""
        if not token.flag("special"):
            raise BundleError(
                f"{token.where}: {name!r:.80} is not special, and only special tokens may be added"
            )
        for flag in ("single_word", "rstrip", "lstrip"):
            both = flag == "lstrip" and name == _NAMES["mask"]
            token.require(flag, (False, True) if both else (False,), f"as of {name!r:.80}")
        special[name] = token.whole("id", least=0)
    options = {
        "vocabulary": model.part("vocab").values,
        "merges": model.values["merges"],
        "special_tokens": special,
        "add_prefix_space": splitter.flag("add_prefix_space", True),
    }
    roles = {role: name for role, name in _NAMES.items() if name in special}
    if content.values.get("post_processor") is not None:
        processor = content.part("post_processor")
        if processor.text("type") == "RobertaProcessing":
            for role in ("cls", "sep"):
                named = processor.values.get(role)
                if not isinstance(named, list) or not named or not isinstance(named[0], str):
                    raise BundleError(
                        f"{processor.where}: {role} must be a name and an id. "
                        f"Received: {named!r:.80}"
                    )
                roles[role] = named[0]
            options["pair_separators"] = 2
    if {"cls", "sep", "pad"} <= roles.keys():
        options["roles"] = roles
    ends = [name for name in (_ENDS[0], roles.get("sep"), *_ENDS) if name in special]
    return options | ({"end": ends[0]} if ends else {})


def write_byte_pairs(config: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Writes `vocab.json`, `merges.txt` and `tokenizer.json` of a tokenizer's `get_config()`."""
    ids = {piece: index for index, piece in enumerate(config["vocabulary"])}
    folder = Path(folder)
    write_json(folder / "vocab.json", ids, ensure_ascii=False)
    write_lines(folder / "merges.txt", [VERSION, *config["merges"]])
    special, roles = config["special_tokens"], config["roles"]
    prefix = {"add_prefix_space": config["add_prefix_space"]}
    byte_level = {"type": "ByteLevel", **prefix, "trim_offsets": True, "use_regex": True}
    processor: dict[str, Any] = byte_level | {"trim_offsets": False}
    if {"cls", "sep"} <= roles.keys():
        cls, sep = ((roles[role], special[roles[role]]) for role in ("cls", "sep"))
        processor = cls_sep_template(cls, sep)
        if config["pair_separators"] > 1:
            processor = {"type": "RobertaProcessing", "sep": [*sep], "cls": [*cls]}
            processor |= {"trim_offsets": True, **prefix}
    absent = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    model = {"type": "BPE", **dict.fromkeys(absent), "fuse_unk": False, "byte_fallback": False}
    model |= {"ignore_merges": False, "vocab": ids}
    content = tokenizer_json(
        [
            added_token(name, index, lstrip=name == roles.get("mask"))
            for name, index in sorted(special.items(), key=lambda item: item[1])
        ],
        normalizer=None,
        pre_tokenizer=byte_level,
        post_processor=processor,
        decoder=byte_level,
        model=model | {"merges": [merge.split(" ") for merge in config["merges"]]},
    )
    write_json(folder / "tokenizer.json", content, ensure_ascii=False)


def tokenizer_json(added_tokens: Iterable[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    """A `tokenizer.json`'s content; `parts` are its normalizer, pre_tokenizer and so on."""
    head = {"version": "1.0", "truncation": None, "padding": None}
    return {**head, "added_tokens": list(added_tokens), **parts}


def added_token(
    name: str, index: int, lstrip: bool = False, normalized: bool = False, special: bool = True
) -> dict[str, Any]:
    """A token that is found in texts before they are split into words."""
    flags = {"lstrip": lstrip, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": index, "content": name, "single_word": False, **flags}


def cls_sep_template(cls: tuple[str, int], sep: tuple[str, int]) -> dict[str, Any]:
    """The post-processor of one text, "[CLS] A [SEP]", and of two, "[CLS] A [SEP] B [SEP]"."""
    parts = ("SpecialToken", cls[0]), ("Sequence", "A"), ("SpecialToken", sep[0])
    single = [{kind: {"id": name, "type_id": 0}} for kind, name in parts]
    second = ("Sequence", "B"), ("SpecialToken", sep[0])
    pair = [*single, *({kind: {"id": name, "type_id": 1}} for kind, name in second)]
    special = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (cls, sep)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
