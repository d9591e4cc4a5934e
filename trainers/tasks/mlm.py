"""Task "mlm": masked-language-model pre-training over running text."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data import pipeline
from trainers.data.augment import mask_tokens
from trainers.data.shards import TokenStream
from trainers.tasks.base import build_model, read_initial
from trainers.tasks.encoder import make_tokenizer
from trainers.tasks.running_text import RunningTextTask, fenced, read_corpus
from zoo import bundle
from zoo.text.models import TEXT_MODELS
from zoo.tokenizers.base import require_roles


class MaskedLanguageModelTask(RunningTextTask):
    """Says what the masked tokens of [CLS], running text with [SEP] between documents, [SEP] are;
    masks are drawn anew at every step, and for validation once."""

    loss_unit = "nats a masked token"

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        self.config = config
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        initial = read_initial(config)
        self.length = config.text.window_size()

        def tokenizer(texts):
            return make_tokenizer(config, initial, lambda: texts, data_dir)

        known = tokenizer if initial is None else tokenizer([])
        self.corpus = read_corpus(config, data_dir, known, self.length)
        self.tokenizer = self.corpus.tokenizer
        require_roles(self.tokenizer, "mask")
        self.special_ids = [*self.tokenizer.special_tokens.values()]
        self.model = build_model(config, self.tokenizer, initial, config.head)
        self.trained_model = self.model
        self.bundle_options = {"text": config.text}
        self.text_model = TEXT_MODELS["mlm"](self.tokenizer, self.model, config.text, ())
        if initial is not None and initial.config.task == "mlm":
            there = initial.model.head_weights()
            for weight, value in zip(self.model.head_weights(), there, strict=True):
                weight.assign(value)
        else:
            # A bias of zeros would leave the frequencies to be learned through the tied embeddings,
            # which bend towards one direction for it: text classifiers that started from such
            # weights were worse than from random ones.
            self.model.output_bias.assign(np.log(self.token_frequencies()))

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        rows = pipeline.host_rows(self.config.batch_size, host, num_hosts)
        steps = tf.data.Dataset.range(start_step, self.config.steps)

        def masked(step, window):
            # Masks are drawn for a whole batch: so every host draws them, and keeps its rows.
            batch = self._masked(window[0], tf.ones_like(window[0], tf.bool), step)
            return tf.nest.map_structure(lambda part: part[rows], batch)

        windows = super().training_data(start_step)
        return pipeline.mapped(tf.data.Dataset.zip(steps, windows), masked)

    def _masked(self, ids, real, step, scale=None):
        """Inputs, labels (B, P) and weights (B, P) of windows (B, T - 2)."""
        # Weights add up to the slots: Keras' mean over slots is the mean over masked tokens.
        tokenizer, config = self.tokenizer, self.config.data.masking
        edges = [[0, 0], [1, 1]]
        padded = tf.pad(ids, edges)
        places = tf.range(self.length + 2)[None]
        padded = tf.where(places == 0, tokenizer.cls_id, padded)
        padded = tf.where(places == self.length + 1, tokenizer.sep_id, padded)
        is_special = np.isin(np.arange(tokenizer.vocabulary_size), self.special_ids)
        inside = tf.pad(real, edges) & ~tf.gather(tf.constant(is_special), padded)
        masked = mask_tokens(
            padded,
            inside,
            ~tf.gather(tf.constant(tokenizer.continuation), padded),
            seed=tf.stack([tf.constant(self.config.seed, tf.int64), step]),
            mask_id=tokenizer.mask_id,
            vocabulary_size=tokenizer.vocabulary_size,
            special_ids=self.special_ids,
            config=config,
            max_predictions=max(math.ceil(config.rate * self.length), 1),
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

    def validation_set(self, ids: TokenStream) -> tf.data.Dataset:
        numbered = self.validation_windows(ids).enumerate()

        def masked(scale):
            # Negative steps: the masks of no training step.
            return numbered.map(
                lambda step, window: self._masked(window[0], window[2] > 0, -1 - step, scale)
            )

        weights = [weight.numpy() for _, _, weight in masked(1.0)]
        slots, total = sum(w.size for w in weights), sum(float(w.sum()) for w in weights)
        # Batches are of one size, so their mean is exact with one scale for all.
        return pipeline.fixed_schedule(masked(slots / max(total, 1.0)).cache())

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
        filled = zip(prompts, outputs["tokens"].numpy(), outputs["probabilities"].numpy())
        lines = []
        for text, tokens, shares in filled:
            best = (f"{t.decode('utf-8', 'replace')} {p:.3f}" for t, p in zip(tokens[0], shares[0]))
            lines.append(f"{text}\n    " + ", ".join(best))
        return ["## Masks filled", fenced("\n".join(lines))]
