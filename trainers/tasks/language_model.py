"""Task "lm": next-token prediction over running text, by a GPT or an LSTM."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.config import DataConfig, TrainConfig
from trainers.data import pipeline
from trainers.data.corpus import Corpus, build_corpus
from trainers.data.sources import read_documents
from trainers.tasks.base import Task
from zoo import bundle
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
class LanguageModelTask(Task):
    """Next-token prediction over a corpus.

    Attributes:
        config: TrainConfig. corpus: Corpus.
        model: CausalLM, what the bundle will hold.
        trained_model: what `fit` runs: `model`, or `model` with a carried state.
        validation: ValidationSet.

    Raises:
        ConfigError: `data.start_text` is no token.
    """

    metrics = {"val_loss": "min", "val_accuracy": "max"}  # noqa: RUF012
    loss_unit = "nats a token"

    config: TrainConfig
    corpus: Corpus

    def __post_init__(self):
        self.tokenizer = self.corpus.tokenizer
        # A bad start_text should not wait for the end of training.
        self.start_id = start_id(self.config.data.start_text, self.tokenizer)
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
        self.validation_data = self.validation.dataset

    @classmethod
    def from_config(cls, config: TrainConfig, data_dir: str | None) -> LanguageModelTask:
        """The task with its corpus read; errors are those of `load_corpus`."""
        return cls(config, load_corpus(config, data_dir))

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
        self.trained_model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=self.jit_compile(),
        )

    def evaluate(self, logs: dict[str, float]) -> dict[str, float]:
        """Loss and accuracy of `fit`; perplexity, and bits a character, which compares tokenizers.

        Bits per character = loss / ln 2 x tokens / characters, on the validation split.
        """
        loss = float(logs["val_loss"])
        tokens, characters = self.validation.tokens, self.corpus.validation_characters
        return {
            "val_loss": loss,
            "val_accuracy": float(logs["val_accuracy"]),
            "val_perplexity": math.exp(min(loss, 700.0)),
            "val_bits_per_character": loss / math.log(2) * tokens / characters,
        }

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        """Every slot of a window is a token."""
        return (stop_step - start_step) * self.config.batch_size * self.length

    def fingerprint(self) -> str:
        """SHA-256 of both token streams."""
        return streams_fingerprint(self.corpus)

    def data_summary(self) -> str:
        """Tokens of both splits, and the vocabulary."""
        return corpus_summary(self.corpus)

    def save(self, workdir: Path) -> bundle.Bundle:
        """Writes the bundle."""
        return bundle.save(workdir, self.model, self.tokenizer, self.start_id)

    def report_sections(self, bundle: bundle.Bundle) -> list[str]:
        """Continuations of the config's prompts."""
        config = self.config
        if not config.sample_prompts:
            return []
        outputs = bundle.lm.generate(
            list(config.sample_prompts),
            max_new_tokens=[config.sample_tokens],
            temperature=[config.sample_temperature],
            seed=list(range(len(config.sample_prompts))),
        )
        texts = [text.decode("utf-8", "replace") for text in outputs["text"].numpy()]
        sections = [f"## Samples (temperature {config.sample_temperature})"]
        for prompt, text in zip(config.sample_prompts, texts):
            title = f"Prompt {prompt!r}:" if prompt else "No prompt:"
            sections.append(f"{title}\n\n{fenced(text)}")
        return sections


def streams_fingerprint(corpus: Corpus) -> str:
    """SHA-256 of both token streams of a corpus."""
    digest = hashlib.sha256()
    for ids in (corpus.train_ids, corpus.validation_ids):
        digest.update(np.int64(len(ids)).tobytes())
        digest.update(np.ascontiguousarray(ids, np.int32).tobytes())
    return digest.hexdigest()


def corpus_summary(corpus: Corpus) -> str:
    """How many tokens a corpus has, in one line."""
    return (
        f"{len(corpus.train_ids):,} training tokens, {len(corpus.validation_ids):,} "
        f"validation tokens, vocabulary {corpus.tokenizer.vocabulary_size}"
    )


def fenced(text: str) -> str:
    """A Markdown code block that no run of backticks in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


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
