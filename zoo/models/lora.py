"""Low-rank adaptation: train small factors beside frozen matrices, then add them in.

LoRA (Hu et al., 2021, arXiv:2106.09685): kernel + alpha / rank x A B, where A is (in, rank), B is
(rank, out) and zero at the start. The factors are Keras' own, `keras.layers.Dense.enable_lora`.
"""

from __future__ import annotations

import keras
import numpy as np

from zoo.config import ConfigError


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

    Example:
        >>> import zoo
        >>> model = zoo.build("bert_tiny", "tag", {"num_tags": 3}, vocabulary_size=100)
        >>> enable_lora(model, rank=8, alpha=16)
        8
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


def merge_lora(model: keras.Model) -> int:
    """Adds the factors into the kernels and takes them away: a plain model with the same logits.

    To do before saving and exporting. What was frozen stays frozen, and the optimizer of a
    compiled model still knows the factors: to train on, compile again. A model without factors
    stays as it is.

    Returns:
        How many layers had factors.

    Example:
        >>> import zoo
        >>> model = zoo.build("bert_tiny", "tag", {"num_tags": 3}, vocabulary_size=100)
        >>> enable_lora(model, rank=8) == merge_lora(model)
        True
    """
    layers = [layer for layer in _dense_layers(model) if layer.lora_enabled]
    for layer in layers:
        # Not `layer.kernel`: that is already rounded to the compute dtype.
        kernel, a, b = (
            keras.ops.convert_to_numpy(weight).astype("float32")
            for weight in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
        )
        layer._kernel.assign(kernel + layer.lora_alpha / layer.lora_rank * (a @ b))
        # Graphs traced before still add the factors.
        layer.lora_kernel_b.assign(np.zeros_like(b))
        for name in ("lora_kernel_a", "lora_kernel_b"):
            # Not `del`: Keras then collects garbage, 0.3 s for each of two factors a layer.
            layer._untrack_variable(getattr(layer, name))
            setattr(layer, name, None)
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    return len(layers)


def _dense_layers(model: keras.Model) -> list[keras.layers.Dense]:
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
