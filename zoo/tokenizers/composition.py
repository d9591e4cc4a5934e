"""Unicode's NFC in the graph, as the `tokenizers` library has it.

`composition.json` says which characters NFC joins or moves, measured from that library by
`tools/make_unicode_tables.py`. Only runs of these, with the character before, are given to ICU:
all of them are older than both libraries' Unicode versions, whose forms never change, and a younger
character is left alone as in `tokenizers`.
"""

import functools
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from zoo.tokenizers.character_classes import PagedTable, from_runs, with_long_characters
from zoo.tokenizers.ragged import joined_bytes, previous, rows_of, splits_of

# Left alone; joined with a character of the next kind behind it; changed, moved or joined.
ALONE, JOINING, CHANGING = range(3)
TABLE = Path(__file__).with_name("composition.json")
_BYTES = np.array([bytes([value]) for value in range(256)], object)


@functools.cache
def kinds() -> np.ndarray:
    """ALONE to CHANGING for every code point, uint8 (0x110000,); do not write to it."""
    return from_runs(json.loads(TABLE.read_text(encoding="utf-8"))["kinds"])


@functools.cache
def _table() -> PagedTable:
    return PagedTable(kinds())


def composed(data: tf.Tensor, breaks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bytes (N,) of texts in NFC (M,), and where each old one and the end are, int64 (N + 1,).

    `breaks` (N,) is True where a text begins: nothing is joined with what stands before. Bytes that
    are no UTF-8 stay.
    """
    same = tf.range(tf.size(data, tf.int64) + 1)
    # All that changes begins with U+0300, CC 80 in UTF-8, or is behind it.
    return tf.cond(
        tf.reduce_any(data >= 0xCC), lambda: _composed(data, breaks, same), lambda: (data, same)
    )


def _composed(data, breaks, same) -> tuple[tf.Tensor, tf.Tensor]:
    ascii_kinds = tf.gather(tf.constant(kinds()[:256]), tf.cast(data & 0x7F, tf.int32))
    ascii_kinds = tf.where(data < 0x80, ascii_kinds, ALONE)
    kind, inner = with_long_characters(data, breaks, ascii_kinds, _table())
    return tf.cond(
        tf.reduce_any(kind == CHANGING),
        lambda: _joined(data, breaks, kind, inner),
        lambda: (data, same),
    )


def _joined(data, breaks, kind, inner) -> tuple[tf.Tensor, tf.Tensor]:
    changing = kind == CHANGING
    first = changing & ~inner & (breaks | (previous(kind, ALONE) == ALONE))
    # A run begins with its first changing character, or with the joining one before it.
    before_changing = tf.concat([changing & ~inner & ~breaks, [False]], 0)[1:]
    ends_in_changing = before_changing & (kind == JOINING)
    for _ in range(3):  # to the first byte of the joining character
        behind = tf.concat([ends_in_changing & inner, [False]], 0)[1:]
        ends_in_changing |= behind
    begins = first | (ends_in_changing & ~inner)
    inside = changing | ends_in_changing
    places = tf.where(inside)[:, 0]  # (n,), the bytes of all runs
    run = tf.cumsum(tf.cast(tf.gather(begins, places), tf.int64)) - 1  # (n,)
    run_places = tf.where(begins)[:, 0]  # (r,)
    runs = tf.strings.unsorted_segment_join(
        tf.gather(tf.constant(_BYTES, tf.string), tf.cast(tf.gather(data, places), tf.int32)),
        run,
        tf.size(run_places, tf.int64),
    )
    new, new_splits = joined_bytes(tf_text.normalize_utf8(runs, "NFC"))
    lengths = 1 - tf.cast(inside, tf.int64)
    lengths = tf.tensor_scatter_nd_update(
        lengths, run_places[:, None], new_splits[1:] - new_splits[:-1]
    )
    moved = splits_of(lengths)
    result = tf.gather(data, rows_of(moved))
    targets = tf.ragged.range(
        tf.gather(moved, run_places),
        tf.gather(moved, run_places) + new_splits[1:] - new_splits[:-1],
    ).flat_values
    return tf.tensor_scatter_nd_update(result, targets[:, None], new), moved
