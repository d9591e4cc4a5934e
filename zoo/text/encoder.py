"""An encoder with strings at its input: what the text-level class of every task is made of.

Each task has one class (`zoo.text.classify`, `text_tagging`, `text_answers`,
`text_embedding`, `fill_mask`) with `functions`, graph functions of strings. Evaluation, report,
golden pairs and the exported SavedModel call those very functions.
"""

from __future__ import annotations

from typing import ClassVar

import keras
import tensorflow as tf

from zoo.text.batches import to_backend, to_tensorflow
from zoo.text.cleaning import clean
from zoo.text.config import CleaningConfig, TextConfig, special_count
from zoo.text.packing import Packed, cut_windows, pack
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.base import require_roles

# Backends that compile for fixed shapes get token axes in multiples of this.
_LENGTH_STEP = 32


class TextEncoder(tf.Module):
    """Tokenizer, model and labels of an understanding task.

    Args:
        tokenizer: Tokenizer with the special tokens of an encoder: WordPiece, or byte pairs or
            SentencePiece with roles.
        model: of `zoo.models.encoder_heads`.
        config: TextConfig.
        labels: names of the classes or tags, in the order of the model's outputs.

    Attributes:
        functions: signature name -> graph function; the first one is the default signature.

    Raises:
        ValueError: tokenizer, labels or lengths do not fit the model.
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
        if tokenizer.vocabulary_size > model.vocabulary_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocabulary_size} ids but the model only "
                f"{model.vocabulary_size}: they do not belong together"
            )
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

    def clean(self, text: tf.Tensor) -> tf.Tensor:
        """Strings [B], cleaned as `config.cleaning` says."""
        return clean(text, self.config.cleaning)

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
