"""Model configurations: frozen dataclasses that survive a round trip through JSON.

A config is the whole truth about a model's shape. It is checked when it is made, so that a mistake
is an error with the field's name, and not one of shapes deep inside a layer.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zoo.config import ConfigError, Fraction, Size, config_dataclass


class _Transformer:
    """What GPTConfig and BertConfig share: a check, and values that follow from the fields."""

    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int | None
    positions: str
    initializer_range: float

    def _require_whole_heads(self) -> None:
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
        """Key/value heads, with `None` resolved."""
        return getattr(self, "num_kv_heads", None) or self.num_heads

    @property
    def feedforward_dim(self) -> int:
        """Feed-forward width, with `None` resolved."""
        return 4 * self.hidden_dim if self.intermediate_dim is None else self.intermediate_dim

    @property
    def residual_stddev(self) -> float:
        """Standard deviation of weights that write to the residual stream."""
        if getattr(self, "norm_placement", "pre") == "post":
            # Post-norm rescales the stream after every sublayer: no growth to hold back.
            return self.initializer_range
        # Radford et al., 2019: the variance of the stream does not grow with the layer count.
        return self.initializer_range / (2 * self.num_layers) ** 0.5


@config_dataclass
class GPTConfig(_Transformer):
    """Shape and options of a GPT-style decoder.

    The defaults are today's choices, which train faster than GPT-2's own. GPT-2 itself is
    `positions="learned", norm="layer_norm", activation="gelu_tanh", qk_norm=False,
    use_bias=True, tie_embeddings=True` (preset `gpt2_small`).

    Attributes:
        vocabulary_size: int. Number of token ids.
        context_length: int. Longest sequence of tokens the model attends over. Defaults to 256.
        num_layers: int. Transformer blocks. Defaults to 4.
        num_heads: int. Query heads; must divide `hidden_dim`. Defaults to 4.
        num_kv_heads: int or None. Key/value heads: `None` means `num_heads` (multi-head), 1 is
            multi-query, a divisor of `num_heads` is grouped-query attention. Defaults to None.
        hidden_dim: int. Width of the residual stream. Defaults to 128.
        intermediate_dim: int or None. Width inside the feed-forward block. `None` means
            4 x `hidden_dim`. Defaults to None.
        positions: "learned" (GPT-2) or "rotary" (Su et al., 2021). Defaults to "rotary".
        rotary_base: float. Longest rotary wavelength over 2 pi. Defaults to 10000.
        norm: "layer_norm" or "rms_norm" (Zhang & Sennrich, 2019). Defaults to "rms_norm".
        norm_epsilon: float. Added to the variance. Defaults to 1e-5.
        qk_norm: bool. RMS-normalise queries and keys per head (Henry et al., 2020).
        activation: "gelu", "gelu_tanh" (GPT-2's approximation), "squared_relu" (So et al., 2021)
            or "swiglu" (Shazeer, 2020). Defaults to "squared_relu".
        token_shift: int. How many tokens before each one its feed-forward network reads beside
            it, each with its part of the channels. Defaults to 0.
        use_bias: bool. Bias in dense layers and layer norms. Defaults to False.
        tie_embeddings: bool. Output projection shares the token embedding. Defaults to True.
        dropout: float in [0, 1). On embeddings, attention and residuals. Defaults to 0.
        initializer_range: float. Standard deviation of the initial weights. Defaults to 0.02.

    Raises:
        ConfigError: a value is out of range; the message names the field.
    """

    family: ClassVar[str] = "gpt"

    vocabulary_size: Size
    context_length: Annotated[Size, Field(ge=2)] = 256
    num_layers: Size = 4
    num_heads: Size = 4
    num_kv_heads: Size | None = None
    hidden_dim: Size = 128
    intermediate_dim: Size | None = None
    positions: Literal["learned", "rotary"] = "rotary"
    rotary_base: float = 10000.0
    norm: Literal["layer_norm", "rms_norm"] = "rms_norm"
    norm_epsilon: float = 1e-5
    qk_norm: bool = True
    activation: Literal["gelu", "gelu_tanh", "squared_relu", "swiglu"] = "squared_relu"
    token_shift: int = 0
    use_bias: bool = False
    tie_embeddings: bool = True
    dropout: Fraction = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        self._require_whole_heads()
        if not 0 <= self.token_shift < self.hidden_dim:
            raise ConfigError(
                "token_shift must be at least 0, and below hidden_dim: each of its tokens has a "
                f"part of the channels. Received: token_shift={self.token_shift}, "
                f"hidden_dim={self.hidden_dim}"
            )
        if self.num_heads % self.key_value_heads:
            raise ConfigError(
                "num_heads must be a multiple of num_kv_heads. "
                f"Received: num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"
            )


@config_dataclass
class BertConfig(_Transformer):
    """Shape and options of a BERT-style encoder, where each token sees all the others.

    The defaults are BERT's own but for size (Devlin et al., 2018). A modern encoder is
    `norm_placement="pre", norm="rms_norm", positions="rotary", activation="swiglu",
    qk_norm=True, use_bias=False` (preset `bert_small_cpu`).

    Attributes:
        vocabulary_size: int. Number of token ids.
        context_length: int. Longest sequence of tokens, special tokens included; with learned
            positions a hard limit. Defaults to 512.
        num_layers: int. Transformer blocks. Defaults to 4.
        num_heads: int. Attention heads; must divide `hidden_dim`. Defaults to 4.
        hidden_dim: int. Width of the residual stream. Defaults to 256.
        intermediate_dim: int or None. Width inside the feed-forward block. `None` means
            4 x `hidden_dim`. Defaults to None.
        num_segments: int. Kinds of segment ids, 2 for text pairs. With 1 (RoBERTa) every token
            has the same segment embedding, whatever its segment id; 0 means no segment embedding
            (DistilBERT). Defaults to 2.
        norm_placement: "post" (BERT: normalise after adding) or "pre" (before each sublayer and
            once at the end; Xiong et al., 2020). Defaults to "post".
        norm: "layer_norm" or "rms_norm". Defaults to "layer_norm".
        norm_epsilon: float. Added to the variance. Defaults to 1e-12.
        positions: "learned" or "rotary". Defaults to "learned".
        rotary_base: float. Longest rotary wavelength over 2 pi. Defaults to 10000.
        qk_norm: bool. RMS-normalise queries and keys per head. Defaults to False.
        activation: "gelu", "gelu_tanh", "squared_relu" or "swiglu". Defaults to "gelu".
        use_bias: bool. Bias in dense layers and layer norms. Defaults to True.
        use_pooler: bool. A dense layer on the first token, for classifiers. Defaults to True.
        pooler_activation: "tanh" (BERT) or "relu" (DistilBERT). Defaults to "tanh".
        dropout: float in [0, 1). On embeddings, attention and residuals. Defaults to 0.1.
        initializer_range: float. Standard deviation of the initial weights. Defaults to 0.02.

    Raises:
        ConfigError: a value is out of range; the message names the field.

    Example: `BertConfig(vocabulary_size=8000, num_layers=4, hidden_dim=256)`
    """

    family: ClassVar[str] = "bert"

    vocabulary_size: Size
    context_length: Size = 512
    num_layers: Size = 4
    num_heads: Size = 4
    hidden_dim: Size = 256
    intermediate_dim: Size | None = None
    num_segments: Annotated[int, Field(ge=0, le=2**31 - 1)] = 2
    norm_placement: Literal["post", "pre"] = "post"
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_epsilon: float = 1e-12
    positions: Literal["learned", "rotary"] = "learned"
    rotary_base: float = 10000.0
    qk_norm: bool = False
    activation: Literal["gelu", "gelu_tanh", "squared_relu", "swiglu"] = "gelu"
    use_bias: bool = True
    use_pooler: bool = True
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    dropout: Fraction = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        self._require_whole_heads()


@config_dataclass
class LSTMConfig:
    """Shape and options of a stacked LSTM: a language model, or an encoder of whole texts.

    Attributes:
        vocabulary_size: int. Number of token ids.
        context_length: int. How many tokens one training window holds, and how many of the last
            tokens of a prompt are read. The state itself has no length limit. Defaults to 256.
        num_layers: int. Stacked LSTM layers. Defaults to 2.
        hidden_dim: int. Units of each layer and direction. Defaults to 224.
        embedding_dim: int or None. Width of the token embedding. `None` means `hidden_dim`.
        tie_embeddings: bool. Output projection shares the token embedding (Press & Wolf, 2017);
            where `embedding_dim` differs from `hidden_dim` a projection stands between.
            Defaults to True.
        dropout: float in [0, 1). On embeddings and on each layer's output. Defaults to 0.
        forget_bias: float. Initial bias of the forget gate. Defaults to 1.
        initializer_range: float. Standard deviation of the initial embedding. Defaults to 0.05.
        bidirectional: bool. Each layer reads the text in both directions (Schuster & Paliwal,
            1997): an encoder for classifiers and taggers, not a language model; hidden states
            are 2 x `hidden_dim` wide. Defaults to False.

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


MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "gpt": GPTConfig,
    "bert": BertConfig,
    "lstm": LSTMConfig,
}
ModelConfig = GPTConfig | BertConfig | LSTMConfig
TransformerConfig = GPTConfig | BertConfig
