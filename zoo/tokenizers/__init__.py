"""Text to token ids and back, as TensorFlow graph operations.

`base.py` has the contract that all tokenizers keep. A tokenizer is saved as one `tokenizer.json`.
"""

import os

from zoo.config import read_json
from zoo.tokenizers.base import FILE_NAME, FORMAT_VERSION, Tokenizer
from zoo.tokenizers.byte import ByteTokenizer
from zoo.tokenizers.bytepair.tokenizer import BytePairTokenizer
from zoo.tokenizers.character import CharacterTokenizer
from zoo.tokenizers.sentencepiece import SentencePieceTokenizer
from zoo.tokenizers.wordpiece.tokenizer import WordPieceTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer
    for tokenizer in (
        CharacterTokenizer,
        ByteTokenizer,
        WordPieceTokenizer,
        BytePairTokenizer,
        SentencePieceTokenizer,
    )
}

__all__ = [
    "TOKENIZERS",
    "BytePairTokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
]


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Loads the tokenizer that `Tokenizer.save` wrote.

    Args:
        folder: the folder given to `save`.

    Returns:
        Tokenizer.

    Raises:
        ValueError: the file is missing, is not valid JSON, has a format version or a kind that
            this code does not know, or does not hash to the fingerprint stored in it; the message
            names the file.

    Example:
        >>> tokenizer = CharacterTokenizer.train(["hello world"])
        >>> path = tokenizer.save("bundle/tokenizer")
        >>> load_tokenizer("bundle/tokenizer").fingerprint == tokenizer.fingerprint
        True
    """
    path = os.path.abspath(os.path.join(folder, FILE_NAME))
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such file. Pass the folder that Tokenizer.save wrote.")
    content = read_json(path)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: not a JSON object with format_version {FORMAT_VERSION}, but {version!r:.80}. "
            "Use the release that wrote the file, or save the tokenizer again."
        )
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise ValueError(
            f"{path}: unknown tokenizer kind {kind!r:.80}; known kinds: {', '.join(TOKENIZERS)}."
        )
    try:
        tokenizer = TOKENIZERS[kind].from_config(content)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: bad {kind} tokenizer: {error}") from error
    if content.get("fingerprint") != tokenizer.fingerprint:
        raise ValueError(
            f"{path}: stored fingerprint {content.get('fingerprint')!r:.80} is not the content's "
            f"{tokenizer.fingerprint!r}: the vocabulary was edited or damaged. Restore the file; "
            "a model only works with the vocabulary that it was trained with."
        )
    return tokenizer
