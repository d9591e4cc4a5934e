"""`tokenizer.json` of BPE with byte fallback, as Hugging Face's library writes it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, write_json
from zoo.tokenizers import files

_SPACE = "\u2581"
_ENDS = ("</s>", "<eos>", "<|endoftext|>")
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
# Gemma's, of which the normalizer leaves nothing to do.
_SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
_DECODERS = [
    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def read_byte_fallback(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`ByteFallbackTokenizer`'s arguments; BundleError names the field of what it does not do."""
    content = Fields.read(Path(path))
    model, vocabulary, special, flags = files.read_bpe(content, "tokenizers with byte fallback")
    model.require("byte_fallback", (True,), "other models are byte-level")
    model.require("ignore_merges", (False, None), "Llama's kind has it off")
    prefix = _read_prefix(content)
    expected = _DECODERS if prefix == "never" else [*_DECODERS, _STRIP]
    if [step.values for step in files.read_steps(content, "decoder", "decoders")] != expected:
        raise BundleError(
            f"{content.where}: decoder must be {expected} with this normalizer and pre_tokenizer"
        )
    if prefix in ("never", "first", "always") and not content.values.get("normalizer"):
        # Without a normalizer a normalised text is the text itself.
        flags = {name: [f for f in own if f != "normalized"] for name, own in flags.items()}
    ends = [name for name in _ENDS if name in special]
    return {
        "vocabulary": vocabulary,
        "merges": [merge for merge in model.values["merges"] if _is_text(merge, special)],
        "special_tokens": special,
        "prefix": prefix,
        "added_tokens": flags,
        "start": files.read_start(content),
    } | ({"end": ends[0]} if ends else {})


def _is_text(merge: Any, special: Mapping[str, int]) -> bool:
    """Whether a merge neither reads nor makes a special token: no text may become one."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return True  # the constructor says what is wrong with it
    return special.keys().isdisjoint((*parts, "".join(parts)))


def _read_prefix(content: Fields) -> str:
    """One of `sections.PREFIXES`."""
    normalizers = [step.values for step in files.read_steps(content, "normalizer", "normalizers")]
    steps = files.read_steps(content, "pre_tokenizer", "pretokenizers")
    splitters = [step.values for step in steps]
    if normalizers == [_PREPEND, _REPLACE] and not splitters:
        return "prepend"
    if normalizers == [_REPLACE] and splitters in ([], [_SPLIT]):
        return "never"
    if not normalizers and len(splitters) == 1 and splitters[0].get("type") == "Metaspace":
        splitter = steps[0]
        splitter.require("replacement", (_SPACE,), "spaces become this")
        if splitter.flag("split", True):
            raise BundleError(f"{splitter.where}: split must be false: words are merged as one")
        if splitter.values.get("prepend_scheme") is None:
            return "always" if splitter.flag("add_prefix_space", True) else "never"
        known = ("always", "first", "never")
        return splitter.require("prepend_scheme", known, "no other is known")
    raise BundleError(
        f"{content.where}: normalizer {normalizers!r:.200} and pre_tokenizer {splitters!r:.200}; "
        "known are Prepend and Replace (Llama 2), Replace (Gemma) and Metaspace (Mistral)"
    )


def write_byte_fallback(config: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Writes `tokenizer.json` of a tokenizer's `get_config()`."""
    ids = {piece: index for index, piece in enumerate(config["vocabulary"])}
    special, prefix = config["special_tokens"], config["prefix"]
    flags, start = config.get("added_tokens", {}), config.get("start")
    normalizer, splitter = _REPLACE, None
    if prefix == "prepend":
        normalizer = {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}
    elif prefix != "never":
        splitter = {"type": "Metaspace", "replacement": _SPACE, "split": False}
        normalizer, splitter["prepend_scheme"] = None, prefix
    model = {"type": "BPE", "unk_token": "<unk>" if "<unk>" in special else None}
    model |= dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    model |= {"fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": ids}
    content = files.tokenizer_json(
        files.added_tokens_json(ids, special, flags),
        normalizer=normalizer,
        pre_tokenizer=splitter,
        post_processor=None if start is None else files.start_template((start, special[start])),
        decoder={
            "type": "Sequence",
            "decoders": _DECODERS if prefix == "never" else [*_DECODERS, _STRIP],
        },
        model=model | {"merges": [merge.split(" ") for merge in config["merges"]]},
    )
    write_json(Path(folder) / "tokenizer.json", content, ensure_ascii=False)
