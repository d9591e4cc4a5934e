"""Words to ids: those that are one token are looked up as numbers, the others are merged.

Most words of a text are in the vocabulary as they are. Comparing them as 64-bit numbers is much
faster than handling strings. What is left is merged once for each distinct word. Words of writing
systems without spaces, of which few are equal, are first cut where merging never joins bytes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.bytepair.merges import merging_model
from zoo.tokenizers.sentencepiece_model import tokenize

_BYTES = 8  # Of a 64-bit number.
_MASKS = np.array([256**size - 1 for size in range(_BYTES + 1)], np.uint64)


class TokenTable(NamedTuple):
    """The tokens of up to 16 bytes, as numbers; none of them ends with a zero byte.

    A token of up to 8 bytes is the little-endian number `keys[i]` and has the id `ids[i]`. A longer
    one is `firsts[i]` and `seconds[j]`, with the id of `pairs[k] == i * len(seconds) + j`. All but
    the ids are int64 and sorted.
    """

    keys: np.ndarray
    ids: np.ndarray
    firsts: np.ndarray
    seconds: np.ndarray
    pairs: np.ndarray
    pair_ids: np.ndarray


def _token_table(tokens: Mapping[int, bytes]) -> TokenTable:
    usable = {i: text for i, text in tokens.items() if len(text) <= 16 and text[-1:] != b"\0"}
    ids = np.array([*usable], np.int32)
    padded = b"".join(text.ljust(2 * _BYTES, b"\0") for text in usable.values())
    halves = np.frombuffer(padded, "<i8").reshape(-1, 2).astype(np.int64)
    long = np.array([len(text) > _BYTES for text in usable.values()], bool)
    firsts, first_places = np.unique(halves[long, 0], return_inverse=True)
    seconds, second_places = np.unique(halves[long, 1], return_inverse=True)
    keys, pairs = halves[~long, 0], first_places.astype(np.int64) * len(seconds) + second_places
    by_key, by_pair = np.argsort(keys), np.argsort(pairs)
    key_ids, pair_ids = ids[~long][by_key], ids[long][by_pair]
    return TokenTable(keys[by_key], key_ids, firsts, seconds, pairs[by_pair], pair_ids)


def _joined_bytes(tokens: Mapping[int, bytes]) -> np.ndarray:
    """Bool (65536,), True at 256 a + b if bytes a and b stand side by side in a token."""
    sizes = np.array([len(text) for text in tokens.values()])
    data = np.frombuffer(b"".join(tokens.values()), np.uint8).astype(np.int32)
    inside = np.ones(len(data), bool)
    inside[np.cumsum(sizes) - sizes] = False  # The first byte of each token.
    joined = np.zeros(1 << 16, bool)
    joined[(data[:-1] * 256 + data[1:])[inside[1:]]] = True
    return joined


class WordEncoder:
    """The ids of words, by the tokens that come out when their own bytes are merged: id -> bytes,
    and id -> rank of the last merge."""

    def __init__(self, tokens: Mapping[int, bytes], ranks: Mapping[int, int], vocabulary_size: int):
        self._table = _token_table(tokens)
        self._joined = _joined_bytes(tokens)
        self._model = merging_model(tokens, ranks, vocabulary_size)
        self._size = vocabulary_size

    def cut(self, data: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """Bool (N,), `starts` of words in bytes uint8 (N,), and where merging never crosses.

        Only bytes outside ASCII are looked at; nearly all pairs of ASCII stand in some token.
        """
        high = data >= 0x80

        def with_cuts():
            near = (high | tf.concat([[False], high[:-1]], 0)) & ~starts
            places = tf.where(near)[:, 0]
            left, right = (tf.cast(tf.gather(data, places - i), tf.int32) for i in (1, 0))
            apart = ~tf.gather(self._joined, left * 256 + right)
            return tf.tensor_scatter_nd_update(starts, places[:, None], apart)

        return tf.cond(tf.reduce_any(high), with_cuts, lambda: starts)

    def encode(
        self, data: tf.Tensor, starts: tf.Tensor, known: tuple[tf.Tensor, tf.Tensor] | None
    ) -> tf.RaggedTensor:
        """The ids int32 [W, None] of words in bytes (N,), which start at int64 (W,).

        `known` are words int64 (S,) and their ids int32 (S,): special tokens.
        """
        # A word's code is an id below V, or V + the number of a word that is merged.
        size, table = self._size, self._table
        ends = tf.concat([starts[1:], tf.size(data, tf.int64)[None]], 0)[: tf.size(starts)]
        lengths = ends - starts
        as_number = (lengths <= 2 * _BYTES) & (tf.gather(data, ends - 1) != 0)
        short = as_number & (lengths <= _BYTES)
        numbers = _Numbers(data)

        short_places = tf.where(short)[:, 0]
        keys = numbers.read(tf.gather(starts, short_places), tf.gather(lengths, short_places))
        keys, key_of = tf.unique(keys, tf.int64)
        found, place = _find(table.keys, keys)
        merged = tf.cumsum(tf.cast(~found, tf.int32)) + (size - 1)
        short_codes = tf.gather(tf.where(found, tf.gather(table.ids, place), merged), key_of)
        short_words = _spelled(tf.boolean_mask(keys, ~found))

        other_places = tf.where(~short)[:, 0]
        start, length = tf.gather(starts, other_places), tf.gather(lengths, other_places)
        found, other_codes = _find_long(
            table, numbers, start, length, tf.gather(as_number, other_places)
        )
        places = tf.where(~found)
        spelled = tf.ragged.range(tf.gather_nd(start, places), tf.gather_nd(start + length, places))
        spelled = spelled.with_flat_values(tf.cast(tf.gather(data, spelled.flat_values), tf.int32))
        other_words, word_of = tf.unique(tf.strings.unicode_encode(spelled, "UTF-8"))
        merged = word_of + size + tf.size(short_words)
        other_codes = tf.tensor_scatter_nd_update(other_codes, places, merged)

        codes = tf.dynamic_stitch(
            [tf.cast(short_places, tf.int32), tf.cast(other_places, tf.int32)],
            [short_codes, other_codes],
        )
        if known is not None:
            codes = tf.tensor_scatter_nd_update(codes, known[0][:, None], known[1])
        ids, splits = tokenize(self._model, tf.concat([short_words, other_words], 0))
        single = np.arange(size)
        ids_of_code = tf.RaggedTensor.from_row_splits(
            tf.concat([single.astype(np.int32), ids], 0),
            tf.concat([single, splits + size], 0),
            validate=False,
        )
        return tf.gather(ids_of_code, codes)


class _Numbers:
    """Reads up to 8 bytes from anywhere in `data` (N,) as a little-endian number."""

    def __init__(self, data: tf.Tensor):
        padding = tf.math.floormod(-tf.size(data), _BYTES) + 2 * _BYTES
        padded = tf.reshape(tf.pad(data, [[0, padding]]), [-1, _BYTES])
        self._blocks = tf.bitcast(padded, tf.uint64)

    def read(self, starts: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """The bytes at `starts` int64 (n,), as int64 (n,); what is after `lengths` is 0."""
        block = starts // _BYTES
        shift = tf.cast(starts % _BYTES * 8, tf.uint64)
        low = tf.bitwise.right_shift(tf.gather(self._blocks, block), shift)
        high = tf.bitwise.left_shift(tf.gather(self._blocks, block + 1), 56 - shift)
        number = low | tf.bitwise.left_shift(high, tf.constant(8, tf.uint64))
        masks = tf.gather(_MASKS, tf.clip_by_value(lengths, 0, _BYTES))
        return tf.bitcast(number & masks, tf.int64)


def _find(table: np.ndarray, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether the sorted `table` has each key, and where."""
    place = tf.minimum(tf.searchsorted(table, keys), len(table) - 1)
    return tf.gather(table, place) == keys, place


def _find_long(table: TokenTable, numbers: _Numbers, starts, lengths, as_number):
    """Which words are tokens of 9 to 16 bytes, bool (n,), and their ids (else nonsense)."""
    if not table.pairs.size:
        return tf.zeros_like(as_number), tf.zeros_like(starts, tf.int32)
    found_first, first = _find(table.firsts, numbers.read(starts, lengths))
    found_second, second = _find(table.seconds, numbers.read(starts + _BYTES, lengths - _BYTES))
    pair = tf.cast(first, tf.int64) * len(table.seconds) + tf.cast(second, tf.int64)
    found_pair, place = _find(table.pairs, pair)
    long = as_number & (lengths > _BYTES)
    return long & found_first & found_second & found_pair, tf.gather(table.pair_ids, place)


def _spelled(keys: tf.Tensor) -> tf.Tensor:
    """The words of numbers (n,), in Latin-1 as `merging_model` reads them."""
    # No word here ends with a zero byte: the length shows.
    shifts = np.arange(8, 64, 8, np.uint64)
    longer = tf.bitwise.right_shift(tf.bitcast(keys, tf.uint64)[:, None], shifts) != 0  # (n, 7)
    lengths = 1 + tf.reduce_sum(tf.cast(longer, tf.int64), 1)
    characters = tf.cast(tf.bitcast(keys, tf.uint8), tf.int32)  # (n, 8)
    return tf.strings.unicode_encode(tf.RaggedTensor.from_tensor(characters, lengths), "UTF-8")
