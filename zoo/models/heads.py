"""What stands on a backbone: one class a task, from token ids to logits, numbers or vectors.

`CausalLM` takes token ids, the heads of encoders a dict: `token_ids` (B, T) int32, `padding_mask`
(B, T) bool or int32, without which pad ids count as real, and `segment_ids` (B, T) int32.
"""

import keras
from keras import ops

from zoo.config import ConfigError
from zoo.models.blocks import GATED_ACTIVATIONS, activate, make_norm
from zoo.models.encoder_decoder import ConditionedDecoder
from zoo.models.ngrams import NgramLogits
from zoo.models.token_model import DictModel, TokenModel


@keras.saving.register_keras_serializable(package="zoo")
class CausalLM(TokenModel):
    """Next-token language model: token ids (B, T) to logits (B, T, V), float32.

    `logits[:, t]` predicts token t + 1: it learns from ids shifted by one. `zoo.generation` uses
    `initial_cache`, `extend_cache`, `decode`, `decode_token`, `context_length`, `cache_is_bounded`.

    Args:
        backbone: GPTBackbone or LSTMBackbone; one that sees the future raises ConfigError.

    Example:
        >>> import numpy, zoo
        >>> model = zoo.build("gpt_char_cpu", vocabulary_size=65)
        >>> model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> tuple(model(numpy.zeros((2, 10), "int32")).shape)
        (2, 10, 65)
    """

    task = "lm"
    inputs_text = "token_ids (B, T) int32"

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(backbone, **kwargs)
        if not backbone.is_causal:
            raise ConfigError(
                "a language model must not see the future: CausalLM needs a GPTBackbone, or an "
                f"LSTMBackbone with bidirectional=False. Received: {type(backbone).__name__}"
            )
        # Built at once, so that summary(), count_params() and load_weights() work right away.
        self.build((None, None))

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

        Token ids (B, T) are padded on the right; `position` (B,) is the number of tokens that each
        row's cache holds, `lengths` (B,) how many of the T are real, at least 1; `None` means all.
        """
        hidden, cache = self.backbone.decode(token_ids, cache, position, lengths)
        if lengths is None:
            return self.backbone.logits(hidden[:, -1]), cache
        # Before the vocabulary projection: it is the widest product, and needed once a row.
        last = ops.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return self.backbone.logits(last), cache

    def decode_token(self, token_ids, cache, position, write=ops.scatter_update):
        """`decode` of one token a row (B,); `write` as in `GPTBackbone.decode`."""
        hidden, cache = self.backbone.decode(token_ids[:, None], cache, position, write=write)
        return self.backbone.logits(hidden[:, -1]), cache


@keras.saving.register_keras_serializable(package="zoo")
class Translator(DictModel):
    """Writes a target text for a source: a dict of ids to logits (B, T, V), float32.

    Inputs are `token_ids` (B, S) int32 of the source, `padding_mask` (B, S), and `target_ids`
    (B, T) int32, which begin with a start token: `logits[:, t]` predicts target t + 1.

    Args:
        backbone: EncoderDecoderBackbone or LSTMEncoderDecoderBackbone; another one raises
            ConfigError.

    Example:
        >>> import zoo
        >>> model = zoo.build("seq2seq_cpu", "translate", vocabulary_size=100)
        >>> ids = ops.ones((2, 8), "int32")
        >>> tuple(model({"token_ids": ids, "target_ids": ids[:, :3]}).shape)
        (2, 3, 100)
    """

    task = "translate"
    inputs_text = 'a dict of inputs: {"token_ids": (B, S) int32, "target_ids": (B, T) int32}'
    required = ("token_ids", "target_ids")

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(backbone, **kwargs)
        if not backbone.config.family.endswith("encoder_decoder"):
            raise ConfigError(
                f"{type(self).__name__} needs an EncoderDecoderBackbone. "
                f"Received: {type(backbone).__name__}"
            )
        # Built at once, so that summary(), count_params() and load_weights() work right away.
        self.build(dict.fromkeys(("token_ids", "padding_mask", "target_ids"), (None, None)))

    def call(self, inputs, training=None):
        """Logits (B, T, V) of a dict of inputs."""
        hidden = self.backbone(self.require_inputs(inputs), training=training)
        return self.backbone.logits(hidden)

    def decoder(self, token_ids, padding_mask=None) -> ConditionedDecoder:
        """What `zoo.generation` continues a target with, of sources (B, S)."""
        states = self.backbone.encode(token_ids, padding_mask)
        return ConditionedDecoder(self.backbone, self.backbone.memory(states, padding_mask))


@keras.saving.register_keras_serializable(package="zoo")
class Summarizer(Translator):
    """A `Translator` of texts into shorter ones: the same network, another task."""

    task = "summarize"


class EncoderHead(DictModel):
    """What the heads of encoders share. A subclass makes its layers, then calls `finish`."""

    inputs_text = (
        'a dict of inputs: {"token_ids": (B, T) int32, "padding_mask": (B, T) bool or int32}'
    )

    def __init__(self, backbone: keras.Model, pooling: str | None = None, **kwargs):
        super().__init__(backbone, **kwargs)
        self.pooling = pooling  # of `encode_pooled`

    def finish(self, *extra_inputs: str):
        """Builds the model on its inputs: the usual three, and others by name."""
        pooler = getattr(self.backbone, "pooler", None)
        if pooler is not None:
            # Without a gradient it is not trainable: optimizers would warn, or only decay it.
            pooler.trainable = self.pooling == "cls" and self.backbone.trainable
        names = ["token_ids", "padding_mask"]
        if getattr(self.backbone.config, "num_segments", 0) > 1:
            names.append("segment_ids")
        # Built at once, so that summary(), count_params() and load_weights() work right away.
        self.build(dict.fromkeys([*names, *extra_inputs], (None, None)))

    @property
    def features_shape(self) -> tuple:
        """Shape of what the head's layers read: a vector a row or, without pooling, a token."""
        return (None, *([] if self.pooling else [None]), self.backbone.output_dim)

    def build(self, input_shape):
        super().build(input_shape["token_ids"])
        if hasattr(self, "transform"):
            self.transform.build(self.features_shape)
            self.transform_norm.build((*self.features_shape[:-1], self.transform.units))

    def add_transform(self, width: int, use_bias: bool) -> None:
        """Makes what `transformed` needs."""
        config = self.backbone.config
        self.transform = keras.layers.Dense(
            width,
            use_bias=use_bias,
            kernel_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range),
            name="transform",
        )
        # A gated activation would halve the width here.
        gated = config.activation in GATED_ACTIVATIONS
        self._activation = "gelu" if gated else config.activation
        self.transform_norm = make_norm(config, "transform_norm")

    def transformed(self, hidden):
        """A dense layer, an activation and a norm of hidden states or vectors (..., D)."""
        return self.transform_norm(activate(self.transform(hidden), self._activation))

    def encode(self, inputs: dict, training):
        """Hidden states (B, T, D) of the inputs dict."""
        token_ids = self.require_inputs(inputs)["token_ids"]
        return self.backbone(
            token_ids,
            padding_mask=inputs.get("padding_mask"),
            segment_ids=inputs.get("segment_ids"),
            training=training,
        )

    def encode_pooled(self, inputs: dict, training):
        """One vector a row (B, D), by `self.pooling`."""
        hidden = self.encode(inputs, training)
        if self.pooling == "cls" and getattr(self.backbone, "pooler", None) is not None:
            return self.backbone.pool(hidden)
        return pool(hidden, inputs.get("padding_mask"), self.pooling)


def pool(hidden, padding_mask, pooling: str):
    """Hidden states (B, T, D) to (B, D), float32, over real tokens; an empty row gives zeros."""
    if pooling == "cls":
        return ops.cast(hidden[:, 0], "float32")
    # Before summing: half precision loses digits over many tokens.
    hidden = ops.cast(hidden, "float32")
    if padding_mask is None:
        return ops.mean(hidden, axis=1) if pooling == "mean" else ops.max(hidden, axis=1)
    real = ops.cast(padding_mask, "bool")[:, :, None]  # (B, T, 1)
    if pooling == "mean":
        weights = ops.cast(real, "float32")
        count = ops.maximum(ops.sum(weights, axis=1), 1.0)  # (B, 1)
        return ops.sum(weights * hidden, axis=1) / count
    highest = ops.max(ops.where(real, hidden, -1e30), axis=1)
    return ops.where(ops.any(real, axis=1), highest, 0.0)


def _checked_pooling(pooling: str | None, backbone: keras.Model) -> str:
    if pooling is None:  # Conneau et al., 2017, for the LSTM
        return "cls" if backbone.config.family == "bert" else "max"
    if pooling not in ("cls", "mean", "max"):
        raise ConfigError(f"pooling must be one of cls, mean, max. Received: {pooling!r}")
    if pooling == "cls" and backbone.is_causal:
        raise ConfigError(
            "pooling='cls' takes the first token, which in a model that reads forwards only has "
            "seen nothing but itself: use 'mean' or 'max', or bidirectional=True"
        )
    return pooling


def require_at_least(name: str, value: int, least: int) -> int:
    """`value` itself if it is an int of at least `least`; else ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number from {least} on. Received: {value!r}")
    return value


@keras.saving.register_keras_serializable(package="zoo")
class MaskedLM(EncoderHead):
    """Which token stands at a masked place: logits (B, P, V) or, of every place, (B, T, V).

    An input "masked_positions" (B, P) int32 picks the places before the widest product.

    Args:
        backbone: BertBackbone; another one raises ConfigError.

    Example:
        >>> import zoo
        >>> model = zoo.build("bert_tiny", task="mlm", vocabulary_size=100)
        >>> ids = ops.ones((2, 8), "int32")
        >>> tuple(model({"token_ids": ids, "masked_positions": ids[:, :3]}).shape)
        (2, 3, 100)
    """

    task = "mlm"

    def __init__(self, backbone: keras.Model, **kwargs):
        super().__init__(backbone, **kwargs)
        config = backbone.config
        if config.family != "bert":
            raise ConfigError(f"MaskedLM needs a BertBackbone. Received: {config.family}")
        # As wide as the embedding, which the output shares.
        self.add_transform(config.token_dim, config.use_bias is True or not config.head_transform)
        self.output_bias = self.add_weight(
            name="output_bias", shape=(config.vocabulary_size,), initializer="zeros", autocast=False
        )
        self.finish("masked_positions")

    def head_weights(self) -> list[keras.Variable]:
        """The weights above the backbone."""
        return [*self.transform.weights, *self.transform_norm.weights, self.output_bias]

    def call(self, inputs, training=None):
        hidden = self.encode(inputs, training)
        positions = inputs.get("masked_positions")
        if positions is not None:
            # One gather of whole rows: take_along_axis would make an index for every channel.
            batch_size, length, width = ops.shape(hidden)
            starts = ops.arange(batch_size, dtype="int32")[:, None] * length
            hidden = ops.take(ops.reshape(hidden, (-1, width)), positions + starts, axis=0)
        hidden = self.transformed(hidden)
        return self.backbone.token_embedding(hidden, reverse=True) + self.output_bias


class _DenseHead(EncoderHead):
    """Dropout and a dense layer, on the pooled vector or, without `pooling`, on each token."""

    def __init__(self, backbone, outputs: int, dropout: float, pooling: str | None, **kwargs):
        super().__init__(backbone, pooling, **kwargs)
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1). Received: {dropout!r}")
        self.has_transform = getattr(backbone.config, "head_transform", False)
        if self.has_transform:
            self.add_transform(backbone.output_dim, backbone.config.has_bias("transform"))
        self.dropout = keras.layers.Dropout(dropout)
        # Small weights: at the start every class is as likely as the others.
        self.output_layer = keras.layers.Dense(
            outputs,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype="float32",
            name="output",
        )
        self.finish()

    def build(self, input_shape):
        super().build(input_shape)
        for layer in (self.dropout, self.output_layer):  # dropout for `summary()`
            layer.build(self.features_shape)

    def call(self, inputs, training=None):
        x = (self.encode_pooled if self.pooling else self.encode)(inputs, training)
        x = self.transformed(x) if self.has_transform else x
        return self.output_layer(self.dropout(x, training=training))

    def head_config(self):
        return {**super().head_config(), "dropout": self.dropout.rate}


@keras.saving.register_keras_serializable(package="zoo")
class Classifier(_DenseHead):
    """One of `num_classes` labels for a text or, in segments 0 and 1, a pair: logits (B, C).

    Args:
        backbone: BertBackbone or LSTMBackbone.
        num_classes: at least 2.
        pooling: "cls" (the first token, through the backbone's pooler if it has one), "mean" or
            "max" over real tokens. `None` means "cls" for BERT and "max" for LSTM.
        dropout: in [0, 1), before the output layer.
        ngrams: tokens and pairs of tokens with weights of their own, see `NgramLogits`, which are
            added to the logits except in training.

    Raises:
        ConfigError: an option is out of range.

    Example:
        >>> import zoo
        >>> model = zoo.build("bert_tiny", "classify", {"num_classes": 4}, vocabulary_size=100)
        >>> tuple(model({"token_ids": ops.ones((2, 8), "int32")}).shape)
        (2, 4)
    """

    task = "classify"

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        pooling: str | None = None,
        dropout: float = 0.1,
        ngrams: int = 0,
        **kwargs,
    ):
        self.num_classes = require_at_least("num_classes", num_classes, 2)
        self.ngrams = require_at_least("ngrams", ngrams, 0)
        pooling = _checked_pooling(pooling, backbone)
        super().__init__(backbone, num_classes, dropout, pooling, **kwargs)

    def finish(self):
        self.ngram_logits = self._ngram_layer() if self.ngrams else None
        super().finish()

    def _ngram_layer(self) -> NgramLogits:
        vocabulary = self.backbone.config.vocabulary_size
        return NgramLogits(self.ngrams, self.num_classes, vocabulary, name="ngrams")

    def add_ngrams(self, keys, kernel):
        """Gives a trained model n-grams: `keys` (N,) int32, sorted, and `kernel` (N, C) float32."""
        self.ngrams = len(keys)
        self._tracker.unlock()
        self.ngram_logits = self._ngram_layer()
        self._tracker.lock()
        self.ngram_logits.set_weights([keys, kernel])
        self.make_predict_function(force=True)  # what JAX has compiled knows nothing of them

    def call(self, inputs, training=None):
        logits = super().call(inputs, training)
        if training or not self.ngrams:
            return logits
        return logits + self.ngram_logits(inputs["token_ids"], inputs.get("padding_mask"))


@keras.saving.register_keras_serializable(package="zoo")
class PairClassifier(Classifier):
    """A `Classifier` of text pairs: the same network, another task."""

    task = "pair"


@keras.saving.register_keras_serializable(package="zoo")
class Regressor(_DenseHead):
    """A number for a text or a pair: (B, 1), float32, unbounded; arguments as in `Classifier`."""

    task = "regress"

    def __init__(
        self, backbone: keras.Model, pooling: str | None = None, dropout: float = 0.1, **kwargs
    ):
        super().__init__(backbone, 1, dropout, _checked_pooling(pooling, backbone), **kwargs)


@keras.saving.register_keras_serializable(package="zoo")
class Tagger(_DenseHead):
    """A tag for each token: logits (B, T, `num_tags`); arguments as in `Classifier`."""

    task = "tag"

    def __init__(self, backbone: keras.Model, num_tags: int, dropout: float = 0.1, **kwargs):
        self.num_tags = require_at_least("num_tags", num_tags, 2)
        super().__init__(backbone, num_tags, dropout, None, **kwargs)


@keras.saving.register_keras_serializable(package="zoo")
class SpanPredictor(_DenseHead):
    """Where an answer starts and ends: logits (B, T, 2); arguments as in `Classifier`."""

    task = "span"

    def __init__(self, backbone: keras.Model, dropout: float = 0.1, **kwargs):
        super().__init__(backbone, 2, dropout, None, **kwargs)


@keras.saving.register_keras_serializable(package="zoo")
class SentenceEncoder(EncoderHead):
    """One vector a text, for search and similarity: (B, D'), float32.

    Args:
        backbone, pooling: as in `Classifier`.
        embedding_dim: width after a linear projection; `None` means no projection.
        normalize: scale to unit L2 norm, so that a dot product is the cosine.

    Example:
        >>> import zoo
        >>> model = zoo.build("bert_tiny", "embed", {"embedding_dim": 64}, vocabulary_size=100)
        >>> tuple(model({"token_ids": ops.ones((2, 8), "int32")}).shape)
        (2, 64)
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
        super().__init__(backbone, _checked_pooling(pooling, backbone), **kwargs)
        self.embedding_dim = embedding_dim
        self.normalize = normalize
        self.projection = None
        if embedding_dim is not None:
            require_at_least("embedding_dim", embedding_dim, 1)
            self.projection = keras.layers.Dense(
                embedding_dim, use_bias=False, dtype="float32", name="projection"
            )
        self.finish()

    def build(self, input_shape):
        super().build(input_shape)
        if self.projection is not None:
            self.projection.build(self.features_shape)

    def call(self, inputs, training=None):
        vectors = ops.cast(self.encode_pooled(inputs, training), "float32")
        if self.projection is not None:
            vectors = self.projection(vectors)
        if self.normalize:
            # Under the root: at a zero vector its gradient would be infinite.
            squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)  # (B, 1)
            vectors = vectors * ops.rsqrt(ops.maximum(squares, 1e-12))
        return vectors
