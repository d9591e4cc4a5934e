"""The language model on a causal backbone, and what all models of token ids share."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from zoo.config import ConfigError
from zoo.models.serialization import model_from_config, quantization_config

_USE_STRINGS = (
    "For strings use the bundle, zoo.load(folder).lm or .text_model, or put a tokenizer before the "
    "model: zoo.text.lm.TextLM(tokenizer, model), zoo.text.models.TEXT_MODELS[model.task]"
    "(tokenizer, model)."
)


class TokenModel(keras.Model):
    """A head on a backbone, called with token ids: says so to who gives it strings or lists.

    Keras alone says "Invalid dtype: str32" or "Unrecognized data type".
    """

    task: str
    inputs_text: str  # what the model reads, for messages

    @property
    def context_length(self) -> int:
        """Tokens read at once: special tokens included; longer prompts keep their last ones."""
        return self.backbone.config.context_length

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return self.backbone.config.vocabulary_size

    def head_config(self) -> dict:
        """The head's own options, besides the backbone: JSON-able, `zoo.build(head=...)`."""
        return {}

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self.head_config(),
            "name": self.name,
            "quantization": quantization_config(self),
        }

    @classmethod
    def from_config(cls, config):
        return model_from_config(cls, config)

    def __call__(self, *args, **kwargs):
        if args:
            self._refuse_strings(args[0])
        return super().__call__(*args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._refuse_strings(x)
        return super().predict(x, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self._refuse_strings(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._refuse_strings(x)
        return super().evaluate(x, *args, **kwargs)

    def _refuse_strings(self, inputs) -> None:
        """Raises TypeError for strings, and for lists that are no arrays."""
        for value in inputs.values() if isinstance(inputs, dict) else [inputs]:
            if isinstance(value, str | bytes | list | tuple) or _holds_strings(value):
                kind = "strings" if _holds_strings(value) else type(value).__name__
                raise TypeError(
                    f"{type(self).__name__} takes {self.inputs_text}, as arrays. Received: {kind}, "
                    f"{value!r:.80}. {_USE_STRINGS}"
                )

    def require_ids(self, token_ids) -> None:
        """Raises TypeError for what is no tensor, ValueError unless its shape is (B, T)."""
        name = type(self).__name__
        if not hasattr(token_ids, "shape"):
            raise TypeError(
                f"{name} takes {self.inputs_text}. Received: {type(token_ids).__name__}"
            )
        if len(token_ids.shape) != 2:
            raise ValueError(
                f"{name} takes token_ids of shape (B, T), one row for each text; for one text give "
                f"token_ids[None]. Received: shape {tuple(token_ids.shape)}"
            )


def _holds_strings(value) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OSU"
    return isinstance(value, str | bytes) or getattr(value, "dtype", None) == "string"


@keras.saving.register_keras_serializable(package="zoo")
class CausalLM(TokenModel):
    """Next-token language model: token ids (B, T) to logits (B, T, V), float32.

    `logits[:, t]` predicts token t + 1. Train it with
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)` on ids shifted by one.

    The cache protocol, the same for every causal family, is all that `zoo.generation` uses:
    `initial_cache`, `extend_cache`, `decode`, `decode_token`, `context_length`,
    `cache_is_bounded`. A row's result depends on nothing but that row: not on its batch
    neighbours, not on padding.

    Args:
        backbone: GPTBackbone or LSTMBackbone.

    Raises:
        ConfigError: the backbone sees the future.

    Example:
        >>> import zoo
        >>> model = zoo.build("gpt_char_cpu", vocabulary_size=65)
        >>> model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> tuple(model(np.zeros((2, 10), "int32")).shape)
        (2, 10, 65)
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
        self.require_ids(token_ids)
        documents = {} if document_ids is None else {"document_ids": document_ids}
        return self.backbone.logits(self.backbone(token_ids, training=training, **documents))

    @property
    def cache_is_bounded(self) -> bool:
        """Whether a cache holds at most `context_length` tokens (GPT) or any number (LSTM)."""
        return self.backbone.cache_is_bounded

    def initial_cache(self, batch_size, slots):
        """A cache that has read nothing, with slots for that many tokens a row."""
        return self.backbone.initial_cache(batch_size, slots)

    def extend_cache(self, cache, slots):
        """The same cache with `slots` more slots a row."""
        return self.backbone.extend_cache(cache, slots)

    def decode(self, token_ids, cache, position, lengths=None):
        """Logits (B, V) for the token after each row's last new one, and the new cache.

        Args:
            token_ids: (B, T) int32, padded on the right.
            cache: from `initial_cache` or an earlier `decode`.
            position: (B,) int32, number of tokens each row's cache already holds.
            lengths: (B,) int32, how many of the T tokens are real, at least 1; `None` means all.
        """
        hidden, cache = self.backbone.decode(token_ids, cache, position, lengths)
        if lengths is None:
            last = hidden[:, -1]
        else:
            # Before the vocabulary projection: it is the widest product, and needed once a row.
            last = ops.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return self.backbone.logits(last), cache

    def decode_token(self, token_ids, cache, position, write=ops.scatter_update):
        """`decode` of one token a row (B,): what the loop of `generate` runs for every token.

        `write` puts it into the cache, as `keras.ops.scatter_update`.
        """
        hidden, cache = self.backbone.decode(token_ids[:, None], cache, position, write=write)
        return self.backbone.logits(hidden[:, -1]), cache
