"""A linear model of single tokens and pairs of neighbours, to stand beside a network."""

import keras
from keras import ops

# Where no n-gram stands: behind all keys.
NO_KEY = 2**31 - 1


class NgramLogits(keras.layers.Layer):
    """Logits (B, C) float32 of token ids (B, T): the weights of a text's tokens and token pairs.

    They are summed over those that have weights and divided by the root of the number of tokens.
    Few labelled texts teach it more than they teach a network from nothing (Wang & Manning,
    "Baselines and Bigrams", 2012); `keys` and `kernel` are set after training.

    Args:
        size: how many n-grams have weights.
        outputs: C.
        vocabulary_size: of the tokenizer.
    """

    def __init__(self, size: int, outputs: int, vocabulary_size: int, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.base = min(vocabulary_size, NO_KEY // vocabulary_size - 1)
        # Sorted.
        self.keys = self.add_weight(
            name="keys", shape=(size,), dtype="int32", initializer="zeros", trainable=False
        )
        self.kernel = self.add_weight(
            name="kernel", shape=(size, outputs), initializer="zeros", trainable=False
        )
        self.built = True

    def ngrams(self, token_ids, padding_mask=None):
        """int32 (B, 2T): a negative key for each token, then one for it and the next, all of real
        tokens, else `NO_KEY`. In vocabularies of more than 46,340 tokens a few pairs share theirs.
        """
        ids = ops.cast(token_ids, "int32")
        real = ops.ones_like(ids, "bool") if padding_mask is None else padding_mask
        # As many pairs as tokens: JAX cannot infer the shape of 2T - 1.
        following, next_is_real = (
            ops.pad(values[:, 1:], [[0, 0], [0, 1]]) for values in (ids, ops.cast(real, "bool"))
        )
        keys = ops.concatenate([-1 - ids, ids * self.base + following], axis=1)
        is_real = ops.concatenate([ops.cast(real, "bool"), next_is_real], axis=1)
        return ops.where(is_real, keys, NO_KEY)

    def call(self, token_ids, padding_mask=None):
        keys = self.ngrams(token_ids, padding_mask)
        flat = ops.reshape(keys, (-1,))
        place = ops.minimum(ops.searchsorted(self.keys, flat), self.keys.shape[0] - 1)
        found = ops.cast(ops.equal(ops.take(self.keys, place), flat), "float32")  # (B * 2T,)
        weights = ops.take(self.kernel, place, axis=0) * found[:, None]
        weights = ops.reshape(weights, (*ops.shape(keys), self.kernel.shape[1]))
        if padding_mask is None:
            tokens = ops.cast(ops.shape(token_ids)[1], "float32")
        else:
            tokens = ops.sum(ops.cast(padding_mask, "float32"), axis=1, keepdims=True)  # (B, 1)
        return ops.sum(weights, axis=1) * ops.rsqrt(ops.maximum(tokens, 1.0))
