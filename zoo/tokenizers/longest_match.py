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
    """The P pieces of W words.

    Attributes:
        ids: int32 (P,).
        splits: int64 (W + 1,), where the pieces of each word begin.
        starts: int64 (P,), offset in the word of the piece's first byte.
        ends: int64 (P,), offset after its last byte.
    """

    ids: tf.Tensor
    splits: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


def build_model(
    vocabulary: Sequence[str], continuation: str, unknown: str, max_bytes: int
) -> np.ndarray:
    """The operation's form of a vocabulary, uint8; words over `max_bytes` are unknown to it.

    Example: `build_model(["[UNK]", "a", "##b"], "##", "[UNK]", 400)`
    """
    buffer = model_builder.build_fast_wordpiece_model(
        list(vocabulary),
        max_bytes,
        continuation,
        unknown,
        True,  # no_pretokenization: what comes is one word.
        False,  # support_detokenization
    )
    return np.frombuffer(buffer, np.uint8)


def cut(model: np.ndarray, words: tf.Tensor, too_long: tf.Tensor, unknown: str) -> Pieces:
    """Cuts words from the left, always the longest piece; one unknown piece where none fits.

    Args:
        model: from `build_model`.
        words: string (W,).
        too_long: bool (W,), words to take as unknown.
        unknown: the piece for these.

    Example: `cut(model, tf.constant(["ab"]), tf.constant([False]), "[UNK]").ids` is `[1, 2]`.
    """
    operation = tf_text.FastWordpieceTokenizer(
        model_buffer=tf.constant(model), token_out_type=tf.int32
    )
    ids, starts, ends = operation.tokenize_with_offsets(tf.where(too_long, unknown, words))
    splits = ids.row_splits
    # The piece of a word that is too long spans the word, not the name that stood in for it.
    lengths = tf.where(too_long, tf.strings.length(words), 0)
    lengths = tf.cast(tf.repeat(lengths, splits[1:] - splits[:-1]), tf.int64)
    ends = tf.where(lengths > 0, lengths, tf.cast(ends.values, tf.int64))
    return Pieces(ids.values, splits, tf.cast(starts.values, tf.int64), ends)
