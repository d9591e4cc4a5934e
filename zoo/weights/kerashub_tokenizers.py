"""KerasHub's tokenizers of BERT and GPT-2 as ours, with the same ids."""

from __future__ import annotations

from typing import Any

from zoo.bundle_error import BundleError
from zoo.tokenizers import Tokenizer, WordPieceTokenizer
from zoo.tokenizers.bytepair import BytePairTokenizer


def convert_tokenizer(tokenizer: Any, where: str) -> Tokenizer:
    """Our tokenizer with the vocabulary and the rules of KerasHub's.

    Args:
        tokenizer: keras_hub's BertTokenizer or GPT2Tokenizer.
        where: the preset to blame in messages.

    Raises:
        BundleError: another tokenizer, or a setting that ours has not; the message names it.
    """
    kind = type(tokenizer).__name__
    if kind not in TOKENIZERS:
        raise BundleError(f"{where}: tokenizer {kind} is not known; known: {', '.join(TOKENIZERS)}")
    convert, only = TOKENIZERS[kind]
    config = tokenizer.get_config()
    for setting, value in only.items():
        if config.get(setting, value) != value:
            raise BundleError(
                f"{where}: {kind} has {setting}={config[setting]!r}; only {value!r} can be read"
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
