"""A stacked LSTM: token embedding, layers of one or two directions, an optional projection."""

import math

import keras
from keras import ops

from zoo.models.backbone import Backbone
from zoo.models.configs import LSTMConfig
from zoo.models.lstm_layer import LSTM


@keras.saving.register_keras_serializable(package="zoo")
class LSTMBackbone(Backbone):
    """Token ids (B, T) to hidden states (B, T, D), each a function of the past.

    Hochreiter & Schmidhuber (1997). The cache is the state `(h, c)` of each layer, without a length
    limit. With `config.bidirectional` it is an encoder without a cache.

    Example:
        >>> import numpy as np
        >>> backbone = LSTMBackbone(LSTMConfig(vocabulary_size=65, hidden_dim=32))
        >>> tuple(backbone(np.zeros((2, 10), "int32")).shape)
        (2, 10, 32)
    """

    config_class = LSTMConfig
    cache_is_bounded = False

    def __init__(self, config: LSTMConfig, **kwargs):
        super().__init__(config, config.token_dim, **kwargs)
        self.dropout = keras.layers.Dropout(config.dropout)
        options, layers = (config.hidden_dim, config.forget_bias), range(config.num_layers)
        self.recurrent_layers = [LSTM(*options, name=f"lstm_{i}") for i in layers]
        backward = layers if config.bidirectional else ()
        self.backward_layers = [LSTM(*options, name=f"backward_lstm_{i}") for i in backward]
        self.projection = None
        if config.token_dim != config.hidden_dim and not config.bidirectional:
            self.projection = keras.layers.Dense(config.token_dim, name="projection")

    def build(self, input_shape):
        # With shapes, layer by layer, so that `summary()` knows them.
        batch_size, length = input_shape
        units, width = self.config.hidden_dim, self.config.token_dim
        self.token_embedding.build((length, batch_size))
        self.dropout.build((length, batch_size, width))
        for layers in zip(*filter(None, (self.recurrent_layers, self.backward_layers))):
            for layer in layers:
                layer.build((length, batch_size, width))
            width = len(layers) * units
        if self.projection is not None:
            self.projection.build((batch_size, length, units))

    @property
    def is_causal(self) -> bool:
        """Whether a hidden state depends on the past only."""
        return not self.config.bidirectional

    @property
    def output_dim(self) -> int:
        """Width of a hidden state."""
        return self.config.output_dim

    def call(self, token_ids, padding_mask=None, segment_ids=None, training=None):
        """Hidden states (B, T, output_dim); at padding, 0 in `padding_mask`, the state stays."""
        mask = None if padding_mask is None else ops.cast(padding_mask, "bool")
        return self.call_with_state(token_ids, mask=mask, training=training)[0]

    def call_with_state(self, token_ids, state=None, mask=None, training=None):
        """Hidden states (B, T, output_dim) and the state, (h, c) of (B, units) for each layer."""
        inputs, rows = self._inputs(token_ids, training)
        mask = None if mask is None else ops.transpose(mask)  # (T, B)
        next_state = []
        for i, layer in enumerate(self.recurrent_layers):
            before = None if state is None else state[i]
            x, h, c = layer(inputs, before, padding_mask=mask, rows=rows, training=training)
            if self.backward_layers:
                # Padding on the right comes first here, and the masked state stays zero through
                # it: the backward direction starts at each row's last real token.
                mirrored = {"padding_mask": _flip(mask), "rows": _flip(rows), "training": training}
                inputs = inputs if rows is not None else _flip(inputs)
                behind = self.backward_layers[i](inputs, **mirrored)[0]
                x = ops.concatenate([x, _flip(behind)], axis=-1)  # (T, B, 2 units)
            inputs, rows = self.dropout(x, training=training), None
            next_state.append((h, c))
        x = ops.transpose(inputs, (1, 0, 2))  # (B, T, units)
        if self.projection is not None:
            x = self.projection(x)
        return x, tuple(next_state)

    def _inputs(self, token_ids, training):
        """What the first layer reads, time first, and which rows of it if it is the table."""
        token_ids = ops.transpose(token_ids)  # (T, B)
        vocabulary_size = self.config.vocabulary_size
        size = token_ids.shape[0] and token_ids.shape[1] and math.prod(token_ids.shape)
        if training and not self.config.dropout and size and vocabulary_size < size:
            # What a layer makes of a token does not depend on its place: once for each of the
            # vocabulary is less than once for each of the text.
            return self.token_embedding(ops.arange(vocabulary_size, dtype="int32")), token_ids
        return self.dropout(self.token_embedding(token_ids), training=training), None

    def initial_cache(self, batch_size, slots=None):
        """The state as `decode` begins with it: zeros."""
        zeros = ops.zeros((batch_size, self.config.hidden_dim), self.compute_dtype)
        return tuple((zeros, zeros) for _ in self.recurrent_layers)

    def extend_cache(self, cache, slots):
        """The state itself."""
        return cache

    def decode(self, token_ids, cache, position, lengths=None, write=None):
        """`GPTBackbone.decode`; the state knows no positions and stops after the real tokens."""
        if lengths is not None:
            steps = ops.arange(ops.shape(token_ids)[1], dtype="int32")
            mask = steps[None] < lengths[:, None]  # (B, T)
            return self.call_with_state(token_ids, cache, mask=mask, training=False)
        if token_ids.shape[1] != 1:
            return self.call_with_state(token_ids, cache, training=False)
        # One token needs no loop over time.
        x = self.token_embedding(token_ids)[:, 0]  # (B, D)
        next_state = []
        for layer, (h, c) in zip(self.recurrent_layers, cache):
            x, c = layer.step(x, h, c)
            next_state.append((x, c))
        if self.projection is not None:
            x = self.projection(x)
        return x[:, None], tuple(next_state)


def _flip(x):
    return None if x is None else ops.flip(x, axis=0)
