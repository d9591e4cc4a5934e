"""Tables of texts with labels, for tasks classify, pair and regress: splits and batches."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.augment import augment_texts
from trainers.data.buckets import BucketPlan, default_buckets
from trainers.data.datasets import read_labeled_source
from trainers.data.examples import LabeledTexts
from trainers.data.pipeline import mapped
from trainers.data.splits import random_split, stratified_split
from trainers.tasks.encoder import ENCODE_BATCH, read_three, token_counts
from zoo.text.base import TextEncoder
from zoo.text.config import special_count
from zoo.text.packing import (
    cut_windows,
    pack,
    row_windows,
    take_windows,
    truncate_pair,
)


def read_splits(
    config: TrainConfig,
    data_dir: str | None,
    pair_column: str | None,
    label_column: str | None,
    numeric_labels: bool = False,
) -> tuple[LabeledTexts, LabeledTexts, LabeledTexts | None]:
    """Training, validation and test examples, as `config.data` names them.

    Without `data.validation` a share of the training examples is held out, of each class alike.
    """
    data = config.data

    def read(source):
        return read_labeled_source(
            source,
            data_dir=data_dir,
            pattern=data.pattern,
            format=data.format,
            text_column=data.text_column,
            pair_column=pair_column,
            label_column=label_column,
            id_column=data.id_column,
            header=data.header,
            quotes=data.quotes,
            numeric_labels=numeric_labels,
            encoding=data.encoding,
            invalid=data.invalid,
            limits=data.limits,
        )

    def split(rows, fraction):
        if label_column is None or numeric_labels:
            return random_split(len(rows), fraction, config.seed)
        return stratified_split(rows.label, fraction, config.seed)

    return read_three(data, read, split)


class TextBatches:
    """Training batches of texts or pairs: packed ids, targets, weights.

    A long single text gives one row for each of its windows, which share its weight.

    Args:
        text_model: for tokenizer, cleaning and windows: what serving does, training does.
        config: TrainConfig.
        text, text_pair: N texts, and as many second ones or None.
        targets: (N,) or (N, 1) array. weights: float (N,).
    """

    def __init__(
        self,
        text_model: TextEncoder,
        config: TrainConfig,
        text: list[str],
        text_pair: list[str] | None,
        targets: np.ndarray,
        weights: np.ndarray,
    ):
        self.text_model = text_model
        self.config = config
        self.tokenizer = text_model.tokenizer
        columns = [text] if text_pair is None else [text, text_pair]
        columns = [clean_all(text_model, column) for column in columns]
        counts = [token_counts(self.tokenizer, column) for column in columns]
        limit = text_model.config.max_length
        if text_pair is None:
            size = text_model.config.window_size()
            windows = cut_windows(tf.constant(counts[0]), size, text_model.config.window_stride())
            self.rows = windows.rows.numpy()
            self.starts = windows.starts.numpy()
            weights = weights[self.rows] / windows.counts.numpy()
            lengths = windows.lengths.numpy() + special_count(pairs=False)
        else:
            self.rows = np.arange(len(text))
            self.starts = np.zeros(len(text), np.int64)
            added = special_count(True, self.tokenizer.pair_separators)
            lengths = np.minimum(counts[0] + counts[1] + added, limit)
        self.columns = [tf.constant(column, tf.string) for column in columns]
        self.targets = tf.constant(np.asarray(targets)[self.rows])
        self.weights = tf.constant(weights, tf.float32)
        buckets = config.data.buckets or default_buckets(lengths, limit)
        self.plan = BucketPlan(lengths, config.batch_size, buckets, config.seed)

    def dataset(self, start_step: int) -> tf.data.Dataset:
        """`(inputs, targets (B, ...), weights (B,))` of the steps from `start_step`."""
        batches = self.plan.batches(start_step, self.config.steps)
        return mapped(batches, self._batch)

    def _batch(self, step, examples, length):
        real = tf.cast(examples >= 0, tf.float32)
        examples = tf.maximum(examples, 0)
        rows = tf.gather(tf.constant(self.rows), examples)
        texts = [
            self._augmented(tf.gather(column, rows), step, place)
            for place, column in enumerate(self.columns)
        ]
        ids = [self.tokenizer.encode(text) for text in texts]
        if len(ids) == 1:
            packed = pack(self.tokenizer, self._window(ids[0], examples, length), length=length)
        else:
            added = special_count(True, self.tokenizer.pair_separators)
            first, second = truncate_pair(*ids, length - added)
            packed = pack(self.tokenizer, first, second, length=length)
        weights = tf.gather(self.weights, examples) * real
        return packed.inputs(), tf.gather(self.targets, examples), weights

    def _window(self, ids: tf.RaggedTensor, examples, length) -> tf.RaggedTensor:
        # Augmentation may have left fewer tokens than there were.
        start = tf.gather(tf.constant(self.starts), examples)
        return take_windows(ids, row_windows(ids, start, length - special_count(pairs=False)))

    def _augmented(self, text, step, place):
        augment = self.config.data.augment
        if augment.is_off:
            return text
        seed = tf.stack([tf.constant(self.config.seed, tf.int64), step * 2 + place])
        return augment_texts(text, augment, seed)


def clean_all(text_model: TextEncoder, texts: list[str]) -> list[bytes]:
    """The texts as `text_model` cleans them, once and for all epochs."""
    cleaned = []
    for start in range(0, len(texts), ENCODE_BATCH):
        part = tf.constant(texts[start : start + ENCODE_BATCH], tf.string)
        cleaned += text_model.clean(part).numpy().tolist()
    return cleaned
