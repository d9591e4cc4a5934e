"""Special and added tokens, found in texts before these are split into words: from the left, the
longest name at each place, as the `tokenizers` library does it. `N` counts points or bytes.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.ragged import mark

_CODE_BITS = 21  # of a code point
FLAGS = ("lstrip", "rstrip", "normalized")


class AddedToken(NamedTuple):
    """A name that is found in texts before they are split into words."""

    name: str
    id: int
    special: bool  # it stands for no text, and is found only where names are parsed
    lstrip: bool = False  # it takes in the whitespace before it
    rstrip: bool = False  # and behind it
    normalized: bool = False  # it is looked for in the normalised text, after all others


def added_tokens(
    special_tokens: Mapping[str, int], flags: Mapping[str, Iterable[str]], ids: Mapping[str, int]
) -> list[AddedToken]:
    """All names with their flags, those of `special_tokens` first; ValueError for wrong ones."""
    tokens = []
    strips = any(set(some) & {"lstrip", "rstrip"} for some in flags.values())
    for name in dict.fromkeys([*special_tokens, *flags]):
        own, special = tuple(flags.get(name, ())), name in special_tokens
        if unknown := [flag for flag in own if flag not in FLAGS]:
            raise ValueError(
                f"added_tokens: {name!r:.80} has {unknown[0]!r:.80}; known are {', '.join(FLAGS)}."
            )
        if name not in ids:
            raise ValueError(f"added_tokens: {name!r:.80} is not in the vocabulary.")
        if not name or (name != name.strip() and (special or strips)):
            raise ValueError(
                f"special token {name!r:.80} must not begin or end with a blank, nor an added one "
                "beside names with lstrip or rstrip."
            )
        if "normalized" in own and (special or len(own) > 1):
            raise ValueError(
                f"added_tokens: {name!r:.80} is looked for in normalised text; that is supported "
                "for tokens that are not special and take in no blanks."
            )
        tokens.append(AddedToken(name, ids[name], special, **dict.fromkeys(own, True)))
    return tokens


class Parts(NamedTuple):
    """The strings that texts were put together from, one after another."""

    splits: tf.Tensor  # (P + 1,) int64, where they begin in the values
    is_text: tf.Tensor  # (P,) bool, whether special names in it are text like any other


class NameFinder:
    """Finds names in runs of code points, or bytes: str or bytes, not empty, each once.

    Those that are `special` are found within one of `Parts`, and not in those that are text.
    """

    def __init__(
        self, names: Sequence[str] | Sequence[bytes], special: Sequence[bool] | None = None
    ):
        self._special = np.array([False] * len(names) if special is None else special, bool)
        # A trie: a state and the next value lead to another state, which may be the end of a name.
        steps: dict[int, int] = {}
        ends = {}
        codes = [[*map(ord, name)] if isinstance(name, str) else [*name] for name in names]
        for index, name in enumerate(codes):
            state = 0
            for code in name:
                state = steps.setdefault((state << _CODE_BITS) + code, len(steps) + 1)
            ends[state] = index
        self._keys = np.array(sorted(steps), np.int64)
        self._states = np.array([steps[key] for key in self._keys.tolist()], np.int64)
        self._dead = len(steps) + 1  # no key has this state
        self._names = np.array([ends.get(i, -1) for i in range(self._dead + 1)], np.int32)
        self._firsts = [key for key in sorted(steps) if key < 1 << _CODE_BITS]
        # The first two values of the names, unless there is a name of one value.
        pairs = {(name[0] << _CODE_BITS) + name[1] for name in codes if len(name) > 1}
        short = any(len(name) < 2 for name in names)
        self._second_keys = np.array([] if short else sorted(pairs), np.int64)

    def find(
        self, values: tf.Tensor, row_splits: tf.Tensor, parts: Parts | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Names in values (N,), within rows (B + 1,): starts, ends and indices (S,)."""
        nowhere = tf.zeros([0], tf.int64)
        none = nowhere, nowhere, tf.zeros([0], tf.int32)
        if not self._firsts:
            return none
        opens = functools.reduce(tf.logical_or, (values == first for first in self._firsts))
        starts = tf.where(opens)[:, 0]  # (n,)
        return tf.cond(
            tf.size(starts) > 0, lambda: self._find(values, row_splits, starts, parts), lambda: none
        )

    def _find(self, values, row_splits, starts, parts) -> tuple[tf.Tensor, ...]:
        last = tf.size(values, tf.int64) - 1
        keys, states, names = map(tf.constant, (self._keys, self._states, self._names))
        if len(self._second_keys):
            # Of names of two and more values the second one must fit, too: blanks are everywhere.
            pair = tf.bitwise.left_shift(
                tf.cast(tf.gather(values, starts), tf.int64), tf.constant(_CODE_BITS, tf.int64)
            )
            pair += tf.cast(tf.gather(values, tf.minimum(starts + 1, last)), tf.int64)
            place = tf.minimum(tf.searchsorted(self._second_keys, pair), len(self._second_keys) - 1)
            starts = tf.boolean_mask(starts, tf.gather(self._second_keys, place) == pair)
        row_ends = tf.gather(row_splits, tf.searchsorted(row_splits, starts, side="right"))
        special = None
        if parts is not None and self._special.any():
            special = tf.constant(np.append(self._special, False))  # the last for no name, -1
            part = tf.searchsorted(parts.splits, starts, side="right") - 1
            part_ends = tf.gather(parts.splits, part + 1)
            part_ends *= 1 - tf.cast(tf.gather(parts.is_text, part), tf.int64)

        def step(at, state, which, ends):
            code = tf.cast(tf.gather(values, tf.minimum(at, last)), tf.int64)
            key = tf.bitwise.left_shift(state, tf.constant(_CODE_BITS, tf.int64)) + code
            place = tf.minimum(tf.searchsorted(keys, key), len(self._keys) - 1)
            goes_on = (tf.gather(keys, place) == key) & (at < row_ends)
            state = tf.where(goes_on, tf.gather(states, place), self._dead)
            name = tf.gather(names, state)
            if special is not None:
                apart = tf.gather(special, tf.where(name < 0, len(self._special), name))
                name = tf.where(apart & (at >= part_ends), -1, name)
            # Longer names take the place of shorter ones.
            which, ends = tf.where(name >= 0, name, which), tf.where(name >= 0, at + 1, ends)
            return at + 1, state, which, ends

        nowhere = tf.zeros_like(starts)
        _, _, which, ends = tf.while_loop(
            lambda at, state, which, ends: tf.reduce_any(state < self._dead),
            step,
            [starts, nowhere, tf.fill(tf.shape(starts), -1), nowhere],
        )
        found = tf.where(which >= 0)[:, 0]
        starts, ends, which = (tf.gather(part, found) for part in (starts, ends, which))
        kept = tf.where(_without_overlaps(starts, ends))[:, 0]
        return tuple(tf.gather(part, kept) for part in (starts, ends, which))


def with_blanks(
    tokens: Sequence[AddedToken],
    names: tf.Tensor,
    ends: tf.Tensor,
    which: tf.Tensor,
    row_splits: tf.Tensor,
    is_blank: Callable[[], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Starts and ends (S,) of found names with the whitespace that they take in, where `is_blank`
    (N,) says so.
    """
    if not any(token.lstrip or token.rstrip for token in tokens):
        return names, ends
    left = tf.gather(np.array([token.lstrip for token in tokens]), which)
    right = tf.gather(np.array([token.rstrip for token in tokens]), which)

    def taken():
        blank = is_blank()
        solid = tf.concat([[-1], tf.where(~blank)[:, 0], tf.size(blank, tf.int64)[None]], 0)
        row = tf.searchsorted(row_splits, names, side="right") - 1
        behind = tf.gather(solid, tf.searchsorted(solid, ends))
        behind = tf.minimum(behind, tf.gather(row_splits, row + 1))
        all_ends = tf.where(right, behind, ends)
        before = tf.gather(solid, tf.searchsorted(solid, names) - 1) + 1
        before = tf.maximum(before, tf.gather(row_splits, row))
        before = tf.maximum(before, tf.concat([[0], all_ends], 0)[:-1])
        return tf.where(left, before, names), all_ends

    return tf.cond(tf.reduce_any(left | right), taken, lambda: (names, ends))


def _without_overlaps(starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Bool (m,): spans in order of their starts, without those that begin within a kept one."""
    count = tf.size(starts, tf.int64)
    following = tf.searchsorted(starts, ends, out_type=tf.int64)
    following = tf.concat([following, count[None]], 0)  # (m + 1,)

    def follow(kept, following):
        # Those reached from the first in up to 2, 4, 8... steps.
        kept |= mark(tf.boolean_mask(following, kept), count + 1)
        return kept, tf.gather(following, following)

    kept, _ = tf.while_loop(
        # All is found when the first one's pointer is at the end.
        lambda kept, following: following[0] < count,
        follow,
        [mark(tf.zeros([1], tf.int64), count + 1), following],
    )
    return kept[:-1]
