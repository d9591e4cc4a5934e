"""Special tokens and added tokens, found in texts before these are split into words.

As the `tokenizers` library does it: from the left, the longest name at each place, and no two
overlap. Operations on all code points or bytes of a batch, `N` in all.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.character_classes import SPACE, classes_of
from zoo.tokenizers.ragged import mark, rows_of, splits_of

# Letters of English, the commonest first.
_COMMONEST = "etaoinshrdlucmfwypvbgkjqxz"


class Found(NamedTuple):
    """Names in a batch, in order."""

    starts: tf.Tensor  # (S,) int64
    ends: tf.Tensor  # (S,) int64
    which: tf.Tensor  # (S,) int32, index of the name


class NameFinder:
    """Finds names in runs of code points, or bytes: str or bytes, not empty, each once."""

    def __init__(self, names: Sequence[str] | Sequence[bytes]):
        codes = [[*map(ord, name)] if isinstance(name, str) else [*name] for name in names]
        self._firsts = sorted({code[0] for code in codes})
        self._tables = []
        for length in sorted({len(code) for code in codes}):
            which = np.array([i for i, code in enumerate(codes) if len(code) == length])
            points = np.array([codes[i] for i in which], np.int64)  # (K, length)
            order = np.argsort(_hashes(points, np.sum))
            table = points[order]
            hashes = _hashes(table, np.sum)
            if len({*hashes.tolist()}) < len(hashes):
                raise ValueError("added tokens: two names have one hash; rename one.")
            self._tables.append((hashes, table, which[order].astype(np.int32)))

    def find(
        self, values: tf.Tensor, row_splits: tf.Tensor, allowed: tf.Tensor | None = None
    ) -> Found:
        """The names in code points or bytes (N,), those within a row (B + 1,) and, if that is
        given, within what is allowed (N,)."""
        opens = functools.reduce(tf.logical_or, (values == first for first in self._firsts))
        starts = tf.where(opens if allowed is None else opens & allowed)[:, 0]  # (n,)
        none = Found(starts[:0], starts[:0], tf.zeros([0], tf.int32))
        return tf.cond(
            tf.size(starts) > 0,
            lambda: self._find(values, row_splits, allowed, starts),
            lambda: none,
        )

    def mark_names(
        self, values: tf.Tensor, row_splits: tf.Tensor, allowed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `find`: int32 (N,), 1 + the index of the name that begins there or 0, and bool (N,),
        True within a name after its first value."""
        starts, ends, which = self.find(values, row_splits, allowed)

        def marked():
            begins = tf.tensor_scatter_nd_update(tf.zeros_like(values), starts[:, None], 1 + which)
            inner = tf.ragged.range(starts + 1, ends).flat_values
            return begins, mark(inner, tf.size(values, tf.int64))

        none = tf.zeros_like(values), tf.zeros_like(values, tf.bool)
        return tf.cond(tf.size(starts) > 0, marked, lambda: none)

    def _find(self, values, row_splits, allowed, starts) -> Found:
        size = tf.size(values, tf.int64)
        row_ends = tf.gather(row_splits, tf.searchsorted(row_splits, starts, side="right"))
        which, ends = tf.fill(tf.shape(starts), -1), tf.zeros_like(starts)
        for hashes, table, indices in self._tables:  # longer ones take the place of shorter ones
            length = table.shape[1]
            at = tf.minimum(starts[:, None] + tf.range(length, dtype=tf.int64), size - 1)
            window = tf.cast(tf.gather(values, at), tf.int64)  # (n, length)
            nearest = tf.searchsorted(tf.constant(hashes), _hashes(window, tf.reduce_sum))
            nearest = tf.minimum(nearest, len(hashes) - 1)
            found = tf.reduce_all(tf.gather(tf.constant(table), nearest) == window, 1)
            found &= starts + length <= row_ends
            if allowed is not None:
                found &= tf.reduce_all(tf.gather(allowed, at), 1)
            which = tf.where(found, tf.gather(tf.constant(indices), nearest), which)
            ends = tf.where(found, starts + length, ends)
        found = tf.where(which >= 0)[:, 0]
        starts, ends, which = (tf.gather(part, found) for part in (starts, ends, which))
        kept = tf.where(_without_overlaps(starts, ends))[:, 0]
        return Found(*(tf.gather(part, kept) for part in (starts, ends, which)))


def rarest_characters(names: Iterable[str], either_case: bool = False) -> set[str]:
    """Characters without which no text has one of the names: of each the one that is least likely
    in a text."""
    found = {max(name, key=lambda c: _COMMONEST.find(c.lower()) % 99) for name in names}
    return found | ({character.upper() for character in found} if either_case else set())


def _hashes(points, total):
    """(n, length) int64 to (n,), the same in numpy and in a graph: both wrap around."""
    powers = np.full(points.shape[1], 0x100000001B3, np.int64)
    with np.errstate(over="ignore"):
        powers = np.cumprod(powers)
    return total(points * powers, 1)


def _without_overlaps(starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Bool (m,): spans in order of their starts, without those that begin within a kept one."""
    count = tf.size(starts)
    following = tf.concat([tf.searchsorted(starts, ends), count[None]], 0)  # (m + 1,)
    kept = mark(tf.zeros([tf.cast(count > 0, tf.int64)], tf.int64), tf.cast(count, tf.int64) + 1)

    def follow(kept, following):
        # Those reached from the first in up to 2, 4, 8... steps.
        reached = tf.boolean_mask(following, kept)
        kept |= mark(tf.cast(reached, tf.int64), tf.size(kept, tf.int64))
        return kept, tf.gather(following, following)

    kept, _ = tf.while_loop(
        # All is found when the first one's pointer is at the end.
        lambda kept, following: following[0] < count,
        follow,
        [kept, following],
    )
    return kept[:-1]


class Spans(NamedTuple):
    """Where special tokens stand in bytes, in order."""

    starts: tf.Tensor  # (S,) int64, the whitespace taken in
    names: tf.Tensor  # (S,) int64, where their names begin
    ends: tf.Tensor  # (S,) int64
    ids: tf.Tensor  # (S,) int32


class SpecialTokenFinder:
    """Finds the special tokens (name -> id) of a byte-level tokenizer.

    The span of `takes_whitespace` begins with the whitespace before it. ValueError if two names
    could overlap in a text, or one begins or ends with whitespace.
    """

    def __init__(self, ids: Mapping[str, int], takes_whitespace: str | None):
        for name in ids:
            if name != name.strip():
                raise ValueError(f"special token {name!r} must not begin or end with a blank.")
            for other in ids:
                overlaps = any(name.endswith(other[:size]) for size in range(1, len(other)))
                if overlaps or (other != name and other in name):
                    raise ValueError(
                        f"special tokens {name!r} and {other!r} can overlap in a text, so that it "
                        "has several readings; rename one or set parse_special=False."
                    )
        self._finder = NameFinder([name.encode() for name in ids])
        self._ids = np.array([*ids.values()], np.int32)
        self._stripped = None if takes_whitespace is None else [*ids].index(takes_whitespace)

    def find(self, data: tf.Tensor, row_splits: tf.Tensor) -> Spans:
        """The special tokens in bytes uint8 (N,) whose strings begin at row_splits (B + 1,)."""
        names, ends, which = self._finder.find(data, row_splits)
        starts = names
        if self._stripped is not None:
            stripped = which == self._stripped
            starts = tf.cond(
                tf.reduce_any(stripped),
                lambda: tf.where(stripped, _before_whitespace(data, row_splits, names), names),
                lambda: names,
            )
        return Spans(starts, names, ends, tf.gather(self._ids, which))


def _before_whitespace(data, row_splits, places: tf.Tensor) -> tf.Tensor:
    """Where the whitespace before each place begins, at the earliest where its string does."""
    breaks = mark(row_splits, tf.size(data, tf.int64))
    visible = tf.where(classes_of(data, breaks).kinds != SPACE)[:, 0]
    visible = tf.concat([[-1], visible], 0)  # -1 stands before the first one.
    after = tf.gather(visible, tf.searchsorted(visible, places, out_type=tf.int64) - 1) + 1
    row = tf.searchsorted(row_splits, places, side="right") - 1
    return tf.maximum(after, tf.gather(row_splits, row))


def insert_spaces(
    data: tf.Tensor, row_splits: tf.Tensor, spans: Spans | None
) -> tuple[tf.Tensor, tf.Tensor, Spans | None, tf.Tensor]:
    """Puts a space before each text that has none: at row starts and after special tokens.

    Returns data, row_splits and spans of the longer batch, and where each of its places, and its
    end, was before: int64 (N' + 1,).
    """
    size = tf.size(data, tf.int64)
    starts = row_splits if spans is None else tf.concat([row_splits, spans.ends], 0)
    wanted = mark(starts, size) & (data != 0x20)
    if spans is not None:
        wanted = wanted & ~mark(spans.starts, size)
    before = splits_of(1 + tf.cast(wanted, tf.int64))  # (N + 1,)
    source = rows_of(before)  # (N',)
    first = tf.range(tf.size(source, tf.int64)) == tf.gather(before, source)
    is_new = tf.gather(wanted, source) & first
    data = tf.where(is_new, tf.constant(0x20, tf.uint8), tf.gather(data, source))
    if spans is not None:
        spans = Spans(*(tf.gather(before, places) for places in spans[:3]), spans.ids)
    return data, tf.gather(before, row_splits), spans, tf.concat([source, size[None]], 0)
