"""Where KerasHub keeps what our variables hold: names, and the layout of attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import numpy as np

from zoo.files import BundleError
from zoo.models.configs import BertConfig, GPTConfig
from zoo.weights.assign import Source

Read = Callable[[str], np.ndarray]

# Ours and theirs, of whole layers.
_MODEL_LAYERS = {
    "bert": {
        "token_embedding": "token_embedding",
        "position_embedding": "position_embedding",
        "segment_embedding": "segment_embedding",
        "embedding_norm": "embeddings_layer_norm",
        "pooler": "pooled_dense",
    },
    "gpt": {
        "token_embedding": "token_embedding",
        "position_embedding": "position_embedding",
        "final_norm": "layer_norm",
    },
}
_BLOCK_LAYERS = {
    "attention_norm": "self_attention_layer_norm",
    "feedforward/expand": "feedforward_intermediate_dense",
    "feedforward/contract": "feedforward_output_dense",
    "feedforward_norm": "feedforward_layer_norm",
}
_ATTENTION = {"bert": "self_attention_layer", "gpt": "self_attention"}
# Each layer has those of these weights that are there.
_WEIGHTS = ("embeddings", "kernel", "bias", "gamma", "beta")


def sources_for(
    config: BertConfig | GPTConfig, paths: Collection[str], read: Read, where: str
) -> dict[str, Source]:
    """Our name of each variable -> what reads it from a KerasHub backbone.

    KerasHub projects queries, keys and values apart, with kernels (D, heads, H) and biases
    (heads, H), and mixes the heads with a kernel (heads, H, D). Here one kernel (D, 3D) makes
    queries, keys and values, in this order and each head by head, and one (D, D) mixes them.

    Args:
        config: of our model.
        paths: the paths of all of KerasHub's weights.
        read: path -> array.
        where: the preset to blame in messages.

    Raises:
        BundleError: weights that no variable here comes from; the message names them.
    """
    sources: dict[str, Source] = {}
    used: set[str] = set()

    def take(ours: str, theirs: str):
        for weight in _WEIGHTS:
            if f"{theirs}/{weight}" in paths:
                used.add(f"{theirs}/{weight}")
                sources[f"{ours}/{weight}"] = functools.partial(read, f"{theirs}/{weight}")

    def joined(paths: list[str]) -> np.ndarray:
        # (D, heads, H) to (D, D) of a kernel, (heads, H) to (D,) of a bias
        parts = [read(path) for path in paths]
        flat = [part.reshape(*part.shape[:-2], -1) for part in parts]
        return np.concatenate(flat, axis=-1)

    def mixing(path: str) -> np.ndarray:
        kernel = read(path)  # (heads, H, D)
        return kernel.reshape(-1, kernel.shape[-1])

    for ours, theirs in _MODEL_LAYERS[config.family].items():
        take(ours, theirs)
    for block in range(config.num_layers):
        ours, theirs = f"block_{block}", f"transformer_layer_{block}"
        for layer, name in _BLOCK_LAYERS.items():
            take(f"{ours}/{layer}", f"{theirs}/{name}")
        attention = f"{theirs}/{_ATTENTION[config.family]}"
        for weight in ("kernel", "bias"):
            three = [f"{attention}/{name}/{weight}" for name in ("query", "key", "value")]
            used.update(three)
            sources[f"{ours}/attention/qkv/{weight}"] = functools.partial(joined, three)
        take(f"{ours}/attention/output", f"{attention}/attention_output")
        sources[f"{ours}/attention/output/kernel"] = functools.partial(
            mixing, f"{attention}/attention_output/kernel"
        )
    if config.family == "bert" and not config.use_pooler:
        del sources["pooler/kernel"], sources["pooler/bias"]
    strange = sorted(set(paths) ^ used)
    if strange:
        raise BundleError(
            f"{where}: this version of KerasHub has other weights than the one that this release "
            f"knows: {', '.join(strange[:8])}"
        )
    return sources
