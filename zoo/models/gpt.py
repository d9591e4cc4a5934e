"""A GPT-style decoder: token embedding, positions, a stack of blocks, a final norm."""

import keras
from keras import ops

from zoo.models.attention import (
    CacheSlots,
    SelfAttention,
    cache_slots,
    document_positions,
    is_visible,
    rotary_tables,
)
from zoo.models.backbone import TransformerBackbone
from zoo.models.blocks import (
    FeedForward,
    TransformerLayer,
    as_rows,
    make_norm,
    normalized,
    shift_new_tokens,
    shift_tokens,
    soft_cap,
)
from zoo.models.configs import GPTConfig


@keras.saving.register_keras_serializable(package="zoo")
class GPTBackbone(TransformerBackbone):
    """Token ids (B, T) to hidden states (B, T, D), each seeing only itself and the past.

    Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), with today's
    options; `GPTConfig` lists them.

    Attributes:
        remat: bool, computes the inside of each block twice in training, to hold less in memory.
            Set it before `compile`.

    Example:
        >>> import numpy as np
        >>> backbone = GPTBackbone(GPTConfig(vocabulary_size=65, hidden_dim=32))
        >>> tuple(backbone(np.zeros((2, 10), "int32")).shape)
        (2, 10, 32)
    """

    config_class = GPTConfig
    is_causal = True
    # A cache slot belongs to a position, and there are `context_length` of them.
    cache_is_bounded = True

    def __init__(self, config: GPTConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.add_blocks(DecoderBlock)
        self.final_norm = make_norm(config, "final_norm")

    def call(self, token_ids, document_ids=None, training=None):
        """Hidden states (B, T, D) of token ids (B, T) int32.

        Tokens of different documents in a row, by `document_ids` (B, T) int32, ascending, do not
        see each other, and each document's positions count from 0.
        """
        steps = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        visible = is_visible(steps, steps)  # (T, T)
        positions = None
        if document_ids is not None:
            positions = document_positions(document_ids)  # (B, T)
            same = document_ids[:, :, None] == document_ids[:, None, :]
            visible = ops.logical_and(visible, same)[:, None]  # (B, 1, T, T)
        x = self.dropout(self.embed(token_ids, positions), training=training)
        rotary = rotary_tables(self.config, steps[None] if positions is None else positions)
        arguments = {"visible": visible, "positions": positions, "rotary": rotary}
        x = self.run_blocks(x, training, **arguments)
        return self.final_norm(x)

    def logits(self, hidden):
        """Hidden states (..., D) to token logits (..., V), float32."""
        logits, cap = super().logits(hidden), self.config.logit_soft_cap
        return logits if cap is None else soft_cap(logits, cap)

    def initial_cache(self, batch_size, slots):
        """For each block empty keys and values (B, K, slots, H); with token shift its past, too."""
        config = self.config
        # The same zeros for all: of 30 blocks a graph would have 60 such operations.
        shape = (batch_size, config.key_value_heads, slots, config.head_dim)
        parts = (ops.zeros(shape, self.compute_dtype),) * 2
        if config.token_shift:
            shape = (batch_size, config.token_shift, config.hidden_dim)
            parts += (ops.zeros(shape, self.compute_dtype),)
        return (parts,) * len(self.blocks)

    def extend_cache(self, cache, slots):
        """The same cache with `slots` more empty slots at the end."""
        padding = [[0, 0], [0, 0], [0, slots], [0, 0]]
        return tuple(
            (ops.pad(keys, padding), ops.pad(values, padding), *past)
            for keys, values, *past in cache
        )

    def decode(self, token_ids, cache, position, lengths=None, write=ops.scatter_update, run=None):
        """Hidden states (B, T, D) of T new tokens after what the cache holds, and the new cache.

        `position` (B,) is the number of tokens of each row in the cache, `lengths` (B,) how many of
        the new ones are real, `None` for all: only token shift asks, as slots past them are masked
        until overwritten. `write` puts keys and values in, as `keras.ops.scatter_update`; `run` is
        called as `DecoderBlock.decode`.
        """
        run = run or DecoderBlock.decode
        steps = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        positions = position[:, None] + steps  # (B, T)
        slots = cache_slots(self.config, positions, ops.shape(cache[0][0])[2], lengths, write)
        x = as_rows(self.embed(token_ids, positions))  # (B*T, D)
        extended = []
        for block, layer_cache in zip(self.blocks, cache):
            x, layer_cache = run(block, x, layer_cache, slots)
            extended.append(layer_cache)
        hidden = ops.reshape(self.final_norm(x), (-1, slots.length, self.config.hidden_dim))
        return hidden, tuple(extended)


class DecoderBlock(TransformerLayer):
    """One transformer block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    By `norm_placement` the norm stands within the sublayer, on what it gives, or both.
    """

    config: GPTConfig

    def __init__(self, config: GPTConfig, **kwargs):
        super().__init__(config, **kwargs)
        before, after = config.norm_placement != "output", config.norm_placement != "pre"
        self.attention_norm = make_norm(config, "attention_norm") if before else None
        self.attention = SelfAttention(config, layer=self.layer, name="attention")
        self.attention_output_norm = make_norm(config, "attention_output_norm") if after else None
        self.feedforward_norm = make_norm(config, "feedforward_norm") if before else None
        self.feedforward = FeedForward(config, name="feedforward")
        name = "feedforward_output_norm"
        self.feedforward_output_norm = make_norm(config, name) if after else None
        self.dropout = keras.layers.Dropout(config.dropout)

    def call(self, x, visible=None, positions=None, rotary=(), training=None):
        normed = normalized(x, self.attention_norm)
        attended = self.attention(normed, visible, rotary, training=training)
        attended = normalized(attended, self.attention_output_norm)
        before, x = x, x + self.dropout(attended, training=training)
        normed = normalized(before if self.config.parallel_residual else x, self.feedforward_norm)
        if self.config.token_shift:
            normed = shift_tokens(normed, self.config.token_shift, positions)
        transformed = normalized(self.feedforward(normed), self.feedforward_output_norm)
        return x + self.dropout(transformed, training=training)

    def decode(self, x, cache: tuple, slots: CacheSlots):
        """`call` for new tokens only, rows (B*T, D), with one block's cache."""
        keys, values, *past = cache
        normed = normalized(x, self.attention_norm)
        attended, cache = self.attention.decode(normed, (keys, values), slots)
        before, x = x, x + normalized(attended, self.attention_output_norm)
        normed = normalized(before if self.config.parallel_residual else x, self.feedforward_norm)
        if self.config.token_shift:
            normed, *past = shift_new_tokens(
                normed, past[0], self.config.token_shift, slots.length, slots.lengths
            )
        x = x + normalized(self.feedforward(normed), self.feedforward_output_norm)
        return x, (*cache, *past)
