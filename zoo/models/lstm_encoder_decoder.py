"""An LSTM that writes a target and attends to a bidirectional LSTM of the source."""

import keras
from keras import ops

from zoo.models.attention import attend
from zoo.models.configs import LSTMEncoderDecoderConfig
from zoo.models.encoder_decoder import Memory, padding_bias
from zoo.models.lstm import LSTMBackbone


@keras.saving.register_keras_serializable(package="zoo")
class LSTMEncoderDecoderBackbone(LSTMBackbone):
    """Source and target ids to hidden states of the target, as `EncoderDecoderBackbone`.

    Luong et al., "Effective Approaches to Attention-based Neural Machine Translation" (2015): each
    state h of the target and its mix c of source states become tanh(W [h; c]).

    Example:
        >>> import numpy as np
        >>> config = LSTMEncoderDecoderConfig(vocabulary_size=65, hidden_dim=32)
        >>> backbone, ids = LSTMEncoderDecoderBackbone(config), np.zeros((2, 10), "int32")
        >>> tuple(backbone({"token_ids": ids, "target_ids": ids[:, :4]}).shape)
        (2, 4, 32)
    """

    config_class = LSTMEncoderDecoderConfig
    is_causal = False

    def __init__(self, config: LSTMEncoderDecoderConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.encoder = LSTMBackbone(config.source, name="encoder")
        self.attention_keys = keras.layers.Dense(
            config.token_dim, use_bias=False, name="attention_keys"
        )
        self.mixing = keras.layers.Dense(config.token_dim, activation="tanh", name="mixing")

    def build(self, input_shape):
        units, width = self.config.hidden_dim, self.config.token_dim
        super().build((None, None))
        self.encoder.build((None, None))
        self.attention_keys.build((None, None, units))
        self.mixing.build((None, width + units))

    def compute_output_shape(self, input_shape):
        return (*input_shape["target_ids"], self.output_dim)

    def call(self, inputs, training=None):
        """Hidden states (B, T, D) of `target_ids`, as of `EncoderDecoderBackbone.call`."""
        mask = inputs.get("padding_mask")
        memory = self.memory(self.encode(inputs["token_ids"], mask, training), mask)
        hidden, _ = self.call_with_state(inputs["target_ids"], training=training)
        return self.dropout(self._attended(hidden, memory), training=training)

    def encode(self, token_ids, padding_mask=None, training=None):
        """Source states (B, S, U)."""
        return self.encoder(token_ids, padding_mask, training=training)

    def memory(self, states, padding_mask=None) -> Memory:
        """What the target attends to, of source states (B, S, U)."""
        keys = self.attention_keys(states)
        return Memory(((keys[:, None], states[:, None]),), padding_bias(padding_mask))

    def decode(self, target_ids, memory: Memory, cache, position, write=None):
        """As `EncoderDecoderBackbone.decode`; the cache is the state of each layer."""
        hidden, cache = super().decode(target_ids, cache, position)
        return self._attended(hidden, memory), cache

    def _attended(self, hidden, memory: Memory):
        """Hidden states (R, T, D) and what they find in the sources (B, 1, S, ...)."""
        (keys, values), width = memory.layers[0], hidden.shape[-1]
        query = ops.reshape(hidden, (ops.shape(keys)[0], 1, -1, width))  # (B, 1, R/B * T, D)
        mixed = attend(query, keys, values, memory.bias, scale=1)
        rows = [ops.reshape(part, (-1, part.shape[-1])) for part in (hidden, mixed)]
        return ops.reshape(self.mixing(ops.concatenate(rows, axis=-1)), ops.shape(hidden))
