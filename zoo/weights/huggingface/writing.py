"""A model becomes a folder that transformers and sentence-transformers load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from absl import logging

from zoo.files import replacing
from zoo.text.config import CleaningConfig, TextConfig
from zoo.tokenizers import Tokenizer
from zoo.weights.assign import model_weights
from zoo.weights.families import HUGGINGFACE
from zoo.weights.huggingface.configs import (
    SAME_HEAD,
    architecture_for,
    huggingface_config,
    model_type_for,
    position_offset,
)
from zoo.weights.huggingface.sentence_modules import write_sentence_modules
from zoo.weights.huggingface.tokenizer_files import write_tokenizer
from zoo.weights.safetensors_files import write_weights


def write_huggingface(
    folder: Path,
    model: keras.Model,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    text: TextConfig | None,
) -> None:
    """Writes a model for transformers' `from_pretrained`; see `Bundle.save_huggingface`.

    `config.json` is written last, so that a folder whose writing was interrupted does not load.
    """
    model_type = model_type_for(model, tokenizer)
    config = huggingface_config(model, tokenizer, labels, model_type)
    if text is not None and text.cleaning != CleaningConfig():
        logging.warning(
            "%s: the texts' cleaning (%s) is no part of transformers' files", folder, text.cleaning
        )
    write_weights(folder, _tensors(model, model_type, position_offset(tokenizer, model_type)))
    write_tokenizer(tokenizer, folder, model_type, model.context_length)
    if model.task == "embed":
        head, width = model.head_config(), model.backbone.output_dim
        write_sentence_modules(folder, head, width, text.max_length)
    with replacing(folder / "config.json") as temporary:
        content = json.dumps(config, indent=2, ensure_ascii=False)
        temporary.write_text(content + "\n", encoding="utf-8")


def _tensors(model: keras.Model, model_type: str, skipped: int) -> Iterator[tuple[str, np.ndarray]]:
    family, config = HUGGINGFACE[model_type], model.backbone.config
    task = SAME_HEAD.get(model.task, model.task)
    backbone = family.backbone_tensors(config, skipped)
    # Only the bare encoders and BERT's classifier have a pooler.
    pooler = task == "embed" and model_type != "distilbert" and config.use_pooler
    tables = backbone | family.head_tensors(task, pooler)
    bare = architecture_for(model_type, task) == family.bare
    left_out = []
    for name, variable in model_weights(model).items():
        if name not in tables:
            left_out.append(name)
            continue
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        for tensor, array in tables[name].to_tensors(value):
            of_base = (name in backbone or tensor.startswith("pooler.")) and (
                tensor != family.untied_head
            )
            yield (family.prefix if of_base and not bare else "") + tensor, array
    if left_out:
        logging.info("transformers' %s has no %s: left out", config.family, ", ".join(left_out))
