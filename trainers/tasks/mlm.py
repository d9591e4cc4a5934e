"""Task "mlm": masked-language-model pre-training over running text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.augment import mask_tokens
from trainers.data.config import DataConfig
from trainers.data.corpus import Document, read_documents
from trainers.data.datasets import NAMED_DATASETS, Examples
from trainers.data.examples import Questions, TaggedTexts
from trainers.data.pipeline import WindowOrder
from trainers.data.shards import TokenStream
from trainers.data.sources import find_data_dir
from trainers.tasks.base import build_model, read_initial
from trainers.tasks.encoder import make_tokenizer
from trainers.tasks.lm import fenced
from trainers.tasks.running_text import RunningText, RunningTextTask
from zoo import bundle
from zoo.models.lora import merge_lora
from zoo.text.models import TEXT_MODELS
from zoo.tokenizers.base import require_roles


class MaskedLanguageModelTask(RunningTextTask):
    """Windows of running text, some tokens hidden; the model says which they were.

    Documents are packed end to end with [SEP] between them, and a window is [CLS], tokens, [SEP],
    always `text.max_length` long: no padding. Masks are drawn anew at every step; the validation
    windows have the same masks at every evaluation.
    """

    loss_unit = "nats a masked token"

    def __init__(self, config: TrainConfig, data_dir: str | None):
        self.config = config
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        initial = read_initial(config)
        text = RunningText(
            config,
            lambda data, source: read_running_text(data, source, data_dir),
            initial and initial.tokenizer,
            data_dir,
        )
        self.tokenizer = text.tokenizer
        if self.tokenizer is None:
            documents = text.documents
            self.tokenizer = make_tokenizer(
                config, initial, lambda: [document.text for document in documents], data_dir
            )
        require_roles(self.tokenizer, "mask")
        self.model = build_model(config, self.tokenizer, initial, config.head)
        self.trained_model = self.model
        self.text_model = TEXT_MODELS["mlm"](self.tokenizer, self.model, config.text, ())
        self.window = config.text.window_size()
        self.corpus = text.corpus(self.tokenizer, self.window)
        self.max_predictions = max(math.ceil(config.data.masking.rate * self.window), 1)
        special = [*self.tokenizer.special_tokens.values()]
        self.is_special = np.isin(np.arange(self.tokenizer.vocabulary_size), special)
        self._begin_head(initial)
        self.validation_data = self.validation_sets(self._validation)

    def _begin_head(self, initial: bundle.Bundle | None) -> None:
        """Goes on with the head of an earlier masked LM, or begins with how frequent tokens are.

        A bias of zeros would leave the frequencies to be learned through the tied embeddings,
        which bend towards one direction for it: text classifiers that started from such weights
        were worse than from random ones.
        """
        if initial is not None and initial.config.task == "mlm":
            there = initial.model.head_weights()
            for weight, value in zip(self.model.head_weights(), there, strict=True):
                weight.assign(value)
        else:
            self.model.output_bias.assign(np.log(self.token_frequencies()))

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        config = self.config
        rows = pipeline.host_rows(config.batch_size, host, num_hosts)
        windows = pipeline.training_windows(
            self.corpus.train_ids,
            config.batch_size,
            self.window,
            config.seed,
            start_step,
            config.steps,
        )
        steps = tf.data.Dataset.range(start_step, config.steps)

        def masked(step, window):
            # Masks are drawn for a whole batch: so every host draws them, and keeps its rows.
            batch = self._masked(window[0], tf.ones_like(window[0], tf.bool), step)
            return tf.nest.map_structure(lambda part: part[rows], batch)

        return pipeline.mapped(tf.data.Dataset.zip(steps, windows), masked)

    def order(self) -> WindowOrder:
        config, ids = self.config, self.corpus.train_ids
        return pipeline.window_order(ids, config.batch_size, self.window, config.seed)

    def _masked(self, ids, real, step, scale=None):
        """Inputs, labels (B, P) and weights (B, P) of windows (B, T - 2).

        Weights add up to the number of slots, so that the mean over slots that Keras takes is
        the mean over masked tokens.
        """
        tokenizer = self.tokenizer
        edges = [[0, 0], [1, 1]]
        padded = tf.pad(ids, edges)
        places = tf.range(self.window + 2)[None]
        padded = tf.where(places == 0, tokenizer.cls_id, padded)
        padded = tf.where(places == self.window + 1, tokenizer.sep_id, padded)
        inside = tf.pad(real, edges) & ~tf.gather(tf.constant(self.is_special), padded)
        masked = mask_tokens(
            padded,
            inside,
            ~tf.gather(tf.constant(tokenizer.continuation), padded),
            seed=tf.stack([tf.constant(self.config.seed, tf.int64), step]),
            mask_id=tokenizer.mask_id,
            vocabulary_size=tokenizer.vocabulary_size,
            special_ids=[*tokenizer.special_tokens.values()],
            config=self.config.data.masking,
            max_predictions=self.max_predictions,
        )
        inputs = {
            "token_ids": masked.token_ids,
            "padding_mask": tf.ones_like(inside),
            "segment_ids": tf.zeros_like(padded),
            "masked_positions": masked.positions,
        }
        if scale is None:
            slots = tf.cast(tf.size(masked.weights), tf.float32)
            scale = slots / tf.maximum(tf.reduce_sum(masked.weights), 1.0)
        return inputs, masked.labels, masked.weights * scale

    def _validation(self, ids: TokenStream) -> tf.data.Dataset:
        rows = self.validation_rows(self.window)
        windows = pipeline.validation_windows(ids, rows, self.window, at_least=rows)
        numbered = windows.dataset.enumerate()

        def masked(scale):
            # Negative steps: the masks of no training step.
            return numbered.map(
                lambda step, window: self._masked(window[0], window[2] > 0, -1 - step, scale)
            )

        weights = [weight.numpy() for _, _, weight in masked(1.0)]
        slots, total = sum(w.size for w in weights), sum(float(w.sum()) for w in weights)
        # Batches are of one size, so their mean is exact with one scale for all.
        return pipeline.fixed_schedule(masked(slots / max(total, 1.0)).cache())

    def trained_tokens(self, start_step, stop_step):
        return (stop_step - start_step) * self.config.batch_size * self.window

    def save(self, workdir: Path) -> bundle.Bundle:
        merge_lora(self.model)
        return bundle.save(workdir, self.model, self.tokenizer, text=self.config.text)

    def samples(self, saved: bundle.Bundle) -> list[str]:
        """The config's prompts, or the opening of the validation text, with their masks filled."""
        mask = self.tokenizer.tokens([self.tokenizer.mask_id]).numpy()[0].decode()
        prompts = self.config.sample_prompts
        if prompts is None:
            words = self.opening_of_validation(80).split(" ")
            words[len(words) // 2] = mask
            prompts = [" ".join(words)]
        prompts = [prompt for prompt in prompts if mask in prompt]
        if not prompts:
            return []
        outputs = self.text_model.fill_mask(prompts)
        lines = []
        for text, tokens, shares in zip(
            prompts, outputs["tokens"].numpy(), outputs["probabilities"].numpy()
        ):
            best = (f"{t.decode('utf-8', 'replace')} {p:.3f}" for t, p in zip(tokens[0], shares[0]))
            lines.append(f"{text}\n    " + ", ".join(best))
        return ["## Masks filled", fenced("\n".join(lines))]


def read_running_text(data: DataConfig, source: str, data_dir: str | None) -> list[Document]:
    """The documents of a source of running text, or the texts of a labelled data set by name.

    The second is how a model gets used to a task's texts before it sees their labels (Gururangan
    et al., 2020, arXiv:2004.10964).
    """
    if source in NAMED_DATASETS:
        texts = texts_of(NAMED_DATASETS[source].read(find_data_dir(data_dir)))
        return [Document(f"{source}:{number}", text) for number, text in enumerate(texts, 1)]
    return read_documents(source, data, data_dir)


def texts_of(examples: Examples) -> list[str]:
    """The texts of labelled examples, each once, without their labels."""
    if isinstance(examples, TaggedTexts):
        return [" ".join(words) for words in examples.words]
    if isinstance(examples, Questions):
        return list(dict.fromkeys(examples.context))
    return examples.text
