"""Tokenizers: exact ids and texts, the same everywhere TensorFlow runs, and safe on disk."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.tokenizers import TOKENIZERS, ByteTokenizer, CharacterTokenizer, load_tokenizer

ENGLISH = "".join(map(chr, range(32, 127))) + "\n\t\0"
CHINESE = "天地玄黃宇宙洪荒，。？「」\ufeff\n"
EMOJI = "😀🏳️‍🌈👩‍🚀e\u0301\U0010ffff\uffff\ufffd"
ALL_CHARACTERS = "".join(sorted(set(ENGLISH + CHINESE + EMOJI)))

BYTE = ByteTokenizer()
CHARACTER = CharacterTokenizer(ALL_CHARACTERS)
SMALL = CharacterTokenizer("ba\n天😀")  # ids: \n 2, a 3, b 4, 天 5, 😀 6
BOTH = pytest.mark.parametrize("tokenizer", [BYTE, CHARACTER], ids=["byte", "character"])
SAMPLES = ["", "hello\0world\n", "天地玄黃", "😀 e\u0301", "", "?"]


def texts(tensor):
    return [value.decode() for value in tensor.numpy()]


def test_character_ids_follow_code_points():
    assert SMALL.vocabulary == "\nab天😀"
    assert SMALL.vocabulary_size == 7
    ids = SMALL.encode(["ab\n", "", "😀x天"])
    assert ids.dtype == tf.int32
    assert ids.to_list() == [[3, 4, 2], [], [6, 0, 5]]
    assert texts(SMALL.decode(ids)) == ["ab\n", "", "😀\ufffd天"]
    assert SMALL.special_tokens == {"<|unknown|>": SMALL.unknown_id, "<|end|>": SMALL.end_id}
    assert (SMALL.kind, SMALL.lossless) == ("character", False)


def test_byte_ids_are_the_bytes():
    assert BYTE.encode([b"a\xff\0", b""]).to_list() == [[97, 255, 0], []]
    assert (BYTE.kind, BYTE.lossless, BYTE.unknown_id, BYTE.end_id) == ("byte", True, None, 256)
    assert BYTE.vocabulary_size == 257
    assert BYTE.special_tokens == {"<|end|>": 256}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=ALL_CHARACTERS), max_size=5))
def test_character_round_trip_of_known_characters(strings):
    ids = CHARACTER.encode(strings)
    assert ids.row_lengths().numpy().tolist() == [len(string) for string in strings]
    assert CHARACTER.end_id not in ids.flat_values.numpy()
    assert CHARACTER.unknown_id not in ids.flat_values.numpy()
    assert texts(CHARACTER.decode(ids)) == strings


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_character_tokenizer_is_exact_exactly_on_known_characters(string):
    decoded = texts(SMALL.decode(SMALL.encode([string])))[0]
    assert decoded == "".join(c if c in SMALL.vocabulary else "\ufffd" for c in string)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(), max_size=5))
def test_byte_round_trip_of_any_bytes(strings):
    ids = BYTE.encode(strings)
    assert ids.to_list() == [list(string) for string in strings]
    assert BYTE.decode(ids).numpy().tolist() == strings


def test_byte_round_trip_of_all_bytes_and_all_pairs():
    singles = [bytes([a]) for a in range(256)]
    pairs = [a + b for a in singles for b in singles]
    for strings in (singles, pairs):
        assert BYTE.decode(BYTE.encode(strings)).numpy().tolist() == strings


def test_every_code_point_round_trips():
    everything = "".join(chr(p) for p in range(0x110000) if not 0xD800 <= p <= 0xDFFF)
    tokenizer = CharacterTokenizer(everything)
    ids = tokenizer.encode([everything])
    np.testing.assert_array_equal(ids[0], np.arange(2, tokenizer.vocabulary_size))
    assert texts(tokenizer.decode(ids))[0] == everything


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88"])
def test_invalid_utf8_is_unknown(bad):
    ids = SMALL.encode([b"a" + bad + b"b"]).to_list()[0]
    assert ids[0] == 3 and ids[-1] == 4 and set(ids[1:-1]) == {0}
    known = CharacterTokenizer("\ufffdab")
    assert known.unknown_id not in known.encode([b"a" + bad + b"b"]).to_list()[0]


@BOTH
def test_empty_batches_and_every_input_form(tokenizer):
    for empty in ([], np.array([]), np.array([], dtype=object), tf.constant([], tf.string)):
        ids = tokenizer.encode(empty)
        assert ids.shape[0] == 0 and ids.dtype == tf.int32
        assert tokenizer.decode(ids).shape == (0,)
    assert tokenizer.encode(["", ""]).to_list() == [[], []]
    assert texts(tokenizer.decode(tokenizer.encode(["", ""]))) == ["", ""]
    assert tokenizer.decode(np.zeros((2, 0), np.int32)).numpy().tolist() == [b"", b""]
    expected = tokenizer.encode(tf.constant(["ab", "c"])).to_list()
    for strings in (["ab", "c"], ("ab", "c"), [b"ab", b"c"], np.array(["ab", "c"])):
        assert tokenizer.encode(strings).to_list() == expected


@BOTH
def test_wrong_ranks_and_types_are_refused(tokenizer):
    with pytest.raises(ValueError, match="one axis"):
        tokenizer.encode("text")
    with pytest.raises(ValueError, match="one axis"):
        tokenizer.encode([["text"]])
    for not_strings in ([1], tf.constant([1]), np.array([1.0]), [None], ["\ud800"]):
        with pytest.raises(TypeError, match="takes strings"):
            tokenizer.encode(not_strings)
    with pytest.raises(ValueError, match="two axes"):
        tokenizer.decode([1, 2])
    with pytest.raises(ValueError, match=r"tf\.ragged\.constant"):
        tokenizer.decode([[1], [2, 3]])
    assert tokenizer.decode([[], []]).numpy().tolist() == [b"", b""]
    for decode in (tokenizer.decode, tokenizer.tokens):
        with pytest.raises(TypeError, match="integers"):
            decode([[1.0]])


def test_decode_drops_end_and_replaces_ids_outside_the_vocabulary():
    ids = [[3, 1, 4], [7, -1, 0], [2**31 - 1, -(2**31), 2]]
    expected = ["ab", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\n"]
    for dtype in (tf.int32, tf.int64):
        assert texts(SMALL.decode(tf.constant(ids, dtype))) == expected
        assert texts(tf.function(SMALL.decode)(tf.constant(ids, dtype))) == expected
    assert texts(BYTE.decode(np.array([[104, 256, 105], [257, -1, 33]]))) == ["hi", "\ufffd\ufffd!"]


def test_tokens_show_each_id():
    assert texts(SMALL.tokens([0, 1, 2, 3, 6])) == ["<|unknown|>", "<|end|>", "\n", "a", "😀"]
    assert BYTE.tokens([104, 0, 233, 256]).numpy().tolist() == [b"h", b"\0", b"\xe9", b"<|end|>"]
    for tokenizer in (SMALL, BYTE):
        assert texts(tokenizer.tokens([-1, 257])) == ["<|unknown|>"] * 2
    assert SMALL.tokens(tf.zeros([2, 3, 4], tf.int32)).shape == (2, 3, 4)
    ragged = SMALL.tokens(tf.ragged.constant([[3], [], [4, 2]], dtype=tf.int32))
    assert ragged.to_list() == [[b"a"], [], [b"b", b"\n"]]


@BOTH
def test_the_same_ids_eagerly_in_a_function_and_in_tf_data(tokenizer):
    expected = tokenizer.encode(SAMPLES).to_list()
    assert texts(tokenizer.decode(tokenizer.encode(SAMPLES))) == SAMPLES

    signature = [tf.TensorSpec([None], tf.string)]
    encode = tf.function(tokenizer.encode, input_signature=signature)
    for size in (len(SAMPLES), 1, 0):
        assert encode(tf.constant(SAMPLES[:size], tf.string)).to_list() == expected[:size]
    unknown_rank = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec(None, tf.string)])
    assert unknown_rank(tf.constant(SAMPLES)).to_list() == expected

    dataset = tf.data.Dataset.from_tensor_slices(SAMPLES).batch(4)
    batches = list(dataset.map(tokenizer.encode))
    assert [row for batch in batches for row in batch.to_list()] == expected
    decoded = list(dataset.map(tokenizer.encode).map(tokenizer.decode))
    assert [text for batch in decoded for text in texts(batch)] == SAMPLES


@BOTH
def test_a_saved_model_session_gives_the_same(tokenizer, tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def serve(text):
        ids = tokenizer.encode(text)
        return {
            "ids": ids.to_tensor(-1),
            "text": tokenizer.decode(ids),
            "tokens": tokenizer.tokens(ids.to_tensor(-1)),
        }

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=serve)
    strings = [text.encode() for text in SAMPLES]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model"))
        signature = meta.signature_def["serving_default"]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        result = session.run(fetches, {signature.inputs["text"].name: strings})
        operations = {
            *(node.op for node in meta.graph_def.node),
            *(node.op for f in meta.graph_def.library.function for node in f.node_def),
        }
    expected = tokenizer.encode(SAMPLES).to_tensor(-1)
    np.testing.assert_array_equal(result["ids"], expected)
    assert result["text"].tolist() == strings
    np.testing.assert_array_equal(result["tokens"], tokenizer.tokens(expected))
    assert not {op for op in operations if "PyFunc" in op or "HashTable" in op}


def test_training_is_deterministic_and_honours_its_limits():
    tokenizer = CharacterTokenizer.train(["cab", b"ab", "b\xff".encode()])
    assert tokenizer.vocabulary == "abc\xff"
    again = CharacterTokenizer.train(["\xffbba", "bac"])
    assert again.fingerprint == tokenizer.fingerprint
    assert CharacterTokenizer.train(["cab", "ab"], min_count=2).vocabulary == "ab"
    # b 3 times, a 2 times, then c and d tie: the lower code point stays.
    capped = CharacterTokenizer.train(["bab", "abdc"], max_vocabulary_size=5)
    assert (capped.vocabulary, capped.vocabulary_size) == ("abc", 5)
    assert CharacterTokenizer.train([b"a\xff"]).vocabulary == "a\ufffd"


def test_training_refuses_what_cannot_work():
    with pytest.raises(TypeError, match="list of strings"):
        CharacterTokenizer.train("text")
    with pytest.raises(ValueError, match="at least 3"):
        CharacterTokenizer.train(["a"], max_vocabulary_size=2)
    for texts_, min_count in (([], 1), ([""], 1), (["ab"], 2)):
        with pytest.raises(ValueError, match="more text or a lower min_count"):
            CharacterTokenizer.train(texts_, min_count=min_count)
    for vocabulary, message in (("", "no char"), ("aa", "repeat"), (["ab"], "not one")):
        with pytest.raises(ValueError, match=message):
            CharacterTokenizer(vocabulary)
    with pytest.raises(ValueError, match="surrogate"):
        CharacterTokenizer.train(["\ud800"])


@BOTH
def test_save_and_load(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == ["tokenizer.json"]
    loaded = load_tokenizer(os.path.dirname(path))
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.get_config() == tokenizer.get_config()
    assert loaded.encode(SAMPLES).to_list() == tokenizer.encode(SAMPLES).to_list()
    rebuilt = type(tokenizer).from_config(json.loads(json.dumps(tokenizer.get_config())))
    assert rebuilt.fingerprint == tokenizer.fingerprint
    assert TOKENIZERS[tokenizer.kind] is type(tokenizer)


def test_fingerprints_tell_tokenizers_apart():
    all_different = [BYTE, CHARACTER, SMALL, CharacterTokenizer("a")]
    assert len({tokenizer.fingerprint for tokenizer in all_different}) == 4
    assert CharacterTokenizer("ab").fingerprint == CharacterTokenizer("ba").fingerprint
    # Pinned: a change here makes every saved bundle unreadable.
    assert CharacterTokenizer("ab").fingerprint.startswith("c4c67eb412fe98ee")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocabulary": "abx"}, "fingerprint"),
        ({"fingerprint": None}, "fingerprint"),
        ({"vocabulary": None}, "one string"),
        ({"vocabulary": "aa"}, "repeated"),
        ({"kind": "morse"}, "known kinds: character, byte"),
        ({"kind": ["byte"]}, "known kinds"),
        ({"format_version": 99}, "format_version 1, but 99"),
    ],
)
def test_a_damaged_file_is_refused(change, message, tmp_path):
    path = CharacterTokenizer("abc").save(tmp_path)
    with open(path) as file:
        content = json.load(file)
    with open(path, "w") as file:
        json.dump(content | change, file)
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(tmp_path)
    assert path in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"kind": "by', b"\xff\xfe", b"[]"])
def test_a_file_that_is_not_a_json_object_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*JSON"):
        load_tokenizer(tmp_path)


def test_a_missing_file_and_the_wrong_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="Use load_tokenizer"):
        ByteTokenizer.from_config(CHARACTER.get_config())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = BYTE.save(tmp_path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        CHARACTER.save(tmp_path)
    assert os.listdir(tmp_path) == [os.path.basename(path)]
    assert load_tokenizer(tmp_path).kind == "byte"
