"""Hugging Face's `tokenizer.json` of a WordPiece tokenizer, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import logging

from zoo.bundle_error import BundleError
from zoo.tokenizers import WordPieceTokenizer
from zoo.weights.huggingface.fields import Fields


def read_wordpiece_json(path: Path) -> tuple[list[str], dict[str, Any]]:
    """The pieces in the order of their ids, and the options of `WordPieceTokenizer`.

    Raises:
        BundleError: another kind of tokenizer, ids with gaps, or a rule that ours has not.
    """
    where = str(path)
    content = Fields.read(path)
    model = Fields(content.values.get("model"), f"{where}: model")
    model.require("type", ("WordPiece",), "a BERT here reads WordPiece")
    model.require("unk_token", ("[UNK]",), "it is the name of the unknown piece")
    model.require("continuing_subword_prefix", ("##",), "it marks pieces within a word")
    normalizer = Fields(content.values.get("normalizer"), f"{where}: normalizer")
    normalizer.require("type", ("BertNormalizer",), "no other rules are known")
    normalizer.require("clean_text", (True,), "control characters are always removed")
    splitter = Fields(content.values.get("pre_tokenizer"), f"{where}: pre_tokenizer")
    splitter.require("type", ("BertPreTokenizer",), "no other rules are known")
    ids = dict(Fields(model.values.get("vocab"), f"{where}: model.vocab").values)
    known = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    for token in content.values.get("added_tokens") or []:
        name = token["content"]
        ids.setdefault(name, token["id"])
        if name not in known:
            logging.warning("%s: %r in a text is read as any text, not as a token", path, name)
    pieces = sorted(ids, key=lambda piece: (not isinstance(ids[piece], int), ids[piece]))
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise BundleError(
            f"{where}: model.vocab: the ids are not 0 to {len(pieces) - 1}, each once"
        )
    options = {
        "lowercase": normalizer.flag("lowercase", True),
        "strip_accents": normalizer.flag("strip_accents", None),
        "split_cjk": normalizer.flag("handle_chinese_chars", True),
        "max_word_characters": model.whole("max_input_chars_per_word", 100),
    }
    return pieces, options


def wordpiece_json(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids."""

    def special(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)]
    ids = tokenizer.special_tokens
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, index in sorted(ids.items(), key=lambda item: item[1])
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": tokenizer.split_cjk,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, text("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]}
                for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": tokenizer.max_word_characters,
            "vocab": {piece: index for index, piece in enumerate(tokenizer.vocabulary)},
        },
    }
