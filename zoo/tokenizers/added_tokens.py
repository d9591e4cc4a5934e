"""Names found in texts before these are cut into pieces: special tokens, and tokens added later.

As the `tokenizers` library does it: from the left, the longest name at each place, and no two
overlap. Operations on the code points of a batch, `N` in all.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from zoo.tokenizers.bytepair.special import flags

# Letters of English, the commonest first.
_COMMONEST = "etaoinshrdlucmfwypvbgkjqxz"


class NameFinder:
    """Finds names in runs of code points.

    Args:
        names: not empty, each once; of each the code points.

    Example: `NameFinder(["[MASK]"]).find(points, row_splits, points > 0)`
    """

    def __init__(self, names: Sequence[str]):
        self._firsts = sorted({ord(name[0]) for name in names})
        self._tables = []
        for length in sorted({len(name) for name in names}):
            which = np.array([i for i, name in enumerate(names) if len(name) == length])
            points = np.array([[*map(ord, names[i])] for i in which], np.int64)  # (K, length)
            order = np.argsort(_hashes(points, np.sum))
            table = points[order]
            hashes = _hashes(table, np.sum)
            if len({*hashes.tolist()}) < len(hashes):
                raise ValueError("added tokens: two names have one hash; rename one.")
            self._tables.append((hashes, table, which[order].astype(np.int32)))

    def find(
        self, points: tf.Tensor, row_splits: tf.Tensor, allowed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Which name begins at each place, and which places are within one after its first.

        Args:
            points: int32 (N,). row_splits: int64 (B + 1,): no name goes over the end of a row.
            allowed: bool (N,), the places that may belong to a name.

        Returns:
            Int32 (N,), 1 + the index of the name that begins there or 0; bool (N,).
        """
        opening = functools.reduce(tf.logical_or, (points == first for first in self._firsts))
        places = tf.where(opening & allowed)[:, 0]  # (n,)
        nothing = tf.zeros_like(points), tf.zeros_like(points, tf.bool)
        return tf.cond(
            tf.size(places) > 0,
            lambda: self._find(points, row_splits, allowed, places),
            lambda: nothing,
        )

    def _find(self, points, row_splits, allowed, places):
        size = tf.size(points, tf.int64)
        row_ends = tf.gather(row_splits, tf.searchsorted(row_splits, places, side="right"))
        which, lengths = tf.zeros_like(places, tf.int32), tf.zeros_like(places)
        for hashes, table, indices in self._tables:  # longer ones take the place of shorter ones
            length = table.shape[1]
            at = tf.minimum(places[:, None] + tf.range(length, dtype=tf.int64), size - 1)
            window = tf.cast(tf.gather(points, at), tf.int64)  # (n, length)
            nearest = tf.searchsorted(tf.constant(hashes), _hashes(window, tf.reduce_sum))
            nearest = tf.minimum(nearest, len(hashes) - 1)
            found = tf.reduce_all(tf.gather(tf.constant(table), nearest) == window, 1)
            found &= tf.reduce_all(tf.gather(allowed, at), 1) & (places + length <= row_ends)
            which = tf.where(found, 1 + tf.gather(tf.constant(indices), nearest), which)
            lengths = tf.where(found, tf.constant(length, tf.int64), lengths)
        found = tf.where(which > 0)[:, 0]
        starts, which, lengths = (tf.gather(part, found) for part in (places, which, lengths))
        kept = tf.where(_first_come(starts, starts + lengths))[:, 0]
        starts, which, lengths = (tf.gather(part, kept) for part in (starts, which, lengths))
        begins = tf.tensor_scatter_nd_update(tf.zeros_like(points), starts[:, None], which)
        inner = tf.ragged.range(starts + 1, starts + lengths).flat_values
        return begins, flags(inner, size)


def rarest(name: str) -> str:
    """The character of a name that is least likely in a text.

    Example: `rarest("<e1>")  # "<"`
    """
    return max(name, key=lambda character: _COMMONEST.find(character.lower()) % 99)


def characters_of(names: Iterable[str], lowercase: bool) -> set[str]:
    """Characters without which no text has one of the names: one of each, in either case."""
    found = {rarest(name) for name in names}
    return found | ({character.upper() for character in found} if lowercase else set())


def _hashes(points, total):
    """(n, length) int64 to (n,), the same in numpy and in a graph: both wrap around."""
    powers = np.full(points.shape[1], 0x100000001B3, np.int64)
    with np.errstate(over="ignore"):
        powers = np.cumprod(powers)
    return total(points * powers, 1)


def _first_come(starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Bool (m,): spans in order of their starts, without those that begin within a kept one."""
    count = tf.size(starts)
    following = tf.concat([tf.searchsorted(starts, ends), count[None]], 0)  # (m + 1,)
    kept = flags(tf.zeros([tf.cast(count > 0, tf.int64)], tf.int64), tf.cast(count, tf.int64) + 1)

    def follow(kept, following):
        # Those reached from the first in up to 2, 4, 8... steps.
        reached = tf.boolean_mask(following, kept)
        kept |= flags(tf.cast(reached, tf.int64), tf.size(kept, tf.int64))
        return kept, tf.gather(following, following)

    kept, _ = tf.while_loop(
        # All is found when the first one's pointer is at the end.
        lambda kept, following: following[0] < count,
        follow,
        [kept, following],
    )
    return kept[:-1]
