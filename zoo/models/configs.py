"""Model configurations: frozen dataclasses, checked when made, that survive a trip through JSON."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zoo.config import ConfigError, Fraction, Size, config_dataclass


@config_dataclass
class TransformerConfig:
    """What GPTConfig and BertConfig share; the defaults are GPTConfig's.

    Attributes:
        context_length: longest sequence of tokens the model attends over, special tokens
            included; with learned positions a hard limit.
        num_heads: query heads; must divide `hidden_dim`, the width of the residual stream.
        intermediate_dim: width inside the feed-forward block; `None` means 4 x `hidden_dim`.
        positions: "learned" (GPT-2, BERT) or "rotary" (Su et al., 2021).
        rotary_base: longest rotary wavelength over 2 pi.
        norm: "layer_norm" or "rms_norm" (Zhang & Sennrich, 2019).
        qk_norm: RMS-normalise queries and keys per head (Henry et al., 2020).
        activation: "gelu", "gelu_tanh" (GPT-2's approximation), "squared_relu" (So et al., 2021)
            or "swiglu" (Shazeer, 2020).
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
    positions: Literal["learned", "rotary"] = "rotary"
    rotary_base: float = 10000.0
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    norm_epsilon: float = 1e-5
    qk_norm: bool = True
    activation: Literal["gelu", "gelu_tanh", "squared_relu", "swiglu"] = "squared_relu"
    use_bias: bool = False
    dropout: Fraction = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads:
            raise ConfigError(
                "hidden_dim must be a multiple of num_heads. "
                f"Received: hidden_dim={self.hidden_dim}, num_heads={self.num_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ConfigError(
                "rotary positions turn pairs of channels, so hidden_dim / num_heads must be even. "
                f"Received: {self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_dim // self.num_heads

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
class GPTConfig(TransformerConfig):
    """A GPT-style decoder: the options of `TransformerConfig`, and these.

    The defaults are today's choices, which train faster than GPT-2's own (preset `gpt2_small`).

    Attributes:
        num_kv_heads: key/value heads: `None` means `num_heads` (multi-head), 1 is multi-query, a
            divisor of `num_heads` is grouped-query attention.
        token_shift: how many tokens before each one its feed-forward network reads beside it.
        tie_embeddings: output projection shares the token embedding.

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    family: ClassVar[str] = "gpt"

    context_length: Annotated[Size, Field(ge=2)] = 256
    num_kv_heads: Size | None = None
    token_shift: int = 0
    tie_embeddings: bool = True

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


@config_dataclass
class BertConfig(TransformerConfig):
    """A BERT-style encoder: the options of `TransformerConfig`, and these.

    The defaults are BERT's own but for size; preset `bert_small_cpu` is a modern encoder.

    Attributes:
        num_segments: kinds of segment ids, 2 for text pairs. With 1 (RoBERTa) every token has
            the same segment embedding; 0 means no segment embedding (DistilBERT).
        norm_placement: "post" (BERT: normalise after adding) or "pre" (before each sublayer and
            once at the end; Xiong et al., 2020).
        use_pooler: a dense layer on the first token, for classifiers.
        pooler_activation: "tanh" (BERT) or "relu" (DistilBERT).

    Raises:
        ConfigError: a value is out of range; the message names the field.

    Example:
        >>> BertConfig(vocabulary_size=8000, num_layers=2).feedforward_dim
        1024
    """

    family: ClassVar[str] = "bert"

    context_length: Size = 512
    hidden_dim: Size = 256
    positions: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_epsilon: float = 1e-12
    qk_norm: bool = False
    activation: Literal["gelu", "gelu_tanh", "squared_relu", "swiglu"] = "gelu"
    use_bias: bool = True
    dropout: Fraction = 0.1
    num_segments: Annotated[int, Field(ge=0, le=2**31 - 1)] = 2
    norm_placement: Literal["post", "pre"] = "post"
    use_pooler: bool = True
    pooler_activation: Literal["tanh", "relu"] = "tanh"

    @property
    def residual_stddev(self) -> float:
        """Standard deviation of weights that write to the residual stream."""
        # Post-norm rescales the stream after every sublayer: no growth to hold back.
        return self.initializer_range if self.norm_placement == "post" else super().residual_stddev


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


ModelConfig = GPTConfig | BertConfig | LSTMConfig
MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    kind.family: kind for kind in (GPTConfig, BertConfig, LSTMConfig)
}
