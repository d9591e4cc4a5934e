"""Labelled data in memory: what the readers of tables, CoNLL and SQuAD files return.

Columns of one length; `where` says where an example stands in its file, as "name:line".
"""

import dataclasses
import difflib
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal, Self

import numpy as np
from absl import logging

Parts = tuple[np.ndarray, np.ndarray]


class _Columns:
    """What the classes below share: equal lengths, `len`, and a choice of rows."""

    def __post_init__(self):
        lengths = {name: len(column) for name, column in self._columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{type(self).__name__} needs columns of one length, got {lengths}.")

    def _columns(self) -> dict[str, list]:
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in columns.items() if isinstance(value, list)}

    def __len__(self) -> int:
        return len(self.where)

    def select(self, indices: Iterable[int]) -> Self:
        """The examples at `indices` (ints, or an int array [n]), in that order."""
        indices = [int(index) for index in indices]
        return dataclasses.replace(
            self, **{name: [column[i] for i in indices] for name, column in self._columns().items()}
        )


@dataclasses.dataclass(frozen=True)
class LabeledTexts(_Columns):
    """Texts or text pairs to classify, compare or score."""

    text: list[str]
    text_pair: list[str] | None
    label: list[str] | None
    where: list[str]


@dataclasses.dataclass(frozen=True)
class TaggedTexts(_Columns):
    """Sentences of words with a tag each."""

    words: list[list[str]]
    tags: list[list[str]]
    where: list[str]


@dataclasses.dataclass(frozen=True)
class Questions(_Columns):
    """Questions with the passages that answer them."""

    id: list[str]
    question: list[str]
    context: list[str]
    answers: list[list[str]]  # right ones, each a substring of the context; [] if there is none
    starts: list[list[int]]  # character (code point) offset of each answer in the context
    where: list[str]
    mismatched: int = 0  # answers that were dropped: their offset does not match the text
    left_out: int = 0  # questions that were left out because they had no other answer


@dataclasses.dataclass(frozen=True)
class TextPairs(_Columns):
    """Texts with what is to be written for each: translations, summaries."""

    source: list[str]
    target: list[str]
    where: list[str]
    references: list[list[str]] | None = None  # all right targets, where some have several
    empty: int = 0  # pairs that were left out because one side had no text


def warn_blank(what: str, values: Sequence[str], where: Sequence[str]) -> None:
    """One warning if some of `values` hold nothing but whitespace; they are kept."""
    blank = [place for value, place in zip(values, where) if not value.strip()]
    if blank:
        message = (
            "%d of %d entries of %s are empty or whitespace, the first at %s. They are kept: the "
            "model sees only its special tokens there"
        )
        logging.warning(message, len(blank), len(values), what, blank[0])


def label_classes(labels: Sequence[str], where: Sequence[str]) -> tuple[str, ...]:
    """The different labels, sorted (as numbers if all are whole numbers)."""
    classes = sorted(set(labels))
    if len(classes) < 2:
        found = f"all {len(labels)} labels are {classes[0]!r}" if classes else "there are no labels"
        raise ValueError(
            f"{where[0] if where else 'no examples'}: {found}; a classifier needs two classes or "
            "more. Check the label column, or that the file is not sorted and cut short."
        )
    if all(label.isascii() and label.isdigit() and len(label) < 20 for label in classes):
        classes.sort(key=int)
    return tuple(classes)


def label_ids(labels: Sequence[str], classes: Sequence[str], where: Sequence[str]) -> np.ndarray:
    """The index of each label in `classes`: int32 [n]."""
    ids = {name: index for index, name in enumerate(classes)}
    unknown = [index for index, label in enumerate(labels) if label not in ids]
    if unknown:
        label = labels[unknown[0]]
        near = difflib.get_close_matches(label, classes, n=1)
        more = f", and {len(classes) - 20} more" if len(classes) > 20 else ""
        raise ValueError(
            f"{where[unknown[0]]}: unknown label {label[:80]!r}"
            f"{f' (did you mean {near[0]!r}?)' if near else ''}; {len(unknown)} example(s) have "
            f"labels that are not in the training data. Known are: {', '.join(classes[:20])}{more}."
            " Correct the label, remove the row, or add examples of it to the training data."
        )
    return np.array([ids[label] for label in labels], np.int32)


def check_tags(examples: TaggedTexts, known: Sequence[str], source: str | None = None) -> None:
    """Refuses tags of which training knows none, and warns about those that it does not know."""
    places = {}
    for tags, place in zip(examples.tags, examples.where):
        for tag in tags:
            places.setdefault(tag, place)
    found = [tag for tag in places if tag != "O"]
    unknown = [tag for tag in found if tag not in known]
    if not unknown:
        return
    place, names, has = places[unknown[0]], ", ".join(unknown[:10]), ", ".join(known[:20])
    if source is not None and len(unknown) == len(found):
        raise ValueError(
            f"{place}: no tag of {source!r} is one of the training data: it has {names}; training "
            f"has {has}. Give data that are tagged alike (--set=data.validation=..., data.test), "
            "or null for a part of the training data."
        )
    message = "%s: %d tag(s) are not in the training data, so no answer can be right there: %s"
    logging.warning(message, place, len(unknown), names)


def label_numbers(labels: Sequence[str], where: Sequence[str]) -> np.ndarray:
    """The labels of a regression as float32 [n]."""
    numbers = np.empty(len(labels), np.float32)
    for index, label in enumerate(labels):
        try:
            # Python also reads "1_000", which no data file means.
            number = math.nan if "_" in label else float(label)
        except ValueError:
            number = math.nan
        if not abs(number) <= float(np.finfo(np.float32).max):  # Neither is NaN.
            raise ValueError(
                f"{where[index]}: the label {label!r} is not a finite number, as regression needs. "
                "Correct it, remove the row, or point --set=data.label_column=... at the column of "
                "numbers."
            )
        numbers[index] = number
    return numbers


def random_split(count: int, fraction: float, seed: int) -> Parts:
    """(training, validation) indices of `count` examples, both sorted int64, each at least one."""
    if count < 2:
        raise _no_split(count, "two are needed")
    return _cut([np.arange(count)], count, fraction, seed)


def stratified_split(labels: Sequence[str], fraction: float, seed: int) -> Parts:
    """As `random_split` within every class, of which an only example trains."""
    # scikit-learn's train_test_split refuses classes of one, and may leave rare ones out.
    number = _numbered(labels)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    members = [group for group in members if len(group) > 1]
    if not members:
        raise _no_split(len(labels), "every class has one")
    return _cut(members, len(labels), fraction, seed)


def grouped_split(groups: Sequence[Hashable], fraction: float, seed: int) -> Parts:
    """As `random_split`, with equal `groups` kept together: the questions about one text."""
    number = _numbered(groups)
    if not number.any():
        raise _no_split(len(groups), "all are about one text")
    order = np.random.default_rng(seed).permutation(number.max() + 1)
    sizes = np.cumsum(np.bincount(number)[order])
    # The groups that come nearest to the share; one at least on either side.
    chosen = 1 + int(np.argmin(np.abs(sizes[:-1] - fraction * len(groups))))
    held_out = np.isin(number, order[:chosen])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _numbered(values: Sequence[Hashable]) -> np.ndarray:
    """0, 1, ... for the different values, in the order they come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _no_split(count: int, why: str) -> ValueError:
    return ValueError(
        f"cannot split {count} example(s) into training and validation: {why}. Give more, "
        "a file of its own with --set=data.validation=..., or leave the test out with "
        "--set=data.test_fraction=0"
    )


def _cut(members: list[np.ndarray], count: int, fraction: float, seed: int) -> Parts:
    """Holds out the share of every group of indices, at least one and never all of it."""
    generator = np.random.default_rng(seed)
    held_out = np.zeros(count, bool)
    for group in members:
        share = min(max(round(fraction * len(group)), 1), len(group) - 1)
        held_out[generator.permutation(group)[:share]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def class_weights(ids: np.ndarray, classes: int, how: Literal["balanced", "sqrt"]) -> np.ndarray:
    """A loss weight per class: float32 [C], of mean 1 over examples of these classes."""
    counts = np.bincount(ids, minlength=classes).astype(np.float64)
    weights = np.ones(classes)
    present = counts > 0
    weights[present] = counts[present] ** (-1.0 if how == "balanced" else -0.5)
    weights[present] *= counts.sum() / np.sum(weights[present] * counts[present])
    return weights.astype(np.float32)
