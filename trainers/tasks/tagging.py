"""Task "tag": one tag for each word: named entities, parts of speech."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainers.data.augment import augment_tagged
from trainers.data.buckets import BucketPlan, default_buckets
from trainers.data.datasets import read_tagged_source
from trainers.data.examples import TaggedTexts
from trainers.data.pipeline import mapped
from trainers.data.splits import check_tags, random_split
from trainers.metrics import write_scores
from trainers.optim.losses import SparseCrossentropy
from trainers.report.baselines import tagging_baseline
from trainers.report.entities import tag_scores
from trainers.report.understanding import tagging_section
from trainers.tasks.encoder import EncoderTask, digest_of, predict_all, read_three, token_counts
from zoo import bundle
from zoo.text.config import special_count
from zoo.text.packing import cut_windows, pack, row_windows, take_windows

OUTSIDE = "O"


class TagTask(EncoderTask):
    """Tags words of sentences; chosen by the F1 of whole entities, as seqeval counts it, or, where
    the tags are no entities (parts of speech), by the share of right tags.

    The words of a CoNLL file are split further where BERT splits: "it's" is three words. The first
    of them carries the word's tag, the others continue it (I-X after B-X), and an answer for the
    word is the tag of its first one.
    """

    # `read` keeps those of the kind of tags that the data have.
    metrics = dict.fromkeys(
        ("val_f1", "val_precision", "val_recall", "val_accuracy", "val_macro_f1"), "max"
    )

    def read(self, data_dir):
        data = self.config.data

        def read(source):
            return read_tagged_source(
                source,
                data_dir=data_dir,
                pattern=data.pattern,
                token_column=data.token_column,
                tag_column=data.tag_column,
                separator=data.separator,
                scheme=data.scheme,
                encoding=data.encoding,
                invalid=data.invalid,
                limits=data.limits,
            )

        self.train, self.validation, self.test = read_three(
            data,
            read,
            lambda rows, fraction: random_split(len(rows), fraction, self.config.seed),
        )
        self.labels = tag_labels(self.train, data.train)
        for examples, source in ((self.validation, data.validation), (self.test, data.test)):
            if examples is not None:
                check_tags(examples, self.labels, source)
        self.all_tags = set(self.labels)  # of the data: a test may have more than the training
        for examples in (self.validation, self.test):
            if examples is not None:
                self.all_tags.update(*examples.tags)
        self.metrics = {
            f"val_{name}": "max" for name in tag_scores([], [], self.all_tags) if name != "types"
        }
        self.monitor  # noqa: B018  one of the other kind should not wait for the first evaluation

    def training_texts(self):
        return [" ".join(words) for words in self.train.words]

    def head_options(self):
        return {"num_tags": len(self.labels)}

    def prepare(self):
        """One row for each window of a sentence's tokens; most sentences have one."""
        words = [word for sentence in self.train.words for word in sentence]
        splits = np.cumsum([0, *map(len, self.train.words)])
        places = {label: index for index, label in enumerate(self.labels)}
        tags = [places[tag] for sentence in self.train.tags for tag in sentence]
        self.words = tf.RaggedTensor.from_row_splits(tf.constant(words, tf.string), splits)
        self.tags = tf.RaggedTensor.from_row_splits(tf.constant(tags, tf.int32), splits)
        self.continued = tf.constant(continuations(self.labels))
        pieces = token_counts(self.tokenizer, spaced(self.words).numpy().tolist())
        lengths = np.add.reduceat(pieces, splits[:-1])
        limit = self.config.text.max_length
        windows = cut_windows(
            tf.constant(lengths),
            self.config.text.window_size(),
            self.config.text.window_stride(),
        )
        self.rows, self.starts = windows.rows.numpy(), windows.starts.numpy()
        lengths = windows.lengths.numpy() + special_count(pairs=False)
        buckets = self.config.data.buckets or default_buckets(lengths, limit)
        self.plan = BucketPlan(lengths, self.config.batch_size, buckets, self.config.seed)

    def training_data(self, start_step: int) -> tf.data.Dataset:
        batches = self.plan.batches(start_step, self.config.steps)
        return mapped(batches, self._batch)

    def _batch(self, step, examples, length):
        real = tf.cast(examples >= 0, tf.float32)
        examples = tf.maximum(examples, 0)
        rows = tf.gather(tf.constant(self.rows), examples)
        words, tags = tf.gather(self.words, rows), tf.gather(self.tags, rows)
        augment = self.config.data.augment
        if not augment.is_off:
            seed = tf.stack([tf.constant(self.config.seed, tf.int64), step])
            outside = self.labels.index(OUTSIDE) if OUTSIDE in self.labels else -1
            words, tags = augment_tagged(words, tags, augment, seed, outside_id=outside)
        ids, labels, weights = tagged_tokens(self.tokenizer, words, tags, self.continued)
        start = tf.gather(tf.constant(self.starts), examples)
        window = row_windows(ids, start, length - special_count(pairs=False))
        packed = pack(self.tokenizer, take_windows(ids, window), length=length)

        def along(values):
            dense = take_windows(values, window).to_tensor(shape=tf.stack([-1, length - 1]))
            return tf.pad(dense, [[0, 0], [1, 0]])  # [CLS] has no tag

        return packed.inputs(), along(labels), along(weights) * real[:, None]

    def loss_target(self):
        return SparseCrossentropy(self.config.label_smoothing, reduction="mean_with_sample_weight")

    def trained_tokens(self, start_step, stop_step):
        return self.plan.real_tokens(start_step, stop_step)

    def evaluate(self, logs):
        predicted = tag_words(self.text_model, self.validation)
        found = tag_scores(self.validation.tags, predicted, self.all_tags)
        return {name: found[name.removeprefix("val_")] for name in self.metrics}

    def fingerprint(self):
        splits = (self.train, self.validation)
        return digest_of(*(column for s in splits for column in (s.words, s.tags)))

    def data_summary(self):
        test = "" if self.test is None else f", {len(self.test):,} test sentences"
        return (
            f"{len(self.train):,} training and {len(self.validation):,} validation sentences{test}"
            f", {len(self.labels)} tags, vocabulary {self.tokenizer.vocabulary_size}"
        )

    def report_sections(self, bundle: bundle.Bundle) -> list[str]:
        split, examples = self.reported()
        predicted = tag_words(self.text_model, examples)
        baseline = None
        if self.config.baseline:
            guesses = tagging_baseline(self.train.words, self.train.tags, examples.words)
            baseline = tag_scores(examples.tags, guesses, self.all_tags)
        scores = tag_scores(examples.tags, predicted, self.all_tags)
        write_scores(bundle.folder, split=split, model=scores, baseline=baseline)
        section = tagging_section(
            examples.words,
            examples.tags,
            predicted,
            labels=self.all_tags,
            baseline=baseline,
            where=examples.where,
        )
        return [f"## On the {split} sentences", section]


def tag_labels(examples: TaggedTexts, source: str) -> tuple[str, ...]:
    """The tags of the data: O first, then by type, each type with B- and I-.

    Raises:
        ValueError: there is only one.
    """
    found = {tag for sentence in examples.tags for tag in sentence}
    if len(found) < 2:
        raise ValueError(
            f"{source}: all words have the tag {', '.join(found)}; a tagger needs two or more. "
            "Check data.tag_column"
        )
    types = {tag[2:] for tag in found if tag[:2] in ("B-", "I-")}
    plain = found - {f"{place}-{name}" for place in "BI" for name in types}
    entity = [f"{place}-{name}" for name in sorted(types) for place in "BI"]
    return (*sorted(plain, key=lambda tag: (tag != OUTSIDE, tag)), *entity)


def continuations(labels: tuple[str, ...]) -> np.ndarray:
    """For each tag the one that continues its word: I-X for B-X, else itself; int32 (C,)."""
    places = {label: index for index, label in enumerate(labels)}
    inside = [
        places.get(f"I-{label[2:]}", index) if label[:2] == "B-" else index
        for index, label in enumerate(labels)
    ]
    return np.array(inside, np.int32)


def tagged_tokens(tokenizer, words: tf.RaggedTensor, tags: tf.RaggedTensor, continued: tf.Tensor):
    """Pieces of sentences with their tags, each ragged [B, None]: ids, labels, weights.

    The first piece of each of the tokenizer's words weighs 1, the other pieces 0: no one asks them.
    """
    encoded = tokenizer.encode_with_offsets(spaced(words))  # rows are words
    splits = tf.gather(encoded.ids.row_splits, words.row_splits)
    word = encoded.ids.value_rowids()
    tag = tf.gather(tags.flat_values, word)
    first = tf.concat([[-1], word[:-1]], axis=0)[: tf.size(word)] != word
    labels = tf.where(first, tag, tf.gather(continued, tag))
    weights = tf.cast(encoded.word_starts.flat_values, tf.float32)
    return tuple(
        tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        for values in (encoded.ids.flat_values, labels, weights)
    )


def spaced(words: tf.RaggedTensor) -> tf.Tensor:
    """The words of sentences [B, None] in one row, string (W,), as they stand in a text.

    All but the first of a sentence have the space before them, which is part of a byte pair.
    """
    after_first = tf.ragged.range(words.row_lengths()).flat_values > 0
    return tf.strings.join([tf.where(after_first, " ", ""), words.flat_values])


def tag_words(text_model, examples: TaggedTexts) -> list[list[str]]:
    """The tag of every word of every sentence, by what is served.

    Sentences are asked as text, their words joined by blanks; a word's tag is that of the token
    that begins where it does. A word without any token (an invisible character) is O.
    """
    texts = [" ".join(words) for words in examples.words]
    answers = predict_all(text_model.tag, texts)
    fallback = OUTSIDE if OUTSIDE in text_model.labels else text_model.labels[0]
    predicted = []
    for words, starts, tags in zip(examples.words, answers["start"], answers["tags"]):
        tag_at = dict(zip(starts.tolist(), tags))
        offset, sentence = 0, []
        for word in words:
            sentence.append(_tag_in(tag_at, offset, len(word.encode()), fallback))
            offset += len(word.encode()) + 1
        predicted.append(sentence)
    return predicted


def _tag_in(tag_at: dict[int, bytes], offset: int, length: int, fallback: str) -> str:
    """The tag of the first token within a word: its own first characters may be invisible."""
    for place in range(offset, offset + length):
        if place in tag_at:
            return tag_at[place].decode()
    return fallback
