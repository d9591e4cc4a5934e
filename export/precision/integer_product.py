"""A product of float32 rows with int8 weights, computed with integers: TensorFlow's oneDNN kernel.

Each row of inputs is written in three digits, 21 bits of its largest value in all:

    x = step * (first + second / 126 + third / 126^2),   whole numbers from -63 to 63

and the digits are rows of one product of integers, which reads the weights once. The sums are
exact. With two digits sampled texts came out otherwise in a batch than alone. 7 bits and not 8,
because CPUs without VNNI add two products in 16 bits, and 2 x 126 x 127 still fits.

The op is the one that TensorFlow's own graph rewriting puts in place of quantized products, part of
TensorFlow and TensorFlow Serving on x86 from 2.17 on.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, types_pb2

OP = "_QuantizedMatMul"

_DIGITS = 3
_LARGEST_DIGIT = 63
_BASE = 2 * _LARGEST_DIGIT  # steps of a digit in one of the digit before
_SMALLEST_STEP = 1e-30  # of a row of zeros


def column_offsets(weights: tf.Tensor, outputs_first: bool) -> tf.Tensor:
    """What the products of `integer_product` need as `offsets`: (outputs,) float32.

    Digits are stored as 0 to 126, and each output has 63 times the sum of its weights too many.
    """
    sums = tf.reduce_sum(tf.cast(weights, tf.int32), axis=1 if outputs_first else 0)
    return tf.cast(-_LARGEST_DIGIT * sums, tf.float32)


def integer_product(
    x: tf.Tensor, weights: tf.Tensor, offsets: tf.Tensor, outputs_first: bool
) -> tf.Tensor:
    """`x` (N, inputs) float32 times int8 weights, with `column_offsets`: (N, outputs) float32.

    The kernel keeps a copy of the weights, which must never change, in the order in which it reads
    them: as many bytes again for each product of a graph that runs. What it computes takes several
    times the memory of its answer: it is for few rows.
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
    unsigned, signed, real, whole = (
        types_pb2.DT_QUINT8,
        types_pb2.DT_QINT8,
        types_pb2.DT_FLOAT,
        types_pb2.DT_QINT32,
    )
    # Ranges in which a step is 1: what comes out are the sums themselves.
    ranges = [tf.constant(value, tf.float32) for value in (0, 255, -127, 127)]
    inputs = [tf.bitcast(digits, tf.quint8), tf.bitcast(weights, tf.qint8), offsets, *ranges]
    operation = tf.compat.v1.get_default_graph().create_op(
        OP,
        inputs=inputs,
        dtypes=[tf.qint32, tf.float32, tf.float32],
        name="integer_product",  # the op's own name would be none for a node
        attrs={
            "Tdevice_inputs": _types([unsigned, signed, *[real] * 5]),
            "Thost_inputs": _types([]),
            "Tdevice_outputs": _types([whole, real, real]),
            "Thost_outputs": _types([]),
            "T1": attr_value_pb2.AttrValue(type=unsigned),
            "T2": attr_value_pb2.AttrValue(type=signed),
            "Tbias": attr_value_pb2.AttrValue(type=real),
            "U": attr_value_pb2.AttrValue(type=real),
            "Tout": attr_value_pb2.AttrValue(type=whole),
            "transpose_b": attr_value_pb2.AttrValue(b=outputs_first),
            "is_weight_const": attr_value_pb2.AttrValue(b=True),
            "is_bias_const": attr_value_pb2.AttrValue(b=True),
            "fused_ops": attr_value_pb2.AttrValue(
                list=attr_value_pb2.AttrValue.ListValue(s=[b"BiasAdd"])
            ),
        },
    )
    sums = tf.bitcast(operation.outputs[0], tf.int32)
    sums.set_shape([digits.shape[0], weights.shape[0 if outputs_first else 1]])
    return sums


def _types(kinds: list[int]) -> attr_value_pb2.AttrValue:
    return attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(type=kinds))
