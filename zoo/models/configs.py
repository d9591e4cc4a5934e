"""Model configurations: frozen dataclasses, checked when made, that survive a trip through JSON."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zoo.config import ConfigError, Fraction, Size, config_dataclass
from zoo.models.attention_options import (
    AttentionOptions,
    LayerType,
    Positive,
    RelativeAttention,
    Rotary,
    RotaryScaling,
)

Activation = Literal[
    "gelu", "gelu_tanh", "relu", "silu", "squared_relu", "swiglu", "geglu", "geglu_tanh"
]
# Where dense layers have a bias, if it is not all of them or none.
_BIASES = {"qkv": ("qkv",), "attention": ("qkv", "output"), "feedforward": ("expand", "contract")}


@config_dataclass
class TransformerConfig:
    """What GPTConfig and BertConfig share; the defaults are GPTConfig's.

    Attributes:
        context_length: longest sequence of tokens the model attends over, special tokens
            included; with learned positions a hard limit.
        num_heads: query heads; must divide `hidden_dim`, the width of the residual stream, unless
            a GPT's `key_dim` says how wide they are.
        intermediate_dim: width inside the feed-forward block; `None` means 4 x `hidden_dim`.
        positions: "learned" (GPT-2, BERT) or "rotary" (Su et al., 2021).
        rotary_base: longest rotary wavelength over 2 pi.
        norm: "layer_norm" or "rms_norm" (Zhang & Sennrich, 2019).
        qk_norm: RMS-normalise queries and keys per head (Henry et al., 2020).
        activation: "gelu", "gelu_tanh" (GPT-2's approximation), "relu", "silu", "squared_relu" (So
            et al., 2021) or gated (Shazeer, 2020): "swiglu", "geglu", "geglu_tanh".
        use_bias: bias in dense layers and layer norms.
        dropout: on embeddings, attention and residuals.
        initializer_range: standard deviation of the initial weights.
    """

    vocabulary_size: Size
    context_length: Size = 256
    num_layers: Size = 4
    num_heads: Size = 4
    hidden_dim: Size = 128
    intermediate_dim: Size | None = None
    positions: Literal["learned", "rotary", "sinusoidal", "relative", "none"] = "rotary"
    rotary_base: Positive = 10000.0
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    norm_epsilon: Positive = 1e-5
    qk_norm: bool | Literal["projection"] = True
    activation: Activation = "squared_relu"
    use_bias: bool | Literal["qkv", "attention", "feedforward"] = False
    dropout: Fraction = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads and getattr(self, "key_dim", None) is None:
            raise ConfigError(
                "hidden_dim must be a multiple of num_heads. "
                f"Received: hidden_dim={self.hidden_dim}, num_heads={self.num_heads}"
            )
        channels = self.rotary_channels
        if self.positions == "rotary" and (channels % 2 or channels == 0):
            raise ConfigError(
                "rotary positions turn pairs of channels, so the channels of a head that they turn "
                f"(by default hidden_dim / num_heads) must be even. Received: {channels}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return getattr(self, "key_dim", None) or self.hidden_dim // self.num_heads

    def attention_options(self, layer: int) -> AttentionOptions:
        """What attention does in a layer, counted from 0."""
        rotary = Rotary(self.rotary_base, self.rotary_channels)
        return AttentionOptions(self.head_dim**-0.5, rotary if self.positions == "rotary" else None)

    @property
    def rotary_channels(self) -> int:
        """Channels of each head that rotary positions turn."""
        return int(self.head_dim * getattr(self, "rotary_fraction", 1.0))

    @property
    def rotary_kinds(self) -> tuple[Rotary, ...]:
        """The different rotary positions of the layers."""
        every = (self.attention_options(layer).rotary for layer in range(self.num_layers))
        return tuple(dict.fromkeys(kind for kind in every if kind is not None))

    def has_bias(self, layer: str) -> bool:
        """Whether a dense layer has a bias: by its name, "qkv", "output" and so on."""
        if isinstance(self.use_bias, bool):
            return self.use_bias
        return layer in _BIASES[self.use_bias]

    def has_attention_norm(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has a norm of its attention."""
        return True

    @property
    def token_dim(self) -> int:
        """Width of the token embedding."""
        return getattr(self, "embedding_dim", None) or self.hidden_dim

    @property
    def key_value_heads(self) -> int:
        """Key/value heads: as many as query heads, or fewer in a GPT."""
        return getattr(self, "num_kv_heads", None) or self.num_heads

    @property
    def feedforward_dim(self) -> int:
        """Feed-forward width, with `None` resolved."""
        return 4 * self.hidden_dim if self.intermediate_dim is None else self.intermediate_dim

    @property
    def residual_stddev(self) -> float:
        """Standard deviation of weights that write to the residual stream."""
        # Radford et al., 2019: the variance of the stream does not grow with the layer count.
        return self.initializer_range / (2 * self.num_layers) ** 0.5


@config_dataclass
class LayeredConfig(TransformerConfig):
    """A stack in which some layers attend over a window; `GPTConfig` and `BertConfig` say more."""

    layer_types: tuple[LayerType, ...] = ()
    sliding_window: Size | None = None
    local_rotary_base: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        slides = "sliding_attention" in self.layer_types
        if slides != (self.sliding_window is not None) and self.layer_types:
            raise ConfigError(
                'sliding_window belongs to layers of type "sliding_attention": give both or none. '
                f"Received: sliding_window={self.sliding_window}, layer_types={self.layer_types}"
            )

    def layer_type(self, layer: int) -> LayerType:
        """The kind of attention of a layer, counted from 0."""
        if self.layer_types:
            return self.layer_types[layer % len(self.layer_types)]
        return "full_attention" if self.sliding_window is None else "sliding_attention"

    def attention_options(self, layer: int) -> AttentionOptions:
        """What attention does in a layer, counted from 0."""
        options = super().attention_options(layer)
        if self.layer_type(layer) == "full_attention":
            return options
        if options.rotary is not None and self.local_rotary_base is not None:
            options = options._replace(rotary=options.rotary._replace(base=self.local_rotary_base))
        return options._replace(window=self.sliding_window)


@config_dataclass
class GPTConfig(LayeredConfig):
    """A GPT-style decoder: the options of `TransformerConfig`, and these.

    The defaults are today's choices, which train faster than GPT-2's own (preset `gpt2_small`).

    Lists of layers are patterns: they begin anew where they are shorter than `num_layers`.

    Attributes:
        num_kv_heads: key/value heads: `None` means `num_heads` (multi-head), 1 is multi-query, a
            divisor of `num_heads` is grouped-query attention.
        key_dim: channels of one head's query, key and value; `None` means hidden_dim / num_heads.
        token_shift: how many tokens before each one its feed-forward network reads beside it.
        tie_embeddings: output projection shares the token embedding.
        use_bias: also "qkv", "attention" (with its output) or "feedforward", nowhere else.
        qk_norm: also "projection", over all heads together (OLMo 2).
        qk_norm_epsilon: of these norms.
        norm_placement: "pre" (before each sublayer), "output" (OLMo 2: of what a sublayer gives,
            before it is added) or "both" (Gemma 2).
        parallel_residual: attention and feed-forward read the same input (GPT-J, GPT-NeoX).
        rotary_fraction: part of each head's channels that rotary positions turn.
        rotary_scaling: slower rotary positions for longer texts.
        rotary_layers: which layers have rotary positions (SmolLM3: not every fourth).
        layer_types: "full_attention" or "sliding_attention" of each layer; by default all slide
            if there is a `sliding_window`.
        sliding_window: how many tokens one sees in such layers, itself included.
        local_rotary_base: `rotary_base` of layers with a window, which are then not scaled.
        query_scalar: scores are divided by its root; `None` means by that of the head's width.
        attention_soft_cap: scores s become cap * tanh(s / cap) (Gemma 2).
        logit_soft_cap: the same of the logits.
        scale_embeddings: token embeddings times the root of `hidden_dim` (Vaswani et al., 2017).

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    family: ClassVar[str] = "gpt"

    positions: Literal["learned", "rotary"] = "rotary"
    context_length: Annotated[Size, Field(ge=2)] = 256
    num_kv_heads: Size | None = None
    token_shift: int = 0
    tie_embeddings: bool = True
    key_dim: Size | None = None
    qk_norm_epsilon: Positive = 1e-6
    norm_placement: Literal["pre", "output", "both"] = "pre"
    parallel_residual: bool = False
    rotary_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    rotary_scaling: RotaryScaling | None = None
    rotary_layers: Annotated[tuple[bool, ...], Field(min_length=1)] = (True,)
    query_scalar: Size | None = None
    attention_soft_cap: Positive | None = None
    logit_soft_cap: Positive | None = None
    scale_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.token_shift < self.hidden_dim:
            raise ConfigError(
                "token_shift must be at least 0, and below hidden_dim: they share the channels. "
                f"Received: token_shift={self.token_shift}, hidden_dim={self.hidden_dim}"
            )
        if self.num_heads % self.key_value_heads:
            raise ConfigError(
                "num_heads must be a multiple of num_kv_heads. "
                f"Received: num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"
            )

    def has_rotary_positions(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has rotary positions."""
        return self.positions == "rotary" and self.rotary_layers[layer % len(self.rotary_layers)]

    def attention_options(self, layer: int) -> AttentionOptions:
        """What attention does in a layer, counted from 0."""
        options = super().attention_options(layer)
        rotary = options.rotary if self.has_rotary_positions(layer) else None
        has_own_base = options.window is not None and self.local_rotary_base is not None
        if rotary is not None and not has_own_base:
            rotary = rotary._replace(scaling=self.rotary_scaling)
        return options._replace(
            query_scale=(self.query_scalar or self.head_dim) ** -0.5,
            rotary=rotary,
            soft_cap=self.attention_soft_cap,
        )


@config_dataclass
class BertConfig(LayeredConfig):
    """A BERT-style encoder: the options of `TransformerConfig`, and these.

    The defaults are BERT's own but for size; preset `bert_small_cpu` is a modern encoder.

    Attributes:
        positions: "learned", "rotary" or "none".
        layer_types: "full_attention" or "sliding_attention" of each layer, as in `GPTConfig`.
        sliding_window: in such layers tokens see each other at distances below it.
        local_rotary_base: `rotary_base` of these layers.
        relative_attention: relative positions in the scores (DeBERTa).
        embedding_dim: width of all embeddings, which a dense layer then widens (ALBERT, ELECTRA);
            `None` means `hidden_dim`, without that layer.
        shared_layers: all layers have the weights of the first one (ALBERT).
        num_segments: kinds of segment ids, 2 for text pairs. With 1 (RoBERTa) every token has
            the same segment embedding; 0 means no segment embedding (DistilBERT).
        norm_placement: "post" (BERT: normalise after adding) or "pre" (before each sublayer and
            once at the end; Xiong et al., 2020).
        embedding_norm: of "pre", the norm of the first attention is of the embeddings, and the
            residual stream begins behind it (ModernBERT).
        use_pooler: a dense layer on the first token, for classifiers.
        pooler_activation: "tanh" (BERT), "relu" (DistilBERT) or "gelu" (ELECTRA, DeBERTa).
        head_transform: all heads have a dense layer, an activation and a norm before their output,
            as else only that for masked tokens has (ModernBERT).

    Raises:
        ConfigError: a value is out of range; the message names the field.

    Example:
        >>> BertConfig(vocabulary_size=8000, num_layers=2).feedforward_dim
        1024
    """

    family: ClassVar[str] = "bert"

    context_length: Size = 512
    hidden_dim: Size = 256
    positions: Literal["learned", "rotary", "none"] = "learned"
    relative_attention: RelativeAttention | None = None
    embedding_dim: Size | None = None
    shared_layers: bool = False
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_epsilon: Positive = 1e-12
    qk_norm: bool = False
    activation: Activation = "gelu"
    use_bias: bool = True
    dropout: Fraction = 0.1
    num_segments: Annotated[int, Field(ge=0, le=2**31 - 1)] = 2
    norm_placement: Literal["post", "pre"] = "post"
    embedding_norm: bool = False
    use_pooler: bool = True
    pooler_activation: Literal["tanh", "relu", "gelu"] = "tanh"
    head_transform: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_norm and self.norm_placement == "post":
            raise ConfigError("embedding_norm needs norm_placement='pre': 'post' always has it")
        if self.shared_layers and (self.embedding_norm or len({*self.layer_types}) > 1):
            raise ConfigError(
                "shared_layers needs layers of one kind: layer_types of one value, and "
                "embedding_norm=False"
            )

    def has_attention_norm(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has a norm of its attention."""
        return layer > 0 or not self.embedding_norm

    def attention_options(self, layer: int) -> AttentionOptions:
        """What attention does in a layer, counted from 0."""
        options = super().attention_options(layer)
        if self.relative_attention is None:
            return options
        # A sum of so many products of query and key.
        terms = 1 + len(self.relative_attention.terms)
        return options._replace(query_scale=(self.head_dim * terms) ** -0.5)

    @property
    def residual_stddev(self) -> float:
        """Standard deviation of weights that write to the residual stream."""
        # Post-norm rescales the stream after every sublayer: no growth to hold back.
        return self.initializer_range if self.norm_placement == "post" else super().residual_stddev


@config_dataclass
class EncoderDecoderConfig(TransformerConfig):
    """An encoder of a source text and a decoder of the target: `TransformerConfig`, and these.

    Both have the same width; `qk_norm` and rotary positions are of self-attention alone.

    Attributes:
        context_length: longest source, and longest target, in tokens.
        num_layers: of the encoder.
        decoder_layers: `None` means `num_layers`.
        key_dim: channels of one head's query, key and value; `None` means hidden_dim / num_heads.
        query_scalar: scores are divided by its root; `None` means by that of the head's width.
        positions: also "sinusoidal" (Vaswani et al., 2017) or "relative" (T5: a learned number for
            each head and distance is added to the scores).
        relative_buckets: kinds of distances, the larger ones rounded.
        relative_distance: longer distances are all of one kind.
        norm_placement: "pre" (before each sublayer and once at the end) or "post" (after adding).
        embedding_norm: a norm of the embeddings (BART).
        tie_embeddings: output projection shares the token embedding of source and target.
        scale_embeddings: token embeddings times the root of `hidden_dim`.
        scale_logits: hidden states divided by that root before the output projection (T5 1.0).
        logit_bias: a number for each token is added to the logits (BART, Marian).

    Raises:
        ConfigError: a value is out of range; the message names the field.

    Example:
        >>> EncoderDecoderConfig(vocabulary_size=8000, num_layers=2).layers_of_decoder
        2
    """

    family: ClassVar[str] = "encoder_decoder"

    decoder_layers: Size | None = None
    key_dim: Size | None = None
    query_scalar: Size | None = None
    relative_buckets: Annotated[Size, Field(ge=4)] = 32
    relative_distance: Size = 128
    norm_placement: Literal["pre", "post"] = "pre"
    qk_norm: bool = False
    activation: Activation = "swiglu"
    embedding_norm: bool = False
    tie_embeddings: bool = True
    scale_embeddings: bool = False
    scale_logits: bool = False
    logit_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative_distance <= self.relative_buckets // 2:
            raise ConfigError(
                "relative_distance must be above half of relative_buckets. "
                f"Received: {self.relative_distance}, {self.relative_buckets}"
            )

    @property
    def layers_of_decoder(self) -> int:
        """Layers of the decoder, with `None` resolved."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    def attention_options(self, layer: int) -> AttentionOptions:
        """What attention does in a layer, counted from 0."""
        scale = (self.query_scalar or self.head_dim) ** -0.5
        return super().attention_options(layer)._replace(query_scale=scale)


@config_dataclass
class LSTMConfig:
    """A stacked LSTM: a language model, or an encoder of whole texts.

    Attributes:
        context_length: how many tokens one training window holds, and how many of the last tokens
            of a prompt are read. The state itself has no length limit.
        hidden_dim: units of each layer and direction.
        embedding_dim: width of the token embedding; `None` means `hidden_dim`.
        tie_embeddings: output projection shares the token embedding (Press & Wolf, 2017); where
            `embedding_dim` differs from `hidden_dim` a projection stands between.
        dropout: on embeddings and on each layer's output.
        forget_bias: initial bias of the forget gate.
        initializer_range: standard deviation of the initial embedding.
        bidirectional: each layer reads the text in both directions (Schuster & Paliwal, 1997): an
            encoder, not a language model; hidden states are 2 x `hidden_dim` wide.

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    family: ClassVar[str] = "lstm"

    vocabulary_size: Size
    context_length: Size = 256
    num_layers: Size = 2
    hidden_dim: Size = 224
    embedding_dim: Size | None = None
    tie_embeddings: bool = True
    dropout: Fraction = 0.0
    forget_bias: float = 1.0
    initializer_range: float = 0.05
    bidirectional: bool = False

    @property
    def token_dim(self) -> int:
        """Width of the token embedding, with `None` resolved."""
        return self.hidden_dim if self.embedding_dim is None else self.embedding_dim

    @property
    def output_dim(self) -> int:
        """Width of a hidden state."""
        return 2 * self.hidden_dim if self.bidirectional else self.token_dim


@config_dataclass
class LSTMEncoderDecoderConfig(LSTMConfig):
    """An `LSTMConfig` of the target, which attends to a bidirectional LSTM of the source.

    That one has as many layers, each of half of `hidden_dim` in each direction, and an embedding of
    its own.

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    family: ClassVar[str] = "lstm_encoder_decoder"

    context_length: Size = 64
    num_layers: Size = 1
    hidden_dim: Annotated[Size, Field(multiple_of=2)] = 256

    def __post_init__(self) -> None:
        if self.bidirectional:
            raise ConfigError("bidirectional must be False: a target is written forwards")

    @property
    def source(self) -> LSTMConfig:
        """The LSTM that reads sources."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(LSTMConfig)}
        width = {"hidden_dim": self.hidden_dim // 2, "embedding_dim": self.token_dim}
        return LSTMConfig(**{**values, **width, "bidirectional": True, "tie_embeddings": True})


ModelConfig = GPTConfig | BertConfig | LSTMConfig | EncoderDecoderConfig | LSTMEncoderDecoderConfig
MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    kind.family: kind
    for kind in (
        GPTConfig,
        BertConfig,
        LSTMConfig,
        EncoderDecoderConfig,
        LSTMEncoderDecoderConfig,
    )
}
