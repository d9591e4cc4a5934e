"""Task "lm": next-token prediction over running text, by a GPT or an LSTM."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.shards import TokenStream
from trainers.distribution.rows import replica_index
from trainers.tasks.base import build_model, read_initial
from trainers.tasks.running_text import RunningTextTask, fenced, read_corpus
from trainers.tokenizers import language_model_tokenizer
from zoo import bundle
from zoo.config import ConfigError
from zoo.models.heads import CausalLM
from zoo.tokenizers import Tokenizer


class LanguageModelTask(RunningTextTask):
    """Next-token prediction; of weights to start from, the tokenizer and context are kept."""

    loss_unit = "nats a token"

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        self.config, data = config, config.data
        initial = read_initial(config)
        if initial is None:
            tokenizer = language_model_tokenizer(data)
            length = config.model_config().context_length
        else:
            tokenizer = initial.tokenizer
            length = config.model.get("context_length", initial.model.context_length)
        self.corpus = read_corpus(config, data_dir, tokenizer, length)
        self.tokenizer = self.corpus.tokenizer
        # A bad start_text should not wait for the end of training.
        self.bundle_options = {"start_id": _start_id(data.start_text, self.tokenizer)}
        self.model = build_model(config, self.tokenizer, initial)
        self.length = self.model.context_length
        self.carries_state = data.order == "segments"
        self.trained_model = self.model
        if self.carries_state:
            self.segment = data.segment_windows
            self.trained_model = CarriedState(self.model, config.batch_size, self.segment)
        elif data.document_mask:
            if self.tokenizer.end_id is None:
                raise ConfigError(
                    "data.document_mask needs an end-of-text token between documents, and the "
                    f"{self.tokenizer.kind} tokenizer has none"
                )
            self.trained_model = PackedDocuments(self.model, self.tokenizer.end_id)

    def validation_set(self, ids: TokenStream) -> tf.data.Dataset:
        if self.carries_state:
            return pipeline.validation_streams(ids, self.config.batch_size, self.length).dataset
        return self.validation_windows(ids)

    def evaluate(self, logs):
        """As `RunningTextTask`, and bits a character of validation, which compares tokenizers."""
        found = super().evaluate(logs)
        per_token = self.mean_over_corpora(
            lambda part: part.validation_characters / (len(part.validation_ids) - 1)
        )
        found["val_bits_per_character"] = found["val_loss"] / math.log(2) / per_token
        return found

    def samples(self, saved: bundle.Bundle) -> list[str]:
        """Continuations of the config's prompts, or of the opening of the validation text."""
        config = self.config
        prompts = config.sample_prompts
        if prompts is None:
            prompts = ("", self.opening_of_validation(24))
        if not prompts:
            return []
        outputs = saved.lm.generate(
            list(prompts),
            max_new_tokens=[config.sample_tokens],
            temperature=[config.sample_temperature],
            seed=list(range(len(prompts))),
        )
        sections = [f"## Samples (temperature {config.sample_temperature})"]
        for prompt, text in zip(prompts, outputs["text"].numpy()):
            title = f"Prompt {prompt!r}:" if prompt else "No prompt:"
            sections.append(f"{title}\n\n{fenced(text.decode('utf-8', 'replace'))}")
        return sections


class CarriedState(keras.Model):
    """A recurrent language model that goes on from the state of the batch before (truncated
    back-propagation through time); in training it starts anew at every segment. The states are
    variables of a checkpoint, but not of the model that is exported."""

    def __init__(self, model: CausalLM, batch_size: int, segment: int, **kwargs):
        super().__init__(name="carried_state", **kwargs)
        self.model = model
        self.segment = segment
        config = model.backbone.config
        shape = (config.num_layers, 2, batch_size, config.hidden_dim)
        zeros = {"initializer": "zeros", "trainable": False}
        self.train_state = self.add_weight(shape, name="train_state", **zeros)
        self.validation_state = self.add_weight(shape, name="validation_state", **zeros)
        self.step = self.add_weight((), dtype="int32", name="step", **zeros)
        self.built = True

    @property
    def row_states(self) -> tuple[keras.Variable, ...]:
        """Variables with a part for each row of the batch."""
        return self.train_state, self.validation_state

    def call(self, token_ids, training=None):
        state = self.train_state if training else self.validation_state
        carried = ops.convert_to_tensor(state)  # (L, 2, B, D)
        layers, _, batch_size, _ = state.shape
        rows = token_ids.shape[0] or batch_size
        if rows < batch_size:
            first = (0, 0, replica_index() * rows, 0)
            carried = ops.slice(carried, first, (*state.shape[:2], rows, state.shape[3]))
        if training:
            carried = carried * ops.cast(self.step % self.segment != 0, carried.dtype)
            self.step.assign(self.step + 1)
        pairs = tuple((carried[layer, 0], carried[layer, 1]) for layer in range(layers))
        backbone = self.model.backbone
        hidden, pairs = backbone.call_with_state(token_ids, pairs, training=training)
        after = ops.stack([ops.stack(pair) for pair in pairs])
        if rows < batch_size:
            # The rows of other replicas are zeros: the sum of all is the whole state.
            after = ops.slice_update(ops.zeros(state.shape, after.dtype), first, after)
        state.assign(after)
        return backbone.logits(hidden)


class ResetValidationState(keras.callbacks.Callback):
    """Starts every validation from the zero state."""

    def on_test_begin(self, logs=None):
        if isinstance(self.model, CarriedState):
            state = self.model.validation_state
            state.assign(np.zeros(state.shape, "float32"))


class PackedDocuments(keras.Model):
    """A language model whose tokens see their own document only; an end-of-text token, `end_id`,
    begins the document that follows it, as it does in generation from an empty text."""

    def __init__(self, model: CausalLM, end_id: int, **kwargs):
        super().__init__(name="packed_documents", **kwargs)
        self.model = model
        self.end_id = end_id
        self.built = True

    def call(self, token_ids, training=None):
        ends = ops.cast(ops.equal(token_ids, self.end_id), "int32")
        return self.model(token_ids, document_ids=ops.cumsum(ends, axis=1), training=training)


def _start_id(start_text: str, tokenizer: Tokenizer) -> int:
    """Id of the one known token that `start_text` is, `end_id` for ""."""
    if not start_text:
        return tokenizer.end_id
    ids = tokenizer.encode([start_text]).to_list()[0]
    if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
        raise ConfigError(
            f"data.start_text must be one token of the training text. Received: {start_text!r}, "
            f"which is {len(ids)} token(s){' and unknown' if len(ids) == 1 else ''}"
        )
    return ids[0]
