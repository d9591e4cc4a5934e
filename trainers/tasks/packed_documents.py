"""Windows that hold several documents, each of which is read as if it stood alone."""

from __future__ import annotations

import keras
from keras import ops

from zoo.models.causal_lm import CausalLM


class PackedDocuments(keras.Model):
    """A language model whose tokens see their own document only, in training and in validation.

    An end-of-text token begins the document that follows it, as it does in generation from an
    empty text: it is that document's position 0, and is predicted by the one before it.

    Args:
        model: CausalLM on a GPTBackbone.
        end_id: int, the token that stands between documents.

    Example: `PackedDocuments(model, tokenizer.end_id)(token_ids).shape  # (B, T, V)`
    """

    def __init__(self, model: CausalLM, end_id: int, **kwargs):
        super().__init__(name="packed_documents", **kwargs)
        self.model = model
        self.end_id = end_id
        self.built = True

    def call(self, token_ids, training=None):
        ends = ops.cast(ops.equal(token_ids, self.end_id), "int32")
        return self.model(token_ids, document_ids=ops.cumsum(ends, axis=1), training=training)
