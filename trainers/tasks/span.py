"""Task "span": extractive question answering."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.config import TrainConfig
from trainers.data.examples import Questions, grouped_split
from trainers.optim.losses import SpanLoss
from trainers.report.baselines import question_baseline
from trainers.report.scores import question_scores
from trainers.report.sections import Comparison, question_sections
from trainers.tasks.encoder import EncoderTask, predict_all, read_splits
from zoo.text.answer import question_windows
from zoo.text.config import special_count
from zoo.text.packing import pack

# Questions encoded at once: their contexts are long.
_QUESTIONS = 256


class SpanExamples(NamedTuple):
    """Windows of questions, ready to be packed."""

    question: tf.RaggedTensor  # int32 [N, None]
    context: tf.RaggedTensor  # int32 [N, None]
    # int32 (N, 2), packed places of the answer's first and last token; 0, 0 ([CLS]) without it.
    labels: np.ndarray


class SpanTask(EncoderTask):
    """Finds the answer to a question in a text; chosen by F1 over the answers' tokens.

    Long texts are read in windows; those that do not hold the answer are taught to say so.
    """

    metrics = {"val_f1": "max", "val_exact_match": "max"}  # noqa: RUF012
    unit = "questions"
    fingerprint_columns = ("question", "context", "answers", "starts")

    def __init__(self, config: TrainConfig, data_dir: str | None):
        # Questions about one text stay together, or the text would be known.
        splits = read_splits(
            config, data_dir, lambda rows, share: grouped_split(rows.context, share, config.seed)
        )

        def texts():
            return [*splits.train.question, *dict.fromkeys(splits.train.context)]

        super().__init__(config, data_dir, splits, texts)
        examples = span_examples(self.tokenizer, config.text, self.train)
        keep = examples.labels[:, 1] > 0
        share = np.random.default_rng(config.seed).random(len(keep))
        keep |= share < config.data.negative_windows
        chosen = np.flatnonzero(keep)
        self.question = tf.gather(examples.question, chosen)
        self.context = tf.gather(examples.context, chosen)
        self.span_labels = tf.constant(examples.labels[chosen])
        lengths = (self.question.row_lengths() + self.context.row_lengths()).numpy()
        self.plan_batches(lengths + special_count(True, self.tokenizer.pair_separators))
        logging.info(
            "%d windows of %d questions, %d of them hold the answer",
            len(chosen),
            len(self.train),
            int((examples.labels[chosen][:, 1] > 0).sum()),
        )

    def make_batch(self, step, rows, length):
        real = tf.cast(rows >= 0, tf.float32)
        rows = tf.maximum(rows, 0)
        packed = pack(
            self.tokenizer, tf.gather(self.question, rows), tf.gather(self.context, rows), length
        )
        return packed, tf.gather(self.span_labels, rows), real

    def loss_target(self):
        return SpanLoss(reduction="mean_with_sample_weight")

    def evaluate(self, logs):
        predictions, _ = self._answers(self.validation)
        found = question_scores(self.validation.answers, predictions, self._language())
        return {f"val_{name}": value for name, value in found.items()}

    def _language(self) -> str:
        """How answers are compared: by characters where the contexts are Chinese."""
        sample = "".join(self.validation.context[:100])
        chinese = sum("\u4e00" <= character <= "\u9fff" for character in sample)
        return "chinese" if chinese > len(sample) / 3 else "english"

    def _answers(self, examples: Questions) -> tuple[list[str], np.ndarray]:
        """The served answer to every question, and its score."""
        answers = predict_all(
            self.text_model.answer, examples.question, examples.context, batch_size=16
        )
        texts = [answer.decode("utf-8", "replace") for answer in answers["answer"]]
        return texts, np.array(answers["score"])

    def compare(self, split, examples, folder):
        predictions, confidence = self._answers(examples)
        language, baseline = self._language(), None
        if self.config.baseline:
            guesses = question_baseline(examples.question, examples.context)
            baseline = question_scores(examples.answers, guesses, language)
        rows = f"{len(examples):,} questions"
        if examples.left_out:
            rows += f" ({examples.left_out:,} more of the file left out: answers not at their"
            rows += " offsets)"
        comparison = Comparison(
            split,
            rows,
            question_scores(examples.answers, predictions, language),
            baseline,
            "shared words, untrained",
        )
        return comparison, question_sections(
            comparison, examples, predictions, confidence, language
        )


def span_examples(tokenizer, config, questions: Questions) -> SpanExamples:
    """All windows of all questions, with the places of their first right answer."""
    parts = []
    for first in range(0, len(questions), _QUESTIONS):
        rows = questions.select(range(first, min(first + _QUESTIONS, len(questions))))
        cut = question_windows(
            tokenizer, config, tf.constant(rows.question), tf.constant(rows.context)
        )
        tokens = [
            _answer_tokens(starts, ends, context, answers, places)
            for starts, ends, context, answers, places in zip(
                cut.encoded.starts.to_list(),
                cut.encoded.ends.to_list(),
                rows.context,
                rows.answers,
                rows.starts,
            )
        ]
        span = np.array(tokens, np.int64)[cut.windows.rows.numpy()]  # (W, 2)
        place = span - cut.windows.starts.numpy()[:, None]
        inside = (place[:, :1] >= 0) & (place[:, 1:] < cut.windows.lengths.numpy()[:, None])
        inside &= span[:, :1] >= 0
        before = cut.question.row_lengths().numpy()[:, None] + 1 + tokenizer.pair_separators
        labels = np.where(inside, place + before, 0)
        parts.append(SpanExamples(cut.question, cut.context, labels.astype(np.int32)))
    return SpanExamples(
        tf.concat([part.question for part in parts], axis=0),
        tf.concat([part.context for part in parts], axis=0),
        np.concatenate([part.labels for part in parts]),
    )


def _answer_tokens(starts, ends, context: str, answers, places) -> tuple[int, int]:
    """First and last token that touch the first answer; -1, -1 without one."""
    if not answers:
        return -1, -1
    first_byte = len(context[: places[0]].encode())
    last_byte = first_byte + len(answers[0].encode())
    first = int(np.searchsorted(ends, first_byte, side="right"))
    last = int(np.searchsorted(starts, last_byte, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)
