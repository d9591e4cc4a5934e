"""Task "lm": next-token prediction over running text, by a GPT or an LSTM."""

from __future__ import annotations

import math

import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.shards import TokenStream
from trainers.tasks.base import build_model, read_initial
from trainers.tasks.running_text import RunningTextTask, fenced, read_corpus
from trainers.tasks.training_models import CarriedState, PackedDocuments
from trainers.tokenizers import language_model_tokenizer
from zoo import bundle
from zoo.config import ConfigError
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
