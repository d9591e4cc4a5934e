"""Question and context to the span of the context that answers."""

from typing import NamedTuple

import tensorflow as tf

from zoo.text.base import Outputs, TextEncoder, signature
from zoo.text.config import TextConfig
from zoo.text.packing import Windows, cut_windows, take_windows, truncate
from zoo.tokenizers import Tokenizer

_IMPOSSIBLE = -1e9


class QuestionWindows(NamedTuple):
    """The questions of a batch, each with every window of its context."""

    question: tf.RaggedTensor  # int32 [W, None], cut to `max_question_length`
    context: tf.RaggedTensor  # int32 [W, None]
    windows: Windows  # into the context's tokens
    encoded: tuple  # `Encoding` of the contexts, ragged [B, None]


def question_windows(
    tokenizer: Tokenizer, config: TextConfig, question: tf.Tensor, context: tf.Tensor
) -> QuestionWindows:
    """Cuts contexts [B] so that each window fits behind its question [B], in training, too."""
    available = config.window_size(pairs=True, separators=tokenizer.pair_separators)
    asked = truncate(tokenizer.encode(question), min(config.max_question_length, available // 2))
    encoded = tokenizer.encode_with_offsets(context)
    size = available - asked.row_lengths()  # (B,)
    stride = tf.maximum(size // 2, 1)
    if config.stride is not None:
        stride = tf.minimum(tf.constant(config.stride, tf.int64), size)
    windows = cut_windows(encoded.ids.row_lengths(), size, stride)
    return QuestionWindows(
        tf.gather(asked, windows.rows), take_windows(encoded.ids, windows), windows, encoded
    )


class TextAnswerer(TextEncoder):
    """Answers to questions, as spans of a context."""

    reads_offsets = True

    @signature
    def answer(self, question, context):
        """To `answer` [B] string, `start`, `end` [B] int32 byte offsets, and `score` [B] float32.

        A span has whole words; its score is the probability of start times that of end within its
        window, and the likeliest of all windows wins. No answer is "", -1, -1 and its score.
        """
        cut = question_windows(self.tokenizer, self.config, question, context)
        packed = self.pack(cut.question, cut.context)
        # (W,) position of the context's first token
        first = cut.question.row_lengths() + 1 + self.tokenizer.pair_separators
        start, end, nothing = self._log_probabilities(packed, cut, first)
        score, start_place, end_place = _best_span(start, end, self.config.max_answer_length)
        # The best window of each text.
        rows = cut.windows.rows
        by_text = tf.RaggedTensor.from_value_rowids(score, rows, tf.shape(context, tf.int64)[0])
        best = tf.argmax(by_text.to_tensor(2 * _IMPOSSIBLE), axis=1) + by_text.row_starts()  # (B,)
        offset = tf.gather(cut.windows.starts - first, best)
        found = tf.gather(score, best) > _IMPOSSIBLE / 2
        score = tf.gather(score, best)
        if self.config.no_answer:
            none = tf.math.segment_min(nothing, rows)  # every window must say so
            found, score = found & (score >= none), tf.maximum(score, none)
        else:
            score = tf.where(found, score, _IMPOSSIBLE)
        start_byte = _at(cut.encoded.starts, tf.gather(start_place, best) + offset, found)
        end_byte = _at(cut.encoded.ends, tf.gather(end_place, best) + offset, found)
        length = tf.where(found, end_byte - start_byte, 0)
        answer = tf.strings.substr(context, tf.maximum(start_byte, 0), length)
        return {"answer": answer, "start": start_byte, "end": end_byte, "score": tf.exp(score)}

    def _log_probabilities(self, packed: Outputs, cut: QuestionWindows, first: tf.Tensor):
        """Start and end (W, T), impossible outside the context's words, and no answer (W,)."""
        logits = self.forward(packed)  # (W, T, 2)
        positions = tf.range(tf.shape(packed["token_ids"])[1], dtype=tf.int64)  # (T,)
        position = positions[None] - first[:, None]  # in the window's context
        inside = (position >= 0) & (position < cut.windows.lengths[:, None])  # (W, T)
        candidates = inside | (positions == 0)  # [CLS] stands for "not in this window"
        logits = tf.where(candidates[..., None], logits, _IMPOSSIBLE)
        log_probability = tf.nn.log_softmax(logits, axis=1)
        nothing = tf.reduce_sum(log_probability[:, 0], axis=-1)
        begins = cut.encoded.word_starts
        # A word ends where the next one begins, or the text ends.
        ends = tf.concat([begins[:, 1:], tf.ones_like(begins[:, :1])], axis=1)
        allowed = []
        for flags in (begins, ends):
            window = take_windows(flags, cut.windows).to_tensor(False)  # (W, longest)
            window = tf.pad(window, [[0, 0], [0, 1]])  # also where every window is empty
            index = tf.clip_by_value(position, 0, tf.shape(window, tf.int64)[1] - 1)
            allowed.append(inside & tf.gather(window, index, batch_dims=1))
        start = tf.where(allowed[0], log_probability[..., 0], _IMPOSSIBLE)
        end = tf.where(allowed[1], log_probability[..., 1], _IMPOSSIBLE)
        return start, end, nothing


def _best_span(start: tf.Tensor, end: tf.Tensor, longest: int):
    """The best `start[i] + end[j]` with `0 <= j - i < longest`: score, i and j, each (W,)."""
    length = tf.shape(start)[1]
    padded = tf.pad(end, [[0, 0], [0, longest]], constant_values=_IMPOSSIBLE)
    # One sum for each span length: (W, longest, T) would be T x T with all pairs.
    spans = tf.stack([start + padded[:, d : d + length] for d in range(longest)], axis=1)
    flat = tf.reshape(spans, [tf.shape(start)[0], -1])  # (W, longest * T)
    best = tf.argmax(flat, axis=1)
    score = tf.gather(flat, best, batch_dims=1)
    length = tf.cast(length, tf.int64)
    return score, best % length, best % length + best // length


def _at(offsets: tf.RaggedTensor, token: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
    """Byte offset of one token (B,) a text, -1 where nothing was found."""
    flat = tf.concat([offsets.flat_values, [0]], axis=0)  # never empty
    position = tf.where(found, offsets.row_starts() + token, 0)
    return tf.where(found, tf.gather(flat, position), -1)
