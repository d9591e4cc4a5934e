"""BERT's normalizer: what becomes of each code point, as tables and as graph operations.

Frozen in `normalizer.json`, measured from Hugging Face `tokenizers` by
`tools/make_unicode_tables.py`: BERT's rules mix Unicode versions. Characters younger than Unicode 8
count as letters, younger accents stay.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.tokenizers.character_classes import PagedTable, from_runs
from zoo.tokenizers.ragged import mark, rows_of, splits_of

TABLE = Path(__file__).with_name("normalizer.json")

# What the table says of a code point as it stands in the text.
PLAIN, SPACE, PUNCTUATION, CJK, REMOVED = range(5)

# What becomes of it, in the low bits of its entry in `Rules`. ALONE is a word of its own;
# STRIPPED is an accent that leaves its letter; several characters come from one in SEVERAL;
# MOVING is an accent that stays, but goes to its place in canonical order.
LETTER, BLANK, ALONE, GONE, STRIPPED, SEVERAL, MOVING = range(7)
KIND_BITS = 4
KIND_MASK = 2**KIND_BITS - 1

_SYLLABLES = np.arange(0xAC00, 0xAC00 + 11172)  # Korean
_NO_FINAL = 0x11A7


class Rules(NamedTuple):
    """The rules of one setting of (lowercase, strip_accents, split_cjk).

    The entry e of a code point p says its kind, `e & KIND_MASK`. It turns into the code point
    p + (e >> KIND_BITS), or, if it is of kind SEVERAL, into the `counts[e >> KIND_BITS]` code
    points that stand from there on in `several`, as (code point << KIND_BITS) + kind.
    """

    entries: np.ndarray  # (0x110000,)
    table: PagedTable  # the same
    several: np.ndarray  # never empty
    counts: np.ndarray  # as long as `several`
    # (2, n): the code points of kind MOVING, sorted, and their ranks (1 to 255); neighbours go by
    # rank. Empty unless accents are stripped.
    order: np.ndarray
    walls: np.ndarray  # sorted: the STRIPPED code points that such a move does not cross


@functools.cache
def rules(lowercase: bool, strip_accents: bool, split_cjk: bool) -> Rules:
    """The rules of one setting; the arrays are shared, do not write to them."""
    data = stored_table()
    classes = data["classes"]
    kinds = np.array([LETTER, BLANK, ALONE, ALONE if split_cjk else LETTER, GONE], np.int32)
    entries = kinds[classes]
    order, walls = ({}, {}) if not strip_accents else (data["order"], data["walls"])
    order = {point: rank - point for point, (rank,) in order.items()}
    entries[list(order)] = MOVING
    changed = {}
    if strip_accents:
        korean = zip(_SYLLABLES.tolist(), hangul(_SYLLABLES).tolist())
        korean = {point: [c for c in letters if c != _NO_FINAL] for point, letters in korean}
        changed = data["decompose"] | korean
    if lowercase:
        lower = data["lower"]
        for point, outputs in changed.items():
            changed[point] = [low for out in outputs for low in lower.get(out, [out])]
        changed = lower | changed
    several, counts = [0], [1]  # What stands at 0 says: one character, itself.
    for point, outputs in changed.items():
        # BERT looks for punctuation after the changes, for Chinese characters before them.
        inherited = ALONE if split_cjk and classes[point] == CJK else LETTER
        final = [
            MOVING if out in order else ALONE if classes[out] == PUNCTUATION else inherited
            for out in outputs
        ]
        if not outputs:
            entries[point] = STRIPPED
        elif len(outputs) == 1:
            entries[point] = ((outputs[0] - point) << KIND_BITS) + final[0]
        else:
            entries[point] = (len(several) << KIND_BITS) + SEVERAL
            several += [(out << KIND_BITS) + kind for out, kind in zip(outputs, final)]
            counts += [len(outputs)] * len(outputs)
    return Rules(
        entries,
        PagedTable(entries),
        np.array(several, np.int32),
        np.array(counts, np.int32),
        np.array(sorted(order.items()), np.int32).reshape(-1, 2).T,
        np.array(sorted(walls), np.int32),
    )


def hangul(points: np.ndarray) -> np.ndarray:
    """Letters (n, 3) of Korean syllables (n,); the last is U+11A7 where there are two."""
    index = points - _SYLLABLES[0]
    vowels = 0x1161 + index % 588 // 28
    return np.stack([0x1100 + index // 588, vowels, _NO_FINAL + index % 28], 1)


@functools.cache
def stored_table() -> dict[str, Any]:
    """The stored table, unpacked."""
    return unpack(json.loads(TABLE.read_text(encoding="utf-8")))


def unpack(raw: dict[str, Any]) -> dict[str, Any]:
    """The table without its differences and runs: `classes`, uint8, PLAIN to REMOVED for every code
    point, and dicts of code points to code points: `decompose` (without accents; no Korean) and
    `lower`; to a rank: `order`; to nothing: `walls`.
    """
    data: dict[str, Any] = {"classes": from_runs(raw["classes"])}
    for name in ("decompose", "lower", "order", "walls"):
        data[name] = from_deltas(raw[name])
    return data


def from_deltas(raw: list[list[int]]) -> dict[int, list[int]]:
    """Code point -> code points, of differences to the one before, and to it."""
    mapping, point = {}, 0
    for delta, *outputs in raw:
        point += delta
        mapping[point] = [point + output for output in outputs]
    return mapping


def _shift(entries: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(entries, KIND_BITS)  # without the kinds


def normalized(
    points: tf.Tensor, changes: tf.Tensor, row_splits: tf.Tensor, rules: Rules
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """What is left of points (N,): characters, kinds, sources (M,), row splits (B + 1,)."""
    kinds = changes & KIND_MASK
    same = tf.range(tf.size(points, tf.int64))
    return tf.cond(
        tf.reduce_any((kinds >= GONE) & (kinds <= MOVING)),
        lambda: _rewritten(points, changes, row_splits, rules),
        lambda: (points + _shift(changes), kinds, same, row_splits),
    )


def _rewritten(points, changes, row_splits, rules: Rules):
    """`normalized` where some characters go, or become several."""
    kinds = changes & KIND_MASK
    several = kinds == SEVERAL
    start = tf.where(several, _shift(changes), 0)
    gone = (kinds == GONE) | (kinds == STRIPPED)
    counts = tf.where(gone, 0, tf.gather(rules.counts, start))  # (N,)
    before = splits_of(tf.cast(counts, tf.int64))  # (N + 1,)
    sources = rows_of(before)  # (M,)
    nth = tf.range(tf.size(sources, tf.int64)) - tf.gather(before, sources)
    from_several = tf.gather(rules.several, tf.gather(start, sources) + tf.cast(nth, tf.int32))
    split = tf.gather(several, sources)
    from_one = tf.gather(points + _shift(changes), sources)
    characters = tf.where(split, _shift(from_several), from_one)
    kinds = tf.where(split, from_several & KIND_MASK, tf.gather(kinds, sources))
    row_splits = tf.gather(before, row_splits)
    if rules.order.size:
        moving = kinds == MOVING
        characters = tf.cond(
            tf.reduce_any(moving),
            lambda: _in_canonical_order(points, characters, moving, sources, row_splits, rules),
            lambda: characters,
        )
        kinds = tf.where(moving, LETTER, kinds)
    return characters, kinds, sources, row_splits


def _in_canonical_order(points, characters, moving, sources, row_splits, rules: Rules) -> tf.Tensor:
    """`characters` with neighbouring accents that stay sorted by rank, as NFD sorts them."""
    places = tf.searchsorted(rules.order[0], characters)
    places = tf.minimum(places, rules.order.shape[1] - 1)
    ranks = tf.where(moving, tf.gather(rules.order[1], places), 0)
    place = tf.minimum(tf.searchsorted(rules.walls, points), len(rules.walls) - 1)
    walls = tf.cast(tf.gather(rules.walls, place) == points, tf.int64)
    breaks = ~moving | mark(row_splits, tf.size(moving, tf.int64))
    runs = tf.cumsum(tf.cast(breaks, tf.int64)) + tf.gather(tf.cumsum(walls), sources)
    order = tf.argsort(runs * 256 + tf.cast(ranks, tf.int64), stable=True)
    return tf.gather(characters, order)
