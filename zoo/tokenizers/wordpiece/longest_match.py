"""Cuts words into the longest pieces of a vocabulary, with tensorflow_text's operation.

It can also split texts, much faster than `split.py`, but by the Unicode version that it was built
with, counting bytes, without BERT's cleaning. Only the units of a text in which that shows take the
slow path. Both give the same ids.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from zoo.tokenizers.ragged import rows_of, splits_of
from zoo.tokenizers.wordpiece.normalizer import ALONE, LETTER, Rules

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
# Letters of English, the commonest first.
_COMMONEST = "etaoinshrdlucmfwypvbgkjqxz"

# Ids int32, and where pieces start and end in the word, or text, that they are cut from, int64
# bytes: three tensors [W, None] of the same row splits.
Pieces = tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]


def cut(model: np.ndarray, texts: tf.Tensor) -> Pieces:
    """Cuts words (W,) or texts from the left, always the longest piece; unknown if none fits."""
    operation = tf_text.FastWordpieceTokenizer(
        model_buffer=tf.constant(model), token_out_type=tf.int32
    )
    ids, starts, ends = operation.tokenize_with_offsets(texts)
    return ids, tf.cast(starts, tf.int64), tf.cast(ends, tf.int64)


def plain_pattern(
    rules: Rules, lowercase: bool, max_word_characters: int, names: Mapping[str, bool]
) -> str:
    """A regular expression for texts of ASCII letters and what stands alone and stays as it is:
    words have as many bytes as characters. Of each of `names` (-> whether in either case) the
    character that is rarest in texts is missing.
    """
    missing = set()
    for name, either_case in names.items():
        rarest = max(name, key=lambda c: _COMMONEST.find(c.lower()) % 99)
        missing |= {rarest, *(rarest.upper() if either_case else "")}
    points = np.concatenate([np.arange(first, last + 1) for first, last in _BLOCKS])
    points = points[~np.isin(points, [*map(ord, missing)])]
    entries = rules.entries[points]
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
) -> list[tf.Tensor]:
    """Ids (P,) and row splits (B + 1,) of texts (B,), with `offsets` also starts and ends (P,);
    `cut_plain` cuts those that match the pattern, `cut_any` the rest.
    """
    plain = tf.strings.regex_full_match(texts, pattern)

    def all_plain():
        ids, *spans = cut_plain(texts)
        return [ids.values, ids.row_splits, *(part.values for part in spans if offsets)]

    def both_ways():
        # A unit is a plain text or a part, without spaces, of another text. No word and no special
        # token has a space in it, and nothing acts across one. Equal parts are cut once.
        plain_texts = tf.boolean_mask(texts, plain)
        num_plain = tf.size(plain_texts, tf.int64)
        parted = tf.strings.split(tf.where(plain, "", texts), " ")
        parts, part_of = tf.unique(parted.values, tf.int64)
        is_plain = tf.strings.regex_full_match(parts, pattern)
        fast = cut_plain(tf.concat([plain_texts, tf.boolean_mask(parts, is_plain)], 0))
        slow = cut_any(tf.boolean_mask(parts, ~is_plain))
        # Where each unit is among the fast ones followed by the slow ones; where its pieces are.
        order = tf.concat([tf.where(is_plain), tf.where(~is_plain)], 0)[:, 0]
        place = tf.gather(tf.math.invert_permutation(order), part_of) + num_plain
        rows = tf.gather(parted.row_splits, tf.where(plain))
        place = tf.tensor_scatter_nd_update(place, rows, tf.range(num_plain))
        splits = tf.concat(
            [fast[0].row_splits[:-1], slow[0].row_splits + fast[0].row_splits[-1]], 0
        )
        pieces = tf.range(tf.cast(splits[-1], tf.int32))
        pieces = tf.gather(tf.RaggedTensor.from_row_splits(pieces, splits, validate=False), place)
        ids, *spans = (
            tf.gather(tf.concat([one.values, other.values], 0), pieces.values)
            for one, other in list(zip(fast, slow))[: 3 if offsets else 1]
        )
        if offsets:
            # A part begins after the parts before it, and a space each.
            ends = splits_of(tf.cast(tf.strings.length(parted.values), tf.int64) + 1)
            row_begins = tf.gather(tf.gather(ends, parted.row_splits), rows_of(parted.row_splits))
            begins = tf.gather(ends[:-1] - row_begins, rows_of(pieces.row_splits))
            spans = [part + begins for part in spans]
        return [ids, tf.gather(pieces.row_splits, parted.row_splits), *spans]

    found = tf.cond(tf.reduce_all(plain), all_plain, both_ways)
    # A branch of `tf.cond` forgets that these are vectors.
    return [tf.ensure_shape(values, [None]) for values in found]
