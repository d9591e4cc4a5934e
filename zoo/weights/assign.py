"""Arrays from elsewhere into a model's variables: each exactly one, sizes and shapes checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.files import BundleError

# A function that reads one tensor when it is its turn.
Source = Callable[[], np.ndarray]
_SLICE_BYTES = 1 << 24


def assign_weights(model: keras.Model, sources: Mapping[str, Source], where: str) -> None:
    """Gives every variable of a model its value, with one array in memory at a time.

    `sources` has, for each name in `model_weights`, a function that returns the array.

    Raises:
        BundleError: a variable without a source, a source without a variable, or a wrong shape;
            the message names them and `where`. Then the model holds some values and not others.
    """
    variables = model_weights(model)
    problems = [f"{name} is missing there" for name in variables if name not in sources]
    problems += [f"this model has no {name}" for name in sources if name not in variables]
    if not problems:
        for name, variable in variables.items():
            value = sources[name]()
            if value.shape == tuple(variable.shape):
                _assign(variable, value)
            else:
                problems.append(f"{name} is {value.shape} there and {tuple(variable.shape)} here")
    if problems:
        raise BundleError(
            f"{where}: weights do not fit the model that is built: {listed(problems, '; ')}"
        )


def listed(items: list[str], separator: str = ", ") -> str:
    """The first eight items as text: more tell nothing new."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return separator.join(items[:8]) + more


def _assign(variable: keras.Variable, value: np.ndarray) -> None:
    if keras.backend.backend() != "tensorflow" or value.nbytes <= _SLICE_BYTES:
        variable.assign(value)
        return
    # TensorFlow copies an array twice on its way into a variable, and keeps the memory: done in
    # slices, an embedding costs no more than a slice on top.
    rows = max(_SLICE_BYTES * len(value) // value.nbytes, 1)
    for start in range(0, len(value), rows):
        part = keras.ops.convert_to_tensor(value[start : start + rows], dtype=variable.dtype)
        variable.value[start : start + rows].assign(part)


def check_size(
    weights: Path, stored: int, config_file: str | Path, fields: Mapping[str, Any], needed: int
) -> None:
    """Raises BundleError, before a model is built, if its config asks for more than a file has.

    `stored` weights are in the file `weights`, and the model of the config with these fields, by
    the file's own names, has `needed`.
    """
    if needed > stored:
        sizes = {name: value for name, value in fields.items() if type(value) is int}
        raise BundleError(
            f"{config_file}: the model that it describes has {needed:,} weights, and {weights} "
            f"has {stored:,}: one of {sizes!r:.500} is wrong, or they do not belong together"
        )


def backbone_weights(backbone: keras.Model) -> dict[str, keras.Variable]:
    """Weights by name within the backbone, such as "block_0/attention/qkv/kernel".

    A variable's own path also holds the names of the models around, which differ between tasks.
    """
    weights = {}
    for child in backbone.layers:
        for weight in child.weights:
            parts = weight.path.split("/")
            weights["/".join(parts[parts.index(child.name) :])] = weight
    return weights


def model_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """All weights of a model: the backbone's as `backbone_weights` names them, and the head's.

    The head's are called by layer, such as "output/kernel", or by their own name where the head
    itself holds them.
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
