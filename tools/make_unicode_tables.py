"""Writes the Unicode tables of the tokenizers: asks Hugging Face `tokenizers` for each character.

`zoo/tokenizers/character_classes.json` has the classes of GPT-2's pattern,
`zoo/tokenizers/wordpiece/normalizer.json` what BERT's normalizer does,
`zoo/tokenizers/composition.json` the characters that NFC joins or moves,
`zoo/tokenizers/compatibility.json` what NFKD without accents is. Run
`python -m tools.make_unicode_tables` only to follow a newer release of that library: a changed
table changes ids, so raise `rules_version` of `BytePairTokenizer` or `WordPieceTokenizer` with it.
The library is asked, not copied.
"""

import itertools
import json
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from zoo.tokenizers import character_classes, charsmap, composition
from zoo.tokenizers.character_classes import LETTER, NUMBER, OTHER
from zoo.tokenizers.wordpiece import normalizer
from zoo.tokenizers.wordpiece.normalizer import CJK, PLAIN, PUNCTUATION, REMOVED, SPACE, hangul

PATTERNS = {r"\p{L}": LETTER, r"\p{N}": NUMBER, r"\s": character_classes.SPACE}
# Two marks that accent stripping leaves, of different canonical classes (216 and 226).
MARKS = ("\U0001d165", "\U0001d16d")
# Two marks of the canonical classes 1 and 230: each other mark changes places with one of them.
MARKS_OF_LETTERS = ("\u0334", "\u0301")


def measured_classes() -> dict[str, Any]:
    """The classes of GPT-2's pattern, which `character_classes.from_runs` reads."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Digits, Split

    splitters = [(Split(Regex(pattern), "removed"), kind) for pattern, kind in PATTERNS.items()]

    def kind_of(point: int) -> int:
        if 0xD800 <= point <= 0xDFFF:
            return OTHER  # A surrogate, which UTF-8 cannot hold.
        kinds = [kind for split, kind in splitters if not split.pre_tokenize_str(chr(point))]
        assert len(kinds) <= 1, hex(point)
        return kinds[0] if kinds else OTHER

    kinds = [kind_of(point) for point in range(0x110000)]
    digits = Digits(individual_digits=True)
    numbers = [p for p in _points() if len(digits.pre_tokenize_str(f"a{chr(p)}a")) == 3]
    assert {p for p in _points() if kinds[p] == NUMBER} <= {*numbers}
    return {"classes": _runs(kinds), "more_digits": [p for p in numbers if kinds[p] != NUMBER]}


def measured_composition() -> dict[str, Any]:
    """What NFC does to each character, which `composition` reads."""
    from tokenizers.normalizers import NFC, NFD

    composed, decomposed = NFC().normalize_str, NFD().normalize_str
    low, high = MARKS_OF_LETTERS
    changing: set[int] = {ord(low), ord(high)}
    joining: set[int] = set()
    for point in _points():
        character = chr(point)
        parts = decomposed(character)
        moves = composed(character + low) == low + character
        moves |= composed(high + character) == character + high
        if composed(character) != character or moves:
            changing.add(point)
        elif parts != character:
            changing.update(map(ord, parts[1:]))
            for size in range(1, len(parts) + 1):
                joining.update(map(ord, composed(parts[:size])))
    kinds = np.zeros(0x110000, np.uint8)
    kinds[[*joining]] = composition.JOINING
    kinds[[*changing]] = composition.CHANGING
    return {"kinds": _runs(kinds.tolist())}


def measured_compatibility() -> dict[str, Any]:
    """What stripping accents leaves of NFKD of each character, which `charsmap` reads."""
    from tokenizers.normalizers import NFKD, Sequence, StripAccents

    strip = Sequence([NFKD(), StripAccents()]).normalize_str
    syllables = range(0xAC00, 0xAC00 + 11172)
    found = {p: strip(chr(p)) for p in _points() if p not in syllables}
    changed = {p: [*map(ord, text)] for p, text in found.items() if text != chr(p)}
    return {"stripped": _deltas(changed)}


def _points() -> list[int]:
    # All that UTF-8 can hold.
    return [point for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]


def measured_normalizer() -> dict[str, Any]:
    """BERT's rules, which `normalizer.unpack` reads."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    def only(**on):
        off = dict.fromkeys(
            ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False
        )
        return BertNormalizer(**{**off, **on}).normalize_str

    clean, chinese = only(clean_text=True), only(handle_chinese_chars=True)
    strip, lower = only(strip_accents=True), only(lowercase=True)
    split = BertPreTokenizer().pre_tokenize_str
    classes, decompose, lowered = [REMOVED] * 0x110000, {}, {}
    for point in _points():
        character = chr(point)
        cleaned = clean(character)
        if cleaned == "":
            continue
        if cleaned == " ":
            classes[point] = SPACE
            continue
        pieces = len(split(f"a{character}a"))
        assert cleaned == character and pieces in (1, 3), hex(point)
        classes[point] = CJK if chinese(character) == f" {character} " else PLAIN
        if pieces == 3:
            assert classes[point] == PLAIN, hex(point)
            classes[point] = PUNCTUATION
        stripped = strip(character)
        if 0xAC00 <= point < 0xAC00 + 11172:
            letters = hangul(np.array([point]))[0].tolist()
            assert "".join(map(chr, letters)).removesuffix("\u11a7") == stripped, hex(point)
        elif stripped != character:
            decompose[point] = [*map(ord, stripped)]
        if lower(character) != character:
            lowered[point] = [*map(ord, lower(character))]
    return {
        "classes": _runs(classes),
        "decompose": _deltas(decompose),
        "lower": _deltas(lowered),
        **_canonical_order(strip, classes),
    }


def _canonical_order(strip: Callable[[str], str], classes: list[int]) -> dict[str, Any]:
    # NFD sorts neighbouring marks by canonical class before accents are stripped. Which of the
    # characters that stay are moved shows when one changes places with a mark of a known class.
    def swaps(first: str, second: str) -> bool:
        return first != second and strip(first + second) == second + first

    moving, walls = [], {}
    for point, kind in enumerate(classes):
        if kind not in (PLAIN, PUNCTUATION):
            continue
        character, stripped = chr(point), strip(chr(point))
        if stripped == character:
            if any(swaps(character, mark) or swaps(mark, character) for mark in MARKS):
                moving.append(character)
        # A stripped character that is no moving mark keeps its neighbours apart.
        elif stripped == "" and strip(MARKS[1] + character + MARKS[0]) == "".join(MARKS[1::-1]):
            walls[point] = []
    ranks = {ord(c): 1 + sum(swaps(c, other) for other in moving) for c in moving}
    return {
        "order": _deltas({point: [point + rank] for point, rank in ranks.items()}),
        "walls": _deltas(walls),
    }


def _runs(values: Iterable[int]) -> list[int]:
    # [length, value, length, value, ...]
    return [number for kind, run in itertools.groupby(values) for number in (len([*run]), kind)]


def _deltas(mapping: dict[int, list[int]]) -> list[list[int]]:
    # [[key - previous key, outputs relative to the key ...], ...]
    result, previous = [], 0
    for point, outputs in sorted(mapping.items()):
        result.append([point - previous, *(output - point for output in outputs)])
        previous = point
    return result


def write_table(path: Path, table: dict[str, Any], version: str) -> None:
    """Writes a table in lines of up to 100 characters."""
    text = json.dumps({"source": f"Hugging Face tokenizers {version}", **table})
    path.write_text("\n".join(textwrap.wrap(text, 100)) + "\n", encoding="utf-8")
    print(f"{path}: {len(text)} characters")


def main() -> None:
    """Writes the tables beside the code that reads them."""
    import tokenizers

    write_table(character_classes.TABLE, measured_classes(), tokenizers.__version__)
    write_table(composition.TABLE, measured_composition(), tokenizers.__version__)
    write_table(charsmap.TABLE, measured_compatibility(), tokenizers.__version__)
    write_table(normalizer.TABLE, measured_normalizer(), tokenizers.__version__)


if __name__ == "__main__":
    main()
