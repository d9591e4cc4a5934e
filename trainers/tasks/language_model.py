"""Task "lm": next-token prediction over running text, by a GPT or an LSTM."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import keras
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.corpora import Mixture, corpora_of
from trainers.data.corpus import Corpus
from trainers.data.order import WindowOrder
from trainers.data.shards import TokenStream
from trainers.data.sources import read_documents
from trainers.tasks.carried_state import CarriedState
from trainers.tasks.initial import build_from, read_initial
from trainers.tasks.packed_documents import PackedDocuments
from trainers.tasks.running_text import RunningText, reading_options
from trainers.tasks.running_text_task import RunningTextTask
from trainers.tokenizers import language_model_tokenizer
from zoo import bundle
from zoo.config import ConfigError
from zoo.models.build import build
from zoo.models.lora import merge_lora
from zoo.tokenizers import Tokenizer

# Tokens of a validation batch: large enough to keep two cores busy, small enough for memory.
_VALIDATION_TOKENS = 8192


def load_corpus(
    config: TrainConfig, data_dir: str | None, initial: bundle.Bundle | None = None
) -> Corpus | Mixture:
    """Reads, splits and encodes the text of a run, or opens what was prepared before.

    Args:
        initial: the bundle that the run starts from, whose tokenizer and context are kept.

    Raises:
        ValueError, OSError: from `trainers.data`; the message names the file and the fix.
    """

    def read(data, source):
        return read_documents(source, data_dir=data_dir, **reading_options(data))

    if initial is None:
        tokenizer = language_model_tokenizer(config.data)
        context_length = config.model_config(2).context_length
    else:
        tokenizer = initial.tokenizer
        context_length = config.model.get("context_length", initial.model.context_length)
    return RunningText(config, read, tokenizer, data_dir).corpus(tokenizer, context_length)


@dataclasses.dataclass
class LanguageModelTask(RunningTextTask):
    """Next-token prediction over a corpus.

    Attributes:
        config: TrainConfig. corpus: Corpus, or Mixture.
        initial: Bundle the weights and the tokenizer come from, or None.
        model: CausalLM, what the bundle will hold.
        trained_model: what `fit` runs: `model`, or `model` with a carried state, or with documents
            that do not see each other.

    Raises:
        ConfigError: `data.start_text` is no token; `data.document_mask` with a tokenizer that has
            no end-of-text token.
    """

    loss_unit = "nats a token"

    config: TrainConfig
    corpus: Corpus | Mixture
    initial: bundle.Bundle | None = None

    def __post_init__(self):
        self.tokenizer = self.corpus.tokenizer
        # A bad start_text should not wait for the end of training.
        self.start_id = start_id(self.config.data.start_text, self.tokenizer)
        if self.initial is None:
            self.model = build(self.config.model_config(self.tokenizer.vocabulary_size))
        else:
            self.model = build_from(self.initial, self.config)
        self.length = self.model.context_length
        self.segment = 1
        self.trained_model = self.model
        if self._carries_state:
            self.segment = self.config.data.segment_windows
            self.trained_model = CarriedState(self.model, self.config.batch_size, self.segment)
        elif self.config.data.document_mask:
            self.trained_model = PackedDocuments(self.model, _end_id(self.tokenizer))
        self.validation_data = self.validation_sets(self._validation)

    @property
    def _carries_state(self) -> bool:
        return self.config.data.order == "segments"

    def _validation(self, ids: TokenStream) -> tf.data.Dataset:
        if self._carries_state:
            rows = self.config.batch_size
            return pipeline.validation_streams(ids, rows, self.length).dataset
        rows = self.validation_rows(_VALIDATION_TOKENS, self.length)
        return pipeline.validation_windows(ids, rows, self.length, at_least=rows).dataset

    @classmethod
    def from_config(cls, config: TrainConfig, data_dir: str | None) -> LanguageModelTask:
        """The task with its corpus read; errors are those of `load_corpus`."""
        initial = read_initial(config)
        return cls(config, load_corpus(config, data_dir, initial), initial)

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
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
            host,
            num_hosts,
        )

    def order(self) -> WindowOrder:
        """The order in which `training_data` reads."""
        config, ids = self.config, self.corpus.train_ids
        return pipeline.window_order(ids, config.batch_size, self.length, config.seed, self.segment)

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
        means = self.validation_means(logs)
        characters = {  # of a token
            name: part.validation_characters / (len(part.validation_ids) - 1)
            for name, part in corpora_of(self.corpus).items()
        }
        mixed = isinstance(self.corpus, Mixture)
        per_token = self.corpus.mean(characters) if mixed else characters[""]
        return {
            **means,
            "val_bits_per_character": means["val_loss"] / math.log(2) / per_token,
            **self.losses_of_corpora(logs),
        }

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        """Every slot of a window is a token."""
        return (stop_step - start_step) * self.config.batch_size * self.length

    def save(self, workdir: Path) -> bundle.Bundle:
        """Writes the bundle, low-rank factors merged into plain weights."""
        merge_lora(self.model)
        return bundle.save(workdir, self.model, self.tokenizer, self.start_id)

    def report_sections(self, bundle: bundle.Bundle) -> list[str]:
        """What was read of a mixture; continuations of the config's prompts."""
        config, sections = self.config, self.mixture_sections(bundle.folder)
        prompts = config.sample_prompts
        if prompts is None:
            prompts = ("", self.opening_of_validation(24))
        if not prompts:
            return sections
        outputs = bundle.lm.generate(
            list(prompts),
            max_new_tokens=[config.sample_tokens],
            temperature=[config.sample_temperature],
            seed=list(range(len(prompts))),
        )
        texts = [text.decode("utf-8", "replace") for text in outputs["text"].numpy()]
        sections.append(f"## Samples (temperature {config.sample_temperature})")
        for prompt, text in zip(prompts, texts):
            title = f"Prompt {prompt!r}:" if prompt else "No prompt:"
            sections.append(f"{title}\n\n{fenced(text)}")
        return sections


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


def _end_id(tokenizer: Tokenizer) -> int:
    if tokenizer.end_id is None:
        raise ConfigError(
            "data.document_mask needs an end-of-text token between documents, and the "
            f"{tokenizer.kind} tokenizer has none"
        )
    return tokenizer.end_id
