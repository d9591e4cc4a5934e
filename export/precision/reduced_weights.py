"""Weights held in fewer bits than float32, and the two things a model does with them.

A model multiplies by a matrix, or looks up rows of a table. Both are written here for weights of
two bytes (bfloat16) and of one (int8 with a float32 scale for each output). `Int8Weight` and
`Bfloat16Weight` are made of operations that every TensorFlow Serving links: Cast, MatMul, Mul,
Gather. They widen nothing ahead of time: a float32 copy lives for one product. `Int8Product` and
`Bfloat16Product` multiply the small numbers themselves, where the CPU and the release can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import keras
import numpy as np
import tensorflow as tf

from export.precision.integer_product import column_offsets, integer_product
from zoo.generation.loop import reads_one_token

# Of a larger matrix this many values are widened at a time: 8 MB of float32 stay in the cache.
_PIECE = 1 << 21


class ReducedWeight(ABC):
    """A matrix that a layer multiplies by, or a table whose rows it looks up, or both.

    Args:
        layer: keras Layer that will own the new variables.
        name: str. Of the variable.
        matrix: (inputs, outputs) float32, a kernel; or (outputs, inputs) with `outputs_first`.
        outputs_first: bool. So are tables of embeddings, which must be so for `rows`, and so a
            wide projection is read fastest. Defaults to False.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        name: str,
        matrix: np.ndarray,
        outputs_first: bool = False,
    ):
        self._layer, self._name = layer, name
        self._outputs_first = outputs_first
        self._store(matrix)

    @abstractmethod
    def _store(self, matrix: np.ndarray) -> None:
        """Makes the variables, `self._values` among them."""

    @abstractmethod
    def rows(self, indices: tf.Tensor) -> tf.Tensor:
        """`indices` (...) int to those rows of a table, (..., inputs) float32."""

    def product(self, x: tf.Tensor) -> tf.Tensor:
        """`x` (..., inputs) to (..., outputs), float32."""
        flat = tf.cast(x, tf.float32)
        if x.shape.rank != 2:
            flat = tf.reshape(flat, [-1, x.shape[-1]])
        outputs = self._product(flat)
        if x.shape.rank != 2:
            width = outputs.shape[-1]
            outputs = tf.reshape(outputs, tf.concat([tf.shape(x)[:-1], [width]], axis=0))
            outputs.set_shape([*x.shape[:-1], width])
        return outputs

    def _product(self, x: tf.Tensor) -> tf.Tensor:
        """`x` (N, inputs) to (N, outputs), in float32: pieces of the matrix, widened in turn."""
        matrix = self._values.value
        length = matrix.shape[0]
        step = -(-length // -(-matrix.shape.num_elements() // _PIECE))
        products = []
        for first in range(0, length, step):
            # The executor runs whatever has its inputs: without this it would widen all matrices
            # of the model before the first product.
            with tf.control_dependencies([products[-1] if products else x]):
                piece = tf.cast(matrix[first : first + step], tf.float32)
            if self._outputs_first:
                products.append(tf.matmul(x, piece, transpose_b=True))
            else:
                part = x if step == length else x[:, first : first + step]
                products.append(tf.matmul(part, piece))
        if len(products) == 1:
            return products[0]
        return tf.concat(products, axis=1) if self._outputs_first else tf.add_n(products)

    def _add_variable(self, name: str, value) -> keras.Variable:
        # Keras locks a layer that is built; its own quantization opens the lock in this way.
        self._layer._tracker.unlock()
        variable = self._layer.add_weight(
            shape=value.shape,
            dtype=keras.backend.standardize_dtype(value.dtype),
            initializer=lambda shape, dtype: tf.convert_to_tensor(value),
            trainable=False,
            autocast=False,
            name=name,
        )
        self._layer._tracker.lock()
        return variable


class Bfloat16Weight(ReducedWeight):
    """A weight of bfloat16 whose products are of float32 numbers.

    Example: `Bfloat16Weight(layer, "kernel", kernel).product(x)`
    """

    def _store(self, matrix):
        self._values = self._add_variable(self._name, tf.cast(matrix, tf.bfloat16))

    def rows(self, indices):
        return tf.cast(_gather(self._values, indices), tf.float32)


class Bfloat16Product(Bfloat16Weight):
    """A weight of bfloat16 whose inputs and outputs are rounded to bfloat16, too.

    Sums are float32. Fast where the CPU multiplies bfloat16 (AVX-512 BF16, AMX), some times slower
    than float32 where it does not.
    """

    def _store(self, matrix):
        # oneDNN reads it faster with the outputs first.
        super()._store(matrix if self._outputs_first else matrix.T)

    def _product(self, x):
        x = tf.cast(x, tf.bfloat16)
        return tf.cast(tf.matmul(x, self._values.value, transpose_b=True), tf.float32)


class Int8Weight(ReducedWeight):
    """A weight of int8 with a float32 scale for each output, symmetric around zero.

    weight = int8 x scale, scale = max |weights of the output| / 127, or 1 where all are zero. A
    product is of float32 numbers; as the scale is the same along what a product sums over, it is
    applied to the sum.
    """

    def _store(self, matrix):
        inputs_axis = 1 if self._outputs_first else 0
        largest = np.max(np.abs(matrix), axis=inputs_axis, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        values = np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8)
        self._values = self._add_variable(self._name, values)
        self._scale = self._add_variable(f"{self._name}_scale", scale.reshape(-1))

    def _product(self, x):
        return super()._product(x) * self._scale.value

    def rows(self, indices):
        values = tf.cast(_gather(self._values, indices), tf.float32)
        return values * _gather(self._scale, indices)[..., None]


class Int8Product(Int8Weight):
    """The same, in products of integers where a language model reads one token at a time.

    A product of few rows waits for its weights to come from memory. Widening them first takes
    longer than fewer bytes save; `export.precision.integer_product` reads the bytes themselves.
    With many rows, those of a prompt or of a text to score, widening costs little.
    """

    def _store(self, matrix):
        super()._store(matrix)
        offsets = column_offsets(self._values.value, self._outputs_first)
        self._offsets = self._add_variable(f"{self._name}_offsets", offsets)

    def _product(self, x):
        if not reads_one_token():
            return super()._product(x)
        values, offsets = map(tf.convert_to_tensor, (self._values.value, self._offsets.value))
        return integer_product(x, values, offsets, self._outputs_first) * self._scale.value


def _gather(table: keras.Variable, indices: tf.Tensor) -> tf.Tensor:
    # Read first: gathering from the variable itself would make TensorFlow copy it at every later
    # read, and a table is often the vocabulary projection, too.
    return tf.gather(tf.convert_to_tensor(table.value), indices)
