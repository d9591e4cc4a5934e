"""Words to ids: those that are one token are looked up as numbers, the others are merged.

Most words of a text are in the vocabulary as they are. Comparing them as 64-bit numbers is much
faster than handling strings. What is left is merged once for each distinct word. Words of writing
systems without spaces, of which few are equal, are first parted where merging never joins bytes.

`W` counts the words, `V` the ids of the vocabulary.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.bytepair.merges import merge

_BYTES = 8  # Of a 64-bit number.
_MASKS = np.array([256**size - 1 for size in range(_BYTES + 1)], np.uint64)


class WordTable(NamedTuple):
    """The tokens of up to 16 bytes, as numbers; none of them ends with a zero byte.

    A token of up to 8 bytes is the little-endian number `keys[i]` and has the id `ids[i]`. A longer
    one is `firsts[i]` and `seconds[j]`, with the id of `pairs[k] == i * len(seconds) + j`.

    Attributes:
        keys, firsts, seconds, pairs: int64, each sorted.
        ids, pair_ids: int32.
    """

    keys: np.ndarray
    ids: np.ndarray
    firsts: np.ndarray
    seconds: np.ndarray
    pairs: np.ndarray
    pair_ids: np.ndarray


def word_table(tokens: Mapping[int, bytes]) -> WordTable:
    """The table of the tokens, id -> bytes, that come out when their own bytes are merged."""
    usable = {i: text for i, text in tokens.items() if len(text) <= 16 and text[-1:] != b"\0"}
    ids = np.array([*usable], np.int32)
    padded = b"".join(text.ljust(2 * _BYTES, b"\0") for text in usable.values())
    halves = np.frombuffer(padded, "<i8").reshape(-1, 2).astype(np.int64)
    long = np.array([len(text) > _BYTES for text in usable.values()], bool)
    keys, key_ids = _sorted(halves[~long, 0], ids[~long])
    firsts, first_places = np.unique(halves[long, 0], return_inverse=True)
    seconds, second_places = np.unique(halves[long, 1], return_inverse=True)
    pairs = first_places.astype(np.int64) * len(seconds) + second_places
    return WordTable(keys, key_ids, firsts, seconds, *_sorted(pairs, ids[long]))


def joined_bytes(tokens: Mapping[int, bytes]) -> np.ndarray:
    """Bool (65536,), True at 256 a + b if bytes a and b stand side by side in a token."""
    sizes = np.array([len(text) for text in tokens.values()])
    data = np.frombuffer(b"".join(tokens.values()), np.uint8).astype(np.int32)
    inside = np.ones(len(data), bool)
    inside[np.cumsum(sizes) - sizes] = False  # The first byte of each token.
    joined = np.zeros(1 << 16, bool)
    joined[(data[:-1] * 256 + data[1:])[inside[1:]]] = True
    return joined


def part(data: tf.Tensor, begins: tf.Tensor, joined: np.ndarray) -> tf.Tensor:
    """Bool (N,), `begins` of words and where they can be parted: merging never crosses that.

    Only bytes outside ASCII are looked at; nearly all pairs of ASCII stand in some token.

    Args:
        data: uint8 (N,). begins: bool (N,). joined: from `joined_bytes`.
    """
    high = data >= 0x80

    def parted():
        near = (high | tf.concat([[False], high[:-1]], 0)) & ~begins
        places = tf.where(near)[:, 0]
        left, right = (tf.cast(tf.gather(data, places - i), tf.int32) for i in (1, 0))
        apart = ~tf.gather(joined, left * 256 + right)
        return tf.tensor_scatter_nd_update(begins, places[:, None], apart)

    return tf.cond(tf.reduce_any(high), parted, lambda: begins)


def _sorted(keys: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys)
    return keys[order], ids[order]


def pieces_of_words(
    data: tf.Tensor,
    begins: tf.Tensor,
    table: WordTable,
    model: bytes,
    vocabulary_size: int,
    fixed: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.RaggedTensor:
    """The ids of each word, int32 [W, None].

    Args:
        data: uint8 (N,), all words, one after the other.
        begins: int64 (W,), where each begins.
        table: of the words that are tokens.
        model: from `merging_model`.
        vocabulary_size: V.
        fixed: words int64 (S,) whose ids int32 (S,) are known: special tokens.
    """
    # A unit is an id below V, or V + the number of a merged word.
    size = vocabulary_size
    ends = tf.concat([begins[1:], tf.size(data, tf.int64)[None]], 0)[: tf.size(begins)]
    lengths = ends - begins
    as_number = (lengths <= 2 * _BYTES) & (tf.gather(data, ends - 1) != 0)
    short = as_number & (lengths <= _BYTES)
    numbers = _Numbers(data)

    short_places = tf.where(short)[:, 0]
    keys = numbers.read(tf.gather(begins, short_places), tf.gather(lengths, short_places))
    keys, key_of = tf.unique(keys, tf.int64)
    found, place = _find(table.keys, keys)
    merged = tf.cumsum(tf.cast(~found, tf.int32)) + (size - 1)
    short_units = tf.gather(tf.where(found, tf.gather(table.ids, place), merged), key_of)
    short_words = _spelled(tf.boolean_mask(keys, ~found))

    other_places = tf.where(~short)[:, 0]
    begin, length = tf.gather(begins, other_places), tf.gather(lengths, other_places)
    found, other_units = _find_long(
        table, numbers, begin, length, tf.gather(as_number, other_places)
    )
    places = tf.where(~found)
    spelled = tf.ragged.range(tf.gather_nd(begin, places), tf.gather_nd(begin + length, places))
    spelled = spelled.with_flat_values(tf.cast(tf.gather(data, spelled.flat_values), tf.int32))
    other_words, word_of = tf.unique(tf.strings.unicode_encode(spelled, "UTF-8"))
    merged = word_of + size + tf.size(short_words)
    other_units = tf.tensor_scatter_nd_update(other_units, places, merged)

    units = tf.dynamic_stitch(
        [tf.cast(short_places, tf.int32), tf.cast(other_places, tf.int32)],
        [short_units, other_units],
    )
    if fixed is not None:
        units = tf.tensor_scatter_nd_update(units, fixed[0][:, None], fixed[1])
    words = merge(model, tf.concat([short_words, other_words], 0))
    single = np.arange(size)
    pieces = tf.RaggedTensor.from_row_splits(
        tf.concat([single.astype(np.int32), words.flat_values], 0),
        tf.concat([single, words.row_splits + size], 0),
        validate=False,
    )
    return tf.gather(pieces, units)


class _Numbers:
    """Reads up to 8 bytes from anywhere in `data` (N,) as a little-endian number."""

    def __init__(self, data: tf.Tensor):
        room = tf.math.floormod(-tf.size(data), _BYTES) + 2 * _BYTES
        padded = tf.reshape(tf.pad(data, [[0, room]]), [-1, _BYTES])
        self._blocks = tf.bitcast(padded, tf.uint64)

    def read(self, begins: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """The bytes at `begins` int64 (n,), as int64 (n,); what is after `lengths` is 0."""
        block = begins // _BYTES
        shift = tf.cast(begins % _BYTES * 8, tf.uint64)
        low = tf.bitwise.right_shift(tf.gather(self._blocks, block), shift)
        high = tf.bitwise.left_shift(tf.gather(self._blocks, block + 1), 56 - shift)
        number = low | tf.bitwise.left_shift(high, tf.constant(8, tf.uint64))
        masks = tf.gather(_MASKS, tf.clip_by_value(lengths, 0, _BYTES))
        return tf.bitcast(number & masks, tf.int64)


def _find(table: np.ndarray, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether the sorted `table` has each key, and where."""
    place = tf.minimum(tf.searchsorted(table, keys), len(table) - 1)
    return tf.gather(table, place) == keys, place


def _find_long(table: WordTable, numbers: _Numbers, begins, lengths, as_number):
    """Which words are tokens of 9 to 16 bytes, bool (n,), and their ids (else nonsense)."""
    if not table.pairs.size:
        return tf.zeros_like(as_number), tf.zeros_like(begins, tf.int32)
    found_first, first = _find(table.firsts, numbers.read(begins, lengths))
    found_second, second = _find(table.seconds, numbers.read(begins + _BYTES, lengths - _BYTES))
    pair = tf.cast(first, tf.int64) * len(table.seconds) + tf.cast(second, tf.int64)
    found_pair, place = _find(table.pairs, pair)
    long = as_number & (lengths > _BYTES)
    return long & found_first & found_second & found_pair, tf.gather(table.pair_ids, place)


def _spelled(keys: tf.Tensor) -> tf.Tensor:
    """The words of numbers (n,), in Latin-1 as `merge` reads them."""
    # No word here ends with a zero byte: the length shows.
    shifts = np.arange(8, 64, 8, np.uint64)
    longer = tf.bitwise.right_shift(tf.bitcast(keys, tf.uint64)[:, None], shifts) != 0  # (n, 7)
    lengths = 1 + tf.reduce_sum(tf.cast(longer, tf.int64), 1)
    characters = tf.cast(tf.bitcast(keys, tf.uint8), tf.int32)  # (n, 8)
    return tf.strings.unicode_encode(tf.RaggedTensor.from_tensor(characters, lengths), "UTF-8")
