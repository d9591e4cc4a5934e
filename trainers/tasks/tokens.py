"""Tasks whose answers are tokens of the text: "tag", one for each word, and "span", questions."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.data.augment import augment_tagged
from trainers.data.examples import TaggedTexts, check_tags, grouped_split
from trainers.optim.losses import SpanLoss
from trainers.report.baselines import question_baseline, tagging_baseline
from trainers.report.scores import question_scores, tag_scores
from trainers.report.sections import question_sections, tagging_sections
from trainers.tasks.distillation import load_teacher, word_scores
from trainers.tasks.encoder import EncoderTask, predict_all, token_counts
from zoo.text.answer import question_windows
from zoo.text.config import special_count
from zoo.text.models import spaced
from zoo.text.packing import pack

OUTSIDE = "O"
# Questions encoded at once: their contexts are long.
_QUESTIONS = 256


class TagTask(EncoderTask):
    """Tags words of sentences; chosen by the F1 of whole entities, as seqeval counts it, or, where
    the tags are no entities (parts of speech), by the share of right tags. Of the tokens of a word
    the first carries its tag, and gives it in an answer; the others continue it (I-X after B-X).
    """

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
        self.targets = None
        if self.config.distill.teacher is not None:
            self._read_teacher(np.array(tags), np.array(continued), splits)
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
        padded = (tf.pad(values.to_tensor(shape=shape), [[0, 0], [1, 0]]) for values in along)
        labels, weights = padded
        return packed, labels if self.targets is None else tf.gather(self.targets, labels), weights

    def _read_teacher(self, tags: np.ndarray, continued: np.ndarray, splits: np.ndarray) -> None:
        """Makes the tags rows of a table of targets: two for a word, its start and the rest."""
        teacher = load_teacher(self.config.distill, "tag", self.labels)
        start = word_scores(teacher, self.words, self.labels)  # (W, C)
        rest = start.copy()
        for begins, inside in enumerate(continued):  # of B-X and I-X the likelier one is I-X
            if begins != inside:
                both = start[:, [begins, inside]]
                rest[:, begins], rest[:, inside] = both.min(axis=1), both.max(axis=1)
        rows = [
            np.concatenate([np.float32(labels)[:, None], scores], axis=1)
            for labels, scores in ((tags, start), (continued[tags], rest))
        ]
        self.targets = tf.constant(np.stack(rows, axis=1).reshape(2 * len(tags), -1))
        places = tf.range(2 * len(tags))
        self.tags = tf.RaggedTensor.from_row_splits(places[::2], splits)
        self.continued = places | 1

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


class SpanTask(EncoderTask):
    """Finds the answer to a question in a text, whose windows without it are taught to say so;
    chosen by F1 over the answers' tokens.
    """

    metrics = {"val_f1": "max", "val_exact_match": "max"}  # noqa: RUF012
    unit = "questions"
    fingerprint_columns = ("question", "context", "answers", "starts")
    baseline_method = "shared words, untrained"

    def split(self, examples, share):
        # Questions about one text stay together, or the text would be known.
        return grouped_split(examples.context, share, self.config.seed)

    def vocabulary_texts(self):
        return [*self.train.question, *dict.fromkeys(self.train.context)]

    def encode(self):
        config, count = self.config, len(self.train)
        parts = [
            self._windows(self.train.select(range(first, min(first + _QUESTIONS, count))))
            for first in range(0, count, _QUESTIONS)
        ]
        questions, contexts, labels = zip(*parts)
        labels = np.concatenate(labels)
        keep = labels[:, 1] > 0
        keep |= np.random.default_rng(config.seed).random(len(keep)) < config.data.negative_windows
        chosen = np.flatnonzero(keep)
        self.question = tf.gather(tf.concat(questions, axis=0), chosen)
        self.context = tf.gather(tf.concat(contexts, axis=0), chosen)
        self.span_labels = tf.constant(labels[chosen])
        logging.info(
            "%d windows of %d questions, %d of them hold the answer",
            *(len(chosen), count, int((labels[chosen][:, 1] > 0).sum())),
        )
        lengths = (self.question.row_lengths() + self.context.row_lengths()).numpy()
        return lengths + special_count(True, self.tokenizer.pair_separators)

    def _windows(self, rows) -> tuple[tf.RaggedTensor, tf.RaggedTensor, np.ndarray]:
        """All windows of some questions, ragged [W, None], and int32 (W, 2): the packed places of
        the first right answer's first and last token; 0, 0 ([CLS]) where it is not inside.
        """
        texts = tf.constant(rows.question), tf.constant(rows.context)
        cut = question_windows(self.tokenizer, self.config.text, *texts)
        starts, ends = cut.encoded.starts.to_list(), cut.encoded.ends.to_list()
        columns = zip(starts, ends, rows.context, rows.answers, rows.starts)
        tokens = np.array([_answer_tokens(*one) for one in columns], np.int64)
        span = tokens[cut.windows.rows.numpy()]  # (W, 2)
        place = span - cut.windows.starts.numpy()[:, None]
        inside = (place[:, :1] >= 0) & (place[:, 1:] < cut.windows.lengths.numpy()[:, None])
        inside &= span[:, :1] >= 0
        before = cut.question.row_lengths().numpy()[:, None] + 1 + self.tokenizer.pair_separators
        return cut.question, cut.context, np.where(inside, place + before, 0).astype(np.int32)

    def make_batch(self, step, rows, length):
        texts = tf.gather(self.question, rows), tf.gather(self.context, rows)
        packed = pack(self.tokenizer, *texts, length)
        return packed, tf.gather(self.span_labels, rows), tf.ones_like(rows, tf.float32)

    def losses(self):
        return {"loss": SpanLoss(reduction="mean_with_sample_weight")}

    def answers(self, examples) -> tuple[list[str], np.ndarray]:
        """The served answer to every question, and its score."""
        columns = examples.question, examples.context
        answers = predict_all(self.text_model.answer, *columns, batch_size=16)
        texts = [answer.decode("utf-8", "replace") for answer in answers["answer"]]
        return texts, np.array(answers["score"])

    def scores(self, examples, answers):
        return question_scores(examples.answers, answers[0], self._language())

    def _language(self) -> str:
        """How answers are compared: by characters where the contexts are Chinese."""
        sample = "".join(self.validation.context[:100])
        chinese = sum("\u4e00" <= character <= "\u9fff" for character in sample)
        return "chinese" if chinese > len(sample) / 3 else "english"

    def baseline(self, examples):
        guesses = question_baseline(examples.question, examples.context)
        return question_scores(examples.answers, guesses, self._language())

    def sections(self, comparison, examples, answers, folder):
        return question_sections(comparison, examples, *answers, self._language())


def _answer_tokens(starts, ends, context: str, answers, places) -> tuple[int, int]:
    """First and last token that touch the first answer; -1, -1 without one."""
    if not answers:
        return -1, -1
    first_byte = len(context[: places[0]].encode())
    last_byte = first_byte + len(answers[0].encode())
    first = int(np.searchsorted(ends, first_byte, side="right"))
    last = int(np.searchsorted(starts, last_byte, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)
