"""Words to ids: those that are one token are looked up as 64-bit numbers, the others merged once.

Words of writing systems without spaces, of which few are equal, are first cut where merging never
joins bytes.

Merging is left to tensorflow_text's SentencePiece operation, exactly. Byte-pair encoding joins the
neighbouring pair that is earliest in the list of merges (the leftmost of equals), SentencePiece the
neighbours whose text together is the piece with the best score. The two are the same if exactly
those pieces are known that come out when their own text is merged. For neighbours x and y let
t = xy: no merge has crossed the borders of t, so merging the text t passes through (x, y), its only
state of two symbols. If t merges into itself, that is its last merge, whose rank is the score of t.
If it does not, no pair of the list makes t here, and the operation does not know t.
"""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.tokenizers import sentencepiece_model as spm

_BYTES = 8  # Of a 64-bit number.
_MASKS = np.array([256**size - 1 for size in range(_BYTES + 1)], np.uint64)
_MIX = 0x1E3779B97F4A7C15  # odd and large: products wrap around and seldom meet


def last_merges(
    pairs: Sequence[tuple[int, int]], texts: Sequence[bytes | None] | Sequence[str | None]
) -> dict[int, int]:
    """Token -> rank of its last merge, of those that come out when their own text is merged.

    The texts are merged byte by byte, or, if they are str, character by character.
    """
    ids = {text: index for index, text in enumerate(texts)}
    products = np.array([ids[texts[left] + texts[right]] for left, right in pairs], np.int64)
    rank_of = {left * len(texts) + right: rank for rank, (left, right) in enumerate(pairs)}
    keys = np.array(sorted(rank_of), np.int64)
    ranks = np.array([rank_of[key] for key in keys.tolist()], np.int64)
    of_symbol = np.full(256 if any(isinstance(text, bytes) for text in texts) else 0x110000, -1)
    for text, index in ids.items():
        if text and len(text) == 1:
            of_symbol[ord(text)] = index
    of_length = collections.defaultdict(list)
    for token in {*products.tolist()}:
        of_length[len(texts[token])].append(token)
    done = {}
    for tokens in of_length.values():  # all tokens of one length at once: (n, length) symbols
        symbols = of_symbol[_symbols([texts[token] for token in tokens])].reshape(len(tokens), -1)
        under_way = np.array(tokens)
        while symbols.shape[1] > 1 and len(symbols):
            pair = symbols[:, :-1] * len(texts) + symbols[:, 1:]
            place = np.minimum(np.searchsorted(keys, pair), len(keys) - 1)
            rank = np.where(keys[place] == pair, ranks[place], len(pairs))
            where = rank.argmin(1)
            last = rank[np.arange(len(rank)), where]
            goes_on = last < len(pairs)  # else it stays in several symbols
            under_way, symbols = under_way[goes_on], symbols[goes_on]
            where, last = where[goes_on], last[goes_on]
            kept = np.ones(symbols.shape, bool)
            rows = np.arange(len(symbols))
            kept[rows, where + 1] = False
            symbols[rows, where] = products[last]
            symbols = symbols[kept].reshape(-1, symbols.shape[1] - 1)
        done |= dict(zip(under_way.tolist(), last.tolist()))
    return done


def _symbols(texts: list[Any]) -> np.ndarray:
    """The bytes, or code points, of texts one after another."""
    if isinstance(texts[0], bytes):
        return np.frombuffer(b"".join(texts), np.uint8)
    return np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")


class WordEncoder:
    """Ids of words, by the bytes of each id (None if special) and the pairs of ids that merge.

    With `whole_words`, a word that is the text of an id is that id, however its bytes merge.
    """

    def __init__(
        self,
        texts: Sequence[bytes | None],
        pairs: Sequence[tuple[int, int]],
        whole_words: bool = False,
    ):
        ranks = last_merges(pairs, texts)
        # What merging makes of some text: bytes, and the pieces that come out of their own bytes.
        tokens = {i: text for i, text in enumerate(texts) if text and (i in ranks or len(text) < 2)}
        self._size = len(texts)
        # What merging does not make, but words may be.
        whole = {
            i: text for i, text in enumerate(texts) if whole_words and text and i not in tokens
        }
        # Bytes are read as characters of Latin-1, so that ASCII stands for itself. The names of
        # what is no token are in no text: they begin with a character that is not Latin-1.
        pieces = [
            (tokens[i].decode("latin-1"), -ranks.get(i, 0), spm.NORMAL)
            if i in tokens
            else (f"\u2581{i}", 0, spm.CONTROL)
            for i in range(self._size)
        ]
        # One id more than the vocabulary, the unknown one that the format asks for.
        self._model = spm.write_merging_model([*pieces, ("\u2581", 0, spm.UNKNOWN)], self._size)
        # Tokens of up to 16 bytes are known as two numbers, the second one 0 for up to 8 bytes, and
        # found by a third. If two tokens had the same, one of them would be merged.
        found = tokens | whole
        usable = {i: text for i, text in found.items() if len(text) <= 16 and text[-1:] != b"\0"}
        padded = b"".join(text.ljust(2 * _BYTES, b"\0") for text in usable.values())
        firsts, seconds = np.frombuffer(padded, "<i8").reshape(-1, 2).astype(np.int64).T
        keys = firsts + seconds * _MIX
        order = np.argsort(keys)
        self._keys, self._ids = keys[order], np.array([*usable], np.int32)[order]
        self._firsts, self._seconds = firsts[order], seconds[order]
        self._only_whole = np.isin(self._ids, [*whole])
        longer = [i for i in whole if i not in usable]
        self._long_ids = np.array(longer, np.int32)
        self._long_texts = np.array(
            [whole[i].decode("latin-1").encode() for i in longer], dtype=object
        )
        # True at 256 a + b if bytes a and b stand side by side in a token.
        data = np.frombuffer(b"".join(found.values()), np.uint8).astype(np.int32)
        inside = np.ones(len(data), bool)
        inside[np.cumsum([0, *map(len, found.values())])[:-1]] = False  # first bytes of tokens
        self._joined = np.zeros(1 << 16, bool)
        self._joined[(data[:-1] * 256 + data[1:])[inside[1:]]] = True

    def cut(self, data: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
        """`starts` (N,), and where merging never crosses; ASCII's pairs nearly all do."""
        high = data >= 0x80

        def with_cuts():
            near = (high | tf.concat([[False], high[:-1]], 0)) & ~starts
            places = tf.where(near)[:, 0]
            left, right = (tf.cast(tf.gather(data, places - i), tf.int32) for i in (1, 0))
            apart = ~tf.gather(self._joined, left * 256 + right)
            return tf.tensor_scatter_nd_update(starts, places[:, None], apart)

        return tf.cond(tf.reduce_any(high), with_cuts, lambda: starts)

    def encode(
        self,
        data: tf.Tensor,
        starts: tf.Tensor,
        known: tf.Tensor,
        known_ids: tf.Tensor,
        word_starts: tf.Tensor,
    ) -> tf.RaggedTensor:
        """Ids [W, None] of words in bytes (N,) at `starts` int64 (W,); some are `known` (S,).

        `word_starts` bool (N,) tells words from the parts that `cut` made of them.
        """
        ends = tf.concat([starts[1:], tf.size(data, tf.int64)[None]], 0)[: tf.size(starts)]
        lengths = ends - starts
        as_number = (lengths <= 2 * _BYTES) & (tf.gather(data, ends - 1) != 0)
        short, whole = as_number & (lengths <= _BYTES), None
        if self._only_whole.any() or len(self._long_ids):
            borders = tf.concat([word_starts, [True]], 0)
            whole = tf.gather(borders, starts) & tf.gather(borders, ends)
            short &= whole
        places, others = tf.where(short)[:, 0], tf.where(~short)[:, 0]
        blocks = _blocks(data)
        keys = _numbers(blocks, tf.gather(starts, places), tf.gather(lengths, places))
        keys, key_of = tf.unique(keys)
        num_keys = tf.size(keys)
        found, ids = self._find(keys, tf.zeros_like(keys))
        start, length = tf.gather(starts, others), tf.gather(lengths, others)
        halves = _numbers(blocks, start, length), _numbers(blocks, start + _BYTES, length - _BYTES)
        whole_others = None if whole is None else tf.gather(whole, others)
        found_others, other_ids = self._find(*halves, whole_others)
        # Distinct short words, and all others: an id, or V + the number of a word that is merged.
        codes = tf.concat([ids, other_ids], 0)
        found = tf.concat([found, found_others & tf.gather(as_number, others)], 0)
        words = tf.concat([tf.dynamic_stitch([key_of], [places]), others], 0)
        merged = tf.where(~found)  # (M, 1)
        words = tf.gather_nd(words, merged)
        spelled = tf.ragged.range(tf.gather(starts, words), tf.gather(ends, words))
        spelled = spelled.with_flat_values(tf.cast(tf.gather(data, spelled.flat_values), tf.int32))
        # In Latin-1, as the model reads them.
        spelled, long_size = tf.strings.unicode_encode(spelled, "UTF-8"), len(self._long_ids)
        if long_size:
            spelled = tf.concat([tf.constant(self._long_texts, tf.string), spelled], 0)
        places_of_merged = words
        words, word_of = tf.unique(spelled)
        word_codes = word_of[long_size:] + self._size
        if long_size:
            named = tf.minimum(word_of[long_size:], long_size - 1)
            is_name = (word_of[long_size:] == named) & tf.gather(whole, places_of_merged)
            word_codes = tf.where(is_name, tf.gather(self._long_ids, named), word_codes)
        codes = tf.tensor_scatter_nd_update(codes, merged, word_codes)
        codes = tf.dynamic_stitch(
            [tf.cast(places, tf.int32), tf.cast(others, tf.int32)],
            [tf.gather(codes, key_of), codes[num_keys:]],
        )
        codes = tf.tensor_scatter_nd_update(codes, known[:, None], known_ids)
        ids, splits = spm.tokenize(self._model, words)
        single = np.arange(self._size)
        ids_of_code = tf.RaggedTensor.from_row_splits(
            tf.concat([single.astype(np.int32), ids], 0),
            tf.concat([single, splits + self._size], 0),
            validate=False,
        )
        return tf.gather(ids_of_code, codes)

    def _find(
        self, firsts: tf.Tensor, seconds: tf.Tensor, whole: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Which pairs of numbers (n,) are tokens, and their ids, else nonsense."""
        place = tf.searchsorted(self._keys, firsts + seconds * _MIX)
        place = tf.minimum(place, len(self._keys) - 1)
        found = tf.gather(self._firsts, place) == firsts
        if whole is not None:  # else all are
            found &= whole | ~tf.gather(self._only_whole, place)
        return found & (tf.gather(self._seconds, place) == seconds), tf.gather(self._ids, place)


def _blocks(data: tf.Tensor) -> tf.Tensor:
    """Bytes (N,) as uint64, with zeros behind, for `_numbers`."""
    padding = tf.math.floormod(-tf.size(data), _BYTES) + 2 * _BYTES
    return tf.bitcast(tf.reshape(tf.pad(data, [[0, padding]]), [-1, _BYTES]), tf.uint64)


def _numbers(blocks: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """The bytes at any `starts` int64 (n,) as little-endian int64 (n,): eight, or `lengths`."""
    block = starts // _BYTES
    shift = tf.cast(starts % _BYTES * 8, tf.uint64)
    low = tf.bitwise.right_shift(tf.gather(blocks, block), shift)
    high = tf.bitwise.left_shift(tf.gather(blocks, block + 1), 56 - shift)
    number = low | tf.bitwise.left_shift(high, tf.constant(8, tf.uint64))
    masks = tf.gather(_MASKS, tf.clip_by_value(lengths, 0, _BYTES))
    return tf.bitcast(number & masks, tf.int64)
