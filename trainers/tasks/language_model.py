"""What a task trains: data, model, loss and metrics. So far: "lm", next-token prediction."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.config import DataConfig, TrainConfig
from trainers.data import pipeline
from trainers.data.corpus import Corpus, build_corpus
from trainers.data.sources import read_documents
from zoo.heads import CausalLM
from zoo.presets import build
from zoo.strict_config import ConfigError
from zoo.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer

# Tokens of a validation batch: large enough to keep two cores busy, small enough for memory.
_VALIDATION_TOKENS = 8192


def load_corpus(config: TrainConfig, data_dir: str | None) -> Corpus:
    """Reads, splits and encodes the text of a run.

    Raises:
        ValueError, OSError: from `trainers.data`; the message names the file and the fix.
    """
    data = config.data

    def read(source):
        return read_documents(
            source,
            data_dir=data_dir,
            encoding=data.encoding,
            invalid=data.invalid,
            split=data.split,
            max_bytes=data.max_bytes,
            pattern=data.pattern,
        )

    return build_corpus(
        read(data.train),
        _tokenizer_of(data),
        context_length=config.model_config(2).context_length,
        validation_fraction=data.validation_fraction,
        validation_documents=None if data.validation is None else read(data.validation),
        seed=config.seed,
    )


def _tokenizer_of(data: DataConfig):
    if data.tokenizer == "byte":
        return ByteTokenizer()
    return lambda texts: CharacterTokenizer.train(
        texts, max_vocabulary_size=data.max_vocabulary_size, min_count=data.min_count
    )


@dataclasses.dataclass
class LanguageModelTask:
    """Next-token prediction over a corpus.

    Attributes:
        config: TrainConfig. corpus: Corpus.
        model: CausalLM, what the bundle will hold.
        trained_model: what `fit` runs: `model`, or `model` with a carried state.
        validation: ValidationSet.
    """

    config: TrainConfig
    corpus: Corpus

    def __post_init__(self):
        model_config = self.config.model_config(self.corpus.tokenizer.vocabulary_size)
        self.length = model_config.context_length
        self.model = build(model_config)
        batch_size = self.config.batch_size
        if self.config.data.order == "segments":
            self.segment = self.config.data.segment_windows
            self.trained_model = CarriedState(self.model, batch_size, self.segment)
            self.validation = pipeline.validation_streams(
                self.corpus.validation_ids, batch_size, self.length
            )
        else:
            self.segment = 1
            self.trained_model = self.model
            self.validation = pipeline.validation_windows(
                self.corpus.validation_ids, max(_VALIDATION_TOKENS // self.length, 1), self.length
            )

    def training_data(self, start_step: int) -> tf.data.Dataset:
        """Batches of the steps from `start_step` to the end of the run."""
        config = self.config
        return pipeline.training_windows(
            self.corpus.train_ids,
            config.batch_size,
            self.length,
            config.seed,
            start_step,
            config.steps,
            self.segment,
        )

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Sets optimizer, loss and metrics on `trained_model`."""
        # On the other backends "not compiled" means one operation at a time: seconds a step.
        eager_is_slow = keras.backend.backend() != "tensorflow"
        self.trained_model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=self.config.jit_compile or eager_is_slow,
        )

    def derived_metrics(self, validation_loss: float) -> dict[str, float]:
        """Perplexity, and bits a character: comparable between tokenizers.

        Bits per character = loss / ln 2 x tokens / characters, on the validation split.
        """
        tokens, characters = self.validation.tokens, self.corpus.validation_characters
        return {
            "val_perplexity": math.exp(min(validation_loss, 700.0)),
            "val_bits_per_character": validation_loss / math.log(2) * tokens / characters,
        }

    def start_id(self) -> int:
        """The token that an empty prompt reads; see `DataConfig.start_text`."""
        return start_id(self.config.data.start_text, self.corpus.tokenizer)


def start_id(start_text: str, tokenizer: Tokenizer) -> int:
    """Id of the one token that `start_text` is, `end_id` for "".

    Raises:
        ConfigError: it is not one known token.
    """
    if not start_text:
        return tokenizer.end_id
    ids = tokenizer.encode([start_text]).to_list()[0]
    if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
        raise ConfigError(
            f"data.start_text must be one token of the training text. Received: {start_text!r}, "
            f"which is {len(ids)} token(s){' and unknown' if len(ids) == 1 else ''}"
        )
    return ids[0]


class CarriedState(keras.Model):
    """A recurrent language model that goes on from the state of the batch before.

    Truncated back-propagation through time: the state is carried, its gradient is not. In
    training it starts from zero at every new segment, in validation when it is told to. The
    states live here, in non-trainable variables, so they are part of a checkpoint but not of the
    model that is exported.

    Args:
        model: CausalLM on an LSTM backbone.
        batch_size: int, rows of every batch, in training and validation.
        segment: int, training steps through which the state is carried.
    """

    def __init__(self, model: CausalLM, batch_size: int, segment: int, **kwargs):
        super().__init__(name="carried_state", **kwargs)
        self.model = model
        self.segment = segment
        config = model.backbone.config
        shape = (config.num_layers, 2, batch_size, config.hidden_dim)
        self.train_state = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="train_state"
        )
        self.validation_state = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="validation_state"
        )
        self.step = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="step"
        )
        self.built = True

    def call(self, token_ids, training=None):
        state = self.train_state if training else self.validation_state
        carried = ops.convert_to_tensor(state)
        if training:
            carried = carried * ops.cast(self.step % self.segment != 0, carried.dtype)
            self.step.assign(self.step + 1)
        layers = tuple((carried[layer, 0], carried[layer, 1]) for layer in range(state.shape[0]))
        backbone = self.model.backbone
        hidden, layers = backbone.call_with_state(token_ids, layers, training=training)
        state.assign(ops.stack([ops.stack(pair) for pair in layers]))
        return backbone.logits(hidden)

    def reset_validation_state(self) -> None:
        """Forgets the end of the validation split, before it is read again."""
        self.validation_state.assign(np.zeros(self.validation_state.shape, "float32"))


class ResetValidationState(keras.callbacks.Callback):
    """Starts every validation from the zero state."""

    def on_test_begin(self, logs=None):
        if isinstance(self.model, CarriedState):
            self.model.reset_validation_state()
