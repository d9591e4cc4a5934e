"""Names for a model's variables that do not depend on what stands around them."""

from __future__ import annotations

import keras


def backbone_weights(backbone: keras.Model) -> dict[str, keras.Variable]:
    """Weights by name within the backbone, such as "block_0/attention/qkv/kernel".

    A variable's own path also holds the names of the models around, which differ between tasks.

    Example: `backbone_weights(zoo.load("runs/bert").model.backbone)["token_embedding/embeddings"]`
    """
    weights = {}
    for child in backbone.layers:
        for weight in child.weights:
            parts = weight.path.split("/")
            weights["/".join(parts[parts.index(child.name) :])] = weight
    return weights


def model_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """All weights of a model: the backbone's as `backbone_weights` names them, and the head's.

    Args:
        model: of `zoo.models`. The head's weights are called by layer, such as "output/kernel", or
            by their own name where the head itself holds them.

    Example: `model_weights(zoo.build("bert_tiny", "mlm", vocabulary_size=9))["output_bias"]`
    """
    weights = backbone_weights(model.backbone)
    known = {id(weight) for weight in weights.values()}
    for weight in model.weights:
        if id(weight) not in known:
            owner = next((layer for layer in model.layers if _holds(layer, weight)), None)
            name = weight.name if owner is None else f"{owner.name}/{weight.name}"
            if name in weights:
                raise ValueError(f"two weights are named {name!r}")
            weights[name] = weight
    return weights


def _holds(layer: keras.layers.Layer, weight: keras.Variable) -> bool:
    return any(candidate is weight for candidate in layer.weights)
