"""A bundle becomes a folder that transformers and sentence-transformers load."""

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
from zoo.weights.huggingface.architectures import BARE, SAME_HEAD, architecture_for
from zoo.weights.huggingface.sentence_modules import write_sentence_modules
from zoo.weights.huggingface.tensor_names import PREFIX, Tensors, backbone_tensors, head_tensors
from zoo.weights.huggingface.tokenizer_files import write_tokenizer
from zoo.weights.huggingface.writing_configs import (
    huggingface_config,
    model_type_for,
    position_offset,
)
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
    offset = position_offset(tokenizer, model_type)
    write_weights(folder, _tensors(model, model_type, offset))
    write_tokenizer(tokenizer, folder, model_type, model.context_length)
    if model.task == "embed":
        head, width = model.head_config(), model.backbone.output_dim
        write_sentence_modules(folder, head, width, text.max_length)
    with replacing(folder / "config.json") as temporary:
        content = json.dumps(config, indent=2, ensure_ascii=False)
        temporary.write_text(content + "\n", encoding="utf-8")


def _tensors(
    model: keras.Model, model_type: str, position_offset: int
) -> Iterator[tuple[str, np.ndarray]]:
    config, task = model.backbone.config, SAME_HEAD.get(model.task, model.task)
    backbone = backbone_tensors(model_type, config, position_offset)
    # Only the bare encoders and BERT's classifier have a pooler.
    pooler = task == "embed" and model_type != "distilbert" and config.use_pooler
    head = {} if task == "lm" else head_tensors(model_type, task, pooler)
    bare = architecture_for(model_type, task) == BARE[model_type]
    left_out = []
    for name, variable in model_weights(model).items():
        table = (backbone | head).get(name)
        if table is None:
            left_out.append(name)
            continue
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        for tensor, array in table.to_tensors(value):
            inside = _of_base(tensor, table, backbone) and not bare
            yield (PREFIX[model_type] if inside else "") + tensor, array
    if left_out:
        logging.info("transformers' %s has no %s: left out", config.family, ", ".join(left_out))


def _of_base(tensor: str, table: Tensors, backbone: dict[str, Tensors]) -> bool:
    in_backbone = any(table is other for other in backbone.values())
    return (in_backbone or tensor.startswith("pooler.")) and not tensor.startswith("lm_head.")
