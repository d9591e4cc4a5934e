"""The options a generation request may carry: names, defaults, rules, and how they are checked.

TensorFlow graph code: the same checks run in Python and inside a served model, where a broken
rule answers INVALID_ARGUMENT with the option's name.
"""

from __future__ import annotations

import tensorflow as tf

# A request for more is clamped to this, so that no single request holds a server for minutes.
MAX_NEW_TOKENS = 4096

DEFAULT_OPTIONS = {
    "max_new_tokens": 64,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": -1,
}
OPTION_DTYPES = {
    "max_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_k": tf.int32,
    "top_p": tf.float32,
    "seed": tf.int32,
}
OPTIONS = {name: tf.TensorSpec([None], dtype, name) for name, dtype in OPTION_DTYPES.items()}


def complete_options(given: dict[str, object]) -> dict[str, tf.Tensor]:
    """Every option as a vector of its dtype, defaults for those that are not given.

    Raises:
        TypeError: unknown option; the known ones are listed.

    Example: `complete_options({"temperature": 0.8})["max_new_tokens"]  # [64]`
    """
    unknown = set(given) - set(DEFAULT_OPTIONS)
    if unknown:
        raise TypeError(
            f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(DEFAULT_OPTIONS)}"
        )
    return {
        name: tf.reshape(tf.cast(given.get(name, default), OPTION_DTYPES[name]), [-1])
        for name, default in DEFAULT_OPTIONS.items()
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
            default = tf.constant([DEFAULT_OPTIONS[name]], OPTION_DTYPES[name])
            value = tf.cond(requested > 0, lambda v=value: v, lambda d=default: d)
            resolved[name] = tf.broadcast_to(value, [rows])
    resolved["max_new_tokens"] = tf.minimum(resolved["max_new_tokens"], MAX_NEW_TOKENS)
    # Seeds 0, 0 tell the op to seed itself from the system, also where a program fixed
    # TensorFlow's global seed before exporting.
    fresh = tf.raw_ops.RandomUniformInt(shape=[rows], minval=0, maxval=2**31 - 1, seed=0, seed2=0)
    resolved["seed"] = tf.where(resolved["seed"] < 0, fresh, resolved["seed"])
    return resolved


def _assertions(options: dict[str, tf.Tensor], requested: tf.Tensor) -> list:
    temperature, top_p = options["temperature"], options["top_p"]
    rules = {
        "max_new_tokens": ("at least 0", options["max_new_tokens"] >= 0),
        "temperature": (
            "finite and at least 0",
            tf.math.is_finite(temperature) & (temperature >= 0),
        ),
        "top_k": ("at least 0 (0 is off)", options["top_k"] >= 0),
        "top_p": ("above 0 and at most 1 (1 is off)", (top_p > 0) & (top_p <= 1)),
    }
    assertions = []
    for name, value in options.items():
        size = tf.size(value)
        fits = tf.logical_or(tf.equal(size, 1), tf.equal(size, requested))
        message = f"{name} must have one value, or one for each text. Number of values:"
        assertions.append(tf.debugging.Assert(fits, [message, size]))
        if name in rules:
            rule, valid = rules[name]
            message = f"{name} must be {rule}. Received:"
            assertions.append(tf.debugging.Assert(tf.reduce_all(valid), [message, value]))
    return assertions
