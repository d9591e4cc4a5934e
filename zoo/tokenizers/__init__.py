"""Text to token ids and back, as TensorFlow graph operations.

`character.py` gives every Unicode character an id, `byte.py` every byte, `wordpiece.py` every word
or piece of a word, as BERT; `bytepair.py` merges bytes, as GPT-2 and RoBERTa; `sentencepiece.py`
runs models of the SentencePiece library; `base.py` holds the contract that all keep. A tokenizer is
saved as one `tokenizer.json`:

    tokenizer = CharacterTokenizer.train(["hello world"])
    tokenizer.save("bundle/tokenizer")
    assert load_tokenizer("bundle/tokenizer").fingerprint == tokenizer.fingerprint
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
    CharacterTokenizer.kind: CharacterTokenizer,
    ByteTokenizer.kind: ByteTokenizer,
    WordPieceTokenizer.kind: WordPieceTokenizer,
    BytePairTokenizer.kind: BytePairTokenizer,
    SentencePieceTokenizer.kind: SentencePieceTokenizer,
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
    """Loads the tokenizer that `Tokenizer.save` wrote to `folder`.

    Raises ValueError, naming the file, if it is missing, is not valid JSON, has a format version
    or a kind that this code does not know, or does not hash to the fingerprint stored in it.

    Example: `load_tokenizer("bundle/tokenizer").vocabulary_size`
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
