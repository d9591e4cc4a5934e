"""A BERT-style encoder: embeddings, a stack of blocks that see the whole text, a pooler."""

import keras
from keras import ops

from zoo.models.attention import DistanceEmbedding, SelfAttention, rotary_tables
from zoo.models.backbone import TransformerBackbone
from zoo.models.blocks import (
    FeedForward,
    TransformerLayer,
    activate,
    make_dense,
    make_norm,
    normalized,
)
from zoo.models.configs import BertConfig, EncoderDecoderConfig


@keras.saving.register_keras_serializable(package="zoo")
class BertBackbone(TransformerBackbone):
    """Token ids (B, T) to hidden states (B, T, D), each seeing all real tokens of its row.

    Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2018), with today's
    options; `BertConfig` lists them.

    Attributes:
        remat: bool, as in `GPTBackbone`.

    Example:
        >>> import numpy as np
        >>> backbone = BertBackbone(BertConfig(vocabulary_size=100, hidden_dim=32))
        >>> tuple(backbone(np.zeros((2, 10), "int32")).shape)
        (2, 10, 32)
    """

    config_class = BertConfig
    is_causal = False

    def __init__(self, config: BertConfig, **kwargs):
        super().__init__(config, **kwargs)
        if config.num_segments:
            self.segment_embedding = self.table(config.num_segments, "segment_embedding")
        # Post-norm normalises the stream from its start, pre-norm once at its end.
        is_post, self.embedding_norm, self.final_norm = config.norm_placement == "post", None, None
        if is_post or config.embedding_norm:
            self.embedding_norm = make_norm(config, "embedding_norm")
        if not is_post:
            self.final_norm = make_norm(config, "final_norm")
        if config.embedding_dim is not None:
            width = config.hidden_dim
            self.embedding_projection = make_dense(config, width, "embedding_projection")
        if config.relative_attention is not None:
            self.distance_embedding = DistanceEmbedding(config, name="distance_embedding")
        self.add_blocks(EncoderBlock)
        self.pooler = make_dense(config, config.hidden_dim, "pooler") if config.use_pooler else None

    def build(self, input_shape):
        if self.pooler is not None:
            self.pooler.build((input_shape[0], self.config.hidden_dim))
        if self.config.embedding_dim is not None:
            for layer in (self.embedding_norm, self.embedding_projection):
                if layer is not None:
                    layer.build((*input_shape, self.config.embedding_dim))
        super().build(input_shape)

    def call(self, token_ids, padding_mask=None, segment_ids=None, training=None):
        """Hidden states (B, T, D) of token ids (B, T) int32.

        `padding_mask` (B, T) is True or 1 at real tokens; without it padding is read as text.
        `segment_ids` (B, T) int32, by default 0, are ignored by a model of fewer than two segments.
        """
        config, length = self.config, token_ids.shape[1]
        # Unknown lengths are None on TensorFlow and symbols, which do not compare, on JAX.
        is_long = isinstance(length, int) and length > config.context_length
        if is_long and config.positions == "learned":
            raise ValueError(
                f"{length} tokens are more than the {config.context_length} positions this model "
                "has learned (context_length): truncate the text, or use positions='rotary'"
            )
        x = self.embed(token_ids)
        if config.num_segments:
            if segment_ids is None or config.num_segments == 1:
                segment_ids = ops.zeros((1, 1), "int32")  # broadcasts
            x = x + self.segment_embedding(segment_ids)
        x = normalized(x, self.embedding_norm)
        x = self.dropout(x, training=training)
        if config.embedding_dim is not None:
            x = self.embedding_projection(x)
        distances, steps = None, ops.arange(ops.shape(token_ids)[1], dtype="int32")
        if config.relative_attention is not None:
            distances = self.distance_embedding(steps, training=training)
        visible = None
        if padding_mask is not None:
            visible = ops.cast(padding_mask, "bool")[:, None, None, :]  # (B, 1, 1, T)
        rotary = rotary_tables(config, steps[None])
        x = self.run_blocks(x, training, visible=visible, rotary=rotary, distances=distances)
        return normalized(x, self.final_norm)

    def pool(self, hidden):
        """Hidden states (B, T, D) to one vector (B, D): a dense layer on the first token."""
        pooled, activation = self.pooler(hidden[:, 0]), self.config.pooler_activation
        return ops.tanh(pooled) if activation == "tanh" else activate(pooled, activation)


class EncoderBlock(TransformerLayer):
    """One transformer block: norm(x + sublayer(x)) ("post"), or x + sublayer(norm(x)) ("pre")."""

    def __init__(self, config: BertConfig | EncoderDecoderConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.attention = SelfAttention(config, layer=self.layer, name="attention")
        has_norm = config.has_attention_norm(self.layer)
        self.attention_norm = make_norm(config, "attention_norm") if has_norm else None
        self.feedforward = FeedForward(config, name="feedforward")
        self.feedforward_norm = make_norm(config, "feedforward_norm")
        self.dropout = keras.layers.Dropout(config.dropout)

    def call(self, x, visible=None, rotary=(), bias=None, distances=None, training=None):
        """Hidden states (B, T, D) to the same; other arguments as in `SelfAttention.call`."""
        mixed = self.attention(
            self.before(x, self.attention_norm),
            visible,
            rotary,
            bias=bias,
            distances=distances,
            training=training,
        )
        x = self.after(x, mixed, self.attention_norm, training)
        transformed = self.feedforward(self.before(x, self.feedforward_norm))
        return self.after(x, transformed, self.feedforward_norm, training)

    def before(self, x, norm):
        """What a sublayer reads of hidden states `x`."""
        return normalized(x, norm) if self.config.norm_placement == "pre" else x

    def after(self, x, output, norm, training=None):
        """Hidden states `x` and what the sublayer made of them."""
        x = x + self.dropout(output, training=training)
        return x if self.config.norm_placement == "pre" else norm(x)
