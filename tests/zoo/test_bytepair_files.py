"""Files of byte-pair tokenizers: read, written, refused by name; training."""

import json

import pytest
from tokenizers import ByteLevelBPETokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer

from zoo.tokenizers import BytePairTokenizer
from zoo.tokenizers.bytepair.vocabulary import ALPHABET

TEXTS = ["low lower lowest newer the newest \n\t wide 世界"] * 9
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ROLES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unknown": "<unk>"}
ENCODER = {"special_tokens": SPECIAL, "end": "</s>", "roles": ROLES}


@pytest.fixture
def files(tmp_path):
    tokenizer = BytePairTokenizer.train(TEXTS, 280)
    tokenizer.write_files(tmp_path)
    return tokenizer, tmp_path


def test_files_are_read_as_they_were_written(files):
    tokenizer, folder = files
    pair = folder / "vocab.json", folder / "merges.txt"
    assert BytePairTokenizer.from_files(*pair).fingerprint == tokenizer.fingerprint
    read = BytePairTokenizer.from_tokenizer_json(folder / "tokenizer.json")
    assert read.fingerprint == tokenizer.fingerprint
    theirs = ByteLevelBPETokenizer(*map(str, pair))
    for text in TEXTS[0].split():
        assert theirs.encode(text).ids == tokenizer.encode([text]).to_list()[0]
    # Without its version line, and with the line ends of Windows.
    lines = pair[1].read_text(encoding="utf-8").split("\n")
    pair[1].write_text("\r\n".join(lines[1:]), encoding="utf-8", newline="")
    assert BytePairTokenizer.from_files(*pair).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("separators", [1, 2])
def test_an_encoders_tokenizer_json(separators, tmp_path):
    tokenizer = BytePairTokenizer.train(TEXTS, 290, **ENCODER, pair_separators=separators)
    tokenizer.write_files(tmp_path)
    path = tmp_path / "tokenizer.json"
    read = BytePairTokenizer.from_tokenizer_json(path, pair_separators=separators)
    assert read.fingerprint == tokenizer.fingerprint
    ids = HuggingFaceTokenizer.from_file(str(path)).encode("low", "newer").ids
    low, newer = tokenizer.encode(["low", "newer"]).to_list()
    sep = tokenizer.sep_id
    assert ids == [tokenizer.cls_id, *low, *[sep] * separators, *newer, sep]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f["model"].update(type="Unigram"), "model: type"),
        (lambda f: f["model"].update(dropout=0.1), "model: dropout"),
        (lambda f: f["model"].update(byte_fallback=True), "model: byte_fallback"),
        (lambda f: f["model"].update(end_of_word_suffix="</w>"), "model: end_of_word_suffix"),
        (lambda f: f["model"].pop("merges"), "merges is missing"),
        (lambda f: f.update(model=None), "model: not a JSON object"),
        (lambda f: f.update(normalizer={"type": "NFKC"}), "normalizer"),
        (lambda f: f.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
        (lambda f: f["pre_tokenizer"].update(use_regex=False), "known rules are gpt2"),
        (lambda f: f.update(decoder={"type": "WordPiece"}), "decoder"),
        (lambda f: f["added_tokens"][0].update(special=False), "is no special token"),
        (lambda f: f["added_tokens"][0].update(single_word=True), "single_word"),
        (lambda f: f["added_tokens"][0].update(id=5), "has id 5"),
        (lambda f: f["model"]["merges"].append(["x", "yz"]), r"merges\[\d+\]: 'yz' is not in"),
        (lambda f: f["added_tokens"].clear(), "end='<|endoftext|>' is no special token"),
    ],
)
def test_a_tokenizer_json_that_differs_is_refused(files, change, message):
    path = files[1] / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        BytePairTokenizer.from_tokenizer_json(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ("#version: 0.2\na b\nl zz\n", "line 3: 'zz' is not in the vocabulary"),
        ("a b\n", "line 1: 'ab' is not in the vocabulary"),
        ("#version: 0.2\nl o\nlo\n", "line 3: must be two pieces"),
        ("#version: 0.2\n\nl o\n", "line 2: must be two pieces"),
        ("#version: 0.2\nl  o\n", "line 2: must be two pieces"),
        ("#version: 0.2\n<|end oftext|>\n", "line 2: '<|end' is not in the vocabulary"),
        ("#version: 0.3\nl o\n", "line 1: '#version: 0.3'"),
        (b"#version: 0.2\n\xff o\n", "utf-8"),
    ],
)
def test_bad_merges_are_refused_by_line(files, content, message):
    folder = files[1]
    path = folder / "merges.txt"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content.replace(b"a b\nl", b"l o\nl"))
    with pytest.raises(ValueError, match=message.replace("|", r"\|")) as error:
        BytePairTokenizer.from_files(folder / "vocab.json", path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ("not json", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"a": 0, "b": 0}', "each once; 'b' has 0 in place of 1"),
        ('{"a": 0, "b": 2}', "'b' has 2 in place of 1"),
        ('{"a": 0}', r"no piece for '!' \(byte 0x21\), and 25\d more"),
    ],
)
def test_a_bad_vocabulary_is_refused_by_name(content, message, tmp_path):
    (tmp_path / "vocab.json").write_text(content)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match=message) as error:
        BytePairTokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert str(tmp_path / "vocab.json") in str(error.value)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"merges": [("l", "o")]}, ValueError, "'lo' is not in the vocabulary"),
        ({"merges": ["a b c"]}, ValueError, "must be two pieces"),
        ({"merges": [3]}, ValueError, "must be two pieces"),
        ({"merges": "a b"}, TypeError, "must be a list"),
        ({"vocabulary": [*ALPHABET, "é世", "é"], "merges": []}, ValueError, "repeats"),
        ({"vocabulary": [*ALPHABET, "a世", "世"], "merges": ["a 世"]}, ValueError, "is no byte"),
        ({"vocabulary": [*ALPHABET, 3]}, TypeError, "must be a string"),
        ({"vocabulary": {"a": "0"}}, TypeError, "an id a whole number"),
        ({"special_tokens": ["ab"], "end": "ab", "merges": ["a b"]}, ValueError, "special token"),
        ({"end": "</s>"}, ValueError, "end='</s>' is no special token"),
        ({"roles": {"cls": "<s>"}}, ValueError, "cls='<s>' is no special token"),
        ({"roles": {"start": "<|endoftext|>"}}, ValueError, "'start' is none of cls"),
        ({"pair_separators": 0}, ValueError, "at least 1"),
        ({"special_tokens": ["<b "], "end": "<b ", "parse_special": True}, ValueError, "blank"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BytePairTokenizer(**{"vocabulary": list(ALPHABET), "merges": [], **arguments})


def test_training_learns_frequent_words_and_stops_at_the_size():
    tokenizer = BytePairTokenizer.train(TEXTS, 300)
    assert tokenizer.encode([" newer"]).to_list() == [[tokenizer.vocabulary.index("Ġnewer")]]
    assert tokenizer.vocabulary[:256] == list(ALPHABET)
    assert tokenizer.vocabulary[-1] == "<|endoftext|>" and tokenizer.vocabulary_size <= 300
    assert BytePairTokenizer.train(TEXTS, 260).vocabulary_size == 260
    assert BytePairTokenizer.train(["ab"], 300).merges == []  # Seen once.
    assert BytePairTokenizer.train([b"\xffa"] * 3, 300).merges == []  # Never in one word.
    with pytest.raises(TypeError, match="list of strings"):
        BytePairTokenizer.train("low", 300)
    with pytest.raises(ValueError, match="need 257"):
        BytePairTokenizer.train(["low"], 256)


def test_training_is_the_same_every_time_and_in_every_order():
    # The library's hash tables are seeded anew each time.
    texts = [f"{text} {i} {i * i}" for i, text in enumerate(TEXTS)]
    orders = (texts, texts, texts[::-1], texts[3:] + texts[:3])
    assert len({BytePairTokenizer.train(order, 300).fingerprint for order in orders}) == 1


def test_a_failed_write_leaves_the_old_files(files, monkeypatch):
    tokenizer, folder = files
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(tokenizer, "merges", ["\ud800 a"])  # UTF-8 cannot hold it.
    with pytest.raises(UnicodeEncodeError):
        tokenizer.write_files(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
