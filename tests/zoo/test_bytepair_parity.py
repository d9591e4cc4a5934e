"""Byte-pair ids against tiktoken's GPT-2 encoding, on every code point and on real text."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from test_wordpiece_parity import fuzzed

from zoo.tokenizers import BytePairTokenizer
from zoo.tokenizers.bytepair.vocabulary import to_bytes
from zoo.tokenizers.character_classes import LETTER, NUMBER, SPACE, classes, from_runs

SHARED = os.environ.get("ZOO_DATA")
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
BLANKS = [chr(point) for point in np.flatnonzero(classes() == SPACE).tolist()]
CONTEXTS = ("a{0}b", "{0}", " {0} ", "1{0}2", ". {0}{0}!", "\n{0}\t{0}  ", "{0}'s {0}")


def code_points():
    return [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]


def tiktoken_of(tokenizer):
    """tiktoken's encoding with the same merges."""
    tiktoken = pytest.importorskip("tiktoken")
    special = tokenizer.special_tokens
    ranks = {to_bytes(p): i for i, p in enumerate(tokenizer.vocabulary) if p not in special}
    return tiktoken.Encoding("same", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def assert_same_ids(tokenizer, theirs, texts):
    found = tokenizer.encode(texts)
    wrong = [
        (text, ids)
        for text, ids in zip(texts, found.to_list())
        if ids != theirs.encode_ordinary(text)
    ]
    assert not wrong, wrong[:3]
    assert tokenizer.decode(found).numpy().tolist() == [text.encode() for text in texts]


@pytest.fixture(scope="module")
def trained():
    """A tokenizer whose tokens join all kinds of characters, and tiktoken's twin."""
    texts = [*fuzzed(1500, seed=9), *blank_mixes(500, 8)] * 3
    tokenizer = BytePairTokenizer.train(texts, 2000)
    return tokenizer, tiktoken_of(tokenizer)


def blank_mixes(count, seed):
    rng = random.Random(seed)
    solid = ["", "a", "7", "!", "'s", "é", "½", "世", "'", "''ll", "'re x", "'S", "'ve", "'v"]
    return [
        "".join(
            rng.choice(solid) + "".join(rng.choices([*BLANKS, *" " * 25], k=rng.randint(0, 4)))
            for _ in range(rng.randint(1, 4))
        )
        for _ in range(count)
    ]


def test_fuzzed_strings_with_blanks_of_every_kind(trained):
    assert_same_ids(*trained, fuzzed(1000, seed=1) + blank_mixes(2000, seed=2))


def test_runs_of_blanks(trained):
    runs = [first * count + second for first in BLANKS for second in BLANKS for count in (1, 2)]
    ends = [("", ""), ("x", ""), ("", "y"), ("x", "!")]
    assert_same_ids(*trained, [f"{left}{run}{right}" for run in runs for left, right in ends])


def test_contractions(trained):
    rng = random.Random(3)
    parts = [*"''''strevmld a1S.é", "re", "ve", "ll"]
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 9))) for _ in range(2000)]
    assert_same_ids(*trained, texts)


def test_one_and_two_bytes(trained):
    strings = [bytes(pair) for pair in np.ndindex(256, 256)] + [bytes([i]) for i in range(256)]
    valid = [text.decode() for text in strings if text == text.decode("utf-8", "ignore").encode()]
    assert len(valid) > 18_000
    assert_same_ids(*trained, valid)


def test_the_stored_classes():
    assert [classes()[ord(c)] for c in "aé世1½ \u3000"] == [LETTER] * 3 + [NUMBER] * 2 + [SPACE] * 2
    assert len(BLANKS) == 25


@pytest.mark.slow
def test_the_classes_are_those_of_the_installed_libraries():
    from tools.make_unicode_tables import PATTERNS, measured_classes

    np.testing.assert_array_equal(from_runs(measured_classes()["classes"]), classes())
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([value]): value for value in range(256)}
    for pattern, kind in PATTERNS.items():
        # What the pattern does not match has no ids.
        matching = tiktoken.Encoding("m", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        found = [bool(matching.encode_ordinary(character)) for character in code_points()]
        expected = [classes()[ord(character)] == kind for character in code_points()]
        assert found == expected


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_code_point(context):
    points, gpt2 = code_points(), gpt2_pair()
    for i in range(0, len(points), 1 << 16):
        assert_same_ids(*gpt2, [context.format(point) for point in points[i : i + (1 << 16)]])


@pytest.mark.slow
def test_ten_thousand_fuzzed_strings():
    assert_same_ids(*gpt2_pair(), fuzzed(10_000, seed=2))


def gpt2_pair():
    """GPT-2's own tokenizer and tiktoken's, from ZOO_DATA."""
    if not SHARED:
        pytest.skip("ZOO_DATA names no folder with the data sets")
    files = [Path(SHARED, "tok_gpt2", name) for name in ("encoder.json", "vocab.bpe")]
    tokenizer = BytePairTokenizer.from_files(*files)
    return tokenizer, tiktoken_of(tokenizer)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_of_the_data_sets():
    tokenizer, theirs = gpt2_pair()
    files = [path for path in sorted(Path(SHARED).glob("*/*")) if path.is_file()]
    assert len(files) > 30
    for path in files:
        text = path.read_bytes().decode("utf-8", "replace")
        lines = text.split("\n")
        for i in range(0, len(lines), 4096):
            assert_same_ids(tokenizer, theirs, lines[i : i + 4096])
        assert_same_ids(tokenizer, theirs, [text])
