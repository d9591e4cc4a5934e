"""What every strings-in function shares: signatures, empty batches, the way to Keras' backend."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from zoo.tokenizers.base import string_vector

Outputs = dict[str, tf.Tensor]


def string_function(body: Callable[..., Outputs], *names: str):
    """`body` as a graph function of string vectors [B], one for each name.

    Autograph is off: the bodies hold no Python control flow over tensors, and reading their
    source was more than half of the time to trace them.
    """
    specs = [tf.TensorSpec([None], tf.string, name=name) for name in names]
    return tf.function(body, input_signature=specs, autograph=False)


def run(function, *strings, **options) -> Outputs:
    """Calls a graph function, on the TensorFlow backend as a graph, on others eagerly.

    Another backend cannot run inside a TensorFlow graph; eagerly it takes the same path.
    """
    names = [spec.name for spec in function.input_signature]
    strings = [_string_batch(name, value) for name, value in zip(names, strings)]
    if keras.backend.backend() == "tensorflow":
        return function(*strings, **options)
    return function.python_function(*strings, **options)


def _string_batch(name: str, value) -> tf.Tensor:
    if isinstance(value, str | bytes):
        raise ValueError(
            f"{name} takes a list of strings. Received one string: pass [{value!r:.80}]"
        )
    try:
        return string_vector(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} takes strings with one axis, such as ['a', 'b']. Received: {value!r:.80}"
        ) from error


def at_least_one(text: tf.Tensor) -> tf.Tensor:
    """`text`, or one empty text in place of none: not every operation takes an empty batch."""
    missing = tf.cast(tf.equal(tf.size(text), 0), tf.int32)
    return tf.concat([text, tf.fill([missing], "")], axis=0)


def rows_of(text: tf.Tensor, outputs: Outputs) -> Outputs:
    """The outputs of the texts that were given, without the stand-in of an empty batch."""
    return {name: value[: tf.shape(text)[0]] for name, value in outputs.items()}


def require_same_rows(**inputs: tf.Tensor) -> list[tf.Operation]:
    """Assertions, for `tf.control_dependencies`, that all inputs have as many rows."""
    (first_name, first), *others = inputs.items()
    return [
        tf.debugging.assert_equal(
            tf.shape(first)[0],
            tf.shape(other)[0],
            message=f"{first_name} and {name} must have the same number of rows",
        )
        for name, other in others
    ]


def to_backend(tensor):
    """A TensorFlow tensor as a tensor of Keras' backend (itself on TensorFlow)."""
    if keras.backend.backend() == "tensorflow":
        return tensor
    return ops.convert_to_tensor(tensor.numpy())


def to_tensorflow(tensor):
    """The way back from `to_backend`."""
    if keras.backend.backend() == "tensorflow":
        return tensor
    return tf.convert_to_tensor(ops.convert_to_numpy(tensor))
