"""What `fit` runs around a model that is saved without it: state, document masks, pairs."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from trainers.distribution.rows import replica_index
from zoo.models.heads import CausalLM


class CarriedState(keras.Model):
    """A recurrent language model that goes on from the state of the batch before (truncated
    back-propagation through time); in training it starts anew at every segment.

    The states are variables of a checkpoint, but not of the model that is exported. On several
    replicas the rows of the others are written as zeros: the sum of all is the whole state.
    """

    def __init__(self, model: CausalLM, batch_size: int, segment: int, **kwargs):
        super().__init__(name="carried_state", **kwargs)
        self.model = model
        self.segment = segment
        config = model.backbone.config
        shape = (config.num_layers, 2, batch_size, config.hidden_dim)
        zeros = {"initializer": "zeros", "trainable": False}
        self.train_state = self.add_weight(shape, name="train_state", **zeros)
        self.validation_state = self.add_weight(shape, name="validation_state", **zeros)
        self.step = self.add_weight((), dtype="int32", name="step", **zeros)
        self.built = True

    @property
    def row_states(self) -> tuple[keras.Variable, ...]:
        """Variables with a part for each row of the batch."""
        return self.train_state, self.validation_state

    def call(self, token_ids, training=None):
        state = self.train_state if training else self.validation_state
        carried = ops.convert_to_tensor(state)  # (L, 2, B, D)
        layers, _, batch_size, _ = state.shape
        rows = token_ids.shape[0] or batch_size
        if rows < batch_size:
            first = (0, 0, replica_index() * rows, 0)
            carried = ops.slice(carried, first, (*state.shape[:2], rows, state.shape[3]))
        if training:
            carried = carried * ops.cast(self.step % self.segment != 0, carried.dtype)
            self.step.assign(self.step + 1)
        pairs = tuple((carried[layer, 0], carried[layer, 1]) for layer in range(layers))
        backbone = self.model.backbone
        hidden, pairs = backbone.call_with_state(token_ids, pairs, training=training)
        after = ops.stack([ops.stack(pair) for pair in pairs])
        if rows < batch_size:
            after = ops.slice_update(ops.zeros(state.shape, after.dtype), first, after)
        state.assign(after)
        return backbone.logits(hidden)


class ResetValidationState(keras.callbacks.Callback):
    """Starts every validation from the zero state."""

    def on_test_begin(self, logs=None):
        if isinstance(self.model, CarriedState):
            state = self.model.validation_state
            state.assign(np.zeros(state.shape, "float32"))


class PackedDocuments(keras.Model):
    """A language model whose tokens see their own document only, in training and in validation.

    An end-of-text token, `end_id`, begins the document that follows it, as it does in generation
    from an empty text: it is that document's position 0, and is predicted by the one before it.
    """

    def __init__(self, model: CausalLM, end_id: int, **kwargs):
        super().__init__(name="packed_documents", **kwargs)
        self.model = model
        self.end_id = end_id
        self.built = True

    def call(self, token_ids, training=None):
        ends = ops.cast(ops.equal(token_ids, self.end_id), "int32")
        return self.model(token_ids, document_ids=ops.cumsum(ends, axis=1), training=training)


class PairedEmbeddings(keras.Model):
    """A SentenceEncoder over pairs: inputs (B, 2, T) to vectors (B, 2, D)."""

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(name="paired_embeddings", **kwargs)
        self.model = model
        self.built = True

    def call(self, inputs, training=None):
        flat = {name: ops.reshape(v, (-1, ops.shape(v)[-1])) for name, v in inputs.items()}
        vectors = self.model(flat, training=training)  # (2B, D)
        return ops.reshape(vectors, (-1, 2, vectors.shape[-1]))
