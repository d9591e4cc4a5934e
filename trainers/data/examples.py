"""Labelled data in memory: what the readers of tables, CoNLL and SQuAD files return.

Each class is a set of columns of one length; `where` says where an example stands in its file,
as "name:line", and is what messages about the example name.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Self

from absl import logging


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
        """The examples at `indices` (ints, or an int array [n]), in that order.

        Example: `train = examples.select(stratified_split(examples.label, 0.1, seed=0)[0])`
        """
        indices = [int(index) for index in indices]
        return dataclasses.replace(
            self, **{name: [column[i] for i in indices] for name, column in self._columns().items()}
        )


@dataclasses.dataclass(frozen=True)
class LabeledTexts(_Columns):
    """Texts or text pairs to classify, compare or score.

    Attributes:
        text: the (first) texts.
        text_pair: the second texts, or None.
        label: label of each, as written; None if the data has none.
        where: "name:line" of each.
    """

    text: list[str]
    text_pair: list[str] | None
    label: list[str] | None
    where: list[str]


@dataclasses.dataclass(frozen=True)
class TaggedTexts(_Columns):
    """Sentences of words with a tag each.

    Attributes:
        words: words of each sentence; none is empty.
        tags: as many tags; BIO ("O", "B-type", "I-type") unless the scheme was "raw".
        where: "name:line" of each sentence's first word.
    """

    words: list[list[str]]
    tags: list[list[str]]
    where: list[str]


@dataclasses.dataclass(frozen=True)
class Questions(_Columns):
    """Questions with the passages that answer them.

    Attributes:
        id: one of its own for each question.
        question: what is asked.
        context: the passage.
        answers: right answers, each a substring of the context; [] if it has none.
        starts: character (code point) offset of each answer: context[start:].startswith(answer).
        where: "name: path in the JSON document" of each.
        mismatched: answers of the file that were dropped because their offset does not match the
            text.
        left_out: questions of the file that were left out because they had no other answer.
    """

    id: list[str]
    question: list[str]
    context: list[str]
    answers: list[list[str]]
    starts: list[list[int]]
    where: list[str]
    mismatched: int = 0
    left_out: int = 0


def warn_blank(what: str, values: Sequence[str], where: Sequence[str]) -> None:
    """One warning if some of `values` hold nothing but whitespace; they are kept.

    Example: `warn_blank("text", ["good", " "], ["a.csv:2", "a.csv:3"])`
    """
    blank = [place for value, place in zip(values, where) if not value.strip()]
    if blank:
        logging.warning(
            "%d of %d entries of %s are empty or whitespace, the first at %s. They are kept: the "
            "model sees only its special tokens there",
            len(blank),
            len(values),
            what,
            blank[0],
        )
