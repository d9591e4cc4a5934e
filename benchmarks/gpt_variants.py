"""Changes to the char GPT that were tried and are not in the zoo, for `benchmarks.ablations`.

Each is a function that changes the classes of this process; build the model afterwards.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from zoo import presets
from zoo.models import blocks as layers
from zoo.models import gpt, heads
from zoo.models.blocks import shift_tokens


def attention_shift():
    """Half the channels that attention reads are those of the token before."""

    class Attention(layers.SelfAttention):
        def call(self, x, **arguments):
            return super().call(shift_tokens(x, 1), **arguments)

    layers.SelfAttention = Attention


def convolution():
    """A learned causal filter of width 3 for each channel, where the recipe shifts tokens.

    Allen-Zhu, "Physics of Language Models: Part 4.1" (2025), calls such filters Canon layers.
    """

    class FeedForward(layers.FeedForward):
        def build(self, input_shape):
            super().build(input_shape)
            first = np.zeros((3, input_shape[-1]), "float32")
            first[0] = 1.0
            self.filter = self.add_weight(
                shape=first.shape, initializer=lambda *_, **__: ops.convert_to_tensor(first)
            )

        def call(self, x):
            late = [x, *(_late(x, distance) for distance in (1, 2))]
            return super().call(sum(self.filter[i] * part for i, part in enumerate(late)))

    layers.FeedForward = FeedForward


def smear():
    """A learned share of the embedding of the token before is added to each embedding."""

    class Backbone(gpt.GPTBackbone):
        def __init__(self, config, **kwargs):
            super().__init__(config, **kwargs)
            self.share = self.add_weight(
                shape=(config.hidden_dim,), initializer=keras.initializers.Constant(0.3)
            )

        def _embed(self, token_ids, positions):
            x = super()._embed(token_ids, positions)
            return x + self.share * _late(x, 1)

    presets.BACKBONES["gpt"] = Backbone


def embedding_norm():
    """A norm between the embedding and the first block."""

    class Backbone(gpt.GPTBackbone):
        def __init__(self, config, **kwargs):
            super().__init__(config, **kwargs)
            self.embedding_norm = layers.make_norm(config, "embedding_norm")

        def _embed(self, token_ids, positions):
            return self.embedding_norm(super()._embed(token_ids, positions))

    presets.BACKBONES["gpt"] = Backbone


def value_residual():
    """Each layer mixes its values with the first one's (Zhou et al., 2024, arXiv:2410.17897)."""
    made, first = [], []

    class Attention(layers.SelfAttention):
        def build(self, input_shape):
            super().build(input_shape)
            self.is_first = not made
            made.append(self)
            self.shares = self.add_weight(
                shape=(2,), initializer=lambda *_, **__: ops.convert_to_tensor([0.7, 0.3])
            )

        def _project(self, x, positions):
            query, key, value = super()._project(x, positions)
            if self.is_first:
                first[:] = [value]
            return query, key, self.shares[0] * value + self.shares[1] * first[0]

    layers.SelfAttention = Attention


def zero_init():
    """What writes to the residual stream begins with zeros."""
    make_dense = layers.make_dense

    def with_zeros(config, units, name, residual=False):
        dense = make_dense(config, units, name, residual)
        if residual:
            dense.kernel_initializer = keras.initializers.Zeros()
        return dense

    layers.make_dense = with_zeros


def softcap():
    """Logits are kept below 15 by tanh (Gemma Team, 2024, arXiv:2408.00118)."""

    class Backbone(gpt.GPTBackbone):
        def logits(self, hidden):
            return 15.0 * ops.tanh(super().logits(hidden) / 15.0)

    presets.BACKBONES["gpt"] = Backbone


def z_loss():
    """1e-4 times the squared log of the softmax's denominator (Chowdhery et al., 2022)."""

    class LanguageModel(heads.CausalLM):
        def call(self, token_ids, document_ids=None, training=None):
            logits = super().call(token_ids, document_ids, training)
            if training:
                self.add_loss(1e-4 * ops.mean(ops.square(ops.logsumexp(logits, axis=-1))))
            return logits

    presets.HEADS["lm"] = LanguageModel


VARIANTS = {
    change.__name__: change
    for change in (
        attention_shift,
        convolution,
        smear,
        embedding_norm,
        value_residual,
        zero_init,
        softcap,
        z_loss,
    )
}


def _late(x, distance: int):
    """(B, T, D), `distance` tokens late, zeros before the start."""
    return ops.pad(x, [[0, 0], [distance, 0], [0, 0]])[:, :-distance]
