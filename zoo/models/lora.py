"""LoRA (Hu et al., 2021, arXiv:2106.09685): small factors beside frozen matrices, and added in."""

import keras
import numpy as np

from zoo.config import ConfigError


def enable_lora(model: keras.Model, rank: int, alpha: float | None = None) -> int:
    """Freezes the backbone and puts low-rank factors on each of its dense layers; returns how many.

    Before `compile`. The pooler stays trainable, as masked-LM training leaves it as it began.
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
    """Adds the factors into the kernels and takes them away; returns how many layers had some."""
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
