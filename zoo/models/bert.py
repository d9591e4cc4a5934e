"""A BERT-style encoder: embeddings, a stack of blocks that see the whole text, a pooler."""

from __future__ import annotations

import keras
from keras import ops

from zoo.models.attention import SelfAttention
from zoo.models.blocks import FeedForward, make_dense, make_norm, rematerialized
from zoo.models.configs import BertConfig
from zoo.models.serialization import config_from_kwargs, config_kwargs


@keras.saving.register_keras_serializable(package="zoo")
class BertBackbone(keras.Model):
    """Token ids (B, T) to hidden states (B, T, D), each seeing all real tokens of its row.

    Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2018), with today's
    options; `BertConfig` lists them. A row's real positions depend on nothing but that row: not
    on its batch neighbours, not on how much padding follows.

    Args:
        config: BertConfig.

    Attributes:
        remat: bool. Whether training computes the inside of each block twice, to hold less in
            memory. Set it before `compile`. Defaults to False.

    Example:
        >>> import numpy as np
        >>> backbone = BertBackbone(BertConfig(vocabulary_size=100, hidden_dim=32))
        >>> tuple(backbone(np.zeros((2, 10), "int32")).shape)
        (2, 10, 32)
    """

    is_causal = False

    def __init__(self, config: BertConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.remat = False
        # One for all tables: it gives each the same numbers, as trained models were begun.
        initializer = keras.initializers.RandomNormal(stddev=config.initializer_range)
        self.token_embedding = keras.layers.ReversibleEmbedding(
            config.vocabulary_size,
            config.hidden_dim,
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
        if config.num_segments:
            self.segment_embedding = keras.layers.Embedding(
                config.num_segments,
                config.hidden_dim,
                embeddings_initializer=initializer,
                name="segment_embedding",
            )
        # Post-norm normalises the stream from its start, pre-norm once at its end.
        if config.norm_placement == "post":
            self.embedding_norm = make_norm(config, "embedding_norm")
        else:
            self.final_norm = make_norm(config, "final_norm")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.blocks = [EncoderBlock(config, name=f"block_{i}") for i in range(config.num_layers)]
        self.pooler = None
        if config.use_pooler:
            self.pooler = make_dense(config, config.hidden_dim, "pooler")

    def build(self, input_shape):
        # With shapes, part by part, so that `summary()` knows them.
        hidden_shape = self.compute_output_shape(input_shape)
        self.token_embedding.build(input_shape)
        if self.config.positions == "learned":
            self.position_embedding.build(input_shape)
        if self.config.num_segments:
            self.segment_embedding.build(input_shape)
        norm = self.final_norm if self.config.norm_placement == "pre" else self.embedding_norm
        for part in (norm, self.dropout, *self.blocks):
            part.build(hidden_shape)
        if self.pooler is not None:
            self.pooler.build((input_shape[0], self.config.hidden_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.config.hidden_dim)

    @property
    def output_dim(self) -> int:
        """Width of a hidden state."""
        return self.config.hidden_dim

    def call(self, token_ids, padding_mask=None, segment_ids=None, training=None):
        """Hidden states (B, T, D).

        Args:
            token_ids: (B, T) int32.
            padding_mask: (B, T) bool or int32, True or 1 at real tokens. `None` means all are
                real: padding is then read as text, and the hidden states of a padded row change.
            segment_ids: (B, T) int32 below `num_segments`; `None` means all 0. Ignored by a model
                with fewer than two segments.
            training: bool, whether dropout is on.

        Raises:
            ValueError: T is known and longer than the learned positions.
        """
        self._check_length(token_ids.shape[1])
        if padding_mask is not None:
            padding_mask = ops.cast(padding_mask, "bool")
        x = self._embed(token_ids, segment_ids)
        x = self.dropout(x, training=training)
        for block in self.blocks:
            if self.remat and training:
                x = rematerialized(block, x, padding_mask=padding_mask, training=training)
            else:
                x = block(x, padding_mask=padding_mask, training=training)
        return self.final_norm(x) if self.config.norm_placement == "pre" else x

    def pool(self, hidden):
        """Hidden states (B, T, D) to one vector (B, D): a dense layer on the first token."""
        activation = ops.tanh if self.config.pooler_activation == "tanh" else ops.relu
        return activation(self.pooler(hidden[:, 0]))

    def _embed(self, token_ids, segment_ids):
        config = self.config
        x = self.token_embedding(token_ids)  # (B, T, D)
        if config.positions == "learned":
            positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None]  # (1, T)
            x = x + self.position_embedding(positions)
        if config.num_segments:
            if segment_ids is None or config.num_segments == 1:
                segment_ids = ops.zeros((1, 1), "int32")  # broadcasts
            x = x + self.segment_embedding(segment_ids)
        return self.embedding_norm(x) if config.norm_placement == "post" else x

    def _check_length(self, length):
        # Unknown lengths are None on TensorFlow and symbols, which do not compare, on JAX.
        limit = self.config.context_length
        if self.config.positions == "learned" and isinstance(length, int) and length > limit:
            raise ValueError(
                f"{length} tokens are more than the {limit} positions this model has learned "
                "(context_length): truncate the text, or use positions='rotary'"
            )

    def get_config(self):
        return config_kwargs(self)

    @classmethod
    def from_config(cls, config):
        return config_from_kwargs(cls, BertConfig, config)


class EncoderBlock(keras.layers.Layer):
    """One transformer block that sees the whole text: attention, then feed-forward.

    `norm_placement` "post" is norm(x + sublayer(x)), "pre" is x + sublayer(norm(x)).
    """

    def __init__(self, config: BertConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.attention = SelfAttention(config, causal=False, name="attention")
        self.attention_norm = make_norm(config, "attention_norm")
        self.feedforward = FeedForward(config, name="feedforward")
        self.feedforward_norm = make_norm(config, "feedforward_norm")
        self.dropout = keras.layers.Dropout(config.dropout)

    def build(self, input_shape):
        for part in (self.attention, self.attention_norm, self.feedforward, self.feedforward_norm):
            part.build(input_shape)

    def call(self, x, padding_mask=None, training=None):
        if self.config.norm_placement == "pre":
            attended = self.attention(self.attention_norm(x), padding_mask, training=training)
            x = x + self.dropout(attended, training=training)
            transformed = self.feedforward(self.feedforward_norm(x))
            return x + self.dropout(transformed, training=training)
        attended = self.attention(x, padding_mask, training=training)
        x = self.attention_norm(x + self.dropout(attended, training=training))
        transformed = self.feedforward(x)
        return self.feedforward_norm(x + self.dropout(transformed, training=training))

    def compute_output_shape(self, input_shape):
        return input_shape
