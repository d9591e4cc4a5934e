"""What every tokenizer keeps: the same ids everywhere TensorFlow runs, clear errors, safe on disk;
and characters and bytes, whose ids are exact.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from zoo.tokenizers import (
    TOKENIZERS,
    BytePairTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)

CHINESE = "天地玄黃宇宙洪荒，。？「」\ufeff\n"
EMOJI = "😀🏳️‍🌈👩‍🚀e\u0301\U0010ffff\uffff\ufffd"
ALL_CHARACTERS = "".join(sorted({*map(chr, range(32, 127)), *"\t\0", *CHINESE, *EMOJI}))
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ROLES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abehlortw,天é", "##l", "##o", "he", "##d"]
MODEL = Path(__file__).parent / "fixtures" / "sentencepiece" / "unigram.model"

SMALL = CharacterTokenizer("ba\n天😀")  # ids: \n 2, a 3, b 4, 天 5, 😀 6
ALL = {
    "character": CharacterTokenizer(ALL_CHARACTERS),
    "byte": ByteTokenizer(),
    "wordpiece": WordPieceTokenizer(PIECES),
    "bytepair": BytePairTokenizer.train(
        ["hello world, the cat's 12 dogs 天地\n"] * 9, 300, special_tokens=SPECIAL, end="</s>",
        roles=ROLES, parse_special=True, pair_separators=2,
    ),
    "sentencepiece": SentencePieceTokenizer.from_file(MODEL, roles={**ROLES}),
}  # fmt: skip
BYTE, CHARACTER = ALL["byte"], ALL["character"]
EACH = pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
SAMPLES = ["", "hello\0World, [MASK] \n", "é天\u0301 地<mask>黃", "😀 e\u0301 ", "", "a <s>b </s>"]
NOT_UTF8 = [b"\xff\0<mask>", b"a\xc3", b"\x80 b"]


def texts(tensor):
    return [value.decode() for value in tensor.numpy()]


def answers(tokenizer, strings):
    """All that a tokenizer says of strings (B,), as a dict of tensors."""
    ids = tokenizer.encode(strings)
    found = {"ids": ids.flat_values, "splits": ids.row_splits, "text": tokenizer.decode(ids)}
    found["tokens"] = tokenizer.tokens(ids).flat_values
    if hasattr(tokenizer, "encode_with_offsets"):
        encoding = tokenizer.encode_with_offsets(strings)._asdict()
        found |= {f"offsets_{name}": part.flat_values for name, part in encoding.items()}
    return found


class Session:
    """SavedModels in sessions, as TensorFlow Serving runs them."""

    def __init__(self, folder):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.meta = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))

    def run(self, kind, strings, metadata=None):
        """The outputs for strings; `metadata` receives what every operation allocated."""
        signature = self.meta.signature_def[kind]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        options = metadata and tf.compat.v1.RunOptions(trace_level=3)
        inputs = {signature.inputs["text"].name: strings}
        return self.session.run(outputs, inputs, options, metadata)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Functions of all tokenizers' `answers`, and a session of the SavedModel with them."""
    folder = str(tmp_path_factory.mktemp("served"))
    module = tf.Module()
    module.functions = {
        kind: tf.function(
            functools.partial(answers, tokenizer),
            input_signature=[tf.TensorSpec([None], tf.string, name="text")],
        )
        for kind, tokenizer in ALL.items()
    }
    tf.saved_model.save(module, folder, signatures=module.functions)
    return module.functions, Session(folder)


@EACH
def test_the_same_in_functions_pipelines_and_served_models(tokenizer, served):
    functions, session = served
    strings = [text.encode() for text in SAMPLES] + NOT_UTF8
    eager = answers(tokenizer, strings)
    (mapped,) = tf.data.Dataset.from_tensors(strings).map(lambda text: answers(tokenizer, text))
    function = functions[tokenizer.kind]
    for other in (function(tf.constant(strings)), mapped, session.run(tokenizer.kind, strings)):
        assert other.keys() == eager.keys()
        for name, value in eager.items():
            np.testing.assert_array_equal(np.asarray(other[name]), value)
    assert function(tf.constant([], tf.string))["splits"].numpy().tolist() == [0]
    of_any_rank = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec(None, tf.string)])
    np.testing.assert_array_equal(of_any_rank(tf.constant(strings)).flat_values, eager["ids"])


def test_the_served_graph_has_nothing_to_initialise(served):
    graph = served[1].meta.graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    operations = {node.op for node in nodes}
    assert len(nodes) > 300 and "SentencepieceTokenizeOp" in operations
    assert not [op for op in operations if "HashTable" in op or "PyFunc" in op or "Unpack" in op]


def test_memory_follows_the_length_of_a_text(served):
    for unit in (" ", "é", "ab \n", "<mask>"):
        largest = []
        for size in (20_000, 80_000):
            text = (unit * size)[:size]
            metadata = tf.compat.v1.RunMetadata()
            outputs = served[1].run("bytepair", [text, "a", ""], metadata)
            assert outputs["offsets_ends"].sum() > 0
            largest.append(
                max(
                    output.tensor_description.allocation_description.requested_bytes
                    for device in metadata.step_stats.dev_stats
                    for node in device.node_stats
                    for output in node.output
                    # Decoding, as of any tokenizer, is not meant.
                    if "StringJoin" not in node.node_name
                )
            )
        # At most a string (24 bytes) for each byte of the text, and what does not depend on it.
        assert largest[1] < 25 * len(text.encode()) + 100_000, unit


@EACH
def test_empty_batches_and_every_input_form(tokenizer):
    for empty in ([], np.array([]), np.array([], dtype=object), tf.constant([], tf.string)):
        ids = tokenizer.encode(empty)
        assert ids.shape[0] == 0 and ids.dtype == tf.int32
        assert tokenizer.decode(ids).shape == (0,)
    if hasattr(tokenizer, "encode_with_offsets"):
        for part in tokenizer.encode_with_offsets([]):
            assert part.shape[0] == 0 and part.flat_values.shape[0] == 0
    assert tokenizer.encode(["", ""]).to_list() == [[], []]
    assert texts(tokenizer.decode(tokenizer.encode(["", ""]))) == ["", ""]
    assert tokenizer.decode(np.zeros((2, 0), np.int32)).numpy().tolist() == [b"", b""]
    expected = tokenizer.encode(tf.constant(["ab", "c"])).to_list()
    for strings in (["ab", "c"], ("ab", "c"), [b"ab", b"c"], np.array(["ab", "c"])):
        assert tokenizer.encode(strings).to_list() == expected


@EACH
def test_wrong_ranks_and_types_are_refused(tokenizer):
    for wrong in ("text", [["text"]]):
        with pytest.raises(ValueError, match="one axis"):
            tokenizer.encode(wrong)
    for not_strings in ([1], tf.constant([1]), np.array([1.0]), [None], ["\ud800"]):
        with pytest.raises(TypeError, match="takes strings"):
            tokenizer.encode(not_strings)
    with pytest.raises(ValueError, match="two axes"):
        tokenizer.decode([1, 2])
    with pytest.raises(ValueError, match=r"tf\.ragged\.constant"):
        tokenizer.decode([[1], [2, 3]])
    for decode in (tokenizer.decode, tokenizer.tokens):
        with pytest.raises(TypeError, match="integers"):
            decode([[1.0]])


@EACH
def test_save_and_load(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == ["tokenizer.json"]
    loaded = load_tokenizer(os.path.dirname(path))
    assert type(loaded) is type(tokenizer) is TOKENIZERS[tokenizer.kind]
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.get_config() == tokenizer.get_config()
    # The options of the constructor come back, too.
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.pair_separators == tokenizer.pair_separators
    rebuilt = type(tokenizer).from_config(json.loads(json.dumps(tokenizer.get_config())))
    assert rebuilt.fingerprint == tokenizer.fingerprint
    config = tokenizer.get_config()
    if tokenizer.config_names:
        del config["vocabulary"]
        with pytest.raises(ValueError, match="vocabulary: missing"):
            type(tokenizer).from_config(config)


def test_fingerprints_tell_tokenizers_apart():
    changes = ({"parse_special": False}, {"add_prefix_space": True}, {"pair_separators": 1})
    config = ALL["bytepair"].get_config()
    different = [*ALL.values(), SMALL, CharacterTokenizer("a")]
    different += [BytePairTokenizer.from_config({**config, **change}) for change in changes]
    different += [BytePairTokenizer.from_config({**config, "merges": config["merges"][:-1]})]
    different += [WordPieceTokenizer(PIECES, lowercase=False)]
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(different)
    assert CharacterTokenizer("ab").fingerprint == CharacterTokenizer("ba").fingerprint
    # Pinned: a change here makes every saved bundle unreadable.
    assert CharacterTokenizer("ab").fingerprint.startswith("c4c67eb412fe98ee")
    assert WordPieceTokenizer([*PIECES[:5], "a"]).fingerprint.startswith("4bb581e66304db3a")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocabulary": "abx"}, "fingerprint"),
        ({"fingerprint": None}, "fingerprint"),
        ({"vocabulary": None}, "must be a list of strings"),
        ({"vocabulary": "aa"}, "repeats"),
        ({"kind": "morse"}, "kind 'morse', but known are 1 and character, byte"),
        ({"kind": ["byte"]}, "but known are"),
        ({"format_version": 99}, "format_version 99 and .* known are 1"),
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


@pytest.mark.parametrize("content", [None, b"", b'{"kind": "by', b"\xff\xfe", b"[]"])
def test_a_file_that_is_missing_or_no_json_object_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: (.*JSON|no such file)"):
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


def test_character_ids_follow_code_points():
    assert SMALL.vocabulary == "\nab天😀"
    assert SMALL.vocabulary_size == 7
    ids = SMALL.encode(["ab\n", "", "😀x天"])
    assert ids.dtype == tf.int32
    assert ids.to_list() == [[3, 4, 2], [], [6, 0, 5]]
    assert texts(SMALL.decode(ids)) == ["ab\n", "", "😀\ufffd天"]
    assert SMALL.special_tokens == {"<|unknown|>": SMALL.unknown_id, "<|end|>": SMALL.end_id}


@given(st.lists(st.text(alphabet=ALL_CHARACTERS), max_size=5))
def test_character_round_trip_of_known_characters(strings):
    ids = CHARACTER.encode(strings)
    assert ids.row_lengths().numpy().tolist() == [len(string) for string in strings]
    assert not {CHARACTER.end_id, CHARACTER.unknown_id} & {*ids.flat_values.numpy().tolist()}
    assert texts(CHARACTER.decode(ids)) == strings


def test_every_code_point_round_trips_or_is_unknown():
    everything = "".join(chr(p) for p in range(0x110000) if not 0xD800 <= p <= 0xDFFF)
    tokenizer = CharacterTokenizer(everything)
    ids = tokenizer.encode([everything])
    np.testing.assert_array_equal(ids[0], np.arange(2, tokenizer.vocabulary_size))
    assert texts(tokenizer.decode(ids))[0] == everything
    known = {"\n": 2, "a": 3, "b": 4, "天": 5, "😀": 6}
    assert SMALL.encode([everything]).to_list()[0] == [known.get(c, 0) for c in everything]


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88"])
def test_invalid_utf8_is_unknown(bad):
    ids = SMALL.encode([b"a" + bad + b"b"]).to_list()[0]
    assert ids[0] == 3 and ids[-1] == 4 and set(ids[1:-1]) == {0}
    known = CharacterTokenizer("\ufffdab")
    assert known.unknown_id not in known.encode([b"a" + bad + b"b"]).to_list()[0]


def test_byte_ids_are_the_bytes():
    assert BYTE.encode([b"a\xff\0", b""]).to_list() == [[97, 255, 0], []]
    assert (BYTE.unknown_id, BYTE.end_id, BYTE.vocabulary_size) == (None, 256, 257)
    assert BYTE.special_tokens == {"<|end|>": 256}
    strings = [bytes(pair) for pair in np.ndindex(256, 256)]
    strings += [b"", bytes(range(256)), *(bytes([value]) for value in range(256))]
    ids = BYTE.encode(strings)
    assert ids.to_list() == [list(string) for string in strings]
    assert BYTE.decode(ids).numpy().tolist() == strings


def test_decode_drops_end_and_replaces_ids_outside_the_vocabulary():
    ids = [[3, 1, 4], [7, -1, 0], [2**31 - 1, -(2**31), 2]]
    expected = ["ab", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\n"]
    for dtype in (tf.int32, tf.int64):
        assert texts(SMALL.decode(tf.constant(ids, dtype))) == expected
    assert texts(BYTE.decode(np.array([[104, 256, 105], [257, -1, 33]]))) == ["hi", "\ufffd\ufffd!"]
    assert SMALL.decode([[], []]).numpy().tolist() == [b"", b""]


def test_tokens_show_each_id():
    assert texts(SMALL.tokens([0, 1, 2, 3, 6])) == ["<|unknown|>", "<|end|>", "\n", "a", "😀"]
    assert BYTE.tokens([104, 0, 233, 256]).numpy().tolist() == [b"h", b"\0", b"\xe9", b"<|end|>"]
    for tokenizer in (SMALL, BYTE):
        assert texts(tokenizer.tokens([-1, 257])) == ["<|unknown|>"] * 2
    assert SMALL.tokens(tf.zeros([2, 3, 4], tf.int32)).shape == (2, 3, 4)
    ragged = SMALL.tokens(tf.ragged.constant([[3], [], [4, 2]], dtype=tf.int32))
    assert ragged.to_list() == [[b"a"], [], [b"b", b"\n"]]


@EACH
def test_spelled_tokens_make_up_the_text(tokenizer):
    strings = [text.encode() for text in SAMPLES] + NOT_UTF8 + [b"hello  hello", b" a "]
    ids = tokenizer.encode(strings)
    spelled = tokenizer.spell(ids).numpy()
    assert spelled.shape == (len(strings), int(ids.bounding_shape()[1]))
    for row, length in zip(spelled, ids.row_lengths().numpy()):
        assert all(row[1:length]) and not any(row[length:])
    joined = [b"".join(row) for row in spelled]
    if tokenizer.kind in ("byte", "bytepair"):  # special tokens in a text by name
        assert joined == strings
    special = [*tokenizer.special_tokens.values(), tokenizer.unknown_id or 0]
    plain = [row for row in ids.to_list() if not {*row} & {*special}]
    assert sum(map(len, plain)) > 3
    plain = tf.ragged.constant(plain, tf.int32)
    joined = [b"".join(row) for row in tokenizer.spell(plain).numpy()]
    assert joined == tokenizer.decode(plain).numpy().tolist()


def test_spelled_tokens():
    ragged = tf.ragged.constant([[3, 0], [], [4, 1, 99]], dtype=tf.int32)
    assert SMALL.spell(ragged).numpy().tolist() == [
        [b"a", "\ufffd".encode(), b""], [b"", b"", b""], [b"b", b"<|end|>", "\ufffd".encode()]
    ]  # fmt: skip
    words = {"wordpiece": "Hello hello", "sentencepiece": " hello hello"}
    for kind, text in words.items():  # a word's space, but for the first one
        (row,) = ALL[kind].spell(ALL[kind].encode([text])).numpy().tolist()
        assert b"".join(row) == b"hello hello"
        assert row[0][:1] != b" " and any(token[:1] == b" " for token in row)


def test_characters_are_counted_and_limited():
    tokenizer = CharacterTokenizer.train(["cab", b"ab", "b\xff".encode()])
    assert tokenizer.vocabulary == "abc\xff"
    assert CharacterTokenizer.train(["\xffbba", "bac"]).fingerprint == tokenizer.fingerprint
    assert CharacterTokenizer.train(["cab", "ab"], min_count=2).vocabulary == "ab"
    # b 3 times, a 2 times, then c and d tie: the lower code point stays.
    capped = CharacterTokenizer.train(["bab", "abdc"], max_vocabulary_size=5)
    assert (capped.vocabulary, capped.vocabulary_size) == ("abc", 5)
    assert CharacterTokenizer.train([b"a\xff"]).vocabulary == "a\ufffd"
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
