"""WordPiece: rules, offsets, files, and the same ids everywhere TensorFlow runs."""

import unicodedata

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.tokenizers import WordPieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyzß0123456789"
LONE = "世界，。,.!?'#[]-–中國😀"
HANGUL = [*unicodedata.normalize("NFD", "각")]
PIECES = [
    *LETTERS,
    *("##" + letter for letter in LETTERS),
    *LONE,
    "##😀",
    HANGUL[0],
    *("##" + letter for letter in HANGUL[1:]),
    "hello",
    "##ing",
    "cafe",
    "É",
    "##É",
]
SMALL = WordPieceTokenizer(SPECIAL + PIECES)
CASED = WordPieceTokenizer(SPECIAL + PIECES, lowercase=False)
SAMPLES = ["", "Hello, WORLD!", " \n\t ", "Café 世界", "[CLS] \0", "e\u0301 😀️ ﬁ 각", "", "a" * 101]


def names(text, tokenizer=SMALL):
    """The pieces of one text, by name."""
    return [tokenizer.vocabulary[i] for i in tokenizer.encode([text]).to_list()[0]]


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("", []),
        (" \t\r\n\u00a0\u3000\u2028", []),
        ("Helloing", ["hello", "##ing"]),
        ("CAFÉ cafe\u0301", ["cafe", "cafe"]),
        ("a,b", ["a", ",", "b"]),
        ("ab中國c", ["a", "##b", "中", "國", "c"]),
        ("a\0\ufffd\u200db", ["a", "##b"]),
        ("aЖb", ["[UNK]"]),
        ("각", [HANGUL[0], "##" + HANGUL[1], "##" + HANGUL[2]]),
        ("x[MASK]y", ["x", "[MASK]", "y"]),
        ("[[SEP]] [MASK", ["[", "[SEP]", "]", "[", "m", "##a", "##s", "##k"]),
        ("[mask]", ["[", "m", "##a", "##s", "##k", "]"]),
        ("[MA\0SK]", ["[", "m", "##a", "##s", "##k", "]"]),
        ("##ing", ["#", "#", "i", "##n", "##g"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["[UNK]"]),
        ("é" * 100, ["e"] + ["##e"] * 99),
        ("ß" * 100, ["ß"] + ["##ß"] * 99),
        ("ß" * 101 + " a", ["[UNK]", "a"]),
        (b"a\xffb \xc3 c", ["a", "##b", "c"]),
    ],
)
def test_pieces_of_a_text(text, pieces):
    assert names(text) == pieces
    # The same among neighbours that take each of the two ways through the code.
    ids = SMALL.encode(["hello", text, "Éa", text]).to_list()
    assert ids[1] == ids[3] == SMALL.encode([text]).to_list()[0]
    assert len(ids[0]) == 1 and len(ids[2]) == 2


def test_cased_text_keeps_capitals_and_accents():
    assert names("É", CASED) == ["É"]
    assert names("A", CASED) == ["[UNK]"]
    pieces = [*SPECIAL, "é", "e", "世界", "世", "##a"]
    kept = WordPieceTokenizer(pieces, lowercase=True, strip_accents=False, split_cjk=False)
    assert names("É E\u0301 E", kept) == ["é", "[UNK]", "e"]
    assert names("世界 世a", kept) == ["世界", "世", "##a"]


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_counts_characters(limit):
    tokenizer = WordPieceTokenizer(SPECIAL + PIECES, max_word_characters=limit)
    for letter in "aß😀":
        assert "[UNK]" not in names(letter * limit, tokenizer)
        assert names(letter * (limit + 1), tokenizer) == ["[UNK]"]
        name = "[UNK]"  # Longer than the word that it stands for.
        both = [(name, letter * (limit + 1)), (letter, letter)]
        found = spans(tokenizer, f"{letter * (limit + 1)} {letter}")
        assert [(piece, source.decode()) for piece, source in found] == both
    assert names("世世，世", tokenizer) == ["世", "世", "，", "世"]


def test_attributes():
    assert SMALL.special_tokens == dict(zip(SPECIAL, range(5)))
    assert (SMALL.pad_id, SMALL.unknown_id, SMALL.cls_id, SMALL.sep_id, SMALL.mask_id) == (
        *range(5),
    )
    assert SMALL.end_id == 3
    assert SMALL.vocabulary_size == len(SMALL.vocabulary) == len(SMALL.continuation)
    assert SMALL.continuation.dtype == bool
    continued = [piece for piece, is_one in zip(SMALL.vocabulary, SMALL.continuation) if is_one]
    assert continued == [piece for piece in PIECES if piece.startswith("##")]
    assert (SMALL.strip_accents, CASED.strip_accents) == (True, False)


def test_decode_joins_pieces():
    ids = SMALL.encode(["[CLS] Helloing, 世界! [SEP] [PAD]", "", "Ж"])
    assert [text.decode() for text in SMALL.decode(ids).numpy()] == [
        "helloing , 世 界 !",
        "",
        "\ufffd",
    ]
    assert SMALL.decode([[2, -1, 5, 10**6]]).numpy()[0].decode() == "\ufffd a \ufffd"
    shown = [name.decode() for name in SMALL.tokens(SMALL.encode(["abЖ [MASK]"]))[0].numpy()]
    assert shown == ["[UNK]", "[MASK]"]
    assert [n.decode() for n in SMALL.tokens([5, 5 + len(LETTERS)]).numpy()] == ["a", "##a"]


def spans(tokenizer, text):
    """(piece, the bytes it comes from) of every piece; checks what holds of all spans."""
    raw = text if isinstance(text, bytes) else text.encode()
    encoding = tokenizer.encode_with_offsets([b"\xc3\xa9 x", raw, b"a b"])
    ids, starts, ends, first = (part[1].numpy().tolist() for part in encoding)
    assert encoding.ids.dtype == encoding.starts.dtype == encoding.ends.dtype == tf.int32
    assert ids == tokenizer.encode([raw]).to_list()[0]
    assert first == [not tokenizer.continuation[i] for i in ids]
    assert all(0 <= start < end <= len(raw) for start, end in zip(starts, ends))
    for i in range(1, len(ids)):
        same = (starts[i - 1], ends[i - 1]) == (starts[i], ends[i])  # Pieces of one character.
        assert ends[i - 1] <= starts[i] or (same and not first[i])
    return [(tokenizer.vocabulary[i], raw[a:b]) for i, a, b in zip(ids, starts, ends)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("  Helloing, A", [("hello", "Hello"), ("##ing", "ing"), (",", ","), ("a", "A")]),
        ("CaFÉ cafe\u0301!", [("cafe", "CaFÉ"), ("cafe", "cafe\u0301"), ("!", "!")]),
        ("é e\u0301\u0300b", [("e", "é"), ("e", "e\u0301\u0300"), ("##b", "b")]),
        ("世 界a", [("世", "世"), ("界", "界"), ("a", "a")]),
        ("각", [(HANGUL[0], "각"), ("##" + HANGUL[1], "각"), ("##" + HANGUL[2], "각")]),
        ("😀\ufe0f\u200d😀", [("😀", "😀\ufe0f"), ("##😀", "😀")]),
        ("ﬁ a", [("[UNK]", "ﬁ"), ("a", "a")]),
        ("é  [MASK]x", [("e", "é"), ("[MASK]", "[MASK]"), ("x", "x")]),
        ("b" * 101 + " a", [("[UNK]", "b" * 101), ("a", "a")]),
        ("ß" * 101 + " a", [("[UNK]", "ß" * 101), ("a", "a")]),
        ("a\0b\u0301c", [("a", "a"), ("##b", "b\u0301"), ("##c", "c")]),
    ],
)
def test_offsets_point_into_the_text(text, expected):
    assert [(name, source.decode()) for name, source in spans(SMALL, text)] == expected


def test_offsets_count_bytes_that_are_not_utf8():
    assert spans(SMALL, b"\xff a\xc3b \xf0\x9f " + "é".encode()) == [
        ("a", b"a"),
        ("##b", b"b"),
        ("e", "é".encode()),
    ]


@settings(max_examples=30)
@given(st.text(st.sampled_from("aBß éÉe\u0301\u0323각世，.# [MASK]\n\0\ufffd😀\u200d\ufe0fﬁЖ")))
def test_the_source_of_a_piece_normalises_to_the_piece(text):
    found = spans(SMALL, text)
    sources = SMALL.encode([source for _, source in found]).to_list()
    for (name, _), ids in zip(found, sources):
        pieces = [SMALL.vocabulary[i] for i in ids]
        if name.startswith("##"):
            name = name[2:]
        if len(pieces) == 1:
            assert pieces == [name]
        else:  # A piece of a syllable, or a word with an unknown character in it.
            assert name in [piece.removeprefix("##") for piece in pieces] or name == "[UNK]"


def test_long_texts():
    long = "hello é " * 12_500
    ids = SMALL.encode([long, "", "x" * 100_000, "é" * 100_000, "世" * 30_000])
    assert ids.row_lengths().numpy().tolist() == [25_000, 0, 1, 1, 30_000]
    encoding = SMALL.encode_with_offsets([long, "x" * 100_000])
    assert encoding.ends[0, -1] == len(long.encode()) - 1 and encoding.ends[1, 0] == 100_000
