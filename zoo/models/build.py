"""A preset or config, a task and head options become a Keras model."""

import dataclasses
from typing import Any

import keras

from zoo.config import ConfigError
from zoo.models import heads
from zoo.models.bert import BertBackbone
from zoo.models.blocks import GATED_ACTIVATIONS
from zoo.models.configs import (
    BertConfig,
    EncoderDecoderConfig,
    LSTMConfig,
    LSTMEncoderDecoderConfig,
    ModelConfig,
    TransformerConfig,
)
from zoo.models.encoder_decoder import EncoderDecoderBackbone
from zoo.models.gpt import GPTBackbone
from zoo.models.lstm import LSTMBackbone
from zoo.models.lstm_encoder_decoder import LSTMEncoderDecoderBackbone
from zoo.models.token_model import TokenModel
from zoo.presets import preset_config, tasks_for

BACKBONES = {
    "gpt": GPTBackbone,
    "bert": BertBackbone,
    "lstm": LSTMBackbone,
    "encoder_decoder": EncoderDecoderBackbone,
    "lstm_encoder_decoder": LSTMEncoderDecoderBackbone,
}
HEADS: dict[str, type[TokenModel]] = {
    "lm": heads.CausalLM,
    "mlm": heads.MaskedLM,
    "classify": heads.Classifier,
    "pair": heads.PairClassifier,
    "tag": heads.Tagger,
    "span": heads.SpanPredictor,
    "embed": heads.SentenceEncoder,
    "regress": heads.Regressor,
    "translate": heads.Translator,
    "summarize": heads.Summarizer,
}


def build(
    preset_or_config: str | ModelConfig,
    task: str = "lm",
    head: dict[str, Any] | None = None,
    **overrides,
) -> keras.Model:
    """A freshly initialised, built model for a task.

    Args:
        preset_or_config: preset name, or a config of `zoo.models.configs`.
        task: "lm", "mlm", "classify", "pair", "tag", "span", "embed", "regress", "translate" or
            "summarize".
        head: options of the head, such as {"num_classes": 4}; the classes in `HEADS` list them.
        **overrides: config fields to replace; a preset needs `vocabulary_size`.

    Raises:
        ConfigError: a preset, field, task or head option is unknown, missing, or does not fit.

    Example:
        >>> import zoo
        >>> zoo.build("gpt_char_cpu", vocabulary_size=65).count_params()
        800256
        >>> zoo.build("bert_tiny", "classify", {"num_classes": 4}, vocabulary_size=90).task
        'classify'
    """
    if isinstance(preset_or_config, str):
        config = preset_config(preset_or_config, **overrides)
        if config.vocabulary_size == 1:
            raise ConfigError(
                f"preset {preset_or_config!r} needs vocabulary_size=..., "
                "such as your tokenizer's vocabulary_size"
            )
    else:
        config = dataclasses.replace(preset_or_config, **overrides)
    check_task(config, task, head or {})
    backbone = BACKBONES[config.family](config, name="backbone")
    return HEADS[task](backbone, name=config.family, **(head or {}))


def check_task(config: ModelConfig, task: str, head: dict[str, Any]):
    """Raises ConfigError unless config, task and head options fit together; builds nothing."""
    if task not in HEADS:
        raise ConfigError(f"unknown task {task!r}; known tasks: {', '.join(HEADS)}")
    possible = tasks_for(config)
    if task not in possible:
        kind = config.family
        if getattr(config, "bidirectional", False):
            kind += " with bidirectional=True"
        raise ConfigError(f"{kind} cannot do task {task!r}; it can do: {', '.join(possible)}")
    options = HEADS[task].head_options()
    for key in head:
        if key not in options:
            known = ", ".join(options) or "none"
            raise ConfigError(f"task {task!r} has no head option {key!r}; known options: {known}")
    for name, option in options.items():
        if option.default is option.empty and name not in head:
            raise ConfigError(f"task {task!r} needs the head option {name!r}")


def count_weights(config: ModelConfig, task: str = "lm", head: dict[str, Any] | None = None) -> int:
    """`zoo.build(config, task, head).count_params()` at no cost: a file may ask for any size."""
    head = head or {}
    width = config.output_dim if isinstance(config, LSTMConfig) else config.hidden_dim
    count = count_backbone_weights(config)
    match task:
        case "mlm":
            transform_bias = config.use_bias is True or not config.head_transform
            count += _dense(width, config.token_dim, transform_bias)
            count += _norm(config, config.token_dim) + config.vocabulary_size
        case "classify" | "pair":
            classes = heads.require_at_least("num_classes", head["num_classes"], 2)
            count += _dense(width, classes)
            count += heads.require_at_least("ngrams", head.get("ngrams", 0), 0) * (1 + classes)
        case "tag":
            count += _dense(width, heads.require_at_least("num_tags", head["num_tags"], 2))
        case "span":
            count += _dense(width, 2)
        case "regress":
            count += _dense(width, 1)
        case "embed" if head.get("embedding_dim") is not None:
            count += width * heads.require_at_least("embedding_dim", head["embedding_dim"], 1)
    if getattr(config, "head_transform", False) and task not in ("mlm", "embed"):
        count += _dense(width, width, config.has_bias("transform")) + _norm(config)
    return count


def count_backbone_weights(config: ModelConfig) -> int:
    """`count_weights` of the backbone alone."""
    if isinstance(config, LSTMConfig):
        width, units = config.token_dim, config.hidden_dim
        directions = 2 if config.bidirectional else 1
        inputs = [width, *[directions * units] * (config.num_layers - 1)]  # of each layer
        count = (1 if config.tie_embeddings else 2) * config.vocabulary_size * width
        count += sum(directions * 4 * units * (size + units + 1) for size in inputs)
        projected = not config.bidirectional and width != units
        count += _dense(units, width) if projected else 0
        if isinstance(config, LSTMEncoderDecoderConfig):
            count += count_backbone_weights(config.source) + _dense(units, width, bias=False)
            count += _dense(width + units, width)
        return count
    width, norm = config.hidden_dim, _norm(config)
    query_dim = config.num_heads * config.head_dim
    kv_dim = config.key_value_heads * config.head_dim
    expanded = config.feedforward_dim * (2 if config.activation in GATED_ACTIVATIONS else 1)
    block = (
        _dense(width, query_dim + 2 * kv_dim, config.has_bias("qkv"))
        + _dense(query_dim, width, config.has_bias("output"))
        + _dense(width, expanded, config.has_bias("expand"))
        + _dense(config.feedforward_dim, width, config.has_bias("contract"))
        + norm * (4 if config.norm_placement == "both" else 2)
    )
    if config.qk_norm:
        block += query_dim + kv_dim if config.qk_norm == "projection" else 2 * config.head_dim
    rows = config.vocabulary_size
    rows += config.context_length if config.positions == "learned" else 0
    if isinstance(config, BertConfig):
        return _count_encoder_weights(config, block)
    count = config.num_layers * block + norm
    if isinstance(config, EncoderDecoderConfig):
        cross = (
            _dense(width, 3 * query_dim, config.has_bias("qkv"))
            + _dense(query_dim, width, config.has_bias("output"))
            + norm
        )
        count = config.num_layers * block + config.layers_of_decoder * (block + cross)
        count += 2 * norm * ((config.norm_placement == "pre") + config.embedding_norm)
        count += config.vocabulary_size if config.logit_bias else 0
        if config.positions == "learned":
            rows += config.context_length
        if config.positions == "relative":
            count += 2 * config.relative_buckets * config.num_heads
    if not config.tie_embeddings:
        rows += config.vocabulary_size
    return rows * width + count


def _count_encoder_weights(config: BertConfig, block: int) -> int:
    """`count_backbone_weights` of an encoder, whose blocks have `block` weights each."""
    width, norm, relative = config.hidden_dim, _norm(config), config.relative_attention
    if relative is not None and not relative.shared:
        heads = config.num_heads * config.head_dim
        block += len(relative.terms) * _dense(width, heads, config.has_bias("distance_key"))
    count = block * (1 if config.shared_layers else config.num_layers)
    is_pre = config.norm_placement == "pre"
    count += norm if is_pre else 0
    count -= norm if config.embedding_norm else 0  # the first attention has none
    if config.embedding_norm or not is_pre:
        count += _norm(config, config.token_dim)
    if config.embedding_dim is not None:
        count += _dense(config.token_dim, width, config.has_bias("embedding_projection"))
    if relative is not None:
        count += 2 * relative.size * width + (norm if relative.norm else 0)
    count += _dense(width, width, config.has_bias("pooler")) if config.use_pooler else 0
    rows = config.vocabulary_size + config.num_segments
    rows += config.context_length if config.positions == "learned" else 0
    return rows * config.token_dim + count


def _dense(inputs: int, outputs: int, bias: bool = True) -> int:
    return (inputs + bias) * outputs


def _norm(config: TransformerConfig, width: int | None = None) -> int:
    centred = config.norm == "layer_norm" and config.use_bias is True
    return (width or config.hidden_dim) * (2 if centred else 1)
