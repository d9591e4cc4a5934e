"""A GPT-style decoder: token embedding, positions, a stack of blocks, a final norm."""

from __future__ import annotations

import keras
from keras import ops

from zoo.models.blocks import DecoderBlock, make_norm
from zoo.models.cached_attention import make_places
from zoo.models.configs import GPTConfig
from zoo.models.positions import document_positions
from zoo.models.rematerialization import rematerialized
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
        backbone = GPTBackbone(GPTConfig(vocabulary_size=65, hidden_dim=32))
        backbone(np.zeros((2, 10), "int32")).shape  # (2, 10, 32)
    """

    is_causal = True
    # A cache slot belongs to a position, and there are `context_length` of them.
    cache_is_bounded = True

    def __init__(self, config: GPTConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.remat = False
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

    def initial_cache(self, batch_size, length):
        """An empty cache.

        For each block keys and values (B, K, length, H), and with `config.token_shift` the inputs
        of the feed-forward network before the start (B, token_shift, D): all zeros.
        """
        config = self.config
        slots = (batch_size, config.key_value_heads, length, config.head_dim)
        shapes = [slots, slots]
        if config.token_shift:
            shapes.append((batch_size, config.token_shift, config.hidden_dim))
        return tuple(
            tuple(ops.zeros(shape, self.compute_dtype) for shape in shapes) for _ in self.blocks
        )

    def extend_cache(self, cache, extra):
        """The same cache with `extra` more empty slots at the end."""
        padding = [[0, 0], [0, 0], [0, extra], [0, 0]]
        return tuple(
            (ops.pad(keys, padding), ops.pad(values, padding), *past)
            for keys, values, *past in cache
        )

    def decode(self, token_ids, cache, position, lengths=None):
        """Hidden states of T new tokens that follow what the cache holds.

        Args:
            token_ids: (B, T) int32.
            cache: from `initial_cache` or an earlier `decode`.
            position: (B,) int32, number of tokens of each row already in the cache. Tokens
                must fit: position + T <= length of the cache.
            lengths: (B,) int32, how many of a row's new tokens are real; `None` means all. Slots
                past a row's real tokens are masked until overwritten, so only token shift asks.

        Returns:
            (B, T, D) hidden states and the extended cache.
        """
        steps = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        positions = position[:, None] + steps  # (B, T)
        config = self.config
        slots = ops.shape(cache[0][0])[2]
        places = make_places(positions, slots, config.num_heads, config.key_value_heads)
        places = places._replace(lengths=lengths)
        x = ops.reshape(self._embed(token_ids, positions), (-1, config.hidden_dim))  # (B*T, D)
        extended = []
        for block, layer_cache in zip(self.blocks, cache):
            x, layer_cache = block.decode(x, layer_cache, places)
            extended.append(layer_cache)
        hidden = ops.reshape(self.final_norm(x), (-1, places.length, config.hidden_dim))
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
