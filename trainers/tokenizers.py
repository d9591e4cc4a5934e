"""The tokenizer of a run: read from a vocabulary, or trained on the texts."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trainers.data.config import DataConfig
from zoo.config import ConfigError
from zoo.tokenizers import (
    BytePairTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)

_DEFAULT_VOCABULARY_SIZE = 8000
_ROLES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"}
# RoBERTa's special tokens, in the order of its ids.
_ENCODER_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_ENCODER = {"end": "</s>", "roles": _ROLES, "parse_special": True, "pair_separators": 2}
# What SentencePiece models call the special pieces of an encoder.
_SENTENCEPIECE_ROLES = {
    "cls": ("<s>", "[CLS]"),
    "sep": ("</s>", "[SEP]"),
    "pad": ("<pad>", "[PAD]"),
    "mask": ("<mask>", "[MASK]"),
}
_FILE_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def language_model_tokenizer(data: DataConfig) -> Tokenizer | Callable[[Iterable[str]], Tokenizer]:
    """The tokenizer of task lm, or the function that makes it from the training texts."""
    size, count = data.max_vocabulary_size, data.min_count
    if data.tokenizer == "byte":
        return ByteTokenizer()
    if data.tokenizer == "sentencepiece":
        return SentencePieceTokenizer.from_file(_model_file(data))
    if data.tokenizer == "character":
        return lambda texts: CharacterTokenizer.train(
            texts, max_vocabulary_size=size, min_count=count
        )
    if data.vocabulary is not None:
        return _read_byte_pairs(data.vocabulary)
    size = size or _DEFAULT_VOCABULARY_SIZE
    return lambda texts: BytePairTokenizer.train(texts, size, max(count, 2))


def encoder_tokenizer(data: DataConfig, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer of a task on an encoder; `texts` train it where there is no vocabulary."""
    size, file = data.max_vocabulary_size or _DEFAULT_VOCABULARY_SIZE, data.vocabulary
    if data.tokenizer == "sentencepiece":
        return _sentencepiece_encoder(_model_file(data))
    if data.tokenizer == "bytepair":
        if file is not None:
            return _read_byte_pairs(file, parse_special=True)
        return BytePairTokenizer.train(texts(), size, 2, _ENCODER_SPECIAL, **_ENCODER)
    if file is not None:
        return WordPieceTokenizer.from_file(file, lowercase=data.lowercase)
    return WordPieceTokenizer.train(texts(), vocabulary_size=size, lowercase=data.lowercase)


def _model_file(data: DataConfig) -> str:
    if data.vocabulary is None:
        raise ConfigError(
            'data.tokenizer="sentencepiece" needs data.vocabulary, the path of a .model file; '
            "train one with sentencepiece.SentencePieceTrainer"
        )
    return data.vocabulary


def _sentencepiece_encoder(path: str) -> SentencePieceTokenizer:
    markers = SentencePieceTokenizer.from_file(path).markers
    roles = {
        role: name
        for role, names in _SENTENCEPIECE_ROLES.items()
        for name in reversed(names)
        if name in markers
    }
    separators = 2 if roles.get("cls") == "<s>" else 1  # as RoBERTa and BERT have them
    return SentencePieceTokenizer.from_file(path, roles=roles, pair_separators=separators)


def _read_byte_pairs(path: str, **options: Any) -> BytePairTokenizer:
    """From a `tokenizer.json`, or a folder with one or with `vocab.json` and `merges.txt`."""
    place = Path(path)
    if not place.is_dir() or (place / "tokenizer.json").exists():
        file = place / "tokenizer.json" if place.is_dir() else place
        return BytePairTokenizer.from_tokenizer_json(file, **options)
    for names in _FILE_PAIRS:
        files = [place / name for name in names]
        if all(file.exists() for file in files):
            if options:
                options = {"special_tokens": _ENCODER_SPECIAL, **_ENCODER}
            return BytePairTokenizer.from_files(*files, **options)
    raise ConfigError(
        f"data.vocabulary={path!r} has no tokenizer.json, and no vocab.json with a merges.txt"
    )
