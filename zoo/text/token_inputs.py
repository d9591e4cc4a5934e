"""What models are called with, and the errors for what they cannot read."""

from __future__ import annotations

import keras
import numpy as np

_USE_STRINGS = (
    "For strings use the bundle, zoo.load(folder).lm or .text_model, or put a tokenizer before the "
    "model: zoo.text.lm.TextLM(tokenizer, model), zoo.text.models.TEXT_MODELS[model.task]"
    "(tokenizer, model)."
)


class TokenModel(keras.Model):
    """A model of token ids: says so to who gives it strings or lists.

    Keras alone says "Invalid dtype: str32" or "Unrecognized data type".

    Attributes:
        inputs_text: what the model reads, for messages.
    """

    inputs_text: str

    def __call__(self, *args, **kwargs):
        if args:
            self.check_inputs(args[0])
        return super().__call__(*args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self.check_inputs(x)
        return super().predict(x, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self.check_inputs(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self.check_inputs(x)
        return super().evaluate(x, *args, **kwargs)

    def check_inputs(self, inputs) -> None:
        """Raises TypeError for strings, and for lists that are no arrays."""
        for value in inputs.values() if isinstance(inputs, dict) else [inputs]:
            if isinstance(value, str | bytes | list | tuple) or _holds_strings(value):
                kind = "strings" if _holds_strings(value) else type(value).__name__
                raise TypeError(
                    f"{type(self).__name__} takes {self.inputs_text}, as arrays. Received: {kind}, "
                    f"{value!r:.80}. {_USE_STRINGS}"
                )


def require_two_axes(model: TokenModel, token_ids) -> None:
    """Raises TypeError for what is no tensor, ValueError unless the ids have the shape (B, T)."""
    if not hasattr(token_ids, "shape"):
        raise TypeError(
            f"{type(model).__name__} takes {model.inputs_text}. "
            f"Received: {type(token_ids).__name__}"
        )
    if len(token_ids.shape) != 2:
        raise ValueError(
            f"{type(model).__name__} takes token_ids of shape (B, T), one row for each text; for "
            f"one text give token_ids[None]. Received: shape {tuple(token_ids.shape)}"
        )


def _holds_strings(value) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OSU"
    return isinstance(value, str | bytes) or getattr(value, "dtype", None) == "string"
