"""Task "span": extractive question answering."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.data.examples import grouped_split
from trainers.optim.losses import SpanLoss
from trainers.report.baselines import question_baseline
from trainers.report.scores import question_scores
from trainers.report.sections import question_sections
from trainers.tasks.encoder import EncoderTask, predict_all
from zoo.text.answer import question_windows
from zoo.text.config import special_count
from zoo.text.packing import pack

# Questions encoded at once: their contexts are long.
_QUESTIONS = 256


class SpanTask(EncoderTask):
    """Finds the answer to a question in a text, whose windows without it are taught to say so;
    chosen by F1 over the answers' tokens."""

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
        the first right answer's first and last token; 0, 0 ([CLS]) where it is not inside."""
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
