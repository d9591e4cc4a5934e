"""The options a generation request may carry: the one list of names, types, defaults and rules.

The same checks run in Python and inside a served model, which answers INVALID_ARGUMENT.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

# A request for more is clamped to this, so that no single request holds a server for minutes.
MAX_NEW_TOKENS = 4096


# Beside each token a window of the text is compared with all stop strings, at each of its bytes:
# more of them, or longer ones, would make a token slow for all rows of a batch.
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 128


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: a tensor with one value, or one for each text; a value may be a vector."""

    dtype: tf.DType
    default: float | str | tuple[str, ...]
    rule: str = ""  # what a value must be; "" means any
    is_valid: Callable = tf.ones_like  # of the values

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of the input."""
        return tf.TensorSpec([None] * (1 + np.ndim(self.default)), self.dtype)

    def array(self, values: Sequence) -> np.ndarray:
        """The input that has these values, one for each text; strings become `bytes`."""
        return tf.constant(values, self.dtype).numpy()


OPTIONS = {
    "max_new_tokens": Option(tf.int32, 64, "at least 0", lambda n: n >= 0),
    "temperature": Option(
        tf.float32, 0.0, "finite and at least 0", lambda t: tf.math.is_finite(t) & (t >= 0)
    ),
    "top_k": Option(tf.int32, 0, "at least 0 (0 is off)", lambda k: k >= 0),
    "top_p": Option(
        tf.float32, 1.0, "above 0 and at most 1 (1 is off)", lambda p: (p > 0) & (p <= 1)
    ),
    "min_p": Option(
        tf.float32, 0.0, "at least 0 and below 1 (0 is off)", lambda p: (p >= 0) & (p < 1)
    ),
    "repetition_penalty": Option(
        tf.float32, 1.0, "finite and above 0 (1 is off)", lambda r: tf.math.is_finite(r) & (r > 0)
    ),
    # A server joins the inputs of a batch along their first dimension, so that the other one must
    # be the same: with "" in the places that it does not use, a request of up to four strings has
    # the shape of one without any.
    "stop": Option(
        tf.string,
        ("", "", "", ""),
        f"at most {MAX_STOP_STRINGS} strings of at most {MAX_STOP_BYTES} bytes",
        lambda s: (tf.strings.length(s) <= MAX_STOP_BYTES) & (tf.shape(s)[1] <= MAX_STOP_STRINGS),
    ),
    "seed": Option(tf.int32, -1),
}


# The option of `embed` that names what stands before a text, where a model has such prompts.
PROMPT = "prompt"
# Beams cost as many rows each, of a batch with the largest number in it.
MAX_BEAMS = 16
# Of what is written for a source: translations and summaries. A model may have other defaults.
SEQ2SEQ_OPTIONS = {
    "max_new_tokens": dataclasses.replace(OPTIONS["max_new_tokens"], default=256),
    "min_new_tokens": dataclasses.replace(OPTIONS["max_new_tokens"], default=0),
    "num_beams": Option(
        tf.int32, 1, f"1 to {MAX_BEAMS} (1 is none)", lambda n: (n >= 1) & (n <= MAX_BEAMS)
    ),
    # Beyond that 4,096 tokens to this power, times a score, are no float.
    "length_penalty": Option(tf.float32, 1.0, "-8 to 8", lambda p: (p >= -8) & (p <= 8)),
    **{name: OPTIONS[name] for name in ("temperature", "top_k", "top_p", "seed")},
}


def complete_options(
    given: dict[str, object], known: Mapping[str, Option] = OPTIONS
) -> dict[str, tf.Tensor]:
    """Every known option as a tensor of its dtype, defaults for those that are not given."""
    unknown = set(given) - set(known)
    if unknown:
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return {
        name: _batch(name, option, given.get(name, option.default))
        for name, option in known.items()
    }


def _batch(name: str, option: Option, values: object) -> tf.Tensor:
    """One value for all texts, or one for each, as the input of an option."""
    if option.spec.shape.rank == 1:
        convert = tf.convert_to_tensor if option.dtype == tf.string else tf.cast
        return tf.reshape(convert(values, option.dtype), [-1])
    try:
        tensor = tf.convert_to_tensor(values, option.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: lists of as many strings, filled up with ''") from error
    if values is option.default or tensor.shape.rank == 0:
        tensor = tf.reshape(tensor, [1, -1])
    if tensor.shape.rank != 2:
        raise ValueError(
            f"{name} takes a string, or a list of strings for each text (or one such list for all),"
            f" such as [['a', 'b']]. Received: {values!r:.80}"
        )
    return tensor


def options_by_row(
    options: dict[str, tf.Tensor], requested, rows, known: Mapping[str, Option] = OPTIONS
) -> dict[str, tf.Tensor]:
    """Checked options (rows,) from [1] or [requested]; `rows` is 1 where `requested` is 0."""
    assertions = []
    for name, value in options.items():
        size = tf.shape(value)[0]
        fits = tf.logical_or(tf.equal(size, 1), tf.equal(size, requested))
        message = f"{name} must have one value, or one for each text. Number of values:"
        assertions.append(tf.debugging.Assert(fits, [message, size]))
        if known[name].rule:
            valid = tf.reduce_all(known[name].is_valid(value))
            message = f"{name} must be {known[name].rule}. Received:"
            assertions.append(tf.debugging.Assert(valid, [message, value]))
    with tf.control_dependencies(assertions):
        resolved = {}
        for name, value in options.items():
            # The stand-in row of an empty request has no values of its own.
            default = tf.constant([known[name].default], known[name].dtype)
            value = tf.cond(requested > 0, lambda v=value: v, lambda d=default: d)
            # One with more axes than its option has does not fit, and is refused here.
            own = tf.shape(value)[1 : known[name].spec.shape.rank]
            resolved[name] = tf.broadcast_to(value, tf.concat([[rows], own], axis=0))
    if "max_new_tokens" in resolved:
        resolved["max_new_tokens"] = tf.minimum(resolved["max_new_tokens"], MAX_NEW_TOKENS)
    if "seed" not in resolved:
        return resolved
    # Seeds 0, 0 tell the op to seed itself from the system, also where a program fixed
    # TensorFlow's global seed before exporting.
    fresh = tf.raw_ops.RandomUniformInt(shape=[rows], minval=0, maxval=2**31 - 1, seed=0, seed2=0)
    resolved["seed"] = tf.where(resolved["seed"] < 0, fresh, resolved["seed"])
    return resolved
