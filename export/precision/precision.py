"""A bundle with its large weights in fewer bits: what `python -m export --precision` serves.

The reduced model is a Keras model like the one it was made from, with other weights in some layers;
whatever asks a bundle (golden pairs, signatures, Python) asks it in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from export.closure.history import DEFAULT_SERVING_VERSION, registry_of
from export.precision.integer_product import OP as INTEGER_PRODUCT
from export.precision.reduced_weights import (
    Bfloat16Product,
    Bfloat16Weight,
    Int8Product,
    Int8Weight,
    ReducedWeight,
)
from zoo.bundle import Bundle

PRECISIONS = ("float32", "bfloat16", "int8")

# Smaller matrices stay float32: they weigh nothing, and what they are rounded by shows most.
SMALLEST = 4096  # values

Kind = type[ReducedWeight]


def reduce_bundle(
    bundle: Bundle, precision: str, serving_version: str = DEFAULT_SERVING_VERSION
) -> Bundle:
    """The same bundle around a copy of its model that holds its large weights in `precision`.

    Matrices of at least `SMALLEST` values that dense layers and LSTM cells multiply by, and tables
    of embeddings of that size, become bfloat16, or int8 with a float32 scale for each output
    channel (of a table: for each entry). Biases, norms and small matrices stay float32, and the
    model computes in float32 as before, with one exception: with "bfloat16" the dense layers of
    an encoder's backbone multiply bfloat16 numbers. (A language model of "int8" writes tokens with
    products of integers, which are as exact: `export.precision.integer_product`.)

    Args:
        bundle: of any task; its model stays as it is.
        precision: one of `PRECISIONS`.
        serving_version: the release that is to run it. Those before 2.17 have no products of
            integers: there int8 weights are widened to float32, which is slower.

    Returns:
        Bundle, the one given for "float32".

    Raises:
        ValueError: unknown precision; LoRA factors that are not merged; a model that Keras has
            quantized already.

    Example: `reduce_bundle(zoo.load("runs/topics"), "int8").text_model.predict(["a text"])`
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"--precision must be one of {', '.join(PRECISIONS)}. Received: {precision}"
        )
    if precision == "float32":
        return bundle
    has_integers = INTEGER_PRODUCT in registry_of(serving_version).ops
    kinds = _kinds(precision, bundle.model.backbone.is_causal, has_integers)
    return dataclasses.replace(bundle, model=_reduced(bundle.model, *kinds))


def _kinds(precision: str, is_causal: bool, has_integers: bool) -> tuple[Kind, Kind]:
    """What the dense layers of the backbone become, and what all others do."""
    if precision == "int8":
        kind = Int8Product if is_causal and has_integers else Int8Weight
        return kind, kind
    # In a language model, a text is a chain of choices: with products of bfloat16 a quarter of
    # sampled texts came out otherwise in a batch than alone.
    return Bfloat16Weight if is_causal else Bfloat16Product, Bfloat16Weight


def may_depend_on_batch(bundle: Bundle, precision: str) -> bool:
    """Whether answers of the reduced model are equal only up to rounding from batch to batch.

    A sum of float32 products differs in its last bits with the size of the batch. Rounded to
    bfloat16, it now and then differs by as much as bfloat16 does.
    """
    return precision == "bfloat16" and not bundle.model.backbone.is_causal


def _reduced(model: keras.Model, backbone_dense: Kind, kind: Kind) -> keras.Model:
    for layer in _layers(model):
        if getattr(layer, "lora_enabled", False):
            raise ValueError("LoRA factors lie beside the weights: merge_lora(model) first")
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(f"{layer.path} is quantized already: export the model it came from")
    twin = type(model).from_config(model.get_config())
    twin.set_weights(model.get_weights())
    in_backbone = {id(layer) for layer in _layers(twin.backbone)}
    for layer in _layers(twin):
        if isinstance(layer, keras.layers.Dense):
            _reduce_dense(layer, backbone_dense if id(layer) in in_backbone else kind)
        elif isinstance(layer, keras.layers.Embedding):  # ReversibleEmbedding is one
            _reduce_embedding(layer, kind)
        elif isinstance(layer, keras.layers.LSTMCell):
            _reduce_lstm_cell(layer, kind)
    return twin


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers(include_self=False))


def _is_large(variable: keras.Variable) -> bool:
    return np.prod(variable.shape) >= SMALLEST


def _take(layer: keras.layers.Layer, variable: keras.Variable) -> np.ndarray:
    """The value of a variable that the layer no longer has."""
    layer._untrack_variable(variable)
    return keras.ops.convert_to_numpy(variable)


def _reduce_dense(layer: keras.layers.Dense, kind: Kind) -> None:
    if not _is_large(layer._kernel):
        return
    kernel = kind(layer, "kernel", _take(layer, layer._kernel))
    layer._kernel = None

    def call(inputs, training=None):
        outputs = ops.cast(kernel.product(inputs), layer.compute_dtype)
        if layer.bias is not None:
            outputs = ops.add(outputs, layer.bias)
        return outputs if layer.activation is None else layer.activation(outputs)

    layer.call = call


def _reduce_embedding(layer: keras.layers.Embedding, kind: Kind) -> None:
    if not _is_large(layer._embeddings):
        return
    table = kind(layer, "embeddings", _take(layer, layer._embeddings), outputs_first=True)
    layer._embeddings = None
    projection = table
    if not getattr(layer, "tie_weights", True):
        matrix = np.ascontiguousarray(_take(layer, layer.reverse_embeddings).T)
        projection = kind(layer, "reverse_embeddings", matrix, outputs_first=True)
        layer.reverse_embeddings = None

    def call(inputs, reverse=False):
        if reverse:
            return projection.product(inputs)
        return ops.cast(table.rows(inputs), layer.compute_dtype)

    layer.call = call


def _reduce_lstm_cell(layer: keras.layers.LSTMCell, kind: Kind) -> None:
    kernel, recurrent = (_multiplier(layer, name, kind) for name in ("kernel", "recurrent_kernel"))

    def call(inputs, states, training=False):
        h, c = states
        gates = ops.add(kernel(inputs) + recurrent(h), layer.bias)
        i, f, new, o = ops.split(gates, 4, axis=1)
        i, f, o = (layer.recurrent_activation(gate) for gate in (i, f, o))
        c = f * c + i * layer.activation(new)
        h = o * layer.activation(c)
        return h, [h, c]

    layer.call = call


def _multiplier(layer: keras.layers.Layer, name: str, kind: Kind) -> Callable:
    """A function that multiplies by the layer's variable, reduced if it is large."""
    variable = getattr(layer, name)
    if not _is_large(variable):
        return lambda x: ops.matmul(x, variable)
    weight = kind(layer, name, _take(layer, variable))
    setattr(layer, name, None)
    return weight.product
