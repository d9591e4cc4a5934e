"""WordPiece: rules, offsets, files, and the same ids everywhere TensorFlow runs."""

import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.tokenizers import WordPieceTokenizer, load_tokenizer

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
    kept = WordPieceTokenizer(SPECIAL + ["é", "e"], lowercase=True, strip_accents=False)
    assert names("É E\u0301 E", kept) == ["é", "[UNK]", "e"]
    whole = WordPieceTokenizer([*SPECIAL, "世界", "世", "##a"], split_cjk=False)
    assert names("世界 世a", whole) == ["世界", "世", "##a"]


@pytest.mark.parametrize("limit", [1, 2, 3])
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
    assert (SMALL.end_id, SMALL.kind, SMALL.lossless) == (3, "wordpiece", False)
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


def test_long_texts_and_empty_batches():
    long = "hello é " * 12_500
    ids = SMALL.encode([long, "", "x" * 100_000, "é" * 100_000, "世" * 30_000])
    assert ids.row_lengths().numpy().tolist() == [25_000, 0, 1, 1, 30_000]
    encoding = SMALL.encode_with_offsets([long, "x" * 100_000])
    assert encoding.ends[0, -1] == len(long.encode()) - 1 and encoding.ends[1, 0] == 100_000
    for empty in ([], np.array([], dtype=object)):
        assert SMALL.encode(empty).shape[0] == 0
        for part in SMALL.encode_with_offsets(empty):
            assert part.shape[0] == 0 and part.flat_values.shape[0] == 0
    assert SMALL.decode(SMALL.encode([])).shape == (0,)


def everything(tokenizer, text):
    """All of a tokenizer's operations, as one dict of tensors."""
    encoding = tokenizer.encode_with_offsets(text)
    parts = {name: part.to_tensor() for name, part in encoding._asdict().items()}
    return {**parts, "text": tokenizer.decode(encoding.ids)}


def test_the_same_in_functions_pipelines_and_saved_models(tmp_path):
    expected = everything(SMALL, SAMPLES)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serve(text):
        return everything(SMALL, text)

    for name, tensor in serve(tf.constant(SAMPLES)).items():
        np.testing.assert_array_equal(tensor, expected[name])
    assert serve(tf.constant([], tf.string))["ids"].shape == (0, 0)
    dataset = tf.data.Dataset.from_tensor_slices(SAMPLES).batch(3)
    rows = [row for batch in dataset.map(SMALL.encode) for row in batch.to_list()]
    assert rows == SMALL.encode(SAMPLES).to_list()

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = meta.signature_def["serving_default"]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        inputs = {signature.inputs["text"].name: [text.encode() for text in SAMPLES]}
        for name, array in session.run(fetches, inputs).items():
            np.testing.assert_array_equal(array, expected[name])
        functions = meta.graph_def.library.function
        operations = {node.op for function in functions for node in function.node_def}
    stateful = [op for op in operations if "PyFunc" in op or "HashTable" in op or "Unpack" in op]
    assert not stateful


def test_save_and_load(tmp_path):
    for tokenizer in (SMALL, CASED):
        tokenizer.save(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert loaded.get_config() == tokenizer.get_config()
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(SAMPLES).to_list() == tokenizer.encode(SAMPLES).to_list()
    assert SMALL.fingerprint != CASED.fingerprint
    # Pinned: a change here makes every saved bundle unreadable.
    assert WordPieceTokenizer([*SPECIAL, "a"]).fingerprint.startswith("4bb581e66304db3a")
