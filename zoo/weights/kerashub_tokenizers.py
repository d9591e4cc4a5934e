"""KerasHub's tokenizers of BERT and GPT-2 as ours, with the same ids."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.config import Fields
from zoo.files import BundleError, inside
from zoo.tokenizers import Tokenizer, WordPieceTokenizer
from zoo.tokenizers.bytepair.tokenizer import END_OF_TEXT, BytePairTokenizer


def convert_tokenizer(tokenizer: Any, where: str) -> Tokenizer:
    """Our tokenizer with the vocabulary and the rules of KerasHub's.

    Args:
        tokenizer: keras_hub's BertTokenizer or GPT2Tokenizer.
        where: the preset to blame in messages.

    Raises:
        BundleError: another tokenizer, or a setting that ours has not; the message names it.
    """
    return _converted(tokenizer, type(tokenizer).__name__, tokenizer.get_config(), where)


def read_tokenizer(folder: Path, kind: str, options: Fields) -> Tokenizer:
    """Our tokenizer from the files of a preset, which KerasHub's own would take as they are.

    Args:
        folder: the preset's.
        kind: "BertTokenizer" or "GPT2Tokenizer".
        options: the settings in `tokenizer.json`.

    Raises:
        BundleError: a file that is missing or damaged, or a setting that ours has not.
    """
    names = ("vocabulary.txt",) if kind == "BertTokenizer" else ("vocabulary.json", "merges.txt")
    files = [inside(folder, "assets", "tokenizer", name) for name in names]
    for file in files:
        if not file.is_file():
            raise BundleError(f"{file}: no such file. Write the preset anew")
    # The defaults of KerasHub's classes.
    found = types.SimpleNamespace(
        lowercase=options.flag("lowercase", False),
        strip_accents=options.flag("strip_accents", False),
        split_on_cjk=options.flag("split_on_cjk", True),
        unsplittable_tokens=options.values.get("unsplittable_tokens") or [END_OF_TEXT],
    )
    try:
        with open(files[-1], encoding="utf-8") as file:
            lines = [line.rstrip() for line in file]
    except UnicodeDecodeError as error:
        raise BundleError(f"{files[-1]}: not UTF-8: {error}") from None
    if kind == "BertTokenizer":
        found.get_vocabulary = lambda: lines
    else:
        found.vocabulary, found.merges = Fields.read(files[0]).values, lines
    return _converted(found, kind, options.values, str(files[0]))


def _converted(tokenizer: Any, kind: str, config: Mapping[str, Any], where: str) -> Tokenizer:
    if kind not in TOKENIZERS:
        raise BundleError(f"{where}: tokenizer {kind} is not known; known: {', '.join(TOKENIZERS)}")
    convert, only = TOKENIZERS[kind]
    for setting, value in only.items():
        if config.get(setting, value) != value:
            raise BundleError(
                f"{where}: {kind} has {setting}={config[setting]!r:.80}; only {value!r} can be read"
            )
    try:
        return convert(tokenizer)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{where}: {kind}: {error}") from None


def _word_piece(tokenizer: Any) -> WordPieceTokenizer:
    return WordPieceTokenizer(
        tokenizer.get_vocabulary(),
        lowercase=tokenizer.lowercase,
        # KerasHub keeps accents unless told, and so the preset decides, not `lowercase`.
        strip_accents=tokenizer.strip_accents,
        split_cjk=tokenizer.split_on_cjk,
    )


def _byte_pair(tokenizer: Any) -> BytePairTokenizer:
    merges = [merge for merge in tokenizer.merges if not merge.startswith("#version:")]
    # Written out in a text, special tokens are text here, as in tiktoken; KerasHub parses them.
    return BytePairTokenizer(
        dict(tokenizer.vocabulary), merges, special_tokens=tokenizer.unsplittable_tokens
    )


# Class name -> what converts it, and the settings that must be as ours are.
TOKENIZERS = {
    "BertTokenizer": (
        _word_piece,
        {"split": True, "suffix_indicator": "##", "oov_token": "[UNK]", "special_tokens": None},
    ),
    "GPT2Tokenizer": (_byte_pair, {"add_prefix_space": False}),
}
