"""Files of byte-pair tokenizers as Hugging Face's libraries and OpenAI write them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from zoo.config import Fields, read_json
from zoo.files import replacing
from zoo.tokenizers.tokenizer_json import added_token, cls_sep_template, tokenizer_json

_VERSION = "#version: 0.2"
# The special tokens of RoBERTa and its kin, by what they are for.
_NAMES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"}
_ENDS = ("<|endoftext|>", "</s>")

Path = str | os.PathLike[str]


def read_vocabulary(path: Path) -> dict[str, int]:
    """The piece -> id of a `vocab.json`; ValueError, naming the file, if it is no JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)}: must hold a JSON object, not {content!r:.60}.")
    return content


def read_merges(path: Path) -> tuple[list[str], int]:
    """The lines of a `merges.txt`, and the number of the line with the first merge."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = [line.removesuffix("\r") for line in file.read().split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: not UTF-8: {error}") from error
    if lines[-1] == "":
        lines.pop()
    has_version = bool(lines) and lines[0].startswith("#version")
    if has_version and lines[0].rstrip() != _VERSION:
        raise ValueError(
            f"{os.fspath(path)}, line 1: {lines[0]!r:.80}, but only {_VERSION!r} is known here."
        )
    return lines[has_version:], 1 + has_version


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """The arguments of `BytePairTokenizer` that a `tokenizer.json` asks for.

    Raises ValueError, naming the file and the field, for what `BytePairTokenizer` does not do.
    """
    content = Fields(read_vocabulary(path), os.fspath(path))

    def refuse(field: str, value: Any, reason: str):
        raise ValueError(f"{content.where}: {field} = {json.dumps(value):.120}: {reason}")

    found = content.values.get("model")
    if not isinstance(found, dict) or found.get("type", "BPE") != "BPE":
        kind = found.get("type") if isinstance(found, dict) else found
        refuse("model.type", kind, "only BPE models are byte-pair tokenizers.")
    model = content.part("model").values
    for field, usual in (
        ("dropout", "has none"),
        ("continuing_subword_prefix", "has none"),
        ("end_of_word_suffix", "has none"),
        ("byte_fallback", "has it off"),
        ("ignore_merges", "has it off"),
    ):
        if model.get(field):
            refuse(f"model.{field}", model[field], f"not supported; GPT-2's kind {usual}.")
    for field in ("vocab", "merges"):
        if field not in model:
            refuse("model", [*model], f"{field} is missing.")
    if content.values.get("normalizer") is not None:
        refuse("normalizer", content.values["normalizer"], "the text must be read as it is.")
    splitter = _only_member(content.values.get("pre_tokenizer"), "pretokenizers")
    if not isinstance(splitter, dict) or splitter.get("type") != "ByteLevel":
        refuse("pre_tokenizer", splitter, "only ByteLevel, GPT-2's pattern, is supported.")
    if not splitter.get("use_regex", True):
        refuse("pre_tokenizer.use_regex", False, "only GPT-2's own pattern is supported.")
    decoder = content.values.get("decoder")
    if decoder is not None and (
        not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel"
    ):
        refuse("decoder", decoder, "a byte-level tokenizer has the decoder ByteLevel.")
    special: dict[str, int] = {}
    mask = _NAMES["mask"]
    for token in content.parts("added_tokens"):
        name, field = token.text("content"), f"added_tokens: {token.values.get('content')!r:.80}"
        if not token.flag("special"):
            refuse(field, token.values, "it is not special, and only special tokens may be added.")
        for flag in ("single_word", "rstrip", "lstrip"):
            if token.flag(flag) and (flag, name) != ("lstrip", mask):
                refuse(field, token.values, f"{flag} is not supported, but lstrip of {mask!r}.")
        special[name] = token.whole("id", least=0)
    options = {
        "vocabulary": model["vocab"],
        "merges": model["merges"],
        "special_tokens": special,
        "add_prefix_space": bool(splitter.get("add_prefix_space", True)),
    }
    roles = {role: name for role, name in _NAMES.items() if name in special}
    if content.values.get("post_processor") is not None:
        processor = content.part("post_processor")
        if processor.text("type") == "RobertaProcessing":
            for role in ("cls", "sep"):
                named = processor.values.get(role)
                if not isinstance(named, list) or not named or not isinstance(named[0], str):
                    refuse(f"post_processor.{role}", named, "it must be a name and an id.")
                roles[role] = named[0]
            options["pair_separators"] = 2
    if {"cls", "sep", "pad"} <= roles.keys():
        options["roles"] = roles
    ends = [name for name in (_ENDS[0], roles.get("sep"), *_ENDS) if name in special]
    if ends:
        options["end"] = ends[0]
    return options


def write_files(config: Mapping[str, Any], folder: Path) -> None:
    """Writes `vocab.json`, `merges.txt` and `tokenizer.json` of a tokenizer's `get_config()`.

    A reader never sees half of one.
    """
    ids = {piece: index for index, piece in enumerate(config["vocabulary"])}
    merges = "".join(merge + "\n" for merge in config["merges"])
    contents = {
        "vocab.json": json.dumps(ids, ensure_ascii=False),
        "merges.txt": f"{_VERSION}\n{merges}",
        "tokenizer.json": json.dumps(_tokenizer_json(config, ids), ensure_ascii=False),
    }
    for name, content in contents.items():
        with (
            replacing(os.path.join(folder, name)) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            file.write(content)


def _tokenizer_json(config: Mapping[str, Any], ids: dict[str, int]) -> dict[str, Any]:
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
    return tokenizer_json(
        [
            added_token(name, index, lstrip=name == roles.get("mask"))
            for name, index in sorted(special.items(), key=lambda item: item[1])
        ],
        normalizer=None,
        pre_tokenizer=byte_level,
        post_processor=processor,
        decoder=byte_level,
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [merge.split(" ") for merge in config["merges"]],
        },
    )


def _only_member(part: Any, members: str) -> Any:
    """A sequence of one is that one."""
    if isinstance(part, dict) and part.get("type") == "Sequence":
        parts = part.get(members)
        if isinstance(parts, list) and len(parts) == 1:
            return parts[0]
    return part
