"""Special tokens written out in a text, and the space that some models put before a text.

Graph operations on the bytes of a batch, `N` in all, whose strings begin at `row_splits`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from zoo.tokenizers.bytepair.rules import SPACE
from zoo.tokenizers.bytepair.words import classes_of
from zoo.tokenizers.segments import rows_of, splits_of


class Spans(NamedTuple):
    """Where special tokens stand, in order.

    Attributes:
        begins: int64 (S,), the blanks taken in. names: int64 (S,), where their names begin.
        ends: int64 (S,). ids: int32 (S,).
    """

    begins: tf.Tensor
    names: tf.Tensor
    ends: tf.Tensor
    ids: tf.Tensor


def check_special_names(names: Mapping[str, int]) -> None:
    """Raises ValueError if two special tokens in a text could overlap, or one is blank outside."""
    for name in names:
        if name != name.strip():
            raise ValueError(f"special token {name!r} must not begin or end with a blank.")
        for other in names:
            overlaps = any(name.endswith(other[:size]) for size in range(1, len(other)))
            if overlaps or (other != name and other in name):
                raise ValueError(
                    f"special tokens {name!r} and {other!r} can overlap in a text, so that it has "
                    "several readings; rename one or set parse_special=False."
                )


def flags(places: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Bool (size,), True at the places (n,), those at `size` left out."""
    marked = tf.tensor_scatter_nd_update(
        tf.zeros([size + 1], tf.bool), places[:, None], tf.ones_like(places, tf.bool)
    )
    return marked[:-1]


def find_special(
    data: tf.Tensor,
    row_splits: tf.Tensor,
    names: Mapping[str, int],
    takes_blanks: str | None = None,
) -> Spans:
    """Finds special tokens.

    Args:
        data: uint8 (N,). row_splits: int64 (B + 1,).
        names: name -> id, as `check_special_names` lets them pass.
        takes_blanks: the name whose span begins with the blanks before it.
    """
    none = tf.zeros([0], tf.int64)
    nothing = Spans(none, none, none, tf.zeros([0], tf.int32))
    texts = {name.encode(): index for name, index in names.items()}
    opening = tf.zeros_like(data, tf.bool)
    for byte in {text[0] for text in texts}:
        opening = opening | (data == byte)
    strips = None if takes_blanks is None else takes_blanks.encode()
    return tf.cond(
        tf.reduce_any(opening),
        lambda: _find(data, row_splits, tf.where(opening)[:, 0], texts, strips),
        lambda: nothing,
    )


def _find(data, row_splits, opening, texts: dict[bytes, int], strips: bytes | None) -> Spans:
    size = tf.size(data, tf.int64)
    row_ends = tf.gather(row_splits, tf.searchsorted(row_splits, opening, side="right"))
    spans = []
    for text, index in texts.items():
        places = opening[:, None] + tf.range(len(text), dtype=tf.int64)  # (n, len(text))
        same = tf.gather(data, tf.minimum(places, size - 1)) == tf.constant([*text], tf.uint8)
        found = tf.reduce_all(same, 1) & (opening + len(text) <= row_ends)
        name = tf.boolean_mask(opening, found)
        begin = _before_blanks(data, row_splits, name) if text == strips else name
        spans.append(Spans(begin, name, name + len(text), tf.fill(tf.shape(name), index)))
    spans = Spans(*(tf.concat(values, 0) for values in zip(*spans)))
    order = tf.argsort(spans.begins)
    return Spans(*(tf.gather(values, order) for values in spans))


def _before_blanks(data, row_splits, places: tf.Tensor) -> tf.Tensor:
    """Where the blanks before each place begin, at the earliest where its string does."""
    breaks = flags(row_splits, tf.size(data, tf.int64))
    solid = tf.where(classes_of(data, breaks).kinds != SPACE)[:, 0]
    solid = tf.concat([[-1], solid], 0)  # -1 stands before the first one.
    after_solid = tf.gather(solid, tf.searchsorted(solid, places, out_type=tf.int64) - 1) + 1
    row = tf.searchsorted(row_splits, places, side="right") - 1
    return tf.maximum(after_solid, tf.gather(row_splits, row))


def insert_spaces(
    data: tf.Tensor, row_splits: tf.Tensor, spans: Spans | None
) -> tuple[tf.Tensor, tf.Tensor, Spans | None, tf.Tensor]:
    """Puts a space before each text that has none: at row starts and after special tokens.

    Returns data, row_splits and spans of the longer batch, and where each of its places, and its
    end, was before: int64 (N' + 1,).
    """
    size = tf.size(data, tf.int64)
    starts = row_splits if spans is None else tf.concat([row_splits, spans.ends], 0)
    wanted = flags(starts, size) & (data != 0x20)
    if spans is not None:
        wanted = wanted & ~flags(spans.begins, size)
    before = splits_of(1 + tf.cast(wanted, tf.int64))  # (N + 1,)
    source = rows_of(before)  # (N',)
    first = tf.range(tf.size(source, tf.int64)) == tf.gather(before, source)
    is_new = tf.gather(wanted, source) & first
    data = tf.where(is_new, tf.constant(0x20, tf.uint8), tf.gather(data, source))
    if spans is not None:
        spans = Spans(*(tf.gather(before, places) for places in spans[:3]), spans.ids)
    return data, tf.gather(before, row_splits), spans, tf.concat([source, size[None]], 0)
