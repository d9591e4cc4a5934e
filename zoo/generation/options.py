"""The options a generation request may carry: the one list of names, types, defaults and rules.

The same checks run in Python and inside a served model, which answers INVALID_ARGUMENT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

# A request for more is clamped to this, so that no single request holds a server for minutes.
MAX_NEW_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: a vector with one value, or one for each text."""

    dtype: tf.DType
    default: float
    rule: str = ""  # what a value must be; "" means any
    is_valid: Callable = tf.ones_like  # of the values


OPTIONS = {
    "max_new_tokens": Option(tf.int32, 64, "at least 0", lambda n: n >= 0),
    "temperature": Option(
        tf.float32, 0.0, "finite and at least 0", lambda t: tf.math.is_finite(t) & (t >= 0)
    ),
    "top_k": Option(tf.int32, 0, "at least 0 (0 is off)", lambda k: k >= 0),
    "top_p": Option(
        tf.float32, 1.0, "above 0 and at most 1 (1 is off)", lambda p: (p > 0) & (p <= 1)
    ),
    "seed": Option(tf.int32, -1),
}


def complete_options(given: dict[str, object]) -> dict[str, tf.Tensor]:
    """Every option as a vector of its dtype, defaults for those that are not given."""
    unknown = set(given) - set(OPTIONS)
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}")
    return {
        name: tf.reshape(tf.cast(given.get(name, option.default), option.dtype), [-1])
        for name, option in OPTIONS.items()
    }


def options_by_row(options: dict[str, tf.Tensor], requested, rows) -> dict[str, tf.Tensor]:
    """Checked options (rows,) from [1] or [requested]; `rows` is 1 where `requested` is 0."""
    assertions = []
    for name, value in options.items():
        size = tf.size(value)
        fits = tf.logical_or(tf.equal(size, 1), tf.equal(size, requested))
        message = f"{name} must have one value, or one for each text. Number of values:"
        assertions.append(tf.debugging.Assert(fits, [message, size]))
        if OPTIONS[name].rule:
            valid = tf.reduce_all(OPTIONS[name].is_valid(value))
            message = f"{name} must be {OPTIONS[name].rule}. Received:"
            assertions.append(tf.debugging.Assert(valid, [message, value]))
    with tf.control_dependencies(assertions):
        resolved = {}
        for name, value in options.items():
            # The stand-in row of an empty request has no values of its own.
            default = tf.constant([OPTIONS[name].default], OPTIONS[name].dtype)
            value = tf.cond(requested > 0, lambda v=value: v, lambda d=default: d)
            resolved[name] = tf.broadcast_to(value, [rows])
    resolved["max_new_tokens"] = tf.minimum(resolved["max_new_tokens"], MAX_NEW_TOKENS)
    # Seeds 0, 0 tell the op to seed itself from the system, also where a program fixed
    # TensorFlow's global seed before exporting.
    fresh = tf.raw_ops.RandomUniformInt(shape=[rows], minval=0, maxval=2**31 - 1, seed=0, seed2=0)
    resolved["seed"] = tf.where(resolved["seed"] < 0, fresh, resolved["seed"])
    return resolved
