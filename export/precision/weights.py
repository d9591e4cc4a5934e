"""Weights held in fewer bits than float32: a float32 copy lives for one product, at most.

Every TensorFlow Serving links the operations of `Int8Weight` and `Bfloat16Weight`; `IntegerWeight`
and `Bfloat16Product` multiply the small numbers themselves, where the CPU and the release can.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

# Of a larger matrix this many values are widened at a time: 8 MB of float32 stay in the cache.
_PIECE = 1 << 21

# Of an int8 weight: one input in how many may be held in two numbers, the steps in the coarse one,
# how many of the fine one make a step, and by what the squared error must shrink.
_WIDE, _COARSE, _FINE, _LEAST_GAIN = 8, 4, 32, 1.3

# A product of float32 rows with int8 weights is computed by TensorFlow's oneDNN kernel of integers,
# which its own graph rewriting makes; TensorFlow and its Serving have it on x86 from 2.17 on. Where
# tokens are written, each row of inputs is in three digits, 21 bits of its largest value in all:
#
#     x = step * (first * 128^2 + second * 128 + third),   whole numbers from -64 to 63
#
# and the digits are rows of one product, which reads the weights once. The sums are exact: with two
# digits sampled texts came out otherwise in a batch than alone. 7 bits and not 8, because CPUs
# without VNNI add two products in 16 bits, and 2 x 127 x 127 still fits. An encoder, which reads
# many tokens at once and whose answers are not written again, has one digit.
INTEGER_PRODUCT = "_QuantizedMatMul"
_PLACES = np.float32([1 << 14, 1 << 7, 1]).reshape(3, 1, 1)  # what a digit counts
_LARGEST = 63 << 14  # steps of the largest value of a row
# Digits are stored as 0 to 127, that is with 64 in each place added.
_ADDED = 64
# A float of this size counts by ones: added to a row in steps, it rounds them, and its lowest 21
# bits are the digits as they are stored.
_COUNTS_BY_ONES = float(1 << 23)
_ROUNDING = _COUNTS_BY_ONES + _ADDED * float(_PLACES.sum())
# The bits of such a float that are its exponent's, and those of one digit.
_ONE_DIGIT = (_COUNTS_BY_ONES + 127 * _PLACES).view(np.int32)
_SMALLEST_STEP = 1e-36  # of a row of zeros

# Of an encoder's weight: how many inputs may stay float32, and by what the others must be smaller.
_OUTLIERS, _LEAST_RATIO = 8, 2


class ReducedWeight(keras.layers.Layer):
    """A matrix (inputs, outputs), or a table (outputs, inputs) if `outputs_first`."""

    def __init__(self, name: str, outputs_first: bool):
        super().__init__(name=name)
        self.outputs_first = outputs_first
        self.built = True

    def for_one_token(self) -> "ReducedWeight":
        """The same weight for a model that reads one token at a time."""
        return self

    def rows(self, indices: tf.Tensor) -> tf.Tensor:
        # (...) int to (..., inputs) float32
        raise NotImplementedError(f"{type(self).__name__} is no table")

    def product(self, x: tf.Tensor, bias: keras.Variable | None = None) -> tf.Tensor:
        """`x` (..., inputs) to (..., outputs), float32; `bias` (outputs,) is added."""
        flat = tf.cast(x, tf.float32)
        if x.shape.rank == 2:
            return self._biased_product(flat, bias)
        outputs = self._biased_product(tf.reshape(flat, [-1, x.shape[-1]]), bias)
        width = outputs.shape[-1]
        outputs = tf.reshape(outputs, tf.concat([tf.shape(x)[:-1], [width]], axis=0))
        outputs.set_shape([*x.shape[:-1], width])
        return outputs

    def _biased_product(self, x: tf.Tensor, bias: keras.Variable | None) -> tf.Tensor:
        """`product` of (N, inputs) float32."""
        outputs = self._product(x)
        return outputs if bias is None else tf.nn.bias_add(outputs, bias.value)

    def _product(self, x: tf.Tensor) -> tf.Tensor:
        """`x` (N, inputs) to (N, outputs), in float32: pieces of the matrix, widened in turn."""
        matrix = self.values.value
        length = matrix.shape[0]
        step = -(-length // -(-matrix.shape.num_elements() // _PIECE))
        products = []
        for first in range(0, length, step):
            # The executor runs whatever has its inputs: without this it would widen all matrices
            # of the model before the first product.
            with tf.control_dependencies([products[-1] if products else x]):
                piece = tf.cast(matrix[first : first + step], tf.float32)
            if self.outputs_first:
                products.append(tf.matmul(x, piece, transpose_b=True))
            else:
                part = x if step == length else x[:, first : first + step]
                products.append(tf.matmul(part, piece))
        if len(products) == 1:
            return products[0]
        return tf.concat(products, axis=1) if self.outputs_first else tf.add_n(products)

    def _variable(self, name: str, value) -> keras.Variable:
        return self.add_weight(
            shape=value.shape,
            dtype=keras.backend.standardize_dtype(value.dtype),
            initializer=lambda shape, dtype: tf.convert_to_tensor(value),
            trainable=False,
            autocast=False,
            name=name,
        )


class Float32Weight(ReducedWeight):
    """A small matrix that stays as it is."""

    def __init__(self, variable: keras.Variable):
        super().__init__(variable.name, outputs_first=False)
        self.values = variable

    def _product(self, x):
        return tf.matmul(x, self.values.value)


class Bfloat16Weight(ReducedWeight):
    """A weight of bfloat16 whose products are of float32 numbers."""

    def __init__(self, name: str, matrix: np.ndarray, outputs_first: bool = False):
        super().__init__(name, outputs_first)
        self.values = self._variable(name, tf.cast(matrix, tf.bfloat16))

    def rows(self, indices):
        return tf.cast(_gather(self.values, indices), tf.float32)


class Bfloat16Product(Bfloat16Weight):
    """A weight of bfloat16 whose inputs and outputs are rounded to it, too; sums are float32."""

    # Fast where the CPU multiplies bfloat16 (AVX-512 BF16, AMX), some times slower than float32
    # where it does not.

    def __init__(self, name: str, matrix: np.ndarray, outputs_first: bool = False):
        # oneDNN reads it faster with the outputs first.
        super().__init__(name, matrix if outputs_first else matrix.T, outputs_first=True)

    def _product(self, x):
        x = tf.cast(x, tf.bfloat16)
        return tf.cast(tf.matmul(x, self.values.value, transpose_b=True), tf.float32)


class Int8Weight(ReducedWeight):
    """A weight of int8 with a float32 scale for each output.

    Where it pays and `may_be_wide`, the eighth of the inputs with the largest weights is held in
    two numbers, coarse and fine: they would set the scale of all others.
    """

    # Of SmolLM2-135M, KL to float32 in nats a token: one scale an output 0.0043, one each 64 inputs
    # 0.0021; this 0.0018 with 8 % more memory (for all matrices 0.0016 with 12 %).

    may_be_wide = True

    def __init__(self, name: str, matrix: np.ndarray, outputs_first: bool = False):
        super().__init__(name, outputs_first)
        weights = matrix.T if outputs_first else matrix  # (inputs, outputs)
        wide = _wide_inputs(weights) if self.may_be_wide else np.zeros(0, int)
        counts = np.ones(len(weights) + len(wide), np.float32)  # steps in one of each number
        counts[wide], counts[len(weights) :] = _COARSE, 1 / _FINE
        coarse = counts[: len(weights), None]
        largest = np.abs(weights / coarse).max(axis=0)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        steps = weights / scale
        numbers = np.rint(steps / coarse)
        fine = np.rint((steps - coarse * numbers)[wide] * _FINE)
        numbers = np.concatenate([numbers, fine]).astype(np.int8)
        self.values = self._variable(name, numbers.T if outputs_first else numbers)
        self.scale = self._variable(f"{name}_scale", scale)
        self.wide = len(wide)
        if self.wide:
            self.columns = self._variable(f"{name}_columns", wide.astype(np.int32))
            self.counts = self._variable(f"{name}_counts", counts)

    def for_one_token(self):
        return IntegerWeight(self)

    def spread(self, x: tf.Tensor) -> tf.Tensor:
        """`x` (N, inputs) as `values` are multiplied with it: (N, inputs + wide)."""
        if not self.wide:
            return x
        again = tf.gather(x, self.columns.value, axis=1)
        return tf.concat([x, again], axis=1) * self.counts.value

    def _product(self, x):
        return super()._product(self.spread(x)) * self.scale.value

    def rows(self, indices):
        steps = tf.cast(_gather(self.values, indices), tf.float32)
        if self.wide:
            steps, fine = tf.split(steps * self.counts.value, [-1, self.wide], axis=-1)
            places = tf.one_hot(self.columns.value, self.counts.shape[0] - self.wide)
            steps += tf.tensordot(fine, places, axes=1)
        return steps * _gather(self.scale, indices)[..., None]


class ObservedWeight(ReducedWeight):
    """A float32 weight that notes the largest value of each input; `reduced` makes it int8."""

    def __init__(self, name: str, matrix: np.ndarray, outputs_first: bool = False):
        super().__init__(name, outputs_first)
        self.matrix = matrix
        self.largest = np.zeros(matrix.shape[1 if outputs_first else 0], np.float32)

    def _product(self, x):
        if tf.executing_eagerly():  # not where a model learns its shapes
            self.largest = np.maximum(self.largest, np.abs(x).max(axis=0))
        return tf.matmul(x, self.matrix, transpose_b=self.outputs_first)

    def reduced(self) -> "Int8Product":
        """The weight for products of integers."""
        return Int8Product(self.name, self.matrix, self.outputs_first, self.largest)


class Int8Product(Int8Weight):
    """A weight of int8 in products of integers: of many rows, each rounded to 7 bits.

    A few inputs that are much larger than the others would set the step of all: their weights stay
    float32 (Dettmers et al., 2022, arXiv:2208.07339). `largest` (inputs,) says which they are.
    """

    # all-MiniLM-L6-v2, cosine to the vectors in float32, mean of 500 sentences: 0.979 without.
    may_be_wide = False

    def __init__(self, name: str, matrix: np.ndarray, outputs_first: bool, largest: np.ndarray):
        order = np.argsort(-largest, kind="stable")
        kept, rest = np.sort(order[:_OUTLIERS]), order[_OUTLIERS:]
        if not len(rest) or largest[order[0]] < _LEAST_RATIO * largest[rest[0]]:
            kept = kept[:0]
        weights = (matrix.T if outputs_first else matrix).copy()  # (inputs, outputs)
        exact = weights[kept]
        weights[kept] = 0
        super().__init__(name, weights.T if outputs_first else weights, outputs_first)
        # Of rows whose largest value is 1.
        step = self.scale.value / (_ADDED - 1)
        sums = product_offsets(self.values.value, outputs_first)
        self.offsets = self._variable(f"{name}_offsets", sums * step)
        self.lowest = self._variable(f"{name}_lowest", -127 * step)
        self.highest = self._variable(f"{name}_highest", 127 * step)
        self.exact = len(kept)
        if self.exact:
            self.columns = self._variable(f"{name}_columns", kept.astype(np.int32))
            self.exact_values = self._variable(f"{name}_exact", exact)
            self.mask = self._variable(
                f"{name}_mask", np.float32(~np.isin(np.arange(len(largest)), kept))
            )

    def _biased_product(self, x, bias):
        if not self.exact:
            return super()._biased_product(x, bias)
        large = tf.gather(x, self.columns.value, axis=1)
        exact = tf.matmul(large, self.exact_values.value)
        # One operation with its product.
        exact = exact if bias is None else tf.nn.bias_add(exact, bias.value)
        return exact + self._product(x * self.mask.value)

    def _product(self, x):
        # Two reductions take less time than one of the absolute values, which are written first.
        highest = tf.reduce_max(x, axis=1, keepdims=True)
        largest = tf.maximum(highest, -tf.reduce_min(x, axis=1, keepdims=True))
        largest = tf.maximum(largest, _SMALLEST_STEP)  # (N, 1)
        digits = tf.cast(x * ((_ADDED - 1) / largest) + (_ADDED + 0.5), tf.uint8)
        variables = self.values, self.offsets, self.lowest, self.highest
        weights, offsets, *ends = (tf.convert_to_tensor(one.value) for one in variables)
        return _multiply(digits, weights, offsets, self.outputs_first, ends) * largest


def _wide_inputs(weights: np.ndarray) -> np.ndarray:
    """Which inputs of `weights` (inputs, outputs) are held in two numbers, if any."""
    sizes = np.abs(weights)
    order = np.argsort(sizes.max(axis=1), kind="stable")
    rest, wide = np.split(order, [len(order) - len(order) // _WIDE])
    before, after = (len(kept) * np.sum(sizes[kept].max(axis=0) ** 2) for kept in (order, rest))
    return wide if before > _LEAST_GAIN * after else wide[:0]


class IntegerWeight(ReducedWeight):
    """An `Int8Weight` in products of integers: of few rows, where widening it would take longer."""

    def __init__(self, weight: Int8Weight):
        super().__init__(weight.name, weight.outputs_first)
        self.weight = weight
        terms = product_terms(weight.values.value, weight.scale.value, weight.outputs_first)
        self.offsets, self.factors = (
            self._variable(f"{weight.name}_{name}", term)
            for name, term in zip(("offsets", "factors"), terms)
        )

    def _product(self, x):
        terms = self.weight.values.value, self.offsets.value, self.factors.value
        return integer_product(
            self.weight.spread(x), *map(tf.convert_to_tensor, terms), self.outputs_first
        )


def _gather(table: keras.Variable, indices: tf.Tensor) -> tf.Tensor:
    # Read first: gathering from the variable itself would make TensorFlow copy it at every later
    # read, and a table is often the vocabulary projection, too.
    return tf.gather(tf.convert_to_tensor(table.value), indices)


def product_terms(
    weights: tf.Tensor, scale: tf.Tensor, outputs_first: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The `offsets` (outputs,) and `factors` (digits, 1, outputs) of `integer_product`, float32."""
    return product_offsets(weights, outputs_first), _PLACES * scale


def product_offsets(weights: tf.Tensor, outputs_first: bool) -> tf.Tensor:
    """What takes the number added to each digit out of the sums: (outputs,) float32."""
    sums = tf.reduce_sum(tf.cast(weights, tf.int32), axis=1 if outputs_first else 0)
    return tf.cast(-_ADDED * sums, tf.float32)


def integer_product(
    x: tf.Tensor, weights: tf.Tensor, offsets: tf.Tensor, factors: tf.Tensor, outputs_first: bool
) -> tf.Tensor:
    """`x` (N, inputs) float32 times int8 weights, with `product_terms`: (N, outputs) float32."""
    # For few rows: it takes several times the memory of its answer. The kernel keeps a copy of the
    # weights, which must never change. Of one row each operation costs more to start than to
    # compute, hence as few as possible.
    inputs, outputs = x.shape[-1], factors.shape[-1]
    largest = tf.reduce_max(tf.abs(x), axis=1, keepdims=True)
    steps = tf.maximum(largest * (1 / _LARGEST), _SMALLEST_STEP)  # (N, 1)
    bits = tf.bitcast(x / steps + _ROUNDING, tf.int32)
    # Of each float one digit is kept, and divided: TensorFlow's shift takes ten times as long.
    kept = tf.bitcast(tf.bitwise.bitwise_and(bits, _ONE_DIGIT), tf.float32) - _COUNTS_BY_ONES
    digits = tf.cast(kept / _PLACES, tf.uint8)  # (digits, N, inputs)
    rows = tf.reshape(digits, [-1, inputs])
    sums = tf.cast(_multiply(rows, weights, offsets, outputs_first), tf.float32)
    sums = tf.reshape(sums, [len(_PLACES), -1, outputs])
    return tf.reduce_sum(sums * factors, axis=0) * steps


def _multiply(
    digits: tf.Tensor,
    weights: tf.Tensor,
    offsets: tf.Tensor,
    outputs_first: bool,
    ends: Sequence[tf.Tensor] = (),
) -> tf.Tensor:
    """(M, inputs) uint8 times int8, plus offsets: (M, outputs) int32; or, if `ends` (outputs,) say
    what weights of -127 and 127 mean, float32.
    """
    if tf.executing_eagerly():
        multiply = tf.function(_multiply, autograph=False)
        return multiply(digits, weights, offsets, outputs_first, ends)
    scaled = bool(ends)
    # Ranges in which a step is 1: what comes out are the sums themselves, or those times a scale.
    ranges = [tf.constant(value, tf.float32) for value in (0, 255)]
    ranges += ends if scaled else [tf.constant(x, tf.float32) for x in (-127, 127)]
    inputs = [tf.bitcast(digits, tf.quint8), tf.bitcast(weights, tf.qint8), offsets, *ranges]
    outputs = [tf.float32] if scaled else [tf.qint32, tf.float32, tf.float32]
    types = {"T1": tf.quint8, "T2": tf.qint8, "Tbias": tf.float32, "U": tf.float32}
    types["Tout"] = outputs[0]
    lists = {"Tdevice_inputs": [one.dtype for one in inputs], "Tdevice_outputs": outputs}
    lists |= {"Thost_inputs": [], "Thost_outputs": []}
    flags = {"transpose_b": outputs_first, "is_weight_const": True, "is_bias_const": True}
    fused = [b"BiasAdd", b"Dequantize"] if scaled else [b"BiasAdd"]
    attrs = {
        **{name: AttrValue(type=one.as_datatype_enum) for name, one in types.items()},
        **{name: AttrValue(b=flag) for name, flag in flags.items()},
        "fused_ops": AttrValue(list=AttrValue.ListValue(s=fused)),
    }
    for name, several in lists.items():
        kinds = [one.as_datatype_enum for one in several]
        attrs[name] = AttrValue(list=AttrValue.ListValue(type=kinds))
    # The op's own name would be none for a node.
    operation = tf.compat.v1.get_default_graph().create_op(
        INTEGER_PRODUCT, inputs=inputs, dtypes=outputs, name="integer_product", attrs=attrs
    )
    sums = operation.outputs[0]
    sums = sums if scaled else tf.bitcast(sums, tf.int32)
    sums.set_shape([digits.shape[0], weights.shape[0 if outputs_first else 1]])
    return sums
