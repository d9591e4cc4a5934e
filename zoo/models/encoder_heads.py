"""What stands on an encoder: one class a task, from a dict of token ids to logits or vectors.

Every head takes a dict of inputs, so that `model.fit` reads batches by name:

    "token_ids": (B, T) int32,
    "padding_mask": (B, T) bool or int32, True or 1 at real tokens, False or 0 at padding,
    "segment_ids": (B, T) int32, optional, for encoders with segments.

Give `padding_mask` wherever rows are padded: without it every token counts as real, pad ids too,
and logits change. A model does not know its tokenizer's pad id; `zoo.text.packing.pack` makes the
mask.

Logits are float32 whatever the precision of the model. `zoo.build(config, task, head)` makes
one; backbones are BertBackbone and LSTMBackbone.
"""

from __future__ import annotations

import keras
from keras import ops

from zoo.config import ConfigError
from zoo.models.blocks import activate, make_norm
from zoo.models.head_base import (
    EncoderHead,
    gather_positions,
    input_dropout,
    output_dense,
    require_at_least,
)
from zoo.models.pooling import check_pooling, default_pooling


@keras.saving.register_keras_serializable(package="zoo")
class MaskedLM(EncoderHead):
    """Which token stands at a masked place: logits (B, P, V) or, of every place, (B, T, V).

    BERT's own: a transform, then the token embedding's transpose and a bias. An input
    "masked_positions" (B, P) int32 picks the places before the transform, so that the
    vocabulary projection, the widest product, is done for those alone.

    Args:
        backbone: BertBackbone.

    Raises:
        ConfigError: the backbone is not a BertBackbone.

    Example:
        model = zoo.build("bert_tiny", task="mlm", vocabulary_size=100)
        model({"token_ids": ids, "masked_positions": positions}).shape  # (B, P, 100)
    """

    task = "mlm"

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(backbone, **kwargs)
        config = backbone.config
        if config.family != "bert":
            raise ConfigError(f"MaskedLM needs a BertBackbone. Received: {config.family}")
        self.transform = keras.layers.Dense(
            config.hidden_dim,
            kernel_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range),
            name="transform",
        )
        # A gated activation would halve the width here.
        self._activation = "gelu" if config.activation == "swiglu" else config.activation
        self.transform_norm = make_norm(config, "transform_norm")
        self.output_bias = self.add_weight(
            shape=(config.vocabulary_size,),
            initializer="zeros",
            autocast=False,
            name="output_bias",
        )
        self.finish(masked_positions="int32")

    def head_weights(self) -> list[keras.Variable]:
        """The weights above the backbone."""
        return [*self.transform.weights, *self.transform_norm.weights, self.output_bias]

    def call(self, inputs, training=None):
        hidden = self.encode(inputs, training)
        if inputs.get("masked_positions") is not None:
            hidden = gather_positions(hidden, inputs["masked_positions"])  # (B, P, D)
        hidden = self.transform_norm(activate(self.transform(hidden), self._activation))
        return self.backbone.token_embedding(hidden, reverse=True) + self.output_bias


@keras.saving.register_keras_serializable(package="zoo")
class Classifier(EncoderHead):
    """One of `num_classes` labels for a text or, in segments 0 and 1, a pair: logits (B, C).

    Args:
        backbone: BertBackbone or LSTMBackbone.
        num_classes: int, at least 2.
        pooling: "cls" (the first token, through the backbone's pooler if it has one), "mean" or
            "max" over real tokens. `None` means "cls" for BERT and "max" for LSTM.
        dropout: float in [0, 1), before the output layer. Defaults to 0.1.

    Raises:
        ConfigError: an option is out of range.

    Example:
        model = zoo.build("bert_tiny", "classify", {"num_classes": 4}, vocabulary_size=100)
        model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit({"token_ids": ids, "padding_mask": ids != 0}, labels)
    """

    task = "classify"

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        pooling: str | None = None,
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.num_classes = require_at_least("num_classes", num_classes, 2)
        self.pooling = check_pooling(pooling or default_pooling(backbone), backbone)
        self.dropout = input_dropout(dropout, None, backbone.output_dim)
        self.output_layer = output_dense(num_classes, "output")
        self.finish(uses_pooler=self.pooling == "cls")

    def call(self, inputs, training=None):
        pooled = self.pool(self.encode(inputs, training), inputs, self.pooling)  # (B, D)
        return self.output_layer(self.dropout(pooled, training=training))

    def head_config(self):
        return {
            "num_classes": self.num_classes,
            "pooling": self.pooling,
            "dropout": self.dropout.rate,
        }


@keras.saving.register_keras_serializable(package="zoo")
class PairClassifier(Classifier):
    """A `Classifier` of text pairs: the same network, another task."""

    task = "pair"


@keras.saving.register_keras_serializable(package="zoo")
class Regressor(EncoderHead):
    """A number for a text or a pair: (B, 1), float32, unbounded.

    Args:
        backbone: BertBackbone or LSTMBackbone.
        pooling: as in `Classifier`.
        dropout: float in [0, 1), before the output layer. Defaults to 0.1.
    """

    task = "regress"

    def __init__(
        self, backbone: keras.Model, pooling: str | None = None, dropout: float = 0.1, **kwargs
    ):
        super().__init__(backbone, **kwargs)
        self.pooling = check_pooling(pooling or default_pooling(backbone), backbone)
        self.dropout = input_dropout(dropout, None, backbone.output_dim)
        self.output_layer = output_dense(1, "output")
        self.finish(uses_pooler=self.pooling == "cls")

    def call(self, inputs, training=None):
        pooled = self.pool(self.encode(inputs, training), inputs, self.pooling)  # (B, D)
        return self.output_layer(self.dropout(pooled, training=training))

    def head_config(self):
        return {"pooling": self.pooling, "dropout": self.dropout.rate}


@keras.saving.register_keras_serializable(package="zoo")
class Tagger(EncoderHead):
    """A tag for each token: logits (B, T, C).

    Args:
        backbone: BertBackbone or LSTMBackbone.
        num_tags: int, at least 2.
        dropout: float in [0, 1), before the output layer. Defaults to 0.1.
    """

    task = "tag"

    def __init__(self, backbone: keras.Model, num_tags: int, dropout: float = 0.1, **kwargs):
        super().__init__(backbone, **kwargs)
        self.num_tags = require_at_least("num_tags", num_tags, 2)
        self.dropout = input_dropout(dropout, None, None, backbone.output_dim)
        self.output_layer = output_dense(num_tags, "output")
        self.finish()

    def call(self, inputs, training=None):
        hidden = self.encode(inputs, training)
        return self.output_layer(self.dropout(hidden, training=training))

    def head_config(self):
        return {"num_tags": self.num_tags, "dropout": self.dropout.rate}


@keras.saving.register_keras_serializable(package="zoo")
class SpanPredictor(EncoderHead):
    """Where an answer starts and ends: logits (B, T, 2), [..., 0] of the start, 1 of the end.

    Padding and question tokens get logits too; whoever picks the span masks them.

    Args:
        backbone: BertBackbone or LSTMBackbone.
        dropout: float in [0, 1), before the output layer. Defaults to 0.1.
    """

    task = "span"

    def __init__(self, backbone: keras.Model, dropout: float = 0.1, **kwargs):
        super().__init__(backbone, **kwargs)
        self.dropout = input_dropout(dropout, None, None, backbone.output_dim)
        self.output_layer = output_dense(2, "output")
        self.finish()

    def call(self, inputs, training=None):
        hidden = self.encode(inputs, training)
        return self.output_layer(self.dropout(hidden, training=training))

    def head_config(self):
        return {"dropout": self.dropout.rate}


@keras.saving.register_keras_serializable(package="zoo")
class SentenceEncoder(EncoderHead):
    """One vector a text, for search and similarity: (B, D'), float32.

    Args:
        backbone: BertBackbone or LSTMBackbone.
        pooling: "mean" or "max" over real tokens, or "cls" (the first token, through the
            backbone's pooler if it has one). Defaults to "mean".
        embedding_dim: int or None. Width after a linear projection; `None` means no projection.
        normalize: bool. Scale to unit L2 norm, so that a dot product is the cosine. Defaults to
            True.

    Example: `zoo.build("bert_tiny", "embed", {"embedding_dim": 64}, vocabulary_size=100)`
    """

    task = "embed"

    def __init__(
        self,
        backbone: keras.Model,
        pooling: str = "mean",
        embedding_dim: int | None = None,
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.pooling = check_pooling(pooling, backbone)
        self.embedding_dim = embedding_dim
        self.normalize = normalize
        self.projection = None
        if embedding_dim is not None:
            require_at_least("embedding_dim", embedding_dim, 1)
            self.projection = keras.layers.Dense(
                embedding_dim, use_bias=False, dtype="float32", name="projection"
            )
        self.finish(uses_pooler=pooling == "cls")

    def call(self, inputs, training=None):
        vectors = ops.cast(
            self.pool(self.encode(inputs, training), inputs, self.pooling), "float32"
        )
        if self.projection is not None:
            vectors = self.projection(vectors)
        if self.normalize:
            # Under the root: at a zero vector its gradient would be infinite.
            squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)  # (B, 1)
            vectors = vectors * ops.rsqrt(ops.maximum(squares, 1e-12))
        return vectors

    def head_config(self):
        return {
            "pooling": self.pooling,
            "embedding_dim": self.embedding_dim,
            "normalize": self.normalize,
        }
