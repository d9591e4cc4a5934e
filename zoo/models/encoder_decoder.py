"""An encoder-decoder: one stack reads the source, another writes the target and attends to it."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from zoo.models.attention import (
    CacheSlots,
    CrossAttention,
    RelativePositions,
    cache_slots,
    is_visible,
    rotary_tables,
    sinusoidal_positions,
)
from zoo.models.backbone import Backbone, rematerialized
from zoo.models.bert import EncoderBlock
from zoo.models.blocks import TransformerLayer, as_rows, make_norm
from zoo.models.configs import EncoderDecoderConfig


class Memory(NamedTuple):
    """What a decoder attends to of B sources, made once for all tokens of their targets."""

    layers: tuple  # of each block: keys and values (B, N, S, H)
    bias: object  # (B, 1, 1, S) float32, about minus infinity at padding; None without


def padding_bias(padding_mask):
    """Of a mask (B, S), 0 at real tokens and about minus infinity at padding: (B, 1, 1, S)."""
    if padding_mask is None:
        return None
    return ops.where(ops.cast(padding_mask, "bool")[:, None, None, :], 0.0, -1e9)


@keras.saving.register_keras_serializable(package="zoo")
class EncoderDecoderBackbone(Backbone):
    """Source and target ids to hidden states of the target, each seeing its past and the source.

    Vaswani et al., "Attention Is All You Need" (2017), with later options: T5's, BART's, Marian's;
    `EncoderDecoderConfig` lists them.

    Attributes:
        remat: bool, as in `GPTBackbone`.

    Example:
        >>> import numpy as np
        >>> config = EncoderDecoderConfig(vocabulary_size=65, hidden_dim=32, num_layers=2)
        >>> backbone, ids = EncoderDecoderBackbone(config), np.zeros((2, 10), "int32")
        >>> tuple(backbone({"token_ids": ids, "target_ids": ids[:, :4]}).shape)
        (2, 4, 32)
    """

    config_class = EncoderDecoderConfig
    is_causal = False
    cache_is_bounded = True  # as in `GPTBackbone`

    def __init__(self, config: EncoderDecoderConfig, **kwargs):
        super().__init__(config, config.hidden_dim, **kwargs)
        self.remat = False
        initializer = self.token_embedding.embeddings_initializer
        self.encoder = _Stack(config, EncoderBlock, config.num_layers, initializer, name="encoder")
        self.decoder = _Stack(
            config, DecoderBlock, config.layers_of_decoder, initializer, name="decoder"
        )
        if config.logit_bias:
            self.logit_bias = self.add_weight(
                name="logit_bias",
                shape=(config.vocabulary_size,),
                initializer="zeros",
                autocast=False,
            )

    def build(self, input_shape):
        self.token_embedding.build((None, None))
        for stack in (self.encoder, self.decoder):
            stack.build((None, None, self.config.hidden_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape["target_ids"], self.output_dim)

    def call(self, inputs, training=None):
        """Hidden states (B, T, D) of `target_ids` (B, T) int32, after sources `token_ids` (B, S).

        `padding_mask` (B, S) is True or 1 at a source's real tokens; without it padding is read as
        text. Targets need none: a token sees what comes before it alone.
        """
        mask = inputs.get("padding_mask")
        memory = self.memory(self.encode(inputs["token_ids"], mask, training), mask)
        target_ids, decoder = inputs["target_ids"], self.decoder
        steps = ops.arange(ops.shape(target_ids)[1], dtype="int32")
        x = decoder.embed(self.token_embedding(target_ids), steps[None], training)
        bias = None if decoder.relative is None else decoder.relative(steps, steps)[None]
        rotary = rotary_tables(self.config, steps[None])
        shared = {"visible": is_visible(steps, steps), "rotary": rotary, "bias": bias}
        shared["memory_bias"] = memory.bias
        keys_values = [{"keys": keys, "values": values} for keys, values in memory.layers]
        return decoder.run(x, keys_values, self.remat, training, **shared)

    def encode(self, token_ids, padding_mask=None, training=None):
        """Source states (B, S, D)."""
        steps = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        x = self.encoder.embed(self.token_embedding(token_ids), steps[None], training)
        visible = None
        if padding_mask is not None:
            visible = ops.cast(padding_mask, "bool")[:, None, None, :]  # (B, 1, 1, S)
        relative = self.encoder.relative
        bias = None if relative is None else relative(steps, steps)[None]
        blocks = [{} for _ in self.encoder.blocks]
        shared = {"visible": visible, "rotary": rotary_tables(self.config, steps[None])}
        return self.encoder.run(x, blocks, self.remat, training, bias=bias, **shared)

    def memory(self, states, padding_mask=None) -> Memory:
        """What the decoder's blocks attend to, of source states (B, S, D)."""
        layers = (block.cross_attention.memory(states) for block in self.decoder.blocks)
        return Memory(tuple(layers), padding_bias(padding_mask))

    def logits(self, hidden):
        """Hidden states (..., D) to token logits (..., V), float32."""
        if self.config.scale_logits:
            hidden = hidden * ops.cast(self.output_dim**-0.5, hidden.dtype)
        logits = super().logits(hidden)
        return logits + self.logit_bias if self.config.logit_bias else logits

    def initial_cache(self, batch_size, slots):
        """For each block of the decoder, empty keys and values (B, N, slots, H)."""
        shape = (batch_size, self.config.num_heads, slots, self.config.head_dim)
        return ((ops.zeros(shape, self.compute_dtype),) * 2,) * len(self.decoder.blocks)

    def extend_cache(self, cache, slots):
        """The same cache with `slots` more empty slots at the end."""
        padding = [[0, 0], [0, 0], [0, slots], [0, 0]]
        return tuple(tuple(ops.pad(part, padding) for part in pair) for pair in cache)

    def decode(self, target_ids, memory: Memory, cache, position, write=ops.scatter_update):
        """Hidden states (R, T, D) of T new target tokens after those in the cache, and the cache.

        R is a multiple of the sources' B: each has as many targets, which are neighbours. Other
        arguments are as in `GPTBackbone.decode`.
        """
        decoder, slot_count = self.decoder, ops.shape(cache[0][0])[2]
        steps = ops.arange(ops.shape(target_ids)[1], dtype="int32")
        positions = position[:, None] + steps  # (R, T)
        slots = cache_slots(self.config, positions, slot_count, None, write)
        if decoder.relative is not None:
            relative = decoder.relative(positions, ops.arange(slot_count, dtype="int32"))
            slots = slots._replace(biases={None: slots.biases[None] + relative})
        x = as_rows(decoder.embed(self.token_embedding(target_ids), positions))  # (R*T, D)
        extended = []
        for block, layer_cache, layer_memory in zip(decoder.blocks, cache, memory.layers):
            x, layer_cache = block.decode(x, layer_cache, slots, *layer_memory, memory.bias)
            extended.append(layer_cache)
        x = x if decoder.final_norm is None else decoder.final_norm(x)
        return ops.reshape(x, (-1, slots.length, self.config.hidden_dim)), tuple(extended)


class _Stack(TransformerLayer):
    """The blocks of the encoder or the decoder, and what stands before and after them."""

    config: EncoderDecoderConfig

    def __init__(self, config, block_class, num_layers: int, initializer, **kwargs):
        super().__init__(config, **kwargs)
        self.position_embedding = self.relative = self.embedding_norm = self.final_norm = None
        if config.positions == "learned":
            self.position_embedding = keras.layers.Embedding(
                config.context_length, config.hidden_dim, initializer, name="position_embedding"
            )
        if config.positions == "relative":
            causal = block_class is DecoderBlock
            self.relative = RelativePositions(config, causal, name="relative_positions")
        if config.embedding_norm:
            self.embedding_norm = make_norm(config, "embedding_norm")
        if config.norm_placement == "pre":
            self.final_norm = make_norm(config, "final_norm")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.blocks = [block_class(config, layer=i, name=f"block_{i}") for i in range(num_layers)]

    def embed(self, x, positions, training=None):
        """Token embeddings (B, T, D) with what belongs to positions (B, T) or (1, T)."""
        if self.config.scale_embeddings:
            x = x * ops.cast(self.config.hidden_dim**0.5, x.dtype)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.config.positions == "sinusoidal":
            x = x + ops.cast(sinusoidal_positions(positions, x.shape[-1]), x.dtype)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return self.dropout(x, training=training)

    def run(self, x, blocks: list[dict], remat: bool, training, **shared):
        """Hidden states (B, T, D) after all blocks, each with its own arguments, too."""
        for block, own in zip(self.blocks, blocks):
            if remat and training:
                x = rematerialized(block, x, training=training, **shared, **own)
            else:
                x = block(x, training=training, **shared, **own)
        return x if self.final_norm is None else self.final_norm(x)


class DecoderBlock(EncoderBlock):
    """An `EncoderBlock` that attends to a source between its two sublayers."""

    def __init__(self, config: EncoderDecoderConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.cross_attention = CrossAttention(config, layer=self.layer, name="cross_attention")
        self.cross_attention_norm = make_norm(config, "cross_attention_norm")

    def call(
        self, x, keys, values, visible=None, rotary=(), bias=None, memory_bias=None, training=None
    ):
        """Hidden states (B, T, D) to the same; `keys` and `values` are `CrossAttention.memory`."""
        normed = self.before(x, self.attention_norm)
        mixed = self.attention(normed, visible, rotary, bias, training=training)
        x = self.after(x, mixed, self.attention_norm, training)
        normed = as_rows(self.before(x, self.cross_attention_norm))
        mixed = self.cross_attention(normed, keys, values, memory_bias, training=training)
        x = self.after(x, ops.reshape(mixed, ops.shape(x)), self.cross_attention_norm, training)
        transformed = self.feedforward(self.before(x, self.feedforward_norm))
        return self.after(x, transformed, self.feedforward_norm, training)

    def decode(self, x, cache: tuple, slots: CacheSlots, keys, values, memory_bias):
        """`call` for new tokens only, rows (R*T, D), with one block's cache."""
        mixed, cache = self.attention.decode(self.before(x, self.attention_norm), cache, slots)
        x = self.after(x, mixed, self.attention_norm)
        normed = self.before(x, self.cross_attention_norm)
        mixed = self.cross_attention(normed, keys, values, memory_bias)
        x = self.after(x, mixed, self.cross_attention_norm)
        transformed = self.feedforward(self.before(x, self.feedforward_norm))
        return self.after(x, transformed, self.feedforward_norm), cache


class ConditionedDecoder:
    """A decoder and the sources that it writes after: what `zoo.generation` asks of a model."""

    def __init__(self, backbone: Backbone, memory: Memory):
        self.backbone = backbone
        self.step_backbone = backbone  # what reads single tokens
        self.memory = memory
        self.cache_is_bounded: bool = backbone.cache_is_bounded
        self.initial_cache: Callable = backbone.initial_cache
        self.extend_cache: Callable = backbone.extend_cache
        self.context_length: int = backbone.config.context_length
        self.vocabulary_size: int = backbone.config.vocabulary_size

    def decode(self, token_ids, cache, position, lengths=None, write=ops.scatter_update):
        """As `CausalLM.decode`, of target tokens (R, T)."""
        hidden, cache = self.backbone.decode(token_ids, self.memory, cache, position, write)
        if lengths is None:
            return self.backbone.logits(hidden[:, -1]), cache
        last = ops.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return self.backbone.logits(last), cache

    def decode_token(self, token_ids, cache, position, write=ops.scatter_update):
        """As `CausalLM.decode_token`."""
        step, memory = self.step_backbone, self.memory
        hidden, cache = step.decode(token_ids[:, None], memory, cache, position, write)
        return step.logits(hidden[:, -1]), cache
