"""From texts to words and the tokens that are found between them, in TensorFlow operations."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf

from zoo.tokenizers.bytepair.patterns import Characters, Rule
from zoo.tokenizers.character_classes import SPACE, classes_of
from zoo.tokenizers.composition import composed
from zoo.tokenizers.ragged import mark, rows_of, splits_of
from zoo.tokenizers.special_tokens import AddedToken, NameFinder, Parts, with_blanks


class Words(NamedTuple):
    """The words of a batch of strings, some of them special tokens, and where they came from."""

    data: tf.Tensor  # (N,) uint8, the bytes of all strings, spaces put in where asked for
    row_splits: tf.Tensor  # (B + 1,) int64, where the strings begin in `data`
    starts: tf.Tensor  # (N,) bool, where words start; each goes on to the next one
    inner: tf.Tensor  # (N,) bool, all but the first byte of a character
    special_starts: tf.Tensor  # (S,) int64, where found tokens begin, the whitespace taken in
    special_names: tf.Tensor  # (S,) int64, where their names begin
    special_ends: tf.Tensor  # (S,) int64
    special_ids: tf.Tensor  # (S,) int32
    in_special: tf.Tensor | None  # (N,) bool, within one after its first byte
    # Where in the text as it came a piece begins, by its first byte here, and where it ends, by the
    # byte behind it; both (N + 1,) int64, None if nothing has moved. Of what was composed all has
    # the place of the whole.
    sources: tf.Tensor | None
    source_ends: tf.Tensor | None

    def without(self, lacking: np.ndarray) -> Self:
        """The words without the bytes where `lacking` bool (256,) is True, tokens found aside."""
        size = tf.size(self.data, tf.int64)
        kept = ~tf.gather(tf.constant(lacking), tf.cast(self.data, tf.int32))
        in_special = self.in_special
        if in_special is not None:
            kept |= in_special | mark(self.special_starts, size)
            in_special = tf.boolean_mask(in_special, kept)
        moved = splits_of(tf.cast(kept, tf.int64))
        sources = tf.concat([tf.where(kept)[:, 0], size[None]], 0)
        places = self.row_splits, self.special_starts, self.special_names, self.special_ends
        row_splits, *special = (tf.gather(moved, part) for part in places)
        return self._replace(
            data=tf.boolean_mask(self.data, kept),
            row_splits=row_splits,
            # A word goes on behind what is left out of it.
            starts=mark(tf.gather(moved, tf.where(self.starts)[:, 0]), moved[-1]),
            inner=tf.boolean_mask(self.inner, kept),
            special_starts=special[0],
            special_names=special[1],
            special_ends=special[2],
            in_special=in_special,
            sources=_through(self.sources, sources),
            source_ends=_through(self.source_ends, sources),
        )


def _through(before: tf.Tensor | None, places: tf.Tensor) -> tf.Tensor:
    """Where `places` were in the text as it came, if they were moved `before`."""
    return places if before is None else tf.gather(before, places)


class Splitter:
    """Splits texts into words by a rule, and finds tokens between them."""

    def __init__(
        self,
        tokens: Sequence[AddedToken],
        rule: Rule,
        add_prefix_space: bool = False,
        compose: bool = False,
    ):
        self._raw = [token for token in tokens if not token.normalized]
        self._finders = []  # in the text as it is, then in what it becomes
        for normalized in (False, True):
            found = [token for token in tokens if token.normalized == normalized]
            names = [token.name.encode() for token in found]
            finder = NameFinder(names, [token.special for token in found])
            self._finders.append((finder, np.array([token.id for token in found], np.int32)))
        self._finds = bool(tokens)
        self._rule, self._add_prefix_space, self._composes = rule, add_prefix_space, compose

    def split(self, data: tf.Tensor, row_splits: tf.Tensor, parts: Parts | None = None) -> Words:
        """The words of texts, bytes (N,) with row splits (B + 1,), put together from `parts`."""
        starts, names, ends, ids = found = self._find(data, row_splits, parts)
        sources = source_ends = None
        if self._composes:
            breaks = mark(tf.concat([row_splits, starts, ends], 0), tf.size(data, tf.int64))
            size = tf.size(data, tf.int64)
            data, moved = composed(data, breaks)
            origins = rows_of(moved)
            sources = tf.concat([origins, size[None]], 0)
            # Behind the byte before: where all that it is made of has ended.
            behind = tf.gather(sources, tf.gather(moved, origins + 1))
            source_ends = tf.concat([tf.zeros([1], tf.int64), behind], 0)
            places = row_splits, starts, names, ends
            row_splits, starts, names, ends = (tf.gather(moved, part) for part in places)
            found = starts, names, ends, ids
        starts, names, ends, ids = self._with_normalized(data, row_splits, found)
        if self._add_prefix_space:
            # A space before each text that has none: at row starts and after found tokens.
            size = tf.size(data, tf.int64)
            wanted = mark(tf.concat([row_splits, ends], 0), size) & ~mark(starts, size)
            wanted &= data != 0x20
            moved = splits_of(1 + tf.cast(wanted, tf.int64))  # (N + 1,)
            origins = rows_of(moved)
            is_old = mark(moved[1:] - 1, moved[-1])
            data = tf.where(is_old, tf.gather(data, origins), tf.constant(0x20, tf.uint8))
            places = tf.concat([origins, size[None]], 0)
            sources, source_ends = _through(sources, places), _through(source_ends, places)
            places = row_splits, starts, names, ends
            row_splits, starts, names, ends = (tf.gather(moved, part) for part in places)
        size = tf.size(data, tf.int64)
        breaks, in_special = mark(row_splits, size), None
        kinds, inner = classes_of(data, breaks, self._rule.digits_apart)
        if self._finds:
            # A text ends before a found token and begins behind it.
            breaks |= mark(tf.concat([starts, ends], 0), size)
            in_special = mark(tf.ragged.range(starts + 1, ends).flat_values, size)
        word_starts = self._rule.starts(Characters(data, kinds, inner, breaks))
        word_starts = word_starts if in_special is None else word_starts & ~in_special
        special = starts, names, ends, ids, in_special
        return Words(data, row_splits, word_starts, inner, *special, sources, source_ends)

    def _find(self, data, row_splits, parts) -> tuple[tf.Tensor, ...]:
        """Starts, with the blanks before, starts of names, ends and ids (S,)."""
        finder, ids_of = self._finders[0]
        names, ends, which = finder.find(data, row_splits, parts)

        def is_blank():
            return classes_of(data, mark(row_splits, tf.size(data, tf.int64)))[0] == SPACE

        starts, ends = with_blanks(self._raw, names, ends, which, row_splits, is_blank)
        return starts, names, ends, tf.gather(ids_of, which)

    def _with_normalized(self, data, row_splits, found) -> tuple[tf.Tensor, ...]:
        """What was `found`, and the names between that are looked for in normalised text."""
        finder, ids_of = self._finders[1]
        if not len(ids_of):
            return found
        starts, _, ends, _ = found
        borders = tf.sort(tf.concat([row_splits, starts, ends], 0))
        names, name_ends, which = finder.find(data, borders)
        within = tf.searchsorted(tf.concat([[-1], starts], 0), names, side="right") - 1
        outside = names >= tf.gather(tf.concat([[0], ends], 0), within)
        names, name_ends, which = (
            tf.boolean_mask(part, outside) for part in (names, name_ends, which)
        )
        more = names, names, name_ends, tf.gather(ids_of, which)
        every = [tf.concat(pair, 0) for pair in zip(found, more)]
        order = tf.argsort(every[0], stable=True)
        return tuple(tf.gather(part, order) for part in every)
