"""Tensors from elsewhere into a model's variables: each exactly one, shapes checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from zoo.bundle_error import BundleError
from zoo.weights.variables import model_weights

# A function that reads one tensor when it is its turn.
Source = Callable[[], np.ndarray]
# More problems than this tell nothing new.
_SHOWN = 8
_SLICE_BYTES = 1 << 24


def assign_weights(model: keras.Model, sources: Mapping[str, Source], where: str) -> None:
    """Gives every variable of a model its value.

    One tensor is in memory at a time beside the model.

    Args:
        model: of `zoo.models.causal_lm` or `zoo.models.encoder_heads`.
        sources: variable name, as `zoo.weights.variables.model_weights` gives it ->
            function that returns the array.
        where: the file to blame in messages.

    Raises:
        BundleError: a variable without a source, a source without a variable, or a wrong shape;
            the message names them and the file. Then the model holds some values and not others.

    Example:
        model = zoo.build("bert_tiny", "embed", vocabulary_size=100)
        sources = {name: lambda w=w: np.ones(w.shape) for name, w in model_weights(model).items()}
        assign_weights(model, sources, where="ones")
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
        shown = "; ".join(problems[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise BundleError(f"{where}: weights do not fit the model that is built: {shown}{more}")


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
