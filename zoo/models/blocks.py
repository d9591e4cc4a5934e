"""The parts of a transformer: norms, rotary positions, attention with a cache, feed-forward, block.

Decoders (`zoo.models.gpt`) and encoders (`zoo.models.bert`) are made of the same parts.

Shape letters: B rows, T new tokens, L cache slots, D hidden_dim, K key/value heads, G query heads
per key/value head, H channels of a head. `keras.ops` only: runs on every Keras backend.
"""

from __future__ import annotations

import keras
from keras import ops

from zoo.models.cached_attention import Places, attend, join_heads, split_heads
from zoo.models.configs import BertConfig, GPTConfig
from zoo.models.positions import document_positions, rotate
from zoo.models.token_shift import shift_new_tokens, shift_tokens

TransformerConfig = GPTConfig | BertConfig
# Of one layer: keys and values (B, K, L, H); with token shift, what came before (B, shift, D).
LayerCache = tuple


def make_norm(config: TransformerConfig, name: str) -> keras.layers.Layer:
    """The normalisation layer that `config.norm` names."""
    if config.norm == "rms_norm":
        return keras.layers.RMSNormalization(epsilon=config.norm_epsilon, name=name)
    return keras.layers.LayerNormalization(
        epsilon=config.norm_epsilon, center=config.use_bias, name=name
    )


def make_dense(
    config: TransformerConfig, units: int, name: str, residual: bool = False
) -> keras.layers.Dense:
    """A dense layer with the config's initialisation.

    `residual` layers write to the residual stream: they take `config.residual_stddev`, which
    shrinks with depth where the norms come first.
    """
    stddev = config.residual_stddev if residual else config.initializer_range
    return keras.layers.Dense(
        units,
        use_bias=config.use_bias,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
        name=name,
    )


class SelfAttention(keras.layers.Layer):
    """Multi-head, multi-query or grouped-query self-attention.

    `call` attends within the given tokens; `decode` reads and extends a key/value cache
    (`zoo.models.cached_attention`).

    Args:
        config: GPTConfig or BertConfig.
        causal: bool. Whether a token sees only itself and the past, or all that
            `padding_mask` allows.
    """

    def __init__(self, config: TransformerConfig, causal: bool, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.causal = causal
        kv_dim = config.key_value_heads * config.head_dim
        # One product for queries, keys and values: fewer, larger matrix products.
        self.qkv = make_dense(config, config.hidden_dim + 2 * kv_dim, "qkv")
        self.output_projection = make_dense(config, config.hidden_dim, "output", residual=True)
        self.attention_dropout = keras.layers.Dropout(config.dropout)
        if config.qk_norm:
            self.query_norm = keras.layers.RMSNormalization(name="query_norm")
            self.key_norm = keras.layers.RMSNormalization(name="key_norm")

    def build(self, input_shape):
        # Explicit in every part: without it Keras traces each call once more for each level of
        # nesting, and a model takes twice as long to make.
        self.qkv.build(input_shape)
        self.output_projection.build((None, None, self.config.hidden_dim))
        if self.config.qk_norm:
            self.query_norm.build((None, None, None, self.config.head_dim))
            self.key_norm.build((None, None, None, self.config.head_dim))

    def call(self, x, padding_mask=None, document_ids=None, training=None):
        """Attends over the tokens of `x` (B, T, D) themselves; returns (B, T, D).

        Args:
            x: (B, T, D) hidden states.
            padding_mask: (B, T) bool, False at padding, which nobody sees; `None` means no
                padding. Not causal only: padding after a text is in nobody's past.
            document_ids: (B, T) int32, ascending in each row. Tokens see those of their own
                document only, and their positions count from its start. Causal only; `None` means
                one document a row.
            training: bool, whether dropout is on.
        """
        steps = ops.arange(ops.shape(x)[1], dtype="int32")[None]  # (1, T)
        positions = steps if document_ids is None else document_positions(document_ids)
        query, key, value = self._project(x, positions)
        visible = None
        if self.causal:
            visible = steps[0, :, None] >= steps  # (T, T)
            if document_ids is not None:
                same = document_ids[:, :, None] == document_ids[:, None, :]  # (B, T, T)
                visible = ops.logical_and(visible, same)
        elif padding_mask is not None:
            visible = padding_mask[:, None, :]  # (B, 1, T)
        return self._attend(query, key, value, visible, training)

    def decode(self, x, cache: LayerCache, places: Places):
        """Attends over cache and new tokens, and writes the new tokens into the cache.

        Args:
            x: (B*T, D) hidden states of T new tokens a row.
            cache: keys and values; see `zoo.models.cached_attention.attend`.
            places: where the new tokens stand.

        Returns:
            Output (B*T, D) and the extended cache.
        """
        config = self.config
        qkv = split_heads(self.qkv(x), places, config.head_dim)
        cuts = [config.num_heads, config.num_heads + config.key_value_heads]
        query, key, value = ops.split(qkv, cuts, axis=1)
        query, key = self._place(query, key, places.positions)
        mixed, cache = attend(query, key, value, cache, places)
        return self.output_projection(join_heads(mixed, places)), cache

    def _project(self, x, positions):
        """Queries (B, heads, T, H), keys and values (B, K, T, H) of hidden states (B, T, D)."""
        config = self.config
        heads, kv_heads, head_dim = config.num_heads, config.key_value_heads, config.head_dim
        batch_size, length = ops.shape(x)[:2]
        # Cut before heads and tokens change places: XLA does that inside of what comes next.
        cuts = [heads * head_dim, (heads + kv_heads) * head_dim]
        query, key, value = (
            ops.transpose(ops.reshape(part, (batch_size, length, count, head_dim)), (0, 2, 1, 3))
            for part, count in zip(
                ops.split(self.qkv(as_rows(x)), cuts, axis=-1), (heads, kv_heads, kv_heads)
            )
        )
        return *self._place(query, key, positions), value

    def _place(self, query, key, positions):
        """Queries and keys with their norms, turned to their positions."""
        config = self.config
        if config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if config.positions == "rotary":
            query = rotate(query, positions, config.rotary_base)
            key = rotate(key, positions, config.rotary_base)
        return query, key

    def _attend(self, query, key, value, visible, training):
        config = self.config
        kv_heads, head_dim = config.key_value_heads, config.head_dim
        batch_size, _, length, _ = ops.shape(query)
        groups = config.num_heads // kv_heads
        # Query heads that share a key head lie next to each other: fold them into rows.
        query = ops.reshape(query, (batch_size, kv_heads, groups * length, head_dim))
        scores = ops.matmul(query * head_dim**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        # float32: softmax over many slots loses digits in half precision.
        scores = ops.cast(scores, "float32")  # (B, K, G*T, T)
        if visible is not None:
            # Large but finite: a row that sees nothing gives some average, and not NaN.
            bias = ops.where(visible, 0.0, -1e9)
            if groups > 1 and self.causal:
                bias = ops.tile(bias, (*[1] * (len(bias.shape) - 2), groups, 1))
            # What is the same for all texts keeps two axes: with four, TensorFlow joins scale,
            # product and bias into one operation, which oneDNN has no fast kernel for if there
            # are several texts (of 825 tokens: 34 s a layer in place of 0.1).
            if len(bias.shape) == 3:
                bias = bias[:, None]
            scores = scores + bias
        weights = ops.cast(ops.softmax(scores, axis=-1), value.dtype)
        weights = self.attention_dropout(weights, training=training)
        mixed = ops.matmul(weights, value)  # (B, K, G*T, H)
        mixed = ops.reshape(mixed, (batch_size, config.num_heads, length, head_dim))
        mixed = ops.transpose(mixed, (0, 2, 1, 3))  # (B, T, heads, H)
        mixed = ops.reshape(mixed, (-1, config.hidden_dim))
        output = self.output_projection(mixed)
        return ops.reshape(output, (batch_size, length, config.hidden_dim))

    def compute_output_shape(self, input_shape):
        return input_shape


def as_rows(x):
    """(..., D) to (N, D): what TensorFlow's graph optimizer joins a bias and a GELU to.

    A product of higher rank is reshaped before and after on TensorFlow, and what comes next sees
    the reshape.
    """
    return x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))


def activate(x, activation: str):
    """The nonlinearity by its config name; "swiglu" halves the last dimension."""
    match activation:
        case "gelu":
            return ops.gelu(x, approximate=False)
        case "gelu_tanh":
            return ops.gelu(x, approximate=True)
        case "squared_relu":
            return ops.square(ops.relu(x))
        case "swiglu":
            gate, linear = ops.split(x, 2, axis=-1)
            return ops.silu(gate) * linear


class FeedForward(keras.layers.Layer):
    """The position-wise network of a block: (B, T, D) -> (B, T, D).

    Args:
        config: GPTConfig or BertConfig; `activation` chooses GELU, squared ReLU or the gated
            SwiGLU.
    """

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        inner = config.feedforward_dim * (2 if config.activation == "swiglu" else 1)
        self.expand = make_dense(config, inner, "expand")
        self.contract = make_dense(config, config.hidden_dim, "contract", residual=True)

    def build(self, input_shape):
        self.expand.build(input_shape)
        self.contract.build((None, None, self.config.feedforward_dim))

    def call(self, x):
        output = self.contract(activate(self.expand(as_rows(x)), self.config.activation))
        return ops.reshape(output, ops.shape(x))

    def compute_output_shape(self, input_shape):
        return input_shape


class DecoderBlock(keras.layers.Layer):
    """One pre-norm transformer block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Args:
        config: GPTConfig.
    """

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

    def decode(self, x, cache: LayerCache, places: Places):
        """`call` for new tokens only; see `SelfAttention.decode`."""
        slots, past = cache[:2], cache[2:]
        attended, slots = self.attention.decode(self.attention_norm(x), slots, places)
        x = x + attended
        normed = self.feedforward_norm(x)
        if self.token_shift:
            normed, *past = shift_new_tokens(
                normed, past[0], self.token_shift, places.length, places.lengths
            )
        return x + self.feedforward(normed), (*slots, *past)

    def compute_output_shape(self, input_shape):
        return input_shape
