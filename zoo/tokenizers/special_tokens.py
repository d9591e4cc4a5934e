"""Special and added tokens, found in texts before these are split into words: from the left, the
longest name at each place, as the `tokenizers` library does it. `N` counts points or bytes.
"""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from zoo.tokenizers.ragged import mark

_CODE_BITS = 21  # of a code point


class NameFinder:
    """Finds names in runs of code points, or bytes: str or bytes, not empty, each once."""

    def __init__(self, names: Sequence[str] | Sequence[bytes]):
        # A trie: a state and the next value lead to another state, which may be the end of a name.
        steps: dict[int, int] = {}
        ends = {}
        for index, name in enumerate(names):
            state = 0
            for code in map(ord, name) if isinstance(name, str) else name:
                state = steps.setdefault((state << _CODE_BITS) + code, len(steps) + 1)
            ends[state] = index
        self._keys = np.array(sorted(steps), np.int64)
        self._states = np.array([steps[key] for key in self._keys.tolist()], np.int64)
        self._dead = len(steps) + 1  # no key has this state
        self._names = np.array([ends.get(i, -1) for i in range(self._dead + 1)], np.int32)
        self._firsts = [key for key in sorted(steps) if key < 1 << _CODE_BITS]

    def find(self, values: tf.Tensor, row_splits: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Names in values (N,), within rows (B + 1,): starts, ends and indices (S,)."""
        nowhere = tf.zeros([0], tf.int64)
        none = nowhere, nowhere, tf.zeros([0], tf.int32)
        if not self._firsts:
            return none
        opens = functools.reduce(tf.logical_or, (values == first for first in self._firsts))
        starts = tf.where(opens)[:, 0]  # (n,)
        return tf.cond(
            tf.size(starts) > 0, lambda: self._find(values, row_splits, starts), lambda: none
        )

    def _find(self, values, row_splits, starts) -> tuple[tf.Tensor, ...]:
        last = tf.size(values, tf.int64) - 1
        row_ends = tf.gather(row_splits, tf.searchsorted(row_splits, starts, side="right"))
        keys, states, names = map(tf.constant, (self._keys, self._states, self._names))

        def step(at, state, which, ends):
            code = tf.cast(tf.gather(values, tf.minimum(at, last)), tf.int64)
            key = tf.bitwise.left_shift(state, tf.constant(_CODE_BITS, tf.int64)) + code
            place = tf.minimum(tf.searchsorted(keys, key), len(self._keys) - 1)
            goes_on = (tf.gather(keys, place) == key) & (at < row_ends)
            state = tf.where(goes_on, tf.gather(states, place), self._dead)
            name = tf.gather(names, state)
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
