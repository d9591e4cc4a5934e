"""Task "tag": one tag for each word: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainers.data.augment import augment_tagged
from trainers.data.examples import TaggedTexts, check_tags
from trainers.optim.losses import SparseCrossentropy
from trainers.report.baselines import tagging_baseline
from trainers.report.scores import tag_scores
from trainers.report.sections import tagging_sections
from trainers.tasks.encoder import EncoderTask, predict_all, token_counts
from zoo.text.config import special_count

OUTSIDE = "O"


class TagTask(EncoderTask):
    """Tags words of sentences; chosen by the F1 of whole entities, as seqeval counts it, or, where
    the tags are no entities (parts of speech), by the share of right tags. Of the tokens of a word
    the first carries its tag, and gives it in an answer; the others continue it (I-X after B-X)."""

    unit = "sentences"
    fingerprint_columns = ("words", "tags")
    baseline_method = "logistic regression on word forms"
    label_option = "num_tags"

    def find_labels(self):
        data = self.config.data
        labels = tag_labels(self.train.tags, data.train)
        self.all_tags = set(labels)  # of the data: a test may have more than the training
        for examples, source in ((self.validation, data.validation), (self.test, data.test)):
            if examples is not None:
                check_tags(examples, labels, source)
                self.all_tags.update(*examples.tags)
        names = [name for name in tag_scores([], [], self.all_tags) if name != "types"]
        self.metrics = {f"val_{name}": "max" for name in names}
        return labels

    def vocabulary_texts(self):
        return [" ".join(words) for words in self.train.words]

    def encode(self):
        """One row for each window of a sentence's tokens; most sentences have one."""
        words = [word for sentence in self.train.words for word in sentence]
        splits = np.cumsum([0, *map(len, self.train.words)])
        ids = {label: index for index, label in enumerate(self.labels)}
        tags = [ids[tag] for sentence in self.train.tags for tag in sentence]
        self.words = tf.RaggedTensor.from_row_splits(tf.constant(words, tf.string), splits)
        self.tags = tf.RaggedTensor.from_row_splits(tf.constant(tags, tf.int32), splits)
        # For each tag the one that continues its word: I-X for B-X, else itself.
        inside = [f"I-{label[2:]}" if label[:2] == "B-" else label for label in self.labels]
        continued = [ids.get(name, index) for index, name in enumerate(inside)]
        self.continued = tf.constant(continued, tf.int32)
        pieces = token_counts(self.tokenizer, spaced(self.words).numpy().tolist())
        windows = self.cut(np.add.reduceat(pieces, splits[:-1]))
        return windows.lengths.numpy() + special_count(pairs=False)

    def make_batch(self, step, rows, length):
        sentences = tf.gather(tf.constant(self.rows), rows)
        words, tags = tf.gather(self.words, sentences), tf.gather(self.tags, sentences)
        augment = self.config.data.augment
        if not augment.is_off:
            seed = tf.stack([tf.constant(self.config.seed, tf.int64), step])
            outside = self.labels.index(OUTSIDE) if OUTSIDE in self.labels else -1
            words, tags = augment_tagged(words, tags, augment, seed, outside_id=outside)
        tokens = tagged_tokens(self.tokenizer, words, tags, self.continued)
        packed, along = self.pack_windows(rows, length, *tokens)
        shape = tf.stack([-1, length - 1])
        # [CLS] has no tag.
        dense = (tf.pad(values.to_tensor(shape=shape), [[0, 0], [1, 0]]) for values in along)
        return packed, *dense

    def losses(self):
        smoothing = self.config.label_smoothing
        return {"loss": SparseCrossentropy(smoothing, reduction="mean_with_sample_weight")}

    def answers(self, examples):
        return tag_words(self.text_model, examples)

    def scores(self, examples, answers):
        return tag_scores(examples.tags, answers, self.all_tags)

    def validation_scores(self, answers, scores):
        return {name: scores[name] for name in scores if name != "types"}

    def baseline(self, examples):
        guesses = tagging_baseline(self.train.words, self.train.tags, examples.words)
        return self.scores(examples, guesses)

    def sections(self, comparison, examples, answers, folder):
        return tagging_sections(comparison, examples, answers, self.all_tags)


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


def tagged_tokens(tokenizer, words: tf.RaggedTensor, tags: tf.RaggedTensor, continued: tf.Tensor):
    """Ids, labels and weights, each ragged [B, None]: 1 for the first piece of a word, else 0."""
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
    """The words of sentences [B, None] as they stand in a text, (W,): byte pairs have the space."""
    after_first = tf.ragged.range(words.row_lengths()).flat_values > 0
    return tf.strings.join([tf.where(after_first, " ", ""), words.flat_values])


def tag_words(text_model, examples: TaggedTexts) -> list[list[str]]:
    """The tag of every word, as served: that of the first token within it, O without any."""
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
