"""Task "chat": the assistant's answers in conversations, several of which share a window."""

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainers.config import TrainConfig
from trainers.data.examples import random_split
from trainers.data.labeled import Conversation, answers, read_conversations
from trainers.data.pipeline import BucketPlan, fixed_schedule, host_rows, mapped
from trainers.distribution.hardware import compiles
from trainers.report.sections import Comparison
from trainers.tasks.base import Task, build_model, read_initial
from trainers.tasks.lm import PackedDocuments
from trainers.tasks.running_text import VALIDATION_TOKENS, RunningTextTask
from trainers.tokenizers import language_model_tokenizer
from zoo.config import ConfigError
from zoo.output import cell, table
from zoo.text.chat import TextChat
from zoo.text.chat_form import END, GENERATE, ChatForm, Joint, Messages, stripped
from zoo.tokenizers import Tokenizer
from zoo.tokenizers.causal import CausalTokenizer

_AT_ONCE, _SAMPLES = 64, 5  # conversations that are encoded together, and that are shown
Row = tuple[list[int], list[bool]]  # the ids of a conversation, and which of them are to be learnt


class ChatTask(Task):
    """Next tokens of the assistant's messages and the end token behind each, after the ids that the
    served `chat` reads. Of a conversation longer than a window the oldest turns go.
    """

    metrics = {"val_loss": "min", "val_accuracy": "max"}  # noqa: RUF012
    loss_unit = "nats a token of the assistant"
    losses = RunningTextTask.losses

    def __init__(self, config: TrainConfig, data_dir: str | None = None):
        self.config, data = config, config.data
        self.monitor  # noqa: B018  a wrong `monitor` should not wait for the first evaluation
        talks = read_conversations(data.train, data, data_dir)
        if data.validation is None:
            parts = random_split(len(talks), data.validation_fraction, config.seed)
            talks, self.held_out = ([talks[index] for index in part] for part in parts)
        else:
            self.held_out = read_conversations(data.validation, data, data_dir)
        self.lm_config = dataclasses.replace(config, task="lm")  # what the model is
        initial = read_initial(config)
        known = language_model_tokenizer(data) if initial is None else initial.tokenizer
        if not isinstance(known, Tokenizer):
            messages = (one for talk, _ in talks for one in talk)
            known = known(f"{one['role'].capitalize()}:\n{one['content']}" for one in messages)
        self.model, self.tokenizer = build_model(self.lm_config, known, initial), known
        family = self.model.backbone.config.family
        if family != "gpt" or not isinstance(known, CausalTokenizer):
            raise ConfigError(
                f"task chat needs a GPT with byte pairs, which tell control tokens from texts, and "
                f"not {family} with {known.kind}: name another --init_from, or leave it out"
            )
        start_id = None if initial is None else initial.config.start_id
        self.form = (None if initial is None else initial.config.chat) or _default_form(known)
        self.form.joint("assistant", END)
        keys = [key for key in self.form.joints if key.startswith("assistant>")]
        after = [[self.form.joints[key].text] for key in keys]
        for text, ids in zip(after, known.encode_parts(after, [[False]] * len(after)).to_list()):
            if not {*ids} & {*known.end_ids}:
                raise ConfigError(
                    f"finetune.init_from: its chat form has {text} behind an answer, and no end "
                    "token: name that in eos_token_id of its generation_config.json"
                )
        self.bundle_options = {"start_id": start_id, "chat": self.form}
        self.chat = TextChat(known, self.model, self.form, start_id)
        self.trained_model, context = PackedDocuments(self.model), self.model.context_length
        self.length = min(data.window or context, context)
        self.shortened, self.conversations = 0, len(talks)
        self.train = packed(self._rows(talks), self.length)
        self.validation = packed(self._rows(self.held_out), self.length)
        tokens = (self.train[0]["document_ids"] <= self.length).sum(axis=1)
        self.plan = BucketPlan(tokens, config.batch_size, (self.length,), config.seed)

    def _rows(self, talks: Sequence[Conversation]) -> Iterator[Row]:
        """The rows of all conversations, each short enough for a window."""
        joint = [[self.form.joint("user", GENERATE).text]]
        # The last token is only predicted. An answer's own row has this joint in place of another.
        room = self.length + 1 - len(self.tokenizer.encode_parts(joint, [[False]]).flat_values)
        for first in range(0, len(talks), _AT_ONCE):
            some = talks[first : first + _AT_ONCE]
            wholes = [self._answered(*one) for one in some]
            counts = self.chat.kept(*_columns(wholes), tf.fill([len(some)], room)).numpy()
            heads = [talk[0]["role"] == "system" for talk in wholes]
            columns = zip(wholes, heads, counts)
            begun = [[*talk[:head], *talk[head - count :]] for talk, head, count in columns]
            self.shortened += sum(len(talk) > count for talk, count in zip(wholes, counts))
            for (_, where), rows in zip(some, encoded(self.chat, begun)):
                if (size := max(len(ids) for ids, _ in rows)) > self.length + 1:
                    raise ValueError(
                        f"{where}: the last turn, with its answer, has {size:,} tokens, a window "
                        f"{self.length:,}. Shorten or remove it, or set data.window"
                    )
                yield from rows

    def _answered(self, messages: Messages, where: str) -> Messages:
        """A conversation up to its last answer."""
        return messages[: answers(self.form, messages, where)[-1] + 1]

    @property
    def validation_data(self) -> dict[str, tf.data.Dataset]:
        """Batches of one size, so that Keras' mean over their slots is that over all tokens."""
        count = len(self.validation[1])
        rows = min(max(VALIDATION_TOKENS // self.length, 1), count)
        padding = (0, -count % rows), (0, 0)
        *inputs, learned = tf.nest.map_structure(lambda x: np.pad(x, padding), self.validation)
        weights = learned * np.float32(learned.size / learned.sum())
        batches = tf.data.Dataset.from_tensor_slices((*inputs, weights))
        return {"": fixed_schedule(batches.batch(rows, drop_remainder=True))}

    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        own = host_rows(self.config.batch_size, host, num_hosts)
        with tf.device("CPU"):
            windows = tf.nest.map_structure(tf.constant, self.train)

        def batch(step, rows, length):
            chosen = tf.nest.map_structure(lambda x: tf.gather(x, tf.maximum(rows, 0)), windows)
            weights = tf.cast(chosen[2] & (rows >= 0)[:, None], tf.float32)  # a row of -1 is empty
            # They add up to the slots: Keras' mean over these is the mean over learned tokens.
            weights *= tf.cast(tf.size(weights), tf.float32) / tf.reduce_sum(weights)
            return tf.nest.map_structure(lambda x: x[own], (*chosen[:2], weights))

        return mapped(self.plan.batches(start_step, self.config.steps), batch)

    def evaluate(self, logs):
        return {name: float(logs[name]) for name in self.metrics}

    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        return self.plan.real_tokens(start_step, stop_step)

    def fingerprint(self) -> str:
        parts = tf.nest.flatten((self.train, self.validation))
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def data_summary(self) -> str:
        lost = f" ({self.shortened:,} without their oldest turns)" if self.shortened else ""
        windows, full = len(self.train[1]), self.plan.lengths.mean() / self.length
        return (
            f"{self.conversations:,} training and {len(self.held_out):,} validation conversations"
            f"{lost}, {self.train[2].sum():,} tokens to learn in {windows:,} windows of "
            f"{self.length}, {full:.0%} full, vocabulary {self.tokenizer.vocabulary_size}"
        )

    def report(self, saved, validation, steps):
        baseline = None
        if self.config.baseline:
            initial = read_initial(self.config)
            before = PackedDocuments(build_model(self.lm_config, self.tokenizer, initial))
            before.compile(jit_compile=compiles(self.config.jit_compile), **self.losses())
            baseline = before.evaluate(self.validation_data[""], verbose=0, return_dict=True)
        rows = f"{self.validation[2].sum():,} tokens of the assistant"
        way = "the same model before training"
        comparison = Comparison("validation", rows, validation, baseline, way)
        return comparison, [comparison.section(), self._samples(saved.chat)]

    def _samples(self, chat: TextChat) -> str:
        """A section with answers in validation conversations."""
        talks = [self._answered(*one) for one in self.held_out[:_SAMPLES]]
        heat, size = [self.config.sample_temperature], [self.config.sample_tokens]
        asked = _columns([talk[:-1] for talk in talks])
        made = chat.chat(*asked, seed=[0], temperature=heat, max_new_tokens=size)["content"]
        texts = zip(talks, (text.decode("utf-8", "replace") for text in made.numpy()))
        rows = [(talk[-2]["content"], text, talk[-1]["content"]) for talk, text in texts]
        shown = table(["last message", "answer", "in the data"], [map(cell, row) for row in rows])
        return f"## Answers (temperature {heat[0]})\n\n{shown}"


def encoded(chat: TextChat, talks: Sequence[Messages]) -> list[list[Row]]:
    """The rows of conversations that end with an answer: one, if the prompt of every answer, as
    `chat` reads it, begins the whole; an answer for which that is not so has a row of its own.
    """
    form, ends, found = chat.form, {*chat.tokenizer.end_ids}, []
    asked = [[talk[:n] for n in answers(form, talk, "")] for talk in talks]
    last = [(talk, len(prompt)) for talk, own in zip(talks, asked) for prompt in own]
    strips = [form.joint(talk[n - 1]["role"], "assistant").strip for talk, n in last]
    end = form.joint("assistant", END).text
    parts = [[stripped(t[n]["content"], strip), end] for (t, n), strip in zip(last, strips)]
    with tf.device("CPU"):  # string operations run there
        wholes = chat.whole(*_columns(talks), END).to_list()
        prompts = chat.whole(*_columns([one for own in asked for one in own])).to_list()
        said = chat.tokenizer.encode_parts(parts, [[True, False]] * len(parts)).to_list()
    pairs = zip(prompts, said)
    for whole, own in zip(wholes, asked):
        rows = [(whole, [False] * len(whole))]
        for _, (prompt, answer) in zip(own, pairs):
            (ids, learned), start = rows[0], len(prompt)
            if whole[:start] != prompt:
                ids, learned = prompt + answer, [False] * len(prompt + answer)
                rows.append((ids, learned))
            stop = next(n for n in range(start, len(ids)) if ids[n] in ends) + 1
            learned[start:stop] = [True] * (stop - start)
        found.append([row for row in rows if any(row[1])])
    return found


def packed(rows: Iterable[Row], length: int) -> tuple[dict[str, np.ndarray], Any, Any]:
    """Rows of at most `length` + 1 ids in windows, the longest first, each where most room is:
    inputs, targets int32, and which of these are to be learnt, bool; (W, T) each. `document_ids`
    are 1, 2, ... and T + 1 where there is no token.
    """
    heap: list[tuple[int, int, int]] = []  # slots taken, window, rows in it
    windows: list[np.ndarray] = []
    for ids, learned in sorted(rows, key=lambda row: -len(row[0])):  # stable
        size = len(ids) - 1
        if not heap or heap[0][0] + size > length:
            heapq.heappush(heap, (0, len(windows), 0))
            windows.append(np.repeat([[0], [0], [0], [length + 1]], length, axis=1))
        taken, window, count = heap[0]
        heapq.heapreplace(heap, (taken + size, window, count + 1))
        slots = slice(taken, taken + size)
        windows[window][:, slots] = ids[:-1], ids[1:], learned[1:], [count + 1] * size
    tokens, targets, mask, documents = np.stack(windows, axis=1).astype(np.int32)
    return {"token_ids": tokens, "document_ids": documents}, targets, mask.astype(bool)


def _columns(talks: Sequence[Messages]) -> list[tf.Tensor]:
    """`role` and `content` (B, M)."""
    columns = ([[one[key] for one in talk] for talk in talks] for key in ("role", "content"))
    return [tf.ragged.constant(column, tf.string).to_tensor("") for column in columns]


def _default_form(tokenizer: CausalTokenizer) -> ChatForm:
    """Each message under its role, and behind it the end token."""
    message = "no chat form came with a model: each message stands under its role and ends with %s"
    logging.info(message, tokenizer.end)
    start, end = tokenizer.start or "", f"{tokenizer.end}\n"
    user, assistant = "User:\n", "Assistant:\n"
    joints = {"start>system": f"{start}System:\n", "start>user": start + user}
    joints |= {"system>user": end + user, "assistant>user": end + user, "assistant>end": end}
    joints |= {"user>assistant": end + assistant, "user>generate": end + assistant}
    return ChatForm({key: Joint(text) for key, text in joints.items()})
