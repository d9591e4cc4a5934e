"""WordPiece ids against Hugging Face's BertWordPieceTokenizer, on fuzzed and on real text."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from zoo.tokenizers import WordPieceTokenizer
from zoo.tokenizers.wordpiece.normalizer import stored_table, unpack

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SHARED = os.environ.get("ZOO_DATA")
# First and last code points of what is worth mixing.
RANGES = [
    (0, 0x10FFFF), (0, 0x1F), (0x20, 0x7E), (0x7F, 0x24F), (0x300, 0x36F), (0x370, 0x52F),
    (0x5D0, 0x6FF), (0x8D0, 0x8FF), (0x900, 0xFFF), (0x1100, 0x11FF), (0x1E00, 0x1FFF),
    (0x2000, 0x206F), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF),
    (0xF900, 0xFB1F), (0xFE00, 0xFF9F), (0x1D150, 0x1D1C0), (0x1F300, 0x1FAFF),
    (0x2F800, 0x2FA1F), (0xE0000, 0xE01EF), (0xFFFF0, 0x10000F),
]  # fmt: skip
ODD = [
    *"İßΣςẞ\0\ufffd\ufeff\u200d\ufe0f\xa0\x85\xad\u2028\ufffe\uffff\U0010ffff \n\r\t\v\f",
    # Accents of different canonical classes that stay, and ones that go.
    *"\U0001d165\U0001d16d\u302e\u302f\u08d4\u16ff\u1dfa\u0327\u0301\u0345\u05bf\u093c\u09be",
    *SPECIAL, "[mask]", "[MASK", "MASK]", "[[SEP]]", "[M\0ASK]", "##s", "a" * 100, "b" * 101,
    "é" * 100, "é" * 101, "ß" * 100, "ß" * 101, "界" * 101, "각" * 34, "hello", "naïve",
]  # fmt: skip


def fuzzed(count, seed):
    """Random strings over a few ranges each, with odd things between."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        ranges = rng.sample(RANGES, rng.randint(1, 5))
        text = ""
        for _ in range(rng.choice([1, 2, 3, 5, 8, 15, 40])):
            if rng.random() < 0.15:
                text += rng.choice(ODD)
            else:
                point = rng.randint(*rng.choice(ranges))
                text += "" if 0xD800 <= point <= 0xDFFF else chr(point)
            text += " " * (rng.random() < 0.1)
        texts.append(text)
    return texts


def pair(vocabulary, split_cjk=True, **options):
    """Our tokenizer and Hugging Face's, of one vocabulary and setting."""
    ours = WordPieceTokenizer(vocabulary, split_cjk=split_cjk, **options)
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    return ours, BertWordPieceTokenizer(ids, handle_chinese_chars=split_cjk, **options)


def assert_same_ids(ours, theirs, texts, raw=None):
    """Compares the two on `texts`; ours reads `raw` if given, the bytes behind them."""
    expected = theirs.encode_batch(texts, add_special_tokens=False)
    found = ours.encode(raw or texts).to_list()
    wrong = [i for i, encoding in enumerate(expected) if encoding.ids != found[i]]
    assert not wrong, [(texts[i], expected[i].ids, found[i]) for i in wrong[:3]]
    return found


def compare_fuzzed(texts, lowercase, **options):
    # Every character that normalised text can have is known, so that nothing hides behind
    # [UNK]; but for every ninth.
    strip_accents = options.get("strip_accents", lowercase)
    normalize = BertWordPieceTokenizer(lowercase=lowercase, strip_accents=strip_accents).normalize
    characters = sorted(set("".join(map(normalize, texts))) - {"\0", " "})
    del characters[::9]
    pieces = [form for c in characters for form in (c, "##" + c)]
    ours, theirs = pair([*SPECIAL, *pieces], lowercase=lowercase, **options)
    found = assert_same_ids(ours, theirs, texts)
    assert ours.encode_with_offsets(texts).ids.to_list() == found


@pytest.mark.parametrize("lowercase", [True, False])
def test_fuzzed_strings(lowercase):
    compare_fuzzed(fuzzed(1000, seed=1), lowercase)


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [True, False])
def test_ten_thousand_fuzzed_strings(lowercase):
    texts = fuzzed(10_000, seed=2)
    for options in ({}, {"strip_accents": not lowercase}, {"split_cjk": False}):
        compare_fuzzed(texts, lowercase, **options)


def test_bytes_that_are_not_utf8():
    rng = random.Random(3)
    raw = [bytes(rng.choices(b"aB \xc3\xa9\xe4\xb8\x96\xf0\x9f\x98\x80\xff\xed\xa0\x80[]", k=12))
           for _ in range(500)]  # fmt: skip
    texts = [text.decode("utf-8", "replace") for text in raw]
    letters = ["a", "b", "e", "世", "😀", "[", "]"]
    assert_same_ids(*pair([*SPECIAL, *letters, *("##" + c for c in letters)]), texts, raw)


def test_texts_that_need_no_normalising_are_cut_as_others_are():
    # All blocks with punctuation or Chinese characters; a text with U+0000, which is dropped, is
    # normalised.
    blocks = [(0x20, 0x7E), (0xA1, 0xBF), (0x2010, 0x205E), (0x3001, 0x3020), (0xFF01, 0xFF60)]
    points = [p for first, last in blocks for p in range(first, last + 1)]
    points += range(0x4E00, 0x9FB0, 3)
    texts = [b"a%ba%b%b" % (3 * (chr(p).encode(),)) for p in points if chr(p) not in " []"]
    for lowercase in (True, False):
        tokenizer = WordPieceTokenizer([*SPECIAL, "a", "##a"], lowercase=lowercase)
        fast = tokenizer.encode_with_offsets(texts)
        slow = tokenizer.encode_with_offsets([b"\0" + text for text in texts])
        np.testing.assert_array_equal(fast.ids.flat_values, slow.ids.flat_values)
        np.testing.assert_array_equal(fast.ids.row_splits, slow.ids.row_splits)
        np.testing.assert_array_equal(fast.starts.flat_values, slow.starts.flat_values - 1)
        np.testing.assert_array_equal(fast.ends.flat_values, slow.ends.flat_values - 1)


@pytest.mark.slow
def test_the_rules_are_those_of_the_installed_library():
    from tools.make_unicode_tables import measured_normalizer

    measured, stored = unpack(measured_normalizer()), stored_table()
    assert measured.keys() == stored.keys()
    for name, rule in stored.items():
        np.testing.assert_array_equal(measured[name], rule)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not SHARED, reason="ZOO_DATA names no folder with the data sets")
def test_every_line_of_the_data_sets():
    root = Path(SHARED)
    pairs = [
        pair(
            (root / f"tok_bert_base_{name}/vocab.txt").read_text("utf-8").split("\n")[:-1],
            **options,
        )
        for name, options in (("uncased", {}), ("chinese", {"lowercase": False}))
    ]
    files = [
        path
        for path in sorted(root.glob("*/*"))
        if path.is_file() and not path.parent.name.startswith(("tok_", "weights_"))
    ]
    assert len(files) > 30
    for path in files:
        raw = path.read_bytes().split(b"\n")
        texts = [line.decode("utf-8", "replace") for line in raw]
        for ours, theirs in pairs:
            for i in range(0, len(raw), 4096):
                assert_same_ids(ours, theirs, texts[i : i + 4096], raw[i : i + 4096])
