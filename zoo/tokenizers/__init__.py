"""Text to token ids and back, as TensorFlow graph operations.

`base.py` has the contract that all tokenizers keep. A tokenizer is saved as one `tokenizer.json`.
"""

import os
from pathlib import Path

from zoo.config import Fields
from zoo.files import blaming
from zoo.tokenizers.base import FILE_NAME, FORMAT_VERSION, Tokenizer
from zoo.tokenizers.bytefallback import ByteFallbackTokenizer
from zoo.tokenizers.bytepair.tokenizer import BytePairTokenizer
from zoo.tokenizers.characters import ByteTokenizer, CharacterTokenizer
from zoo.tokenizers.marian import MarianTokenizer
from zoo.tokenizers.sentencepiece import SentencePieceTokenizer
from zoo.tokenizers.wordpiece.tokenizer import WordPieceTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "character": CharacterTokenizer,
    "byte": ByteTokenizer,
    "wordpiece": WordPieceTokenizer,
    "bytepair": BytePairTokenizer,
    "bytefallback": ByteFallbackTokenizer,
    "sentencepiece": SentencePieceTokenizer,
    "marian": MarianTokenizer,
}

__all__ = [
    "TOKENIZERS",
    "ByteFallbackTokenizer",
    "BytePairTokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "MarianTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
]


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Loads the tokenizer that `Tokenizer.save` wrote.

    Args:
        folder: the folder given to `save`. ValueError, naming the file, if that is missing, is not
            valid JSON, has a format version or a kind that this code does not know, or does not
            hash to the fingerprint stored in it.

    Example:
        >>> tokenizer = CharacterTokenizer.train(["hello world"])
        >>> path = tokenizer.save("bundle/tokenizer")
        >>> load_tokenizer("bundle/tokenizer").fingerprint == tokenizer.fingerprint
        True
    """
    path = os.path.abspath(os.path.join(folder, FILE_NAME))
    content = Fields.read(Path(path)).values
    version, kind = content.get("format_version"), content.get("kind")
    if version != FORMAT_VERSION or kind not in [*TOKENIZERS]:
        raise ValueError(
            f"{path}: format_version {version!r:.80} and kind {kind!r:.80}, but known are "
            f"{FORMAT_VERSION} and {', '.join(TOKENIZERS)}. Use the release that wrote the file, "
            "or save the tokenizer again."
        )
    with blaming(path, TypeError, OverflowError):
        tokenizer = TOKENIZERS[kind].from_config(content)
    if content.get("fingerprint") != tokenizer.fingerprint:
        raise ValueError(
            f"{path}: stored fingerprint {content.get('fingerprint')!r:.80} is not the content's "
            f"{tokenizer.fingerprint!r}: the vocabulary was edited or damaged. Restore the file; "
            "a model only works with the vocabulary that it was trained with."
        )
    return tokenizer
