"""Tokenizers of transformers: whose rules count, and what is written for it."""

import functools
import json
import re
import shutil

import pytest
from huggingface_cases import change_json, tokenizer_folder
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, BertWordPieceTokenizer, ByteLevelBPETokenizer
from tokenizers import Tokenizer as Reference

import zoo
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.huggingface.writing import write_tokenizer

TEXTS = [
    "The cat sat.",
    "Unable caf\u00e9s! \u6625 [MASK]",
    "",
    "Dogs unables \u00c9t\u00c9 \u6625\u7720!",
]
WORD_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tokenizer_folder("bert"), tmp_path / "tokenizer")


def rules(tokenizer):
    return tokenizer.lowercase, tokenizer.strip_accents, tokenizer.split_cjk


# Each line is what transformers 5.23 makes of it: BertTokenizer does not look at the normalizer.
@pytest.mark.parametrize(
    ("normalizer", "config", "expected"),
    [
        ({}, {}, (True, True, True)),
        ({"lowercase": False}, {"do_lower_case": ...}, (True, True, True)),
        ({"lowercase": True}, {"do_lower_case": False}, (False, False, True)),
        ({}, {"strip_accents": False}, (True, False, True)),
        ({}, {"tokenize_chinese_chars": False}, (True, True, False)),
        ({"lowercase": False}, {"tokenizer_class": "BertTokenizerFast"}, (True, True, True)),
        (
            {"lowercase": False, "handle_chinese_chars": False},
            {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True},
            (False, False, False),
        ),
        (
            {"strip_accents": False},
            {"tokenizer_class": "TokenizersBackend"},
            (True, False, True),
        ),
    ],
)
def test_whose_rules_count(normalizer, config, expected, folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    change_json(folder / "tokenizer.json", normalizer={**content["normalizer"], **normalizer})
    change_json(folder / "tokenizer_config.json", **config)
    assert rules(read_tokenizer(folder, "bert")) == expected


def test_length_of_words(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    change_json(
        folder / "tokenizer.json", model={**content["model"], "max_input_chars_per_word": 3}
    )
    assert read_tokenizer(folder, "bert").max_word_characters == 100
    change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert read_tokenizer(folder, "bert").max_word_characters == 3


def test_added_tokens_come_after_the_vocabulary(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    added = [*content["added_tokens"], {"id": 21, "content": "<e1>", "special": True}]
    change_json(folder / "tokenizer.json", added_tokens=added)
    assert read_tokenizer(folder, "bert").vocabulary[21:] == ["<e1>"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strip_accents": False},
        {"lowercase": False, "split_cjk": False, "max_word_characters": 6},
    ],
)
def test_word_pieces_written_and_read(options, folder, tmp_path):
    vocabulary = read_tokenizer(folder, "bert").vocabulary
    tokenizer = zoo.WordPieceTokenizer(vocabulary, **options)
    write_tokenizer(tokenizer, tmp_path, "bert", 16)
    assert read_tokenizer(tmp_path, "bert").fingerprint == tokenizer.fingerprint
    reference = Reference.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode(TEXTS).to_list() == [
        reference.encode(text, add_special_tokens=False).ids for text in TEXTS
    ]
    pair = reference.encode("the cat", "a dog")
    assert pair.tokens == ["[CLS]", "the", "cat", "[SEP]", "a", "dog", "[SEP]"]
    assert pair.type_ids == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("model_type", ["roberta", "gpt2"])
def test_byte_pairs_written_and_read(model_type, tmp_path):
    tokenizer = read_tokenizer(tokenizer_folder(model_type), model_type)
    write_tokenizer(tokenizer, tmp_path, model_type, 16)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    known = {"roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer"}
    assert config["tokenizer_class"] == known[model_type]
    assert read_tokenizer(tmp_path, model_type).fingerprint == tokenizer.fingerprint


def test_special_tokens_of_ones_own_need_the_class_that_reads_them(tmp_path):
    known = read_tokenizer(tokenizer_folder("gpt2"), "gpt2")
    names = ["<|endoftext|>", "<|user|>"]
    tokenizer = zoo.BytePairTokenizer(known.vocabulary, known.merges, names)
    write_tokenizer(tokenizer, tmp_path, "gpt2", 16)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert read_tokenizer(tmp_path, "gpt2").special_tokens == tokenizer.special_tokens


ADDED_TEXTS = [
    "the <e1>cat</E1> sat covid covidx COVID xcovidcat [X]cat <E1>",
    "<e1><e1> caf\u00e9cov\u00efd \u6625<e1>\u7720 <New>",
    "<new> covid19 covid1 CO\u0301VID unable[x] [X",
    "",
    "no name here",
    "plain <e1> plain\tcovid\u00a0covid",
    "the  cat   sat",
]


def _added_reference(pieces, added, special=()):
    """The `tokenizers` library with the same vocabulary; `added` is found in normalised text."""
    reference = BertWordPieceTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    for name in added:
        reference.add_tokens([AddedToken(name, normalized=True)])
    reference.add_special_tokens([AddedToken(n, normalized=False, special=True) for n in special])
    return reference


def _expected_ids(reference, texts=ADDED_TEXTS):
    return [reference.encode(text, add_special_tokens=False).ids for text in texts]


def test_added_tokens_beside_a_vocabulary(folder, tmp_path):
    """Folders of before 2023: vocab.txt, added_tokens.json, special_tokens_map.json."""
    pieces = read_tokenizer(folder, "bert").vocabulary
    (folder / "tokenizer.json").unlink()
    names = ["<e1>", "covid", "covid19", "</E1>", "[X]", "<New>"]
    ids = {name: len(pieces) + index for index, name in enumerate(names)}
    change_json(folder / "added_tokens.json", **ids)
    change_json(folder / "special_tokens_map.json", additional_special_tokens=names[4:])
    tokenizer = read_tokenizer(folder, "bert")
    reference = _added_reference(pieces, names[:4], names[4:])
    expected = _expected_ids(reference)
    assert {*ids.values()} - {26} <= {id for row in expected for id in row}
    assert tokenizer.encode(ADDED_TEXTS).to_list() == expected
    encoding = tokenizer.encode_with_offsets(ADDED_TEXTS)
    assert encoding.ids.to_list() == expected
    spans = zip(encoding.starts.to_list()[0], encoding.ends.to_list()[0])
    texts = [ADDED_TEXTS[0].encode()[start:end].decode() for start, end in spans]
    assert texts[1:4] == ["<e1>", "cat", "</E1>"]
    # The same with the newer file, with our own, and with what we write for transformers.
    decoder = {
        str(index): {"content": name, "special": name in names[4:]} for name, index in ids.items()
    }
    (folder / "added_tokens.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    change_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    again = read_tokenizer(folder, "bert")
    assert again.fingerprint == tokenizer.fingerprint
    again.save(tmp_path / "own")
    assert zoo.load_tokenizer(tmp_path / "own").encode(ADDED_TEXTS).to_list() == expected
    write_tokenizer(again, tmp_path, "bert", 16)
    assert read_tokenizer(tmp_path, "bert").fingerprint == tokenizer.fingerprint
    written = Reference.from_file(str(tmp_path / "tokenizer.json"))
    assert _expected_ids(written) == expected


def test_special_tokens_that_the_vocabulary_has(folder):
    """Named in special_tokens_map.json only; one that is nowhere comes after all others."""
    pieces = read_tokenizer(folder, "bert").vocabulary
    (folder / "tokenizer.json").unlink()
    change_json(folder / "special_tokens_map.json", additional_special_tokens=["cat", "[X]"])
    reference = _added_reference(pieces, [], ["cat", "[X]"])
    assert read_tokenizer(folder, "bert").encode(ADDED_TEXTS).to_list() == _expected_ids(reference)


@given(st.lists(st.lists(st.sampled_from("abAB<>[ \u00c9e\u0301\u6625"), max_size=12), max_size=6))
def test_added_tokens_anywhere(rows):
    texts = ["".join(row) for row in rows]
    pieces = [*WORD_PIECES, *("a", "##a", "b", "##b", "<", ">", "e", "##e", "[", "ab")]
    added, special = ["ab", "aba", "<b>", "\u00e9", "b\u6625"], ["A", "[AB", "<A>"]
    names = {**dict.fromkeys(added, True), **dict.fromkeys(special, False)}
    tokenizer = _tokenizer_with((*pieces, *(n for n in names if n not in pieces)), names)
    reference = _added_reference(pieces, added, special)
    assert tokenizer.encode(texts).to_list() == _expected_ids(reference, texts)


@functools.cache
def _made(pieces, names):
    return zoo.WordPieceTokenizer(pieces, added_tokens=dict(names))


def _tokenizer_with(pieces, names):
    return _made(pieces, tuple(names.items()))


def test_added_tokens_of_byte_pairs(tmp_path):
    folder = shutil.copytree(tokenizer_folder("gpt2"), tmp_path / "gpt2")
    whole = read_tokenizer(folder, "gpt2")
    (folder / "tokenizer.json").unlink()
    whole.write_files(folder)
    (folder / "tokenizer.json").unlink()
    size = whole.vocabulary_size
    change_json(folder / "added_tokens.json", **{"<|user|>": size, "<|bot|>": size + 1})
    with pytest.raises(zoo.BundleError, match=r"'<.user.>' is not special"):
        read_tokenizer(folder, "gpt2")
    names = ["<|user|>", "<|bot|>"]
    change_json(folder / "special_tokens_map.json", additional_special_tokens=names)
    tokenizer = read_tokenizer(folder, "gpt2")
    text = "the<|bot|> a<|user|><|endoftext|>"
    reference = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    reference.add_special_tokens(["<|endoftext|>", *names])
    assert tokenizer.encode([text]).to_list() == [reference.encode(text).ids]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens.json": {"<e1>": 99}}, "'<e1>' has 99"),
        ({"added_tokens.json": {"<e1>": "21"}}, "added_tokens.json: <e1> must be a whole number"),
        ({"added_tokens.json": {"e 1": 21}}, "'e 1' has a blank in it"),
        ({"special_tokens_map.json": {"additional_special_tokens": "a"}}, "must be a list"),
        (
            {"tokenizer_config.json": {"added_tokens_decoder": {"21": {"single_word": True}}}},
            "content is missing",
        ),
        (
            {
                "tokenizer_config.json": {
                    "added_tokens_decoder": {"21": {"content": "a", "single_word": True}}
                }
            },
            "single_word is True",
        ),
    ],
)
def test_added_tokens_that_are_refused(files, message, folder):
    (folder / "tokenizer.json").unlink()
    for name, fields in files.items():
        change_json(folder / name, **fields)
    with pytest.raises(zoo.BundleError, match=re.escape(message)):
        read_tokenizer(folder, "bert")
