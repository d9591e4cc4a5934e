"""Task "lm": next-token prediction over running text, by a GPT or an LSTM."""

from __future__ import annotations

import math
import re
from pathlib import Path

import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.corpus import Corpus, Mixture, read_documents
from trainers.data.pipeline import WindowOrder
from trainers.data.shards import TokenStream
from trainers.tasks.base import build_model, read_initial
from trainers.tasks.running_text import RunningText, RunningTextTask
from trainers.tasks.training_models import CarriedState, PackedDocuments
from trainers.tokenizers import language_model_tokenizer
from zoo import bundle
from zoo.config import ConfigError
from zoo.models.lora import merge_lora
from zoo.tokenizers import Tokenizer


def load_corpus(
    config: TrainConfig, data_dir: str | None = None, initial: bundle.Bundle | None = None
) -> Corpus | Mixture:
    """Reads, splits and encodes the text of a run, or opens what was prepared before.

    With `initial`, the bundle that the run starts from, its tokenizer and context are kept.
    """

    def read(data, source):
        return read_documents(source, data, data_dir)

    if initial is None:
        tokenizer = language_model_tokenizer(config.data)
        context_length = config.model_config().context_length
    else:
        tokenizer = initial.tokenizer
        context_length = config.model.get("context_length", initial.model.context_length)
    return RunningText(config, read, tokenizer, data_dir).corpus(tokenizer, context_length)


class LanguageModelTask(RunningTextTask):
    """Next-token prediction over a corpus of `load_corpus`, from the weights of `initial`."""

    loss_unit = "nats a token"

    def __init__(
        self, config: TrainConfig, corpus: Corpus | Mixture, initial: bundle.Bundle | None = None
    ):
        self.config, self.corpus = config, corpus
        self.tokenizer = corpus.tokenizer
        # A bad start_text should not wait for the end of training.
        self.start_id = start_id(config.data.start_text, self.tokenizer)
        self.model = build_model(config, self.tokenizer, initial)
        self.length = self.model.context_length
        self.carries_state = config.data.order == "segments"
        self.segment = config.data.segment_windows if self.carries_state else 1
        if self.carries_state:
            self.trained_model = CarriedState(self.model, config.batch_size, self.segment)
        elif config.data.document_mask:
            self.trained_model = PackedDocuments(self.model, _end_id(self.tokenizer))
        else:
            self.trained_model = self.model
        self.validation_data = self.validation_sets(self._validation)

    @classmethod
    def from_config(cls, config: TrainConfig, data_dir: str | None) -> LanguageModelTask:
        """The task with its corpus read; errors are those of `load_corpus`."""
        initial = read_initial(config)
        return cls(config, load_corpus(config, data_dir, initial), initial)

    def _validation(self, ids: TokenStream) -> tf.data.Dataset:
        if self.carries_state:
            return pipeline.validation_streams(ids, self.config.batch_size, self.length).dataset
        rows = self.validation_rows(self.length)
        return pipeline.validation_windows(ids, rows, self.length, at_least=rows).dataset

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        config = self.config
        return pipeline.training_windows(
            self.corpus.train_ids,
            config.batch_size,
            self.length,
            config.seed,
            start_step,
            config.steps,
            self.segment,
            host,
            num_hosts,
        )

    def order(self) -> WindowOrder:
        config, ids = self.config, self.corpus.train_ids
        return pipeline.window_order(ids, config.batch_size, self.length, config.seed, self.segment)

    def evaluate(self, logs: dict[str, float]) -> dict[str, float]:
        """As `RunningTextTask`, and bits a character, which compares tokenizers.

        Bits per character = loss / ln 2 x tokens / characters, on the validation split.
        """
        found = super().evaluate(logs)
        per_token = self.mean_over_corpora(
            lambda part: part.validation_characters / (len(part.validation_ids) - 1)
        )
        found["val_bits_per_character"] = found["val_loss"] / math.log(2) / per_token
        return found

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        """Every slot of a window is a token."""
        return (stop_step - start_step) * self.config.batch_size * self.length

    def save(self, workdir: Path) -> bundle.Bundle:
        merge_lora(self.model)
        return bundle.save(workdir, self.model, self.tokenizer, self.start_id)

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


def fenced(text: str) -> str:
    """A Markdown code block that no run of backticks in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def start_id(start_text: str, tokenizer: Tokenizer) -> int:
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


def _end_id(tokenizer: Tokenizer) -> int:
    if tokenizer.end_id is None:
        raise ConfigError(
            "data.document_mask needs an end-of-text token between documents, and the "
            f"{tokenizer.kind} tokenizer has none"
        )
    return tokenizer.end_id
