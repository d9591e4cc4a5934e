"""The language model on a causal backbone; encoders have `zoo.models.encoder_heads`."""

from __future__ import annotations

import keras
from keras import ops

from zoo.config import ConfigError
from zoo.models.serialization import model_from_config, quantization_config
from zoo.text.token_inputs import TokenModel, require_two_axes


@keras.saving.register_keras_serializable(package="zoo")
class CausalLM(TokenModel):
    """Next-token language model: token ids (B, T) to logits (B, T, V), float32.

    `logits[:, t]` predicts token t + 1. Train it with
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)` on ids shifted by one.

    The cache protocol, the same for every causal family, is all that `zoo.generation.loop` and
    `zoo.generation.scoring` use: `initial_cache`, `extend_cache`, `decode`, `context_length`,
    `cache_is_bounded`.

    Args:
        backbone: GPTBackbone or LSTMBackbone.

    Raises:
        ConfigError: the backbone sees the future.

    Example:
        model = zoo.build("gpt_char_cpu", vocabulary_size=65)
        model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(dataset)
    """

    task = "lm"
    inputs_text = "token_ids (B, T) int32"

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(**kwargs)
        if not backbone.is_causal:
            raise ConfigError(
                "a language model must not see the future: CausalLM needs a GPTBackbone, or an "
                f"LSTMBackbone with bidirectional=False. Received: {type(backbone).__name__}"
            )
        self.backbone = backbone
        # Built at once, so that summary(), count_params() and load_weights() work right away.
        self(keras.Input((None,), dtype="int32", name="token_ids"))

    def call(self, token_ids, document_ids=None, training=None):
        """Logits (B, T, V) of token ids (B, T); `document_ids` as in `GPTBackbone.call`."""
        require_two_axes(self, token_ids)
        if document_ids is None:
            hidden = self.backbone(token_ids, training=training)
        else:
            hidden = self.backbone(token_ids, document_ids=document_ids, training=training)
        return self.backbone.logits(hidden)

    @property
    def context_length(self) -> int:
        """Tokens read at once: longer prompts keep their last ones."""
        return self.backbone.config.context_length

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the last dimension of the logits."""
        return self.backbone.config.vocabulary_size

    @property
    def cache_is_bounded(self) -> bool:
        """Whether a cache holds at most `context_length` tokens (GPT) or any number (LSTM)."""
        return self.backbone.cache_is_bounded

    def initial_cache(self, batch_size, length):
        """A cache that has read nothing and has room for `length` tokens a row."""
        return self.backbone.initial_cache(batch_size, length)

    def extend_cache(self, cache, extra):
        """The same cache with room for `extra` more tokens a row."""
        return self.backbone.extend_cache(cache, extra)

    def decode(self, token_ids, cache, position, lengths=None):
        """Reads new tokens and predicts the one after them.

        A row's result depends on nothing but that row: not on its batch neighbours, not on
        padding.

        Args:
            token_ids: (B, T) int32, padded on the right.
            cache: from `initial_cache` or an earlier `decode`.
            position: (B,) int32, number of tokens each row's cache already holds.
            lengths: (B,) int32, how many of the T tokens are real, at least 1 in each row; `None`
                means all.

        Returns:
            Logits (B, V), float32, for the token after each row's last real one; the new cache.
        """
        hidden, cache = self.backbone.decode(token_ids, cache, position, lengths)
        if lengths is None:
            last = hidden[:, -1]
        else:
            # Before the vocabulary projection: it is the widest product, and needed once a row.
            last = ops.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return self.backbone.logits(last), cache

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "name": self.name,
            "quantization": quantization_config(self),
        }

    @classmethod
    def from_config(cls, config):
        return model_from_config(cls, config)
