"""How many weights a config asks for: by arithmetic, before anything is built."""

from __future__ import annotations

from typing import Any

from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig, ModelConfig
from zoo.models.encoder_heads import require_at_least


def count_weights(config: ModelConfig, task: str = "lm", head: dict[str, Any] | None = None) -> int:
    """The number of weights of `zoo.build(config, task, head)`, as its `count_params()` says.

    A config from elsewhere may ask for any number of them: beside the number in a file, this one
    tells at no cost whether the two can belong together. Raises ConfigError for a size of the head
    that is no whole number.
    """
    return count_backbone_weights(config) + _head_weights(config, task, head or {})


def count_backbone_weights(config: ModelConfig) -> int:
    """`count_weights` of the backbone alone."""
    if isinstance(config, LSTMConfig):
        return _lstm_weights(config)
    width, bias = config.hidden_dim, config.use_bias
    kv_dim = config.key_value_heads * config.head_dim
    gates = 2 if config.activation == "swiglu" else 1
    block = (
        _dense(width, width + 2 * kv_dim, bias)
        + _dense(width, width, bias)
        + _dense(width, gates * config.feedforward_dim, bias)
        + _dense(config.feedforward_dim, width, bias)
        + 2 * _norm(config)
        + (2 * config.head_dim if config.qk_norm else 0)
    )
    rows = config.vocabulary_size
    rows += config.context_length if config.positions == "learned" else 0
    outside = _norm(config)
    if isinstance(config, BertConfig):
        rows += config.num_segments
        outside += _dense(width, width, bias) if config.use_pooler else 0
    elif not config.tie_embeddings:
        rows += config.vocabulary_size
    return rows * width + config.num_layers * block + outside


def _lstm_weights(config: LSTMConfig) -> int:
    width, units = config.token_dim, config.hidden_dim
    directions = 2 if config.bidirectional else 1

    def layer(inputs: int) -> int:
        return directions * 4 * units * (inputs + units + 1)

    tables = 1 if config.tie_embeddings else 2
    count = tables * config.vocabulary_size * width
    count += layer(width) + (config.num_layers - 1) * layer(directions * units)
    if not config.bidirectional and width != units:
        count += _dense(units, width, True)
    return count


def _head_weights(config: ModelConfig, task: str, head: dict[str, Any]) -> int:
    width = config.hidden_dim
    if isinstance(config, LSTMConfig):
        width = 2 * config.hidden_dim if config.bidirectional else config.token_dim
    match task:
        case "mlm":
            return _dense(width, width, True) + _norm(config) + config.vocabulary_size
        case "classify" | "pair":
            return _dense(width, require_at_least("num_classes", head["num_classes"], 2), True)
        case "tag":
            return _dense(width, require_at_least("num_tags", head["num_tags"], 2), True)
        case "span":
            return _dense(width, 2, True)
        case "regress":
            return _dense(width, 1, True)
        case "embed" if head.get("embedding_dim") is not None:
            size = require_at_least("embedding_dim", head["embedding_dim"], 1)
            return _dense(width, size, False)
    return 0


def _dense(inputs: int, outputs: int, bias: bool) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _norm(config: GPTConfig | BertConfig) -> int:
    centred = config.norm == "layer_norm" and config.use_bias
    return config.hidden_dim * (2 if centred else 1)
