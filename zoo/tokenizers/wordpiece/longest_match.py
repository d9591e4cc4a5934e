"""Cuts words into the longest pieces of a vocabulary, with tensorflow_text's operation."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.core.pybinds import (
    pywrap_fast_wordpiece_tokenizer_model_builder as model_builder,
)

_LONGEST_PIECE = 256  # Bytes, the continuation mark not counted: what the operation can hold.


class Pieces(NamedTuple):
    """The P pieces of W words, or of W whole texts.

    Attributes:
        ids: int32 (P,).
        splits: int64 (W + 1,), where the pieces of each word begin.
        starts: int64 (P,), offset in the word (or the text) of the piece's first byte.
        ends: int64 (P,), offset after its last byte.
    """

    ids: tf.Tensor
    splits: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


def checked_vocabulary(
    vocabulary: Sequence[str], special_tokens: Sequence[str], continuation: str
) -> list[str]:
    """The vocabulary as a list, if the operation and BERT's rules can work with it.

    Args:
        vocabulary: the pieces.
        special_tokens: those that it must have.
        continuation: the mark of pieces that continue a word.

    Raises ValueError and TypeError as `WordPieceTokenizer` says.

    Example: `checked_vocabulary(["[UNK]", "a"], ["[UNK]"], "##")` is `["[UNK]", "a"]`.
    """
    if isinstance(vocabulary, str | bytes) or not isinstance(vocabulary, Iterable):
        raise TypeError(f"vocabulary must be a list of strings, found {vocabulary!r:.80}.")
    pieces = list(vocabulary)
    seen = {}
    for index, piece in enumerate(pieces):
        if not isinstance(piece, str):
            raise TypeError(f"vocabulary[{index}] must be a string, found {piece!r:.80}.")
        try:
            size = len(piece.removeprefix(continuation).encode())
        except UnicodeEncodeError as error:
            raise ValueError(
                f"vocabulary[{index}] = {piece!r} holds a surrogate, which UTF-8 cannot hold."
            ) from error
        if piece in ("", continuation) or "\0" in piece or size > _LONGEST_PIECE:
            raise ValueError(
                f"vocabulary[{index}] = {piece!r:.80}: a piece must have 1 to {_LONGEST_PIECE} "
                "bytes and no U+0000; put an unused name such as [unused0] in its place."
            )
        if seen.setdefault(piece, index) != index:
            raise ValueError(
                f"vocabulary[{index}] = {piece!r} repeats vocabulary[{seen[piece]}]; name each "
                "piece once, with an unused name such as [unused0] in the other place."
            )
    missing = [name for name in special_tokens if name not in seen]
    if missing:
        raise ValueError(
            f"vocabulary: {', '.join(missing)} missing; BERT's special tokens must be in it."
        )
    return pieces


def build_model(
    vocabulary: Sequence[str], continuation: str, unknown: str, max_bytes: int, splits: bool = False
) -> np.ndarray:
    """The operation's form of a vocabulary, uint8; words over `max_bytes` are unknown to it.

    Args:
        splits: True to cut whole texts, which the operation then splits into words by rules of
            its own; False (default) to cut words.

    Example: `build_model(["[UNK]", "a", "##b"], "##", "[UNK]", 400)`
    """
    buffer = model_builder.build_fast_wordpiece_model(
        list(vocabulary),
        max_bytes,
        continuation,
        unknown,
        not splits,  # no_pretokenization
        False,  # support_detokenization
    )
    return np.frombuffer(buffer, np.uint8)


def cut(model: np.ndarray, texts: tf.Tensor) -> Pieces:
    """Cuts words from the left, always the longest piece; one unknown piece where none fits.

    Args:
        model: from `build_model`.
        texts: string (W,), words or, if the model splits, texts.

    Example: `cut(model, tf.constant(["ab"])).ids` is `[1, 2]` for the model above.
    """
    operation = tf_text.FastWordpieceTokenizer(
        model_buffer=tf.constant(model), token_out_type=tf.int32
    )
    ids, starts, ends = operation.tokenize_with_offsets(texts)
    starts, ends = tf.cast(starts.values, tf.int64), tf.cast(ends.values, tf.int64)
    return Pieces(ids.values, ids.row_splits, starts, ends)
