"""Attention, over a whole text or over a key/value cache, with rotary positions.

B rows, T new tokens, L keys or slots, N query heads, K key/value heads, G = N / K, H head_dim.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from zoo.models.attention_options import Rotary, RotaryScaling
from zoo.models.blocks import (
    TransformerLayer,
    as_rows,
    is_one,
    make_dense,
    make_norm,
    soft_cap,
    split_at,
)
from zoo.models.configs import BertConfig, TransformerConfig


def attend(query, key, value, bias=None, dropout=None, training=None, scale=None, cap=None):
    """Each query's mix of values, (B, N, T, H) as the queries; `bias` to (B, K, G*T, L) scores.

    Queries are multiplied by `scale`, by default 1 / sqrt(H); `cap` is the scores' soft cap.
    """
    heads, length, head_dim = query.shape[1], ops.shape(query)[2], query.shape[3]
    kv_heads = key.shape[1]
    if heads != kv_heads:
        # Query heads that share a key head lie next to each other: fold them into rows.
        query = ops.reshape(query, (-1, kv_heads, (heads // kv_heads) * length, head_dim))
    scale = head_dim**-0.5 if scale is None else scale
    query = query if scale == 1 else query * scale
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    # float32: softmax over many keys loses digits in half precision.
    scores = ops.cast(scores, "float32")  # (B, K, G*T, L)
    if cap is not None:
        scores = soft_cap(scores, cap)
    if bias is not None:
        scores = scores + bias
    weights = ops.cast(ops.softmax(scores, axis=-1), value.dtype)
    if dropout is not None:
        weights = dropout(weights, training=training)
    mixed = ops.matmul(weights, value)  # (B, K, G*T, H)
    if heads != kv_heads:
        mixed = ops.reshape(mixed, (-1, heads, length, head_dim))
    return mixed


def is_visible(queries, keys, window: int | None = None):
    """Whether tokens at `queries` (..., T) see those at `keys` (L,), themselves and the past.

    With a `window` only so many of the last: (..., T, L) bool.
    """
    visible = queries[..., None] >= keys
    return visible if window is None else ops.logical_and(visible, is_near(queries, keys, window))


def is_near(queries, keys, window: int):
    """Whether tokens at `queries` (..., T) are less than `window` from those at `keys` (L,)."""
    return ops.abs(queries[..., None] - keys) < window


def attention_bias(visible, config: TransformerConfig):
    """0 where `visible` (..., T or 1, L) bool, else about minus infinity: (..., G*T or 1, L)."""
    # What is the same for all texts keeps two axes: with four, TensorFlow joins scale, product and
    # bias into one operation, which oneDNN does slowly (825 tokens: 34 s a layer in place of 0.1).
    # Large but finite: a row that sees nothing gives some average, and not NaN.
    bias = ops.where(visible, 0.0, -1e9)
    groups = config.num_heads // config.key_value_heads
    if groups > 1 and visible.shape[-2] != 1:
        bias = ops.tile(bias, (*[1] * (len(bias.shape) - 2), groups, 1))
    return bias


class CacheSlots(NamedTuple):
    """Where the new tokens go in a cache: the same in every layer, so made once for all."""

    # T: an int where it is known when the graph is made (1 in the loop), else a scalar
    length: object
    rotary: tuple  # `rotary_tables` of the places of the new tokens in the text
    indices: object  # (B*K*T, 3) int32, row, head and slot that each new key and value goes to
    # By window, the biases (B, 1, T or G*T, L) float32: a token sees the slots up to its own.
    biases: dict[int | None, object]
    lengths: object  # (B,) int32, how many of a row's new tokens are real; None means all
    write: Callable  # as keras.ops.scatter_update


def cache_slots(
    config: TransformerConfig, positions, count, lengths=None, write=ops.scatter_update
) -> CacheSlots:
    """The slots of new tokens at `positions` (B, T) int32, in a cache of `count` slots a row."""
    kv_heads = config.key_value_heads
    batch_size, length = ops.shape(positions)
    shape = (batch_size, kv_heads, length)
    rows = ops.broadcast_to(ops.arange(batch_size, dtype="int32")[:, None, None], shape)
    heads = ops.broadcast_to(ops.arange(kv_heads, dtype="int32")[None, :, None], shape)
    slots = ops.broadcast_to(positions[:, None, :], shape)
    indices = ops.reshape(ops.stack([rows, heads, slots], axis=-1), (-1, 3))
    windows = {config.attention_options(layer).window for layer in range(config.num_layers)}
    every = ops.arange(count, dtype="int32")
    biases = {
        window: attention_bias(is_visible(positions[:, None], every, window), config)
        for window in windows
    }
    rotary = rotary_tables(config, positions)
    return CacheSlots(length, rotary, indices, biases, lengths, write)


class SelfAttention(TransformerLayer):
    """Multi-head, multi-query or grouped-query self-attention: (B, T, D) to (B, T, D)."""

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.options = config.attention_options(self.layer)
        heads = config.num_heads, config.key_value_heads, config.key_value_heads
        # Where heads of queries, of keys and of values end in the product.
        self.head_ends = tuple(itertools.accumulate(heads))
        # One product for queries, keys and values: fewer, larger matrix products.
        self.qkv = make_dense(config, self.head_ends[-1] * config.head_dim, "qkv")
        self.output_projection = make_dense(config, config.hidden_dim, "output", residual=True)
        self.attention_dropout = keras.layers.Dropout(config.dropout)
        if config.qk_norm:
            epsilon = getattr(config, "qk_norm_epsilon", 1e-6)
            self.query_norm = keras.layers.RMSNormalization(epsilon=epsilon, name="query_norm")
            self.key_norm = keras.layers.RMSNormalization(epsilon=epsilon, name="key_norm")
        # Of distances, where they do not share the layer of contents.
        self.relative = getattr(config, "relative_attention", None)
        self.distance_key = self.distance_query = None
        if self.relative is not None and not self.relative.shared:
            width = config.num_heads * config.head_dim
            if "c2p" in self.relative.terms:
                self.distance_key = make_dense(config, width, "distance_key")
            if "p2c" in self.relative.terms:
                self.distance_query = make_dense(config, width, "distance_query")

    def build(self, input_shape):
        config = self.config
        self.output_projection.build((None, None, config.num_heads * config.head_dim))
        if config.qk_norm == "projection":
            self.query_norm.build((None, config.num_heads * config.head_dim))
            self.key_norm.build((None, config.key_value_heads * config.head_dim))
        elif config.qk_norm:
            self.query_norm.build((None, None, None, config.head_dim))
            self.key_norm.build((None, None, None, config.head_dim))
        super().build(input_shape)

    def call(self, x, visible=None, rotary=(), bias=None, distances=None, training=None):
        """Attends over `x` (B, T, D) where `visible`: (T, T), (B, 1, T, T), (B, 1, 1, T), None.

        `rotary` is what `rotary_tables` gives, by default for positions that count from 0;
        `bias` to (B, N, T, T) is added to the scores; `distances` (2T - 1, D) are what
        `DistanceEmbedding` gives.
        """
        length, options = ops.shape(x)[1], self.options
        steps = ops.arange(length, dtype="int32")
        rotary = rotary or rotary_tables(self.config, steps[None])
        query, key, value = self._project(as_rows(x), rotary, length)
        if distances is not None:
            bias = self._relative_scores(query, key, distances, length)
        if options.window is not None:
            near = is_near(steps, steps, options.window)
            visible = near if visible is None else ops.logical_and(visible, near)
        if visible is not None:
            hidden = attention_bias(visible, self.config)
            bias = hidden if bias is None else bias + hidden
        dropout = self.attention_dropout
        scale, cap = options.query_scale, options.soft_cap
        mixed = attend(query, key, value, bias, dropout, training, scale, cap)
        return ops.reshape(self.output_projection(_merge_heads(mixed)), ops.shape(x))

    def decode(self, x, cache, slots: CacheSlots):
        """Writes new tokens, rows (B*T, D), into the cache and attends over all of it."""
        # All slots are read, also those behind the newest token: cutting them off would copy the
        # others. Rows, because for one token a reshape costs as much as the arithmetic.
        query, *new = self._project(x, slots.rotary, slots.length)
        # A scatter and not `slice_update`: on TensorFlow the latter becomes XlaDynamicUpdateSlice,
        # which TensorFlow Serving refuses ("XLA compilation disabled").
        cache = tuple(slots.write(old, slots.indices, as_rows(x)) for old, x in zip(cache, new))
        options = self.options
        bias = slots.biases[options.window]
        mixed = attend(query, *cache, bias, scale=options.query_scale, cap=options.soft_cap)
        return self.output_projection(_merge_heads(mixed)), cache

    def _project(self, x, rotary, length):
        """Queries (B, N, T, H), keys and values (B, K, T, H) of hidden states (B*T, D)."""
        config, (queries, keys, count) = self.config, self.head_ends
        x, head_dim = self.qkv(x), config.head_dim  # (B*T, count * H)
        if config.qk_norm == "projection":
            ends = [queries * head_dim, keys * head_dim]
            query, key, value = split_at(x, ends, axis=-1)
            x = ops.concatenate([self.query_norm(query), self.key_norm(key), value], axis=-1)
        # Queries and keys stay together as long as they are treated alike: of one token, each
        # operation costs more to start than to compute.
        kind = self.options.rotary
        together = kind is not None or config.qk_norm is True
        ends = [keys] if together else [queries, keys]
        if is_one(length):  # (B, heads, 1, H) is the same numbers in the same order
            parts = split_at(ops.reshape(x, (-1, count, 1, head_dim)), ends, axis=1)
        else:
            # Cut before heads and tokens change places: XLA does that inside of what comes next.
            parts = split_at(x, [end * head_dim for end in ends], axis=-1)
            parts = [ops.reshape(x, (-1, length, x.shape[-1] // head_dim, head_dim)) for x in parts]
            parts = [ops.transpose(part, (0, 2, 1, 3)) for part in parts]
        if not together:
            return parts
        both, value = parts
        if config.qk_norm is True:
            query, key = split_at(both, [queries], axis=1)
            both = ops.concatenate([self.query_norm(query), self.key_norm(key)], axis=1)
        if kind is not None:
            both = rotate(both, *rotary[config.rotary_kinds.index(kind)])
        return *split_at(both, [queries], axis=1), value

    def _relative_scores(self, query, key, distances, length):
        """What distances (2T - 1, D) add to the scores of (B, N, T, H): (B, N, T, T) float32."""
        terms, scores = self.relative.terms, 0.0
        if self.relative.shared:
            ends = [end * self.config.head_dim for end in self.head_ends[:2]]
            queries, keys, _ = split_at(self.qkv(distances), ends, axis=-1)
        else:
            keys = self.distance_key(distances) if "c2p" in terms else None
            queries = self.distance_query(distances) if "p2c" in terms else None
        if "c2p" in terms:
            scores = by_distance(self._products(query, keys), length)
        if "p2c" in terms:  # rows of keys, which read distances the other way round
            of_keys = by_distance(self._products(key, ops.flip(queries, 0)), length)
            scores = scores + ops.transpose(of_keys, (0, 1, 3, 2))
        return scores * self.options.query_scale

    def _products(self, x, table):
        """(B, N, T, H) times (R, N*H), head by head: (B, N, T, R) float32."""
        table = ops.reshape(table, (-1, self.config.num_heads, self.config.head_dim))
        return ops.cast(ops.matmul(x, ops.transpose(table, (1, 2, 0))), "float32")


class CrossAttention(TransformerLayer):
    """Attention of target tokens, rows (N, D) to the same shape, over the states of a source."""

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.scale = config.attention_options(self.layer).query_scale
        width = config.num_heads * config.head_dim
        self.query = make_dense(config, width, "query")
        self.key_value = make_dense(config, 2 * width, "key_value")
        self.output_projection = make_dense(config, config.hidden_dim, "output", residual=True)
        self.attention_dropout = keras.layers.Dropout(config.dropout)

    def build(self, input_shape):
        width = self.config.num_heads * self.config.head_dim
        self.output_projection.build((None, None, width))
        super().build(input_shape)

    def memory(self, states):
        """Keys and values (B, N, S, H) of source states (B, S, D): what `call` attends over."""
        shape = (-1, ops.shape(states)[1], self.config.num_heads, self.config.head_dim)
        parts = ops.split(self.key_value(as_rows(states)), 2, axis=-1)
        parts = (ops.transpose(ops.reshape(part, shape), (0, 2, 1, 3)) for part in parts)
        keys, values = parts
        # Scaled here and not in a loop over tokens: there TensorFlow joins product, scale and bias
        # into one operation, and takes a bias from outside of two loops where none ever comes.
        return keys * self.scale, values

    def call(self, x, keys, values, bias=None, training=None):
        """Rows of T target tokens for each source: (B*T, D), also of several targets together."""
        heads, head_dim = self.config.num_heads, self.config.head_dim
        query = ops.reshape(self.query(x), (ops.shape(keys)[0], -1, heads, head_dim))
        query = ops.transpose(query, (0, 2, 1, 3))  # (B, N, T, H)
        dropout = self.attention_dropout
        mixed = attend(query, keys, values, bias, dropout, training, scale=1)
        mixed = ops.transpose(mixed, (0, 2, 1, 3))  # (B, T, N, H)
        return self.output_projection(ops.reshape(mixed, (-1, heads * head_dim)))


class RelativePositions(TransformerLayer):
    """A learned number for each head and distance of two tokens (Raffel et al., 2020).

    Distances up to a quarter of the buckets, half of them in a decoder, have one each; longer ones
    share them by their logarithm, and those of a decoder's future have none.
    """

    def __init__(self, config: TransformerConfig, causal: bool, **kwargs):
        super().__init__(config, **kwargs)
        self.causal = causal
        initializer = keras.initializers.RandomNormal(stddev=config.initializer_range)
        self.embedding = keras.layers.Embedding(
            config.relative_buckets, config.num_heads, initializer, name="bucket_embedding"
        )

    def build(self, input_shape):
        self.embedding.build((None,))
        super().build(input_shape)

    def call(self, queries, keys):
        """Biases (..., N, T, L) of tokens at `queries` (..., T), for those at `keys` (L,) int32."""
        config = self.config
        buckets, farthest = config.relative_buckets, config.relative_distance
        buckets = buckets if self.causal else buckets // 2
        near = buckets // 2
        distance = np.arange(farthest + 1)
        # In float32, as elsewhere: where the logarithm is a whole number, rounding decides.
        ratio = np.log(np.maximum(distance, 1).astype("float32") / near)
        ratio = ratio / np.float32(np.log(farthest / near)) * (buckets - near)
        far = np.minimum(near + ratio.astype("int32"), buckets - 1)
        bucket = np.where(distance < near, distance, far).astype("int32")
        past = queries[..., None] - keys  # (..., T, L)
        index = ops.take(bucket, ops.clip(past if self.causal else ops.abs(past), 0, farthest))
        if not self.causal:
            index = index + ops.where(past < 0, buckets, 0)
        biases = ops.cast(self.embedding(index), "float32")  # (..., T, L, N)
        return ops.moveaxis(biases, -1, -3)


class DistanceEmbedding(TransformerLayer):
    """A vector for each distance of two of T tokens (DeBERTa), (2T - 1, D): T - 1 to 1 - T.

    Distances up to half of the buckets have one each; longer ones share them by their logarithm.
    """

    def __init__(self, config: BertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.relative = config.relative_attention
        initializer = keras.initializers.RandomNormal(stddev=config.initializer_range)
        self.embedding = keras.layers.Embedding(
            2 * self.relative.size, config.hidden_dim, initializer, name="bucket_embedding"
        )
        self.norm = make_norm(config, "norm") if self.relative.norm else None
        self.dropout = keras.layers.Dropout(config.dropout)

    def build(self, input_shape):
        self.embedding.build((None,))
        super().build((None, self.config.hidden_dim))

    def call(self, steps, training=None):
        """Vectors of the distances of tokens at `steps` (T,), 0 to T - 1."""
        length = ops.shape(steps)[0]
        size, distance = self.relative.size, self.relative.distance
        # Beyond `distance` all are alike.
        bucket = np.arange(distance + 1)
        if self.relative.buckets is not None:
            near = size // 2
            # In float32, as elsewhere: where the logarithm is a whole number, rounding decides.
            ratio = np.log(np.maximum(bucket / near, 1).astype("float32"))
            ratio = ratio / np.log(np.float32((distance - 1) / near)) * np.float32(near - 1)
            bucket = np.where(bucket <= near, bucket, np.ceil(ratio) + near)
        distances = length - 1 - ops.arange(2 * length - 1, dtype="int32")  # (2T - 1,)
        found = ops.take(bucket.astype("int32"), ops.clip(ops.abs(distances), 0, distance))
        index = ops.clip(ops.sign(distances) * found + size, 0, 2 * size - 1)
        vectors = self.embedding(index)
        vectors = vectors if self.norm is None else self.norm(vectors)
        return self.dropout(vectors, training=training)


def by_distance(x, length):
    """Of (B, N, T, 2T - 1), for row q and distance T - 1 to 1 - T, those of q - k: (B, N, T, T)."""
    # With a number before each row, T numbers less at the start, and rows that are shorter by one,
    # each row begins one distance further than the one before: no index for each number, which a
    # gather would need.
    shape = ops.shape(x)
    x = ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 0]])
    x = ops.reshape(x, (-1, shape[1], 2 * length, length))[:, :, 1:]
    return ops.reshape(x, (-1, shape[1], length, 2 * length - 1))[..., :length]


def sinusoidal_positions(positions, width: int):
    """(B, T, width) float32 of positions (B, T): sines, then cosines (Vaswani et al., 2017)."""
    half = width // 2
    frequencies = 10000.0 ** (-2 * ops.arange(width - half, dtype="float32") / width)
    angles = ops.cast(positions, "float32")[..., None] * frequencies
    return ops.concatenate([ops.sin(angles), ops.cos(angles[..., :half])], axis=-1)


def _merge_heads(x):
    """(B, N, T, H) to rows (B*T, N*H)."""
    width = x.shape[1] * x.shape[3]
    if not is_one(x.shape[2]):
        x = ops.transpose(x, (0, 2, 1, 3))  # (B, T, N, H)
    return ops.reshape(x, (-1, width))


def rotary_tables(config: TransformerConfig, positions) -> tuple:
    """For each of `config.rotary_kinds` its `rotary_table`: made once for all layers."""
    return tuple(rotary_table(positions, kind) for kind in config.rotary_kinds)


def rotary_table(positions, kind: Rotary):
    """Cosines and sines (B, 1, T, channels) float32 of positions (B, T) int32, for `rotate`."""
    half = kind.channels // 2
    frequencies = kind.base ** (-ops.arange(half, dtype="float32") / half)  # (H/2,)
    if kind.scaling is not None:
        frequencies = frequencies * _slowed(kind.base, half, kind.scaling)
    angles = ops.cast(positions, "float32")[:, None, :, None] * frequencies  # (B, 1, T, H/2)
    cos, sin = ops.cos(angles), ops.sin(angles)
    return ops.concatenate([cos, cos], axis=-1), ops.concatenate([-sin, sin], axis=-1)


def rotate(x, cos, sin):
    """Rotary position embedding (Su et al., 2021) of (B, heads, T, H), by pairs of channels.

    Turns as many of the first channels of H as `rotary_table` has.
    """
    channels = cos.shape[-1]
    cos, sin = ops.cast(cos, x.dtype), ops.cast(sin, x.dtype)
    part = x if channels == x.shape[-1] else x[..., :channels]
    turned = part * cos + ops.roll(part, channels // 2, axis=-1) * sin
    return turned if part is x else ops.concatenate([turned, x[..., channels:]], axis=-1)


def _slowed(base: float, half: int, scaling: RotaryScaling) -> np.ndarray:
    """What rotary frequencies are multiplied by, (H/2,) float32."""
    if scaling.kind == "linear":
        return np.full((half,), 1 / scaling.factor, "float32")
    wavelengths = 2 * np.pi * base ** (np.arange(half) / half)
    turns = scaling.original_length / wavelengths
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (kept + (1 - kept) / scaling.factor).astype("float32")


def document_positions(document_ids):
    """Place of each token in its document, (B, T) int32: of ids 0 0 1 1 1 2, 0 1 0 1 2 0."""
    # A document starts after all the tokens whose ids are smaller.
    before = document_ids[:, None, :] < document_ids[:, :, None]  # (B, T, T)
    starts = ops.sum(ops.cast(before, "int32"), axis=-1)  # (B, T)
    return ops.arange(ops.shape(document_ids)[1], dtype="int32") - starts
