"""A product of float32 rows with int8 weights, computed with integers: TensorFlow's oneDNN kernel.

Each row of inputs is written in three digits, 21 bits of its largest value in all:

    x = step * (first + second / 126 + third / 126^2),   whole numbers from -63 to 63

and the digits are rows of one product of integers, which reads the weights once. The sums are
exact: with two digits sampled texts came out otherwise in a batch than alone. 7 bits and not 8,
because CPUs without VNNI add two products in 16 bits, and 2 x 126 x 127 still fits. TensorFlow's
own graph rewriting makes this op; TensorFlow and its Serving have it on x86 from 2.17 on.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

OP = "_QuantizedMatMul"

_DIGITS = 3
_LARGEST_DIGIT = 63
_BASE = 2 * _LARGEST_DIGIT  # steps of a digit in one of the digit before
_SMALLEST_STEP = 1e-30  # of a row of zeros


def column_offsets(weights: tf.Tensor, outputs_first: bool) -> tf.Tensor:
    """What the products of `integer_product` need as `offsets`: (outputs,) float32."""
    # Digits are stored as 0 to 126: each output has 63 times the sum of its weights too many.
    sums = tf.reduce_sum(tf.cast(weights, tf.int32), axis=1 if outputs_first else 0)
    return tf.cast(-_LARGEST_DIGIT * sums, tf.float32)


def integer_product(
    x: tf.Tensor, weights: tf.Tensor, offsets: tf.Tensor, outputs_first: bool
) -> tf.Tensor:
    """`x` (N, inputs) float32 times int8 weights, with `column_offsets`: (N, outputs) float32.

    It is for few rows: it takes several times the memory of its answer. The kernel keeps a copy of
    the weights, which must never change.
    """
    largest = tf.reduce_max(tf.abs(x), axis=1, keepdims=True)
    steps = tf.maximum(largest / _LARGEST_DIGIT, _SMALLEST_STEP)  # (N, 1)
    rest, digits = x / steps, []
    for _ in range(_DIGITS):
        digits.append(tf.round(rest))
        rest = (rest - digits[-1]) * _BASE
    rows = tf.cast(tf.concat(digits, axis=0) + _LARGEST_DIGIT, tf.uint8)  # (3 N, inputs)
    sums = _multiply(rows, weights, offsets, outputs_first)
    sums = tf.split(tf.cast(sums, tf.float32), _DIGITS, axis=0)
    total = sums[0]
    for place, one in enumerate(sums[1:], start=1):
        total += one * _BASE**-place
    return total * steps


def _multiply(
    digits: tf.Tensor, weights: tf.Tensor, offsets: tf.Tensor, outputs_first: bool
) -> tf.Tensor:
    """(M, inputs) uint8 times int8, plus offsets: (M, outputs) int32."""
    if tf.executing_eagerly():
        multiply = tf.function(_multiply, autograph=False)
        return multiply(digits, weights, offsets, outputs_first)
    # Ranges in which a step is 1: what comes out are the sums themselves.
    ranges = [tf.constant(value, tf.float32) for value in (0, 255, -127, 127)]
    inputs = [tf.bitcast(digits, tf.quint8), tf.bitcast(weights, tf.qint8), offsets, *ranges]
    outputs = [tf.qint32, tf.float32, tf.float32]
    types = {"T1": tf.quint8, "T2": tf.qint8, "Tbias": tf.float32, "U": tf.float32}
    types |= {"Tout": tf.qint32}
    lists = {"Tdevice_inputs": [one.dtype for one in inputs], "Tdevice_outputs": outputs}
    lists |= {"Thost_inputs": [], "Thost_outputs": []}
    flags = {"transpose_b": outputs_first, "is_weight_const": True, "is_bias_const": True}
    attrs = {
        **{name: AttrValue(type=one.as_datatype_enum) for name, one in types.items()},
        **{name: AttrValue(b=flag) for name, flag in flags.items()},
        "fused_ops": AttrValue(list=AttrValue.ListValue(s=[b"BiasAdd"])),
    }
    for name, several in lists.items():
        kinds = [one.as_datatype_enum for one in several]
        attrs[name] = AttrValue(list=AttrValue.ListValue(type=kinds))
    # The op's own name would be none for a node.
    operation = tf.compat.v1.get_default_graph().create_op(
        OP, inputs=inputs, dtypes=outputs, name="integer_product", attrs=attrs
    )
    sums = tf.bitcast(operation.outputs[0], tf.int32)
    sums.set_shape([digits.shape[0], weights.shape[0 if outputs_first else 1]])
    return sums
