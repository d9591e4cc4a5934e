"""Strings in, named outputs out: what the text-level class of every task is made of.

Each has `functions`, graph functions of strings. Evaluation, report, golden pairs and the exported
SavedModel call those very functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import keras
import tensorflow as tf
from keras import ops

from zoo.text.cleaning import clean
from zoo.text.config import CleaningConfig, TextConfig, special_count
from zoo.text.packing import Packed, cut_windows, pack
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles, string_vector

Outputs = dict[str, tf.Tensor]

# Backends that compile for fixed shapes get token axes in multiples of this.
_LENGTH_STEP = 32


def string_function(body: Callable[..., Outputs], *names: str):
    """`body` as a graph function of string vectors [B], one for each name, also of no rows.

    Autograph is off: the bodies hold no Python control flow over tensors, and reading their
    source was more than half of the time to trace them.
    """

    def answer(*texts):
        with tf.control_dependencies(_require_same_rows(names, texts)):
            padded = [at_least_one(text) for text in texts]
        return rows_of(texts[0], body(*padded))

    specs = [tf.TensorSpec([None], tf.string, name=name) for name in names]
    return tf.function(answer, input_signature=specs, autograph=False)


def run(function, *strings, **options) -> Outputs:
    """Calls a graph function, on the TensorFlow backend as a graph, on others eagerly.

    Another backend cannot run inside a TensorFlow graph; eagerly it takes the same path.
    """
    names = [spec.name for spec in function.input_signature]
    strings = [_string_batch(name, value) for name, value in zip(names, strings)]
    if keras.backend.backend() != "tensorflow":
        function = function.python_function
    return function(*strings, *options.values())


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


def _require_same_rows(names: Sequence[str], texts: Sequence[tf.Tensor]) -> list[tf.Operation]:
    return [
        tf.debugging.assert_equal(
            tf.shape(texts[0])[0],
            tf.shape(other)[0],
            message=f"{names[0]} and {name} must have the same number of rows",
        )
        for name, other in zip(names[1:], texts[1:])
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


def require_known_ids(tokenizer: Tokenizer, model: keras.Model) -> None:
    """Raises ValueError if the tokenizer has ids that the model has not."""
    if tokenizer.vocabulary_size > model.vocabulary_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocabulary_size} ids but the model only "
            f"{model.vocabulary_size}: they do not belong together"
        )


class TextEncoder(tf.Module):
    """Tokenizer, model and labels of an understanding task.

    Raises ValueError where tokenizer, labels (names of classes or tags, in the order of the model's
    outputs) or lengths do not fit the model.

    Attributes:
        functions: signature name -> graph function; the first one is the default signature.
    """

    reads_offsets: ClassVar[bool] = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: keras.Model,
        config: TextConfig | None = None,
        labels: tuple[str, ...] = (),
    ):
        super().__init__(name=type(self).__name__.lower())
        require_roles(tokenizer, "cls", "sep", "pad")
        config = TextConfig(max_length=min(128, model.context_length)) if config is None else config
        require_known_ids(tokenizer, model)
        if config.max_length > model.context_length:
            raise ValueError(
                f"text.max_length is {config.max_length}, but the model's context_length is only "
                f"{model.context_length}"
            )
        if self.reads_offsets and config.cleaning != CleaningConfig():
            raise ValueError(
                f"task {model.task!r} answers with places in the text as it was sent, so "
                "text.cleaning must be off"
            )
        outputs = model.head_config().get("num_classes", model.head_config().get("num_tags"))
        if outputs is not None and len(labels) != outputs:
            raise ValueError(f"{len(labels)} labels for a model with {outputs} outputs")
        self.tokenizer = tokenizer
        self.model = model
        self.config = config
        self.labels = tuple(labels)
        self.functions = self.make_functions()

    def make_functions(self) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """The task's graph functions by signature name."""
        raise NotImplementedError(f"{type(self).__name__} names no functions")

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of strings [B], cleaned as `config.cleaning` says."""
        return self.tokenizer.encode(clean(text, self.config.cleaning))

    def pack(self, first: tf.RaggedTensor, second: tf.RaggedTensor | None = None) -> Packed:
        """`zoo.text.packing.pack`, as long as the longest row or as the backend likes it."""
        length = None
        if keras.backend.backend() != "tensorflow":
            lengths = first.row_lengths() + (0 if second is None else second.row_lengths())
            longest = int(tf.reduce_max(lengths)) + special_count(
                second is not None, self.tokenizer.pair_separators
            )
            length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.model.context_length)
        return pack(self.tokenizer, first, second, length)

    def forward(self, packed: Packed, **extra: tf.Tensor) -> tf.Tensor:
        """The model's output for a packed batch, a TensorFlow tensor whatever the backend."""
        inputs = {name: to_backend(value) for name, value in {**packed.inputs(), **extra}.items()}
        if keras.backend.backend() == "tensorflow":
            return self.model(inputs, training=False)
        # Compiled once a shape; a plain call would run one operation at a time.
        return to_tensorflow(self.model.predict_on_batch(inputs))

    def windows_of(self, ids: tf.RaggedTensor):
        """The windows in which single texts are read."""
        config = self.config
        return cut_windows(ids.row_lengths(), config.window_size(), config.window_stride())
