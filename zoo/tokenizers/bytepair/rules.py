"""Which class GPT-2's pattern puts each Unicode code point in, as tables for graph operations.

The pattern asks for `\\p{L}`, `\\p{N}` and `\\s`. The answers are frozen in
`bytepair_rules_data.py`, measured from Hugging Face `tokenizers` by `make_bytepair_rules.py` and
equal to tiktoken's, so that ids never depend on which Unicode version Python, ICU or TensorFlow
happen to carry.
"""

import base64
import functools
import json
import zlib

import numpy as np

from zoo.tokenizers.bytepair.rules_data import DATA

OTHER, LETTER, NUMBER, SPACE = range(4)
_PAGE = 256


@functools.cache
def classes() -> np.ndarray:
    """OTHER to SPACE for every code point, uint8 (0x110000,); do not write to it.

    Example: `classes()[ord("a")]` is `LETTER`.
    """
    runs = json.loads(zlib.decompress(base64.b85decode("".join(DATA.split()))))
    return unpack(runs)


@functools.cache
def paged_classes() -> tuple[np.ndarray, np.ndarray]:
    """`classes` in less room: that of p is `table[page_starts[p // 256] + p % 256]`.

    Returns uint8, pages of equal classes stored once, and int32 (4352,).
    """
    stored, position, starts = [], {}, []
    for page in classes().reshape(-1, _PAGE):
        if page.tobytes() not in position:
            position[page.tobytes()] = len(stored) * _PAGE
            stored.append(page)
        starts.append(position[page.tobytes()])
    return np.concatenate(stored), np.array(starts, np.int32)


def unpack(runs: list[int]) -> np.ndarray:
    """Classes from runs, [length, class, length, class, ...]."""
    return np.repeat(np.array(runs[1::2], np.uint8), runs[::2])
