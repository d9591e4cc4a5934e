"""Attention of new tokens over a key/value cache: what generation does for every token.

For one token the products are small, and each operation of a graph costs about as much as its
arithmetic. So hidden states are rows (B*T, D) here, which a dense layer multiplies without
reshaping, and what follows from positions alone is made once for all layers: `Places`.

Shape letters as in `zoo.models.blocks`. `keras.ops` only.
"""

from __future__ import annotations

import contextlib
import contextvars
from typing import NamedTuple

from keras import ops

# How one token goes into a cache: of (cache, indices, rows), as `keras.ops.scatter_update`.
_WRITE_ONE = contextvars.ContextVar("write_one", default=ops.scatter_update)


@contextlib.contextmanager
def writing_tokens_by(write):
    """Inside, single tokens go into the cache by `write`, which knows the backend."""
    token = _WRITE_ONE.set(write)
    try:
        yield
    finally:
        _WRITE_ONE.reset(token)


class Places(NamedTuple):
    """Where new tokens stand in the cache, the same in every layer.

    Attributes:
        length: int or scalar, T. An int where it is known when the graph is made: 1 in the loop.
        positions: (B, T) int32, the slot of each new token, and its place in the text.
        indices: (B*K*T, 3) int32, row, head and slot that each new key and value goes to.
        bias: (B, 1, T or G*T, L) float32, added to the scores: 0 for slots up to the token's own.
        lengths: (B,) int32, how many of a row's new tokens are real; `None` means all.
    """

    length: object
    positions: object
    indices: object
    bias: object
    lengths: object = None


def make_places(positions, slots, num_heads: int, kv_heads: int) -> Places:
    """What every layer needs to know of new tokens at `positions` (B, T) int32, of a cache of
    `slots` slots."""
    batch_size, length = ops.shape(positions)
    shape = (batch_size, kv_heads, length)
    rows = ops.broadcast_to(ops.arange(batch_size, dtype="int32")[:, None, None], shape)
    heads = ops.broadcast_to(ops.arange(kv_heads, dtype="int32")[None, :, None], shape)
    places = ops.broadcast_to(positions[:, None, :], shape)
    indices = ops.reshape(ops.stack([rows, heads, places], axis=-1), (-1, 3))
    visible = positions[:, None, :, None] >= ops.arange(slots, dtype="int32")  # (B, 1, T, L)
    # Large but finite: a row that sees nothing gives some average, and not NaN.
    bias = ops.where(visible, 0.0, -1e9)
    groups = num_heads // kv_heads
    if groups > 1 and not _is_one(length):
        bias = ops.tile(bias, (1, 1, groups, 1))
    return Places(length, positions, indices, bias)


def split_heads(x, places: Places, head_dim: int):
    """Rows (B*T, N*H) to (B, N, T, H)."""
    heads = x.shape[-1] // head_dim
    if _is_one(places.length):  # (B, N, 1, H) is the same numbers in the same order
        return ops.reshape(x, (-1, heads, 1, head_dim))
    x = ops.reshape(x, (-1, places.length, heads, head_dim))
    return ops.transpose(x, (0, 2, 1, 3))


def join_heads(x, places: Places):
    """(B, N, T, H) back to rows (B*T, N*H)."""
    width = x.shape[1] * x.shape[3]
    if not _is_one(places.length):
        x = ops.transpose(x, (0, 2, 1, 3))  # (B, T, N, H)
    return ops.reshape(x, (-1, width))


def attend(query, key, value, cache, places: Places):
    """Writes the new tokens into the cache and attends over all of it.

    All slots are read, also those behind the newest token: `zoo.generation.loop` keeps few of
    them, and cutting them off would copy the others.

    Args:
        query: (B, heads, T, H). key, value: (B, K, T, H).
        cache: keys and values, each (B, K, L, H); slots at and after a row's first new position
            may hold anything.

    Returns:
        (B, heads, T, H) and the extended cache.
    """
    keys, values = (_write(slots, new, places) for slots, new in zip(cache, (key, value)))
    heads, kv_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    if heads != kv_heads:
        # Query heads that share a key head lie next to each other: fold them into rows.
        rows = (heads // kv_heads) * places.length
        query = ops.reshape(query, (-1, kv_heads, rows, head_dim))  # (B, K, G*T, H)
    scores = ops.matmul(query * head_dim**-0.5, ops.transpose(keys, (0, 1, 3, 2)))
    # float32: softmax over many slots loses digits in half precision.
    scores = ops.cast(scores, "float32") + places.bias  # (B, K, G*T, L)
    mixed = ops.matmul(ops.cast(ops.softmax(scores, axis=-1), values.dtype), values)
    if heads != kv_heads:
        mixed = ops.reshape(mixed, (-1, heads, places.length, head_dim))
    return mixed, (keys, values)


def _write(cache, new, places: Places):
    """Puts `new` (B, K, T, H) into `cache` (B, K, L, H).

    A scatter and not `slice_update`: on TensorFlow the latter becomes XlaDynamicUpdateSlice,
    which TensorFlow Serving refuses ("XLA compilation disabled").
    """
    rows = ops.reshape(new, (-1, new.shape[-1]))
    write = _WRITE_ONE.get() if _is_one(places.length) else ops.scatter_update
    return write(cache, places.indices, rows)


def _is_one(length) -> bool:
    return isinstance(length, int) and length == 1
