"""Cuts words into the longest pieces of a vocabulary, with tensorflow_text's operation.

The operation can also split texts at spaces and punctuation and around Chinese characters, much
faster than `split.py`, but by the Unicode version that it was built with, counting bytes, and
without BERT's cleaning. Most texts have nothing in which that shows. A text with something is cut
at its spaces, and only the units that have it take the slow path. Both paths give the same ids.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.core.pybinds import (
    pywrap_fast_wordpiece_tokenizer_model_builder as model_builder,
)

from zoo.tokenizers.ragged import lengths_of, rows_of, splits_of
from zoo.tokenizers.wordpiece.normalizer import ALONE, LETTER, Rules

_LONGEST_PIECE = 256  # Bytes, the continuation mark not counted: what the operation can hold.

# Blocks whose characters have kept their category since Unicode 6, first and last of each.
_BLOCKS = (
    (0x20, 0x7E),
    (0xA1, 0xBF),  # Latin punctuation
    (0x2010, 0x2027),  # general punctuation
    (0x2030, 0x205E),
    (0x3001, 0x3020),  # Chinese punctuation
    (0x4E00, 0x9FA5),  # Chinese
    (0xFF01, 0xFF60),  # wide punctuation
)


class Pieces(NamedTuple):
    """The P pieces of W words, or of W whole texts."""

    ids: tf.Tensor  # (P,) int32
    splits: tf.Tensor  # (W + 1,) int64, where the pieces of each word begin
    starts: tf.Tensor  # (P,) int64, offset of the first byte in the word, or the text
    ends: tf.Tensor  # (P,) int64, offset after the last byte


def checked_vocabulary(
    vocabulary: Sequence[str], special_tokens: Sequence[str], continuation: str
) -> list[str]:
    """The vocabulary as a list, if the operation and BERT's rules can work with it."""
    if isinstance(vocabulary, str | bytes) or not isinstance(vocabulary, Iterable):
        raise TypeError(f"vocabulary must be a list of strings, found {vocabulary!r:.80}.")
    pieces = list(vocabulary)
    seen = {}
    for index, piece in enumerate(pieces):
        if not isinstance(piece, str):
            raise TypeError(f"vocabulary[{index}] must be a string, found {piece!r:.80}.")
        try:
            size = len(piece.removeprefix(continuation).encode())
        except UnicodeEncodeError as error:
            raise ValueError(
                f"vocabulary[{index}] = {piece!r} holds a surrogate, which UTF-8 cannot hold."
            ) from error
        if piece in ("", continuation) or "\0" in piece or size > _LONGEST_PIECE:
            raise ValueError(
                f"vocabulary[{index}] = {piece!r:.80}: a piece must have 1 to {_LONGEST_PIECE} "
                "bytes and no U+0000; put an unused name such as [unused0] in its place."
            )
        if seen.setdefault(piece, index) != index:
            raise ValueError(
                f"vocabulary[{index}] = {piece!r} repeats vocabulary[{seen[piece]}]; name each "
                "piece once, with an unused name such as [unused0] in the other place."
            )
    missing = [name for name in special_tokens if name not in seen]
    if missing:
        raise ValueError(
            f"vocabulary: {', '.join(missing)} missing; BERT's special tokens must be in it."
        )
    return pieces


def build_model(
    vocabulary: Sequence[str], continuation: str, unknown: str, max_bytes: int, splits: bool = False
) -> np.ndarray:
    """The operation's form of a vocabulary, uint8; words over `max_bytes` are unknown to it.

    With `splits` it cuts whole texts, which it splits into words by rules of its own.
    """
    buffer = model_builder.build_fast_wordpiece_model(
        list(vocabulary),
        max_bytes,
        continuation,
        unknown,
        not splits,  # no_pretokenization
        False,  # support_detokenization
    )
    return np.frombuffer(buffer, np.uint8)


def cut(model: np.ndarray, texts: tf.Tensor) -> Pieces:
    """Cuts words (W,) from the left, always the longest piece; one unknown piece where none fits.

    A model that splits cuts whole texts.
    """
    operation = tf_text.FastWordpieceTokenizer(
        model_buffer=tf.constant(model), token_out_type=tf.int32
    )
    ids, starts, ends = operation.tokenize_with_offsets(texts)
    starts, ends = tf.cast(starts.values, tf.int64), tf.cast(ends.values, tf.int64)
    return Pieces(ids.values, ids.row_splits, starts, ends)


def plain_pattern(
    rules: Rules, lowercase: bool, max_word_characters: int, without: Iterable[str]
) -> str:
    """A regular expression that matches the texts that can take the fast path.

    These have only ASCII letters and what stands alone and stays as it is: then words have as
    many bytes as characters, and lowercasing is all that changes. They have no name of a special
    token, because a character of each is missing: `without`.
    """
    points = np.concatenate([np.arange(first, last + 1) for first, last in _BLOCKS])
    points = points[~np.isin(points, [*map(ord, without)])]
    entries = rules.table[points]
    stays = (entries == LETTER) & (points < 0x80)
    if lowercase:
        stays |= (points >= ord("A")) & (points <= ord("Z"))
    # The operation's limit is in bytes: a lone character of 3 is no word too long.
    if max_word_characters >= 3:
        stays |= entries == ALONE
    points = points[stays]
    gaps = np.flatnonzero(np.diff(points) > 1)
    firsts, lasts = points[np.r_[0, gaps + 1]], points[np.r_[gaps, len(points) - 1]]
    ranges = (rf"\x{{{a:X}}}-\x{{{b:X}}}" for a, b in zip(firsts.tolist(), lasts.tolist()))
    return rf"[\t\n\r {''.join(ranges)}]*"


def pieces_of_texts(
    texts: tf.Tensor,
    pattern: str,
    cut_plain: Callable[[tf.Tensor], Pieces],
    cut_any: Callable[[tf.Tensor], Pieces],
    offsets: bool,
) -> Pieces:
    """The pieces of texts (B,): `cut_plain` cuts those that match the pattern, `cut_any` the rest.

    Without `offsets` the `starts` and `ends` of the result are empty, to save their time.
    """
    plain = tf.strings.regex_full_match(texts, pattern)

    def all_plain():
        pieces = cut_plain(texts)
        none = pieces.starts[:0]
        return pieces if offsets else pieces._replace(starts=none, ends=none)

    return tf.cond(
        tf.reduce_all(plain),
        all_plain,
        lambda: _both_paths(texts, plain, pattern, cut_plain, cut_any, offsets),
    )


def _both_paths(texts, plain, pattern, cut_plain, cut_any, offsets) -> Pieces:
    # A unit is a plain text or a part, without spaces, of another text. No word and no special
    # token has a space in it, and nothing acts across one. Equal parts are cut once.
    parted = tf.strings.split(tf.boolean_mask(texts, ~plain), " ")
    part_lengths = tf.cast(tf.strings.length(parted.flat_values), tf.int64)
    parts, part_index = tf.unique(parted.flat_values, tf.int64)
    plain_part = tf.strings.regex_full_match(parts, pattern)
    plain_texts = tf.boolean_mask(texts, plain)
    fast = cut_plain(tf.concat([plain_texts, tf.boolean_mask(parts, plain_part)], 0))
    slow = cut_any(tf.boolean_mask(parts, ~plain_part))

    # Where the pieces of each unit lie in those of `fast` followed by those of `slow`, ...
    firsts = tf.concat([fast.splits[:-1], slow.splits[:-1] + fast.splits[-1]], 0)
    counts = tf.concat([lengths_of(fast.splits), lengths_of(slow.splits)], 0)
    num_plain = tf.size(plain_texts, tf.int64)
    of_part = tf.where(
        plain_part,
        num_plain + tf.cumsum(tf.cast(plain_part, tf.int64), exclusive=True),
        tf.size(fast.splits, tf.int64) - 1 + tf.cumsum(tf.cast(~plain_part, tf.int64)) - 1,
    )
    units = tf.concat([tf.range(num_plain), tf.gather(of_part, part_index)], 0)
    # ... the place of each unit among the units of all texts in order, ...
    rows, parted_rows = tf.where(plain), tf.where(~plain)
    ones = tf.ones_like(plain, tf.int64)
    units_before = splits_of(
        tf.tensor_scatter_nd_update(ones, parted_rows, parted.row_lengths())
    )  # (B + 1,)
    row_of_part = rows_of(parted.row_splits)
    begins = tf.gather(units_before, parted_rows[:, 0]) - parted.row_splits[:-1]
    part_place = tf.gather(begins, row_of_part) + tf.range(tf.size(row_of_part, tf.int64))
    place = tf.concat([tf.gather(units_before, rows[:, 0]), part_place], 0)
    # ... and so all pieces in order.
    units = tf.scatter_nd(place[:, None], units, units_before[-1:])
    firsts, counts = tf.gather(firsts, units), tf.gather(counts, units)
    splits = splits_of(counts)  # (U + 1,)
    unit_of_piece = rows_of(splits)
    order = tf.gather(firsts - splits[:-1], unit_of_piece) + tf.range(splits[-1])  # (P,)
    ids = tf.gather(tf.concat([fast.ids, slow.ids], 0), order)
    starts = ends = tf.zeros([0], tf.int64)
    if offsets:
        # A part begins after the parts before it, and a space each.
        ends = splits_of(part_lengths + 1)
        begins = ends[:-1] - tf.gather(tf.gather(ends, parted.row_splits), row_of_part)
        begins = tf.scatter_nd(part_place[:, None], begins, units_before[-1:])
        begins = tf.gather(begins, unit_of_piece)
        starts = tf.gather(tf.concat([fast.starts, slow.starts], 0), order) + begins
        ends = tf.gather(tf.concat([fast.ends, slow.ends], 0), order) + begins
    return Pieces(ids, tf.gather(splits, units_before), starts, ends)
