"""SentencePiece's table of characters that are replaced: read, joined with other rules, written.

A model that lowercases and strips accents before its table does all at once with one that has both,
and keeps the places in the text that the operation knows. What the table holds is a trie in two
arrays (Darts), then the texts that come out, each with a zero byte behind it.
"""

import functools
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.tokenizers.wordpiece.normalizer import from_deltas, stored_table

# What stripping accents leaves of NFKD of each character but Korean syllables, measured from
# Hugging Face's library by `tools/make_unicode_tables.py`.
TABLE = Path(__file__).with_name("compatibility.json")
# Of a unit: a value and no label; a value follows; the offset is 256 times as far.
_LEAF, _HAS_VALUE, _FAR = 1 << 31, 1 << 8, 1 << 9
_BLOCK = 256
_OPEN_BLOCKS = 16  # in which room is looked for
_MOST_NODES = 1 << 22  # of a table that is read; NFKC has 60,000
# How ALBERT writes quotation marks.
QUOTES = {"``": '"', "''": '"'}


def read_charsmap(content: bytes) -> dict[str, str]:
    """What becomes of which text, of a `precompiled_charsmap`; ValueError if it is none."""
    if not content:
        return {}
    size = struct.unpack_from("<I", content)[0] if len(content) >= 4 else 0
    if not 0 < size <= len(content) - 4 or size % 4:
        raise ValueError("precompiled_charsmap is no table of SentencePiece.")
    units, texts = np.frombuffer(content, "<u4", size // 4, 4).astype(np.int64), content[4 + size :]
    rules, prefixes, count = {}, [b""], 1
    places = np.array([_offset(units[0])])
    bytes_ = np.arange(1, 256)
    while len(places):
        children = places[:, None] ^ bytes_  # (n, 255)
        known = children < len(units)
        found = units[np.where(known, children, 0)]
        row, column = np.nonzero(known & ((found & (_LEAF | 0xFF)) == bytes_))
        unit, place = found[row, column], children[row, column]
        prefixes = [prefixes[i] + bytes([c + 1]) for i, c in zip(row.tolist(), column.tolist())]
        places = place ^ np.array([_offset(one) for one in unit.tolist()], np.int64)
        count += len(places)
        ended = np.flatnonzero(unit & _HAS_VALUE)
        if count > _MOST_NODES or (places[ended] >= len(units)).any():
            raise ValueError("precompiled_charsmap is damaged.")
        for index in ended.tolist():
            start = int(units[places[index]] & ~_LEAF)
            end = texts.find(b"\0", start)
            if end < 0:
                raise ValueError("precompiled_charsmap is damaged.")
            rules[prefixes[index].decode()] = texts[start:end].decode()
    return rules


def write_charsmap(rules: Mapping[str, str]) -> bytes:
    """The table of these rules, equal ones for equal rules."""
    encoded = {source.encode(): target.encode() for source, target in sorted(rules.items())}
    texts, starts = b"", {}
    for target in dict.fromkeys(encoded.values()):
        starts[target] = len(texts)
        texts += target + b"\0"
    children: dict[bytes, list[int]] = {}
    for source in encoded:
        for end in range(len(source)):
            labels = children.setdefault(source[:end], [])
            if source[end] not in labels:
                labels.append(source[end])
    array = _DoubleArray()
    waiting = [(b"", 0)]
    while waiting:
        prefix, place = waiting.pop()
        value = starts[encoded[prefix]] if prefix in encoded else None
        labels = sorted(children.get(prefix, []))
        base = array.add(place, labels, value)
        waiting.extend((prefix + bytes([label]), base ^ label) for label in reversed(labels))
    units = array.content()
    return struct.pack("<I", len(units)) + units + texts


def with_rules_before(
    content: bytes,
    lowercase: bool = False,
    strip_accents: bool = False,
    replaced: Mapping[str, str] | None = None,
) -> bytes:
    """A table that does what `joined_rules` describes and then what this one does."""
    if not (lowercase or strip_accents or replaced):
        return content
    return write_charsmap(
        joined_rules(read_charsmap(content), lowercase, strip_accents, replaced or {})
    )


class _DoubleArray:
    """Units, of which those of one node's children lie at one base, by their bytes."""

    def __init__(self) -> None:
        self._units = np.zeros(_BLOCK, np.uint32)
        self._free = np.ones(_BLOCK, bool)
        self._free[0] = False  # the root
        self._bases = {0}  # no two nodes have one
        self._first = 0  # block in which there may be room

    def add(self, place: int, labels: list[int], value: int | None) -> int:
        """Puts the children of the unit at `place` somewhere; returns their base."""
        slots = np.array([*([] if value is None else [0]), *labels])
        base = self._find(place, slots)
        self._bases.add(base)
        self._free[base ^ slots] = False
        offset = place ^ base
        unit = int(self._units[place]) | (_HAS_VALUE if value is not None else 0)
        unit |= offset << 10 if offset < 1 << 21 else (offset << 2) | _FAR
        self._units[place] = unit
        self._units[base ^ slots] = slots
        if value is not None:
            self._units[base] = value | _LEAF
        return base

    def _find(self, place: int, slots: np.ndarray) -> int:
        lows = np.arange(_BLOCK)[:, None] ^ slots  # (256, n)
        count = len(self._free) // _BLOCK
        for block in range(self._first, count + 1):
            start = block * _BLOCK
            if block == count:
                self._units = np.append(self._units, np.zeros(_BLOCK, np.uint32))
                self._free = np.append(self._free, np.ones(_BLOCK, bool))
                self._first = max(self._first, block - _OPEN_BLOCKS)
            for low in np.flatnonzero(self._free[start + lows].all(1)).tolist():
                base = start + low
                is_far = (base ^ place) >= 1 << 21 and (base ^ place) % _BLOCK
                if base not in self._bases and not is_far:
                    return base
        raise AssertionError("an empty block has room")

    def content(self) -> bytes:
        return self._units.astype("<u4").tobytes()


def _offset(unit: int) -> int:
    return (int(unit) >> 10) << ((int(unit) & _FAR) >> 6)


@functools.cache
def _stripped() -> dict[int, list[int]]:
    return from_deltas(json.loads(TABLE.read_text(encoding="utf-8"))["stripped"])


def joined_rules(
    rules: Mapping[str, str],
    lowercase: bool = False,
    strip_accents: bool = False,
    replaced: Mapping[str, str] = {},
) -> dict[str, str]:
    """The rules of what comes before a table, and then those of the table.

    Texts are `replaced`, then NFKD without accents, then lowercase. Korean syllables stay whole:
    SentencePiece's own tables put them together again.
    """
    before: dict[str, str] = {}
    if strip_accents:
        before = {chr(p): "".join(map(chr, parts)) for p, parts in _stripped().items()}
    if lowercase:
        lower = {chr(p): "".join(map(chr, q)) for p, q in stored_table()["lower"].items()}
        changed = {c: "".join(lower.get(d, d) for d in text) for c, text in before.items()}
        before = lower | changed
    joined = {
        # A text whose characters change never comes to the table as it stands.
        source: target
        for source, target in rules.items()
        if len(source) > 1 and not any(character in before for character in source)
    }
    singles = [*before, *(source for source in rules if len(source) == 1)]
    for source in singles:
        joined[source] = _applied(rules, before.get(source, source))
    for source, target in replaced.items():
        lowered = "".join(before.get(character, character) for character in target)
        joined[source] = _applied(rules, lowered)
    return {source: target for source, target in joined.items() if source != target}


def _applied(rules: Mapping[str, str], text: str) -> str:
    """A text with the longest source at each place replaced."""
    done, place = "", 0
    while place < len(text):
        ends = range(len(text), place, -1)
        end = next((end for end in ends if text[place:end] in rules), None)
        done += text[place] if end is None else rules[text[place:end]]
        place = place + 1 if end is None else end
    return done
