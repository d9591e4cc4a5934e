"""Byte-level BPE in Hugging Face's and OpenAI's files, read and written."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, write_json
from zoo.tokenizers import files
from zoo.tokenizers.bytepair.patterns import RULES, Rule, pre_tokenizer_json
from zoo.tokenizers.bytepair.vocabulary import ALPHABET

# The special tokens of RoBERTa and of ModernBERT, by what they are for.
_NAMES = (
    {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"},
    {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unknown": "[UNK]"},
)
_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<|im_end|>")


def read_byte_pairs(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`BytePairTokenizer`'s arguments; BundleError names the field of what it does not do."""
    content = Fields.read(Path(path))
    model, vocabulary, special, flags = files.read_bpe(content, "byte-pair tokenizers")
    model.require("byte_fallback", (False,), "a byte-level vocabulary has pieces for bytes")
    pattern, prefix = _read_pattern(content)
    if content.values.get("decoder") is not None:
        content.part("decoder").require("type", ("ByteLevel",), "pieces are bytes")
    if not set(ALPHABET) <= vocabulary.keys():
        model.require("unk_token", (None,), "a byte that the vocabulary lacks is left out")
    named = _NAMES[0] if {_NAMES[0][role] for role in ("cls", "sep")} <= {*special} else _NAMES[1]
    mask = named["mask"]
    if flags.get(mask) == ["lstrip"] and mask in special:
        del flags[mask]  # as every mask token
    options = {
        "vocabulary": vocabulary,
        "merges": model.values["merges"],
        "special_tokens": special,
        "add_prefix_space": prefix,
        "pattern": pattern,
        "nfc": _reads_nfc(content),
        "ignore_merges": model.flag("ignore_merges", False),
        "added_tokens": flags,
        "start": files.read_start(content),
    }
    roles = {role: name for role, name in named.items() if name in special}
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


def _reads_nfc(content: Fields) -> bool:
    if content.values.get("normalizer") is None:
        return False
    content.part("normalizer").require("type", ("NFC",), "no other form of text is known")
    return True


def _read_pattern(content: Fields) -> tuple[str, bool]:
    """The name of the rule of a `pre_tokenizer`, and whether it puts a space before a text."""
    splitter = content.part("pre_tokenizer")
    steps = files.read_steps(content, "pre_tokenizer", "pretokenizers")
    known = ", ".join(RULES)
    last = steps[-1] if steps else splitter
    last.require("type", ("ByteLevel",), f"known rules are {known}")
    found = []
    for step in steps[:-1]:
        kind = step.require("type", ("Digits", "Split"), f"known rules are {known}")
        if kind == "Digits":
            step.require("individual_digits", (True,), f"known rules are {known}")
            found.append(kind)
        else:
            for field, value in (("behavior", "Isolated"), ("invert", False)):
                step.require(field, (value,), f"known rules are {known}")
            found.append(step.part("pattern").text("Regex"))
    if last.flag("use_regex", True):
        found.append(None)
    for name, rule in RULES.items():
        if found == _steps(rule):
            return name, last.flag("add_prefix_space", True)
    raise BundleError(
        f"{splitter.where}: its steps are {found!r:.300}; known rules are "
        + ", ".join(f"{name} ({_steps(rule)})" for name, rule in RULES.items())
    )


def _steps(rule: Rule) -> list[str | None]:
    """ "Digits", a pattern, and None for GPT-2's, in the order of a `pre_tokenizer`."""
    return [*(["Digits"] if rule.digits_apart else []), rule.pattern]


def write_byte_pairs(config: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Writes `vocab.json`, `merges.txt` and `tokenizer.json` of a tokenizer's `get_config()`."""
    ids = {piece: index for index, piece in enumerate(config["vocabulary"])}
    folder = Path(folder)
    write_json(folder / "vocab.json", ids, ensure_ascii=False)
    files.write_lines(folder / "merges.txt", [files.VERSION, *config["merges"]])
    special, roles = config["special_tokens"], config["roles"]
    flags, start = dict(config.get("added_tokens", {})), config.get("start")
    if mask := roles.get("mask"):
        flags[mask] = [*flags.get(mask, ()), "lstrip"]
    rule = RULES[config.get("pattern", "gpt2")]
    prefix = {"add_prefix_space": config["add_prefix_space"]}
    byte_level = {"type": "ByteLevel", **prefix, "trim_offsets": True, "use_regex": True}
    processor: dict[str, Any] = byte_level | {"trim_offsets": False}
    if {"cls", "sep"} <= roles.keys():
        cls, sep = ((roles[role], special[roles[role]]) for role in ("cls", "sep"))
        processor = files.cls_sep_template(cls, sep)
        if config["pair_separators"] > 1:
            processor = {"type": "RobertaProcessing", "sep": [*sep], "cls": [*cls]}
            processor |= {"trim_offsets": True, **prefix}
    elif start is not None:
        processor = {"type": "Sequence", "processors": [processor]}
        processor["processors"].append(files.start_template((start, special[start])))
    absent = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    model = {"type": "BPE", **dict.fromkeys(absent), "fuse_unk": False, "byte_fallback": False}
    model |= {"ignore_merges": config.get("ignore_merges", False), "vocab": ids}
    content = files.tokenizer_json(
        files.added_tokens_json(ids, special, flags),
        normalizer={"type": "NFC"} if config.get("nfc") else None,
        pre_tokenizer=pre_tokenizer_json(rule, config["add_prefix_space"]),
        post_processor=processor,
        decoder=byte_level,
        model=model | {"merges": [merge.split(" ") for merge in config["merges"]]},
    )
    write_json(folder / "tokenizer.json", content, ensure_ascii=False)
