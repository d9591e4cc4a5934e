"""A GPT-style decoder: token embedding, positions, a stack of blocks, a final norm."""

from __future__ import annotations

import keras
from keras import ops

from zoo.models.attention import CacheSlots, SelfAttention, cache_slots, document_positions
from zoo.models.blocks import (
    FeedForward,
    as_rows,
    make_norm,
    rematerialized,
    shift_new_tokens,
    shift_tokens,
)
from zoo.models.configs import GPTConfig
from zoo.models.serialization import config_from_kwargs, config_kwargs


@keras.saving.register_keras_serializable(package="zoo")
class GPTBackbone(keras.Model):
    """Token ids (B, T) to hidden states (B, T, D), each seeing only itself and the past.

    Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), with today's
    options; `GPTConfig` lists them.

    Args:
        config: GPTConfig.

    Attributes:
        remat: bool. Whether training computes the inside of each block twice, to hold less in
            memory. Set it before `compile`. Defaults to False.

    Example:
        >>> import numpy as np
        >>> backbone = GPTBackbone(GPTConfig(vocabulary_size=65, hidden_dim=32))
        >>> tuple(backbone(np.zeros((2, 10), "int32")).shape)
        (2, 10, 32)
    """

    is_causal = True
    # A cache slot belongs to a position, and there are `context_length` of them.
    cache_is_bounded = True

    def __init__(self, config: GPTConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.remat = False
        # One for all tables: it gives each the same numbers, as trained models were begun.
        initializer = keras.initializers.RandomNormal(stddev=config.initializer_range)
        self.token_embedding = keras.layers.ReversibleEmbedding(
            config.vocabulary_size,
            config.hidden_dim,
            tie_weights=config.tie_embeddings,
            embeddings_initializer=initializer,
            reverse_dtype="float32",
            name="token_embedding",
        )
        if config.positions == "learned":
            self.position_embedding = keras.layers.Embedding(
                config.context_length,
                config.hidden_dim,
                embeddings_initializer=initializer,
                name="position_embedding",
            )
        self.dropout = keras.layers.Dropout(config.dropout)
        self.blocks = [DecoderBlock(config, name=f"block_{i}") for i in range(config.num_layers)]
        self.final_norm = make_norm(config, "final_norm")

    def build(self, input_shape):
        # With shapes, part by part, so that `summary()` knows them.
        hidden_shape = self.compute_output_shape(input_shape)
        self.token_embedding.build(input_shape)
        if self.config.positions == "learned":
            self.position_embedding.build(input_shape)
        for part in (self.dropout, *self.blocks, self.final_norm):
            part.build(hidden_shape)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.config.hidden_dim)

    def call(self, token_ids, document_ids=None, training=None):
        """Hidden states (B, T, D) of token ids (B, T).

        Args:
            token_ids: (B, T) int32.
            document_ids: (B, T) int32, ascending in each row: tokens of different documents that
                were packed into one row do not see each other, and each document's positions
                count from 0. `None` means one document a row.
            training: bool, whether dropout is on.
        """
        if document_ids is None:
            positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None]  # (1, T)
        else:
            positions = document_positions(document_ids)  # (B, T)
        x = self.dropout(self._embed(token_ids, positions), training=training)
        for block in self.blocks:
            if self.remat and training:
                x = rematerialized(block, x, document_ids=document_ids, training=training)
            else:
                x = block(x, document_ids=document_ids, training=training)
        return self.final_norm(x)  # (B, T, D)

    def logits(self, hidden):
        """Hidden states (..., D) to next-token logits (..., V), float32."""
        return self.token_embedding(hidden, reverse=True)

    def initial_cache(self, batch_size, slots):
        """For each block empty keys and values (B, K, slots, H); with token shift its past, too."""
        config = self.config
        shapes = [(batch_size, config.key_value_heads, slots, config.head_dim)] * 2
        if config.token_shift:
            shapes.append((batch_size, config.token_shift, config.hidden_dim))
        return tuple(
            tuple(ops.zeros(shape, self.compute_dtype) for shape in shapes) for _ in self.blocks
        )

    def extend_cache(self, cache, slots):
        """The same cache with `slots` more empty slots at the end."""
        padding = [[0, 0], [0, 0], [0, slots], [0, 0]]
        return tuple(
            (ops.pad(keys, padding), ops.pad(values, padding), *past)
            for keys, values, *past in cache
        )

    def decode(self, token_ids, cache, position, lengths=None, write=ops.scatter_update):
        """Hidden states (B, T, D) of T new tokens after what the cache holds, and the new cache.

        Args:
            token_ids: (B, T) int32.
            cache: from `initial_cache` or an earlier `decode`.
            position: (B,) int32, number of tokens of each row already in the cache. Tokens
                must fit: position + T <= slots of the cache.
            lengths: (B,) int32, how many of a row's new tokens are real; `None` means all. Slots
                past a row's real tokens are masked until overwritten, so only token shift asks.
            write: how keys and values go into the cache, as `keras.ops.scatter_update`.
        """
        steps = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        positions = position[:, None] + steps  # (B, T)
        slots = cache_slots(self.config, positions, ops.shape(cache[0][0])[2], lengths, write)
        x = as_rows(self._embed(token_ids, positions))  # (B*T, D)
        extended = []
        for block, layer_cache in zip(self.blocks, cache):
            x, layer_cache = block.decode(x, layer_cache, slots)
            extended.append(layer_cache)
        hidden = ops.reshape(self.final_norm(x), (-1, slots.length, self.config.hidden_dim))
        return hidden, tuple(extended)

    def _embed(self, token_ids, positions):
        x = self.token_embedding(token_ids)  # (B, T, D)
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        return x

    def get_config(self):
        return config_kwargs(self)

    @classmethod
    def from_config(cls, config):
        return config_from_kwargs(cls, GPTConfig, config)


class DecoderBlock(keras.layers.Layer):
    """One pre-norm transformer block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: GPTConfig, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = make_norm(config, "attention_norm")
        self.attention = SelfAttention(config, causal=True, name="attention")
        self.feedforward_norm = make_norm(config, "feedforward_norm")
        self.feedforward = FeedForward(config, name="feedforward")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.token_shift = config.token_shift

    def build(self, input_shape):
        for part in (self.attention_norm, self.attention, self.feedforward_norm, self.feedforward):
            part.build(input_shape)

    def call(self, x, document_ids=None, training=None):
        attended = self.attention(
            self.attention_norm(x), document_ids=document_ids, training=training
        )
        x = x + self.dropout(attended, training=training)
        normed = self.feedforward_norm(x)
        if self.token_shift:
            positions = None if document_ids is None else document_positions(document_ids)
            normed = shift_tokens(normed, self.token_shift, positions)
        return x + self.dropout(self.feedforward(normed), training=training)

    def decode(self, x, cache: tuple, slots: CacheSlots):
        """`call` for new tokens only, rows (B*T, D), with one block's cache."""
        keys_and_values, past = cache[:2], cache[2:]
        attended, keys_and_values = self.attention.decode(
            self.attention_norm(x), keys_and_values, slots
        )
        x = x + attended
        normed = self.feedforward_norm(x)
        if self.token_shift:
            normed, *past = shift_new_tokens(
                normed, past[0], self.token_shift, slots.length, slots.lengths
            )
        return x + self.feedforward(normed), (*keys_and_values, *past)

    def compute_output_shape(self, input_shape):
        return input_shape
