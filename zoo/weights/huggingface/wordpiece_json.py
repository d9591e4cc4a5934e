"""Hugging Face's `tokenizer.json` of a WordPiece tokenizer, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError
from zoo.tokenizers import WordPieceTokenizer
from zoo.weights.huggingface.added_tokens import AddedToken, read_token


def read_wordpiece_json(path: Path) -> tuple[dict[str, int], list[AddedToken], dict[str, Any]]:
    """The pieces and their ids, the added tokens, and the options of `WordPieceTokenizer`.

    Raises:
        BundleError: another kind of tokenizer, ids with gaps, or a rule that ours has not.
    """
    where = str(path)
    content = Fields.read(path)
    model = content.part("model")
    model.require("type", ("WordPiece",), "a BERT here reads WordPiece")
    model.require("unk_token", ("[UNK]",), "it is the name of the unknown piece")
    model.require("continuing_subword_prefix", ("##",), "it marks pieces within a word")
    normalizer = content.part("normalizer")
    normalizer.require("type", ("BertNormalizer",), "no other rules are known")
    normalizer.require("clean_text", (True,), "control characters are always removed")
    splitter = content.part("pre_tokenizer")
    splitter.require("type", ("BertPreTokenizer",), "no other rules are known")
    ids = model.part("vocab").values
    if not all(type(index) is int for index in ids.values()):
        raise BundleError(f"{where}: model.vocab: ids must be whole numbers")
    added = [read_token(token) for token in content.parts("added_tokens")]
    options = {
        "lowercase": normalizer.flag("lowercase", True),
        "strip_accents": normalizer.flag("strip_accents", None),
        "split_cjk": normalizer.flag("handle_chinese_chars", True),
        "max_word_characters": model.whole("max_input_chars_per_word", 100),
    }
    return ids, added, options


def wordpiece_json(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids."""

    def special(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)]
    vocabulary = {piece: index for index, piece in enumerate(tokenizer.vocabulary)}
    ids, added = tokenizer.special_tokens, tokenizer.added_tokens
    # Those at the end of the vocabulary are pieces of no word.
    words = dict(vocabulary)
    for piece in reversed(tokenizer.vocabulary):
        if piece not in added:
            break
        del words[piece]
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
                "normalized": added.get(name, False),
                "special": not added.get(name, False),
            }
            for name, index in vocabulary.items()
            if name in ids or name in added
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
            "vocab": words,
        },
    }
