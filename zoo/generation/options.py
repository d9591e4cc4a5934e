"""The options a generation request may carry: the one list of names, types, defaults and rules.

TensorFlow graph code: the same checks run in Python and inside a served model, where a broken
rule answers INVALID_ARGUMENT with the option's name.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import tensorflow as tf

# A request for more is clamped to this, so that no single request holds a server for minutes.
MAX_NEW_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: a vector with one value, or one for each text.

    Attributes:
        dtype: tf.DType.
        default: number.
        rule: str, what a value must be; "" means any.
        is_valid: (values) -> bool tensor.
    """

    dtype: tf.DType
    default: float
    rule: str = ""
    is_valid: Callable = tf.ones_like


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


def text_function(body: Callable) -> tf.types.experimental.PolymorphicFunction:
    """`body(text, options)` as a graph function of `text` [B] string and each of the options.

    The options' defaults become `SignatureDef.defaults` when it is exported, which TensorFlow
    Serving fills in for inputs that a gRPC request leaves out.
    """

    def generate(text, *values):
        return body(text, dict(zip(OPTIONS, values)))

    def parameter(name, default=inspect.Parameter.empty):
        return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)

    # What TensorFlow reads names and defaults from.
    generate.__signature__ = inspect.Signature(
        [
            parameter("text"),
            *(parameter(name, tf.constant([o.default], o.dtype)) for name, o in OPTIONS.items()),
        ]
    )
    specs = [tf.TensorSpec([None], tf.string, "text")]
    specs += [tf.TensorSpec([None], option.dtype, name) for name, option in OPTIONS.items()]
    return tf.function(generate, input_signature=specs, autograph=False)


def complete_options(given: dict[str, object]) -> dict[str, tf.Tensor]:
    """Every option as a vector of its dtype, defaults for those that are not given.

    Raises TypeError for an unknown option; the known ones are listed.
    """
    unknown = set(given) - set(OPTIONS)
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}")
    return {
        name: tf.reshape(tf.cast(given.get(name, option.default), option.dtype), [-1])
        for name, option in OPTIONS.items()
    }


def options_by_row(
    options: dict[str, tf.Tensor], requested: tf.Tensor, rows: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Checked options with one value a row.

    Args:
        options: each [1] (for all rows) or [requested].
        requested: scalar int32, texts in the request; 0 is possible.
        rows: scalar int32, rows to answer: `requested`, or 1 stand-in row for an empty request.

    Returns:
        Each option (rows,); `max_new_tokens` clamped to 4096, negative seeds replaced by fresh
        random ones.

    Raises:
        tf.errors.InvalidArgumentError: when run, if a value breaks its rule.
    """
    with tf.control_dependencies(_assertions(options, requested)):
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


def _assertions(options: dict[str, tf.Tensor], requested: tf.Tensor) -> list:
    assertions = []
    for name, value in options.items():
        size = tf.size(value)
        fits = tf.logical_or(tf.equal(size, 1), tf.equal(size, requested))
        message = f"{name} must have one value, or one for each text. Number of values:"
        assertions.append(tf.debugging.Assert(fits, [message, size]))
        option = OPTIONS[name]
        if option.rule:
            message = f"{name} must be {option.rule}. Received:"
            valid = tf.reduce_all(option.is_valid(value))
            assertions.append(tf.debugging.Assert(valid, [message, value]))
    return assertions
