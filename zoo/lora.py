"""Low-rank adaptation: train small factors beside frozen matrices, then add them in.

LoRA (Hu et al., 2021, arXiv:2106.09685): kernel + alpha / rank x A B, where A is (in, rank), B is
(rank, out) and zero at the start. The factors are Keras' own, `keras.layers.Dense.enable_lora`.
"""

from __future__ import annotations

import keras
import numpy as np

from zoo.strict_config import ConfigError


def enable_lora(model: keras.Model, rank: int, alpha: float | None = None) -> int:
    """Freezes the backbone and puts low-rank factors on each of its dense layers.

    The head stays trainable, and the pooler with it: masked-LM training leaves a pooler as it
    began. Do it after the initial weights are in and before `compile`.

    Args:
        model: a head on a backbone, from `zoo.build`.
        rank: int, columns of the first factor.
        alpha: float, weight of the factors times `rank`. Defaults to `rank`.

    Returns:
        How many layers have factors.

    Raises:
        ConfigError: the backbone has no dense layers.

    Example: `enable_lora(model, rank=8, alpha=16)`
    """
    backbone = model.backbone
    pooler = getattr(backbone, "pooler", None)
    layers = [layer for layer in _dense_layers(backbone) if layer is not pooler]
    if not layers:
        raise ConfigError(
            f"LoRA works on dense layers, and a {backbone.config.family} backbone has none: fine-"
            "tune all of it, or freeze a part"
        )
    of_head = set() if pooler is None else {id(weight) for weight in pooler.weights}
    for weight in backbone.weights:
        if id(weight) not in of_head and weight.name != "reverse_embeddings":
            weight.trainable = False
    for layer in layers:
        layer.enable_lora(rank, lora_alpha=alpha)
    return len(layers)


def merged_weights(model: keras.Model) -> list[np.ndarray]:
    """The weights that a model without factors needs to give the same logits.

    In the order of the plain model's `weights`; a model without factors gives its own.

    Example: `plain.set_weights(merged_weights(model))`
    """
    factors, merged = set(), {}
    for layer in _dense_layers(model):
        if layer.lora_enabled:
            factors |= {id(layer.lora_kernel_a), id(layer.lora_kernel_b)}
            # Not `layer.kernel`: that is already rounded to the compute dtype.
            kernel, a, b = (
                keras.ops.convert_to_numpy(weight).astype("float32")
                for weight in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
            )
            merged[id(layer._kernel)] = kernel + layer.lora_alpha / layer.lora_rank * (a @ b)
    return [
        merged[id(weight)] if id(weight) in merged else keras.ops.convert_to_numpy(weight)
        for weight in model.weights
        if id(weight) not in factors
    ]


def merge_lora(model: keras.Model) -> keras.Model:
    """A plain model, to save and to export, that gives the logits of one with factors.

    Returns:
        A new model, not compiled; `model` stays as it is.

    Example: `zoo.save("runs/mine", merge_lora(model), tokenizer)`
    """
    plain = type(model).from_config(model.get_config())
    plain.set_weights(merged_weights(model))
    return plain


def _dense_layers(model: keras.Model) -> list[keras.layers.Dense]:
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
