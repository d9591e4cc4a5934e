"""Bundles of models that came from elsewhere and lie in no folder yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from zoo.bundle import Bundle
from zoo.bundle_config import FORMAT_VERSION, BundleConfig, current_versions
from zoo.serialization import quantization_config
from zoo.strict_config import to_dict
from zoo.text import TEXT_MODELS
from zoo.text.base import TextConfig
from zoo.text.lm import TextLM
from zoo.tokenizers import Tokenizer


def bundle_in_memory(
    source: Path,
    model: keras.Model,
    tokenizer: Tokenizer,
    start_id: int | None = None,
    labels: Sequence[str] = (),
    text: TextConfig | None = None,
) -> Bundle:
    """A bundle of what was just loaded; the arguments are those of `zoo.save`.

    Args:
        source: where the model came from, for messages.
        model: CausalLM or a model of `zoo.models.encoder_heads`.
        tokenizer: whose ids are the model's.
        start_id: int, what an empty text reads, for a language model. Defaults to the tokenizer's
            `end_id`.

    Returns:
        Bundle without files: its `weights_sha256` is "". `zoo.save` writes one that has them.

    Raises:
        ValueError: the tokenizer does not fit the model.

    Example: `bundle_in_memory(Path("model.json"), model, CharacterTokenizer("ABC"))`
    """
    if model.task == "lm":
        start_id = TextLM(tokenizer, model, start_id).start_id
    else:
        text = TEXT_MODELS[model.task](tokenizer, model, text, tuple(labels)).config
    config = BundleConfig(
        format_version=FORMAT_VERSION,
        family=model.backbone.config.family,
        task=model.task,
        model=to_dict(model.backbone.config),
        tokenizer_kind=tokenizer.kind,
        tokenizer_fingerprint=tokenizer.fingerprint,
        start_id=start_id,
        weights_sha256="",
        parameters=model.count_params(),
        versions=current_versions(),
        head={} if model.task == "lm" else model.head_config(),
        labels=tuple(labels),
        text=text,
        quantization=quantization_config(model),
    )
    return Bundle(source, config, tokenizer, model)
