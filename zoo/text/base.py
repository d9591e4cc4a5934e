"""Strings in, named outputs out: what the text-level class of every task is made of.

Evaluation, report, golden pairs and the exported SavedModel call the same graph functions.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from keras import ops

from zoo.generation.options import OPTIONS, Option, complete_options, options_by_row
from zoo.text.cleaning import clean
from zoo.text.config import CleaningConfig, TextConfig, special_count
from zoo.text.packing import Windows, cut_windows, pack
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles, string_vector

Outputs = dict[str, tf.Tensor]
_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD

# For a mask or the next token, or the whole vocabulary where it is smaller.
CANDIDATES = 10
# Backends that compile for fixed shapes get token axes in multiples of this.
_LENGTH_STEP = 32


def signature(
    body: Callable[..., Outputs],
    defaults: Mapping[str, Sequence[str]] | None = None,
    options: Mapping[str, Option] | Callable[[Any], Mapping[str, Option]] = OPTIONS,
) -> Callable[..., Outputs]:
    """A method from string vectors [B] to outputs of B rows, as a signature of its class.

    From Python it takes lists of strings. A parameter with a default is an input of models of pairs
    alone; `**options` are those of `options`, by default a language model's, with one value a row;
    where they depend on the model a function of it gives them.
    `defaults` has a row for each input that is a matrix [B, M], with which `SignatureDef.defaults`
    names the M of the requests that a server can put into one batch; M may be any other.
    """
    own_defaults = defaults or {}
    takes_options = "options" in inspect.signature(body).parameters

    def options_of(model: TextModel) -> Mapping[str, Option]:
        if not takes_options:
            return {}
        return options(model) if callable(options) else options

    @functools.wraps(body)
    def ask(self: TextModel, *arguments: Any, **keywords: Any) -> Outputs:
        given = inspect.signature(body).bind(self, *arguments, **keywords).arguments
        del given["self"]
        values = complete_options(given.pop("options", {}), options_of(self))
        columns = {name: value for name, value in given.items() if value is not None}
        names = self._input_names(body)
        if [*columns] != names:
            inputs = " and ".join(names) if len(names) > 1 else f"{names[0]} alone"
            raise ValueError(f"task {self.model.task!r} reads {inputs}")
        strings = [_string_batch(n, value, n in own_defaults) for n, value in columns.items()]
        function = self.functions[body.__name__]
        # Another backend cannot run inside a TensorFlow graph; eagerly it takes the same path.
        if keras.backend.backend() != "tensorflow":
            function = function.python_function
        return function(*strings, *values.values())

    # What the class makes its graph functions of.
    ask.body, ask.defaults = body, own_defaults  # type: ignore[attr-defined]
    ask.options_of = options_of  # type: ignore[attr-defined]
    return ask


def _string_batch(name: str, value, is_matrix: bool) -> tf.Tensor:
    if is_matrix:
        return _string_matrix(name, value)
    if isinstance(value, str | bytes):
        raise ValueError(f"{name} takes a list of strings, not one: pass [{value!r:.80}]")
    try:
        return string_vector(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} takes strings with one axis, such as ['a', 'b']. Received: {value!r:.80}"
        ) from error


def _string_matrix(name: str, value) -> tf.Tensor:
    """Strings [B, M]; shorter lists are filled up with ""."""
    try:
        if isinstance(value, list | tuple):
            value = tf.ragged.constant(value, tf.string, ragged_rank=1).to_tensor("")
        tensor = tf.convert_to_tensor(value, tf.string)
        tensor.shape.assert_has_rank(2)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} takes a list of strings for each row, such as [['a', 'b'], ['c']]. "
            f"Received: {value!r:.80}"
        ) from error
    return tensor


def _graph_function(
    body: Callable[..., Outputs],
    names: Sequence[str],
    options: Mapping[str, Option],
    defaults: Mapping[str, Sequence[str]],
):
    """`body` as a graph function of strings [B] or [B, M], and of options, also of no rows.

    Defaults become `SignatureDef.defaults`: TensorFlow Serving fills them in.
    """

    def answer(*inputs):
        texts, values = inputs[: len(names)], inputs[len(names) :]
        rows = tf.shape(texts[0])[0]
        same_rows = []
        for name, text in zip(names[1:], texts[1:]):
            message = f"{names[0]} and {name} must have the same number of rows"
            if defaults:
                message = f"{names[0]} and {name} must have the same shape"
            same_rows.append(tf.debugging.assert_equal(tf.shape(texts[0]), tf.shape(text), message))
        with tf.control_dependencies(same_rows):
            padded = [_some(text, defaults.get(name, "")) for name, text in zip(names, texts)]
        by_row = {}
        if options:
            given = dict(zip(options, values))
            by_row = options_by_row(given, rows, tf.shape(padded[0])[0], options)
        return {name: value[:rows] for name, value in body(*padded, **by_row).items()}

    parameters, specs = [], []
    for name in names:
        default = tf.constant([defaults[name]]) if name in defaults else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name, _NAMED, default=default))
        shape = [None, None] if name in defaults else [None]
        specs.append(tf.TensorSpec(shape, tf.string, name))
    for name, option in options.items():
        default = tf.constant([option.default], option.dtype)
        parameters.append(inspect.Parameter(name, _NAMED, default=default))
        specs.append(tf.TensorSpec.from_spec(option.spec, name))
    # What TensorFlow reads names and defaults from.
    answer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    # Autograph is off: the bodies hold no Python control flow over tensors, and reading their
    # source was more than half of the time to trace them.
    return tf.function(answer, input_signature=specs, autograph=False)


def _some(strings: tf.Tensor, stand_in: str | Sequence[str]) -> tf.Tensor:
    """A batch, or one row in place of none: not every operation takes an empty batch."""
    row, shape = tf.constant([stand_in]), tf.shape(strings)
    is_empty = tf.equal(shape[0], 0)
    shape = tf.where(is_empty, tf.shape(row), shape)  # of the other axes
    count = tf.cast(is_empty, tf.int32)
    strings = tf.reshape(strings, tf.concat([[shape[0] - count], shape[1:]], axis=0))
    row = tf.reshape(row[:count], tf.concat([[count], shape[1:]], axis=0))
    return tf.concat([strings, row], axis=0)


def on_backend(function: Callable, *arguments):
    """`function(*arguments)` on Keras' backend: TensorFlow tensors in, TensorFlow tensors out."""
    if keras.backend.backend() == "tensorflow":
        return function(*arguments)
    each = keras.tree.map_structure
    outputs = function(*each(lambda x: ops.convert_to_tensor(x.numpy()), arguments))
    return each(lambda x: tf.convert_to_tensor(ops.convert_to_numpy(x)), outputs)


def scored(tokenizer: Tokenizer, ids: tf.RaggedTensor, log_probabilities: tf.Tensor) -> Outputs:
    """What each `score` says of ids [B, None] with these log-probabilities (B, T) and padding's."""
    lengths = ids.row_lengths()
    found = tf.where(
        tf.sequence_mask(lengths, tf.shape(log_probabilities)[1]), log_probabilities, 0
    )
    total = tf.reduce_sum(found, axis=1)
    return {
        "log_likelihood": total,
        "perplexity": tf.exp(-total / tf.cast(tf.maximum(lengths, 1), tf.float32)),
        "tokens": tokenizer.spell(ids),
        "log_probabilities": found,
    }


class TextModel(tf.Module):
    """A tokenizer and a model, with the graph functions that join them."""

    pairs: bool = False  # whether the model reads two texts at once

    def __init__(self, tokenizer: Tokenizer, model: keras.Model):
        super().__init__(name=type(self).__name__.lower())
        if tokenizer.vocabulary_size > model.vocabulary_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocabulary_size} ids but the model only "
                f"{model.vocabulary_size}: they do not belong together"
            )
        self.tokenizer = tokenizer
        self.model = model

    @functools.cached_property
    def functions(self) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """Signature name -> graph function; the first one is the default signature."""
        methods = {k: v for kind in reversed(type(self).__mro__) for k, v in vars(kind).items()}
        functions = {}
        for name, method in methods.items():
            if body := getattr(method, "body", None):
                bound, names = functools.partial(body, self), self._input_names(body)
                options = method.options_of(self)
                functions[name] = _graph_function(bound, names, options, method.defaults)
        return functions

    def _input_names(self, body: Callable[..., Outputs]) -> list[str]:
        parameters = [*inspect.signature(body).parameters.values()][1:]
        return [
            p.name for p in parameters if p.kind == _NAMED and (p.default is p.empty or self.pairs)
        ]

    def spare_ids(self) -> list[int]:
        """The ids that a model with room for more has beyond the tokenizer's."""
        return list(range(self.tokenizer.vocabulary_size, self.model.vocabulary_size))


class TextEncoder(TextModel):
    """Tokenizer, model and labels, in the order of its outputs, of an understanding task."""

    reads_offsets: ClassVar[bool] = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: keras.Model,
        config: TextConfig | None = None,
        labels: tuple[str, ...] = (),
    ):
        super().__init__(tokenizer, model)
        require_roles(tokenizer, "cls", "sep", "pad")
        config = TextConfig(max_length=min(128, model.context_length)) if config is None else config
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
        self.config = config
        self.labels = tuple(labels)
        self.pairs = model.task == "pair" or config.pairs

    def encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of strings [B], cleaned as `config.cleaning` says."""
        return self.tokenizer.encode(clean(text, self.config.cleaning))

    def pack(self, first: tf.RaggedTensor, second: tf.RaggedTensor | None = None) -> Outputs:
        """`zoo.text.packing.pack`, as long as the longest row or as the backend likes it."""
        length = None
        if keras.backend.backend() != "tensorflow":
            lengths = first.row_lengths() + (0 if second is None else second.row_lengths())
            specials = special_count(second is not None, self.tokenizer.pair_separators)
            longest = int(tf.reduce_max(lengths)) + specials
            length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.model.context_length)
        return pack(self.tokenizer, first, second, length)

    def forward(self, inputs: Outputs) -> tf.Tensor:
        """The model's output for packed inputs."""
        if keras.backend.backend() == "tensorflow":
            return self.model(inputs, training=False)
        # Compiled once a shape; a plain call would run one operation at a time.
        return on_backend(self.model.predict_on_batch, inputs)

    def windows_of(self, ids: tf.RaggedTensor) -> Windows:
        """The windows in which single texts are read."""
        config = self.config
        return cut_windows(ids.row_lengths(), config.window_size(), config.window_stride())
