"""Token ids of texts, cut into windows, to what an encoder reads: [CLS] a [SEP] (b [SEP])."""

from typing import NamedTuple

import tensorflow as tf

from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles


class Windows(NamedTuple):
    """Where the W windows of a batch of texts lie; each int64 (W,), windows of a text in order."""

    rows: tf.Tensor  # which text
    starts: tf.Tensor  # first token in it
    lengths: tf.Tensor  # tokens
    ordinals: tf.Tensor  # 0, 1, ... within the text
    counts: tf.Tensor  # how many windows the text has


def pack(
    tokenizer: Tokenizer,
    first: tf.RaggedTensor,
    second: tf.RaggedTensor | None = None,
    length: int | tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Adds the special tokens and pads on the right, to `length` or as long as the longest row.

    (B, T) each: `token_ids` int32, `padding_mask` bool, True where there is a token, `segment_ids`
    int32, 1 for the second text and the [SEP] after it; RoBERTa's pairs, with several separators
    between them, are of one segment.
    """
    require_roles(tokenizer, "cls", "sep", "pad")
    rows = first.nrows(out_type=tf.int32)
    specials = tokenizer.cls_id, tokenizer.sep_id
    cls, sep = (tf.fill([rows, 1], tf.constant(i, tf.int32)) for i in specials)
    separators = 1 if second is None else tokenizer.pair_separators
    ids = tf.concat([cls, first, *[sep] * separators], axis=1)
    split = ids.row_lengths()
    if second is not None:
        ids = tf.concat([ids, second, sep], axis=1)
    lengths = ids.row_lengths()
    shape = [None, length] if isinstance(length, int | None) else tf.stack([-1, length])
    token_ids = ids.to_tensor(tokenizer.pad_id, shape=shape)  # (B, T)
    positions = tf.range(tf.shape(token_ids)[1], dtype=tf.int64)  # (T,)
    padding_mask = positions < lengths[:, None]
    is_second = padding_mask & (positions >= split[:, None])
    segment_ids = tf.cast(is_second & (tokenizer.pair_separators == 1), tf.int32)
    if isinstance(length, int):
        padding_mask = tf.ensure_shape(padding_mask, [None, length])
        segment_ids = tf.ensure_shape(segment_ids, [None, length])
    return {"token_ids": token_ids, "padding_mask": padding_mask, "segment_ids": segment_ids}


def truncate(ids: tf.RaggedTensor, size) -> tf.RaggedTensor:
    """The first `size` (scalar or (B,)) tokens of each row."""
    return take_windows(ids, row_windows(ids, tf.zeros([ids.nrows()], tf.int64), size))


def row_windows(ids: tf.RaggedTensor, starts: tf.Tensor, size) -> Windows:
    """One window of each row: from `starts` (B,) at most `size` (scalar or (B,)) tokens."""
    lengths = ids.row_lengths()
    starts = tf.minimum(starts, lengths)
    zeros = tf.zeros_like(starts)
    size = tf.minimum(lengths - starts, tf.cast(size, tf.int64))
    return Windows(tf.range(ids.nrows()), starts, size, zeros, zeros + 1)


def truncate_pair(first: tf.RaggedTensor, second: tf.RaggedTensor, size: int):
    """Both texts together in `size` tokens: the longer one loses first, then both alike."""
    a, b = first.row_lengths(), second.row_lengths()
    half = size // 2
    keep_a = tf.minimum(a, tf.maximum(size - b, size - half))
    keep_b = tf.minimum(b, size - keep_a)
    return truncate(first, keep_a), truncate(second, keep_b)


def cut_windows(lengths: tf.Tensor, size, stride) -> Windows:
    """Windows of `size` tokens that begin every `stride` tokens (ints or (B,)) and cover each text.

    `lengths` (B,) int64 are the texts'; an empty one has one empty window.
    """
    size = tf.broadcast_to(tf.cast(size, tf.int64), tf.shape(lengths))
    stride = tf.broadcast_to(tf.cast(stride, tf.int64), tf.shape(lengths))
    beyond = tf.maximum(lengths - size, 0)
    counts = 1 + (beyond + stride - 1) // stride  # (B,)
    ordinals = tf.ragged.range(counts)
    rows, ordinal = ordinals.value_rowids(), ordinals.flat_values
    starts = ordinal * tf.gather(stride, rows)
    remaining = tf.gather(lengths, rows) - starts
    lengths = tf.minimum(remaining, tf.gather(size, rows))
    return Windows(rows, starts, lengths, ordinal, tf.gather(counts, rows))


def take_windows(values: tf.RaggedTensor, windows: Windows) -> tf.RaggedTensor:
    """The windows' own values: ragged [B, None] to ragged [W, None]."""
    first = tf.gather(values.row_starts(), windows.rows) + windows.starts
    positions = tf.ragged.range(first, first + windows.lengths)
    return positions.with_flat_values(tf.gather(values.flat_values, positions.flat_values))


def central(windows: Windows, stride: int, size: int) -> tf.RaggedTensor:
    """Which tokens (bool ragged [W, None]) no other window has nearer its middle: one of each."""
    position = tf.ragged.range(windows.lengths)
    window = position.value_rowids()
    margin = (size - stride) // 2
    after_start = (position.flat_values >= margin) | tf.gather(windows.ordinals == 0, window)
    is_last = tf.gather(windows.ordinals == windows.counts - 1, window)
    return position.with_flat_values(
        after_start & ((position.flat_values < margin + stride) | is_last)
    )
