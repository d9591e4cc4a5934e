"""Task "tag": one tag for each word: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.data.augment import augment_tagged
from trainers.data.examples import TaggedTexts, check_tags, random_split
from trainers.optim.losses import SparseCrossentropy
from trainers.report.baselines import tagging_baseline
from trainers.report.scores import tag_scores
from trainers.report.sections import Comparison, tagging_sections
from trainers.tasks.encoder import EncoderTask, predict_all, read_splits, token_counts
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

    unit = "sentences"
    fingerprint_columns = ("words", "tags")

    def __init__(self, config: TrainConfig, data_dir: str | None):
        data = config.data
        splits = read_splits(
            config, data_dir, lambda rows, share: random_split(len(rows), share, config.seed)
        )
        train, validation, test = splits
        labels = tag_labels(train.tags, data.train)
        self.all_tags = set(labels)  # of the data: a test may have more than the training
        for examples, source in ((validation, data.validation), (test, data.test)):
            if examples is not None:
                check_tags(examples, labels, source)
                self.all_tags.update(*examples.tags)
        names = [name for name in tag_scores([], [], self.all_tags) if name != "types"]
        self.metrics = {f"val_{name}": "max" for name in names}
        head = {"num_tags": len(labels)}

        def texts():
            return [" ".join(words) for words in train.words]

        super().__init__(config, data_dir, splits, texts, labels, head)
        self._encode_sentences()

    def _encode_sentences(self) -> None:
        """One row for each window of a sentence's tokens; most sentences have one."""
        words = [word for sentence in self.train.words for word in sentence]
        splits = np.cumsum([0, *map(len, self.train.words)])
        ids = {label: index for index, label in enumerate(self.labels)}
        tags = [ids[tag] for sentence in self.train.tags for tag in sentence]
        self.words = tf.RaggedTensor.from_row_splits(tf.constant(words, tf.string), splits)
        self.tags = tf.RaggedTensor.from_row_splits(tf.constant(tags, tf.int32), splits)
        self.continued = tf.constant(continuations(self.labels))
        pieces = token_counts(self.tokenizer, spaced(self.words).numpy().tolist())
        lengths = np.add.reduceat(pieces, splits[:-1])
        text = self.config.text
        windows = cut_windows(tf.constant(lengths), text.window_size(), text.window_stride())
        self.rows, self.starts = windows.rows.numpy(), windows.starts.numpy()
        self.plan_batches(windows.lengths.numpy() + special_count(pairs=False))

    def make_batch(self, step, rows, length):
        real = tf.cast(rows >= 0, tf.float32)
        rows = tf.maximum(rows, 0)
        sentences = tf.gather(tf.constant(self.rows), rows)
        words, tags = tf.gather(self.words, sentences), tf.gather(self.tags, sentences)
        augment = self.config.data.augment
        if not augment.is_off:
            seed = tf.stack([tf.constant(self.config.seed, tf.int64), step])
            outside = self.labels.index(OUTSIDE) if OUTSIDE in self.labels else -1
            words, tags = augment_tagged(words, tags, augment, seed, outside_id=outside)
        ids, labels, weights = tagged_tokens(self.tokenizer, words, tags, self.continued)
        start = tf.gather(tf.constant(self.starts), rows)
        window = row_windows(ids, start, length - special_count(pairs=False))
        packed = pack(self.tokenizer, take_windows(ids, window), length=length)

        def along(values):
            dense = take_windows(values, window).to_tensor(shape=tf.stack([-1, length - 1]))
            return tf.pad(dense, [[0, 0], [1, 0]])  # [CLS] has no tag

        return packed, along(labels), along(weights) * real[:, None]

    def loss_target(self):
        return SparseCrossentropy(self.config.label_smoothing, reduction="mean_with_sample_weight")

    def evaluate(self, logs):
        predicted = tag_words(self.text_model, self.validation)
        found = tag_scores(self.validation.tags, predicted, self.all_tags)
        return {name: found[name.removeprefix("val_")] for name in self.metrics}

    def compare(self, split, examples, folder):
        predicted = tag_words(self.text_model, examples)
        baseline = None
        if self.config.baseline:
            guesses = tagging_baseline(self.train.words, self.train.tags, examples.words)
            baseline = tag_scores(examples.tags, guesses, self.all_tags)
        comparison = Comparison(
            split,
            f"{len(examples):,} sentences",
            tag_scores(examples.tags, predicted, self.all_tags),
            baseline,
            "logistic regression on word forms",
        )
        return comparison, tagging_sections(comparison, examples, predicted, self.all_tags)


def tag_labels(tags: Sequence[Sequence[str]], source: str) -> tuple[str, ...]:
    """The tags of the data, two or more: O first, then by type, each type with B- and I-."""
    found = {tag for sentence in tags for tag in sentence}
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
    ids = {label: index for index, label in enumerate(labels)}
    inside = [
        ids.get(f"I-{label[2:]}", index) if label[:2] == "B-" else index
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

    Sentences are asked as text, their words joined by blanks; a word's tag is that of the first
    token within it: its own first characters may be invisible. A word without any token is O.
    """
    texts = [" ".join(words) for words in examples.words]
    answers = predict_all(text_model.tag, texts)
    fallback = OUTSIDE if OUTSIDE in text_model.labels else text_model.labels[0]
    predicted = []
    for words, starts, tags in zip(examples.words, answers["start"], answers["tags"]):
        tag_at = dict(zip(starts.tolist(), tags))
        offset, sentence = 0, []
        for word in words:
            end = offset + len(word.encode())
            found = (tag_at[place].decode() for place in range(offset, end) if place in tag_at)
            sentence.append(next(found, fallback))
            offset = end + 1
        predicted.append(sentence)
    return predicted
