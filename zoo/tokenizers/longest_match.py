"""Cuts words into the longest pieces of a vocabulary, with tensorflow_text's operation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.core.pybinds import (
    pywrap_fast_wordpiece_tokenizer_model_builder as model_builder,
)

LONGEST_PIECE = 256  # Bytes, the continuation mark not counted: what the operation can hold.


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


def build_model(
    vocabulary: Sequence[str], continuation: str, unknown: str, max_bytes: int, splits: bool
) -> np.ndarray:
    """The operation's form of a vocabulary, uint8; words over `max_bytes` are unknown to it.

    Args:
        splits: True to cut whole texts, which the operation then splits into words by rules of
            its own; False to cut words.

    Example: `build_model(["[UNK]", "a", "##b"], "##", "[UNK]", 400, splits=False)`
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
