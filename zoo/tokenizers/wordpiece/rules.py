"""What BERT's normalisation does to each Unicode code point, as arrays for graph operations.

The rules are frozen in `bert_rules_data.py`, measured from Hugging Face `tokenizers` by
`make_bert_rules.py`, so that ids never depend on which Unicode version Python, ICU or TensorFlow
happen to carry. BERT's own rules mix several versions: characters younger than Unicode 8 count as
letters, younger accents are not stripped.
"""

import base64
import dataclasses
import functools
import json
import zlib

import numpy as np

from zoo.tokenizers.wordpiece.rules_data import DATA

# What the data says of a code point as it stands in the text.
PLAIN, SPACE, PUNCTUATION, CJK, REMOVED = range(5)

# What becomes of it, in the low bits of an entry of `Rules.table`. ALONE is a word of its own;
# STRIPPED is an accent that leaves its letter; several characters come from one in SEVERAL;
# MOVING is an accent that stays, but goes to its place in canonical order.
LETTER, BLANK, ALONE, GONE, STRIPPED, SEVERAL, MOVING = range(7)
KIND_BITS = 4
KIND_MASK = 2**KIND_BITS - 1

_PAGE = 256
_DIRECT = 0x10000  # Code points below this are their own index into `Rules.table`.


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of one setting of (lowercase, strip_accents, split_cjk).

    A code point p has the entry e = table[p] if p < 65536, else
    table[page_starts[p // 256] + p % 256]. `e & KIND_MASK` is its kind. It turns into the code
    point p + (e >> KIND_BITS), or, if it is of kind SEVERAL, into the `counts[e >> KIND_BITS]`
    code points that stand from there on in `several`, as (code point << KIND_BITS) + kind.

    Attributes:
        table: int32, one entry a code point, pages of equal entries stored once.
        page_starts: int32 (4352,).
        several: int32, never empty.
        counts: int32, as long as `several`.
        order: int32 (2, n): the code points of kind MOVING, sorted, and their ranks (1 to 255);
            neighbours go by rank. None unless accents are stripped.
        walls: int32, sorted: the STRIPPED code points that such a move does not cross.
    """

    table: np.ndarray
    page_starts: np.ndarray
    several: np.ndarray
    counts: np.ndarray
    order: np.ndarray
    walls: np.ndarray


@functools.cache
def rules(lowercase: bool, strip_accents: bool, split_cjk: bool) -> Rules:
    """The rules of one setting; the arrays are shared, do not write to them.

    Example: `rules(True, True, True).table[ord("A")] >> KIND_BITS` is 32, the way to "a".
    """
    data = _data()
    kinds = np.array([LETTER, BLANK, ALONE, ALONE if split_cjk else LETTER, GONE])[data["classes"]]
    entries = kinds.astype(np.int64)
    changed, order = {}, {}
    if strip_accents:
        changed.update(data["decompose"])
        order = {point: rank - point for point, (rank,) in data["order"].items()}
        entries[list(order)] = MOVING
    if lowercase:
        lower = data["lower"]
        for point, outputs in changed.items():
            changed[point] = [low for out in outputs for low in lower.get(out, [out])]
        changed = {**{p: low for p, low in lower.items() if p not in changed}, **changed}
    several, counts = [0], [1]  # What stands at 0 says: one character, itself.
    for point, outputs in changed.items():
        inherited = ALONE if kinds[point] == ALONE and data["classes"][point] == CJK else LETTER
        # BERT looks for punctuation after the changes, for Chinese characters before them.
        final = [
            MOVING
            if out in order
            else max(inherited, ALONE * int(data["classes"][out] == PUNCTUATION))
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
    table, page_starts = _pages(entries.astype(np.int32))
    return Rules(
        table,
        page_starts,
        np.array(several, np.int32),
        np.array(counts, np.int32),
        np.array(sorted(order.items()), np.int32).reshape(-1, 2).T,
        np.array(sorted(data["walls"]) if strip_accents else [], np.int32),
    )


def hangul(point: int) -> list[int]:
    """The letters of a Korean syllable block, as canonical decomposition computes them.

    Any other code point comes back alone. Example: `hangul(0xAC00)` is `[0x1100, 0x1161]`.
    """
    index = point - 0xAC00
    if not 0 <= index < 11172:
        return [point]
    letters = [0x1100 + index // 588, 0x1161 + index % 588 // 28]
    return letters + ([0x11A7 + index % 28] if index % 28 else [])


def _pages(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pages = entries.reshape(-1, _PAGE)
    direct = _DIRECT // _PAGE
    stored, position = list(pages[:direct]), {}
    starts = [page * _PAGE for page in range(direct)]
    for page in pages[direct:]:
        if page.tobytes() not in position:
            position[page.tobytes()] = len(stored) * _PAGE
            stored.append(page)
        starts.append(position[page.tobytes()])
    return np.concatenate(stored), np.array(starts, np.int32)


@functools.cache
def _data() -> dict:
    return unpack(json.loads(zlib.decompress(base64.b85decode("".join(DATA.split())))))


def unpack(raw: dict) -> dict:
    """The dict that `make_bert_rules.measure` makes, without its differences and runs.

    Returns `classes`, int8, PLAIN to REMOVED for every code point, and dicts from code points to
    the code points they become: `decompose` (accents gone), `lower`; to a rank: `order`; to
    nothing: `walls`.
    """
    classes = np.full(0x110000, REMOVED, np.int8)
    start = 0
    for delta, value in zip(raw["classes"][::2], raw["classes"][1::2]):
        start += delta
        classes[start:] = value
    data = {"classes": classes}
    for name in ("decompose", "lower", "order", "walls"):
        data[name], point = {}, 0
        for delta, *outputs in raw[name]:
            point += delta
            data[name][point] = [point + output for output in outputs]
    data["decompose"] |= {p: hangul(p) for p in range(0xAC00, 0xAC00 + 11172)}
    return data
