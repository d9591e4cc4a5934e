"""Which texts need no code-point work: tensorflow_text's own splitting agrees with BERT's there.

Its operation splits at spaces and punctuation and around Chinese characters much faster than
`bert_words.py`, but by the Unicode version that it was built with, counting bytes, and without
BERT's cleaning. Most texts have nothing in which that shows. A text with something is parted at its
spaces, and only the parts that have it take the long way. Both ways give the same ids.
"""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from zoo.tokenizers.segments import lengths_of, rows_of, splits_of
from zoo.tokenizers.wordpiece.longest_match import Pieces
from zoo.tokenizers.wordpiece.rules import ALONE, LETTER, Rules

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


def plain_pattern(
    rules: Rules, lowercase: bool, max_word_characters: int, without: Iterable[str] = "["
) -> str:
    """A regular expression that matches the texts that can take the short way.

    These have only ASCII letters and what stands alone and stays as it is: then words have as
    many bytes as characters, and lowercasing is all that changes. They have no name of a special
    token, because a character of each is missing: `without`.

    Example: `plain_pattern(rules(True, True, True), True, 100)` matches "Hello, 世界!", but
        neither "café" nor "[MASK]".
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
    return rf"[\t\n\r {_ranges(points[stays])}]*"


def _ranges(points: np.ndarray) -> str:
    points = np.sort(points)
    gaps = np.flatnonzero(np.diff(points) > 1)
    firsts, lasts = points[np.r_[0, gaps + 1]], points[np.r_[gaps, len(points) - 1]]
    return "".join(rf"\x{{{a:X}}}-\x{{{b:X}}}" for a, b in zip(firsts.tolist(), lasts.tolist()))


def pieces_of_texts(
    texts: tf.Tensor,
    pattern: str,
    short_way: Callable[[tf.Tensor], Pieces],
    long_way: Callable[[tf.Tensor], Pieces],
    offsets: bool,
) -> Pieces:
    """The pieces of texts [B], each cut by the way that fits; `splits` of the result is (B + 1,).

    Args:
        texts: string [B].
        pattern: what the texts for the short way match.
        short_way, long_way: from texts to their pieces.
        offsets: False leaves `starts` and `ends` of the result empty, to save their time.
    """
    plain = tf.strings.regex_full_match(texts, pattern)

    def all_plain():
        pieces = short_way(texts)
        nothing = pieces.starts[:0]
        return pieces if offsets else pieces._replace(starts=nothing, ends=nothing)

    return tf.cond(
        tf.reduce_all(plain),
        all_plain,
        lambda: _both_ways(texts, plain, pattern, short_way, long_way, offsets),
    )


def _both_ways(texts, plain, pattern, short_way, long_way, offsets) -> Pieces:
    # A unit is a plain text or a part, without spaces, of another text. No word and no special
    # token has a space in it, and nothing acts across one. Equal parts are cut once.
    parted = tf.strings.split(tf.boolean_mask(texts, ~plain), " ")
    part_lengths = tf.cast(tf.strings.length(parted.flat_values), tf.int64)
    parts, part_index = tf.unique(parted.flat_values, tf.int64)
    plain_part = tf.strings.regex_full_match(parts, pattern)
    plain_texts = tf.boolean_mask(texts, plain)
    short = short_way(tf.concat([plain_texts, tf.boolean_mask(parts, plain_part)], 0))
    long = long_way(tf.boolean_mask(parts, ~plain_part))

    # Where the pieces of each unit lie in those of `short` followed by those of `long`, ...
    firsts = tf.concat([short.splits[:-1], long.splits[:-1] + short.splits[-1]], 0)
    counts = tf.concat([lengths_of(short.splits), lengths_of(long.splits)], 0)
    num_plain = tf.size(plain_texts, tf.int64)
    of_part = tf.where(
        plain_part,
        num_plain + tf.cumsum(tf.cast(plain_part, tf.int64), exclusive=True),
        tf.size(short.splits, tf.int64) - 1 + tf.cumsum(tf.cast(~plain_part, tf.int64)) - 1,
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
    ids = tf.gather(tf.concat([short.ids, long.ids], 0), order)
    starts = ends = tf.zeros([0], tf.int64)
    if offsets:
        # A part begins after the parts before it, and a space each.
        ends = splits_of(part_lengths + 1)
        begins = ends[:-1] - tf.gather(tf.gather(ends, parted.row_splits), row_of_part)
        begins = tf.scatter_nd(part_place[:, None], begins, units_before[-1:])
        begins = tf.gather(begins, unit_of_piece)
        starts = tf.gather(tf.concat([short.starts, long.starts], 0), order) + begins
        ends = tf.gather(tf.concat([short.ends, long.ends], 0), order) + begins
    return Pieces(ids, tf.gather(splits, units_before), starts, ends)
