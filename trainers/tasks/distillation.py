"""What a teacher says of texts, for a student to learn beside the labels."""

import functools
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainers.config import DistillConfig
from trainers.data.augment import augment_texts
from trainers.data.config import AugmentConfig
from trainers.tasks.encoder import predict_all
from zoo.bundle import Bundle
from zoo.config import ConfigError
from zoo.generation.options import PROMPT
from zoo.loading import load
from zoo.text.models import TextEmbedder, TextTagger
from zoo.weights.locations import writer_of

# Probabilities are clipped here: a teacher is never surer than this.
_SMALLEST = 1e-5
_AT_ONCE = 4096
_SENTENCES = 64  # that a teacher tags at once


def _with_values(function):
    """Computed also where JAX traces a run for its shapes (`--compile_for`)."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if keras.backend.backend() != "jax":
            return function(*args, **kwargs)
        import jax

        with jax.ensure_compile_time_eval():
            return function(*args, **kwargs)

    return call


@_with_values
def load_teacher(config: DistillConfig, task: str, labels: Sequence[str] = ()) -> Bundle:
    """The bundle of `config.teacher`; ConfigError where it has another task or other labels."""
    teacher, name = load(config.teacher), f"distill.teacher={config.teacher!r}"
    # transformers has one class for texts and for pairs of them.
    one_class = (teacher.config.task, task) == ("classify", "pair")
    if one_class and writer_of(teacher.folder) == "transformers":
        teacher = load(config.teacher, task)
    if teacher.config.task != task:
        raise ConfigError(f"{name} is of task {teacher.config.task!r}; this run needs {task!r}")
    known = getattr(teacher.text_model, "labels", ())
    if {*known} != {*labels}:
        only = sorted({*known} ^ {*labels})[:5]
        raise ConfigError(
            f"{name} must have the labels of the training data. These are in one of both only: "
            f"{', '.join(only)}"
        )
    logging.info("%s: answers the training texts", name)
    return teacher


def altered_copies(
    columns: list[list[bytes]], copies: int, augment: AugmentConfig, seed: int
) -> list[list[bytes]]:
    """Each column followed by so many augmented copies of it."""
    longer = [list(column) for column in columns]
    for copy in range(copies):
        for place, column in enumerate(columns):
            for start in range(0, len(column), _AT_ONCE):
                part = column[start : start + _AT_ONCE]
                number = (copy * len(columns) + place) * len(column) + start
                changed = augment_texts(part, augment, tf.constant([seed, number], tf.int64))
                longer[place] += changed.numpy().tolist()
    return longer


@_with_values
def class_scores(teacher: Bundle, columns: list[list[bytes]], labels: Sequence[str]) -> np.ndarray:
    """Log-probabilities less their mean, float32 (N, C), of texts or pairs in the labels' order."""
    scores = np.array(predict_all(teacher.text_model.predict, *columns)["scores"])
    return _centred(scores, teacher.text_model.labels, labels)


@_with_values
def word_scores(teacher: Bundle, words: tf.RaggedTensor, labels: Sequence[str]) -> np.ndarray:
    """The same of the words of sentences [N, None], float32 (W, C)."""
    tagger = teacher.text_model
    assert isinstance(tagger, TextTagger)
    parts = []
    for start in range(0, int(words.nrows()), _SENTENCES):
        some = words[start : start + _SENTENCES]
        parts.append(tagger.word_probabilities(some).numpy())
    return _centred(np.concatenate(parts), tagger.labels, labels)


@_with_values
def pair_vectors(
    teacher: Bundle,
    columns: list[list[bytes]],
    prompted: list[list[bytes]],
    prompts: Mapping[str, str | None],
) -> np.ndarray:
    """Embeddings of pairs of texts, float32 (N, 2, D).

    A teacher with prompts puts its own before `columns`: by what a setting names, `prompts`, or its
    default; one without reads `prompted`, as the student does.
    """
    text = teacher.config.text
    if text is None or not text.prompts:
        return np.stack(vectors(teacher.text_model, prompted), axis=1)
    names = [text.default_prompt or "" if name is None else name for name in prompts.values()]
    for field, name in zip(prompts, names):
        if name:
            text.require_prompt(f"{field}, of the teacher {teacher.folder},", name)
    return np.stack(vectors(teacher.text_model, columns, names), axis=1)


def vectors(
    embedder: TextEmbedder, columns: Sequence[Sequence[str | bytes]], prompts: Sequence[str] = ()
) -> list[np.ndarray]:
    """Vectors (N, D) of each column's texts, behind the prompt that is named for it."""
    found = []
    for place, column in enumerate(columns):
        named = {PROMPT: [prompts[place]]} if prompts else {}
        embed = functools.partial(embedder.embed, **named)
        found.append(np.stack(predict_all(embed, column)["embedding"]))
    return found


def _centred(scores: np.ndarray, known: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    order = [list(known).index(label) for label in labels]
    logits = np.log(np.maximum(scores[:, order], _SMALLEST))
    return np.float32(logits - logits.mean(axis=1, keepdims=True))
