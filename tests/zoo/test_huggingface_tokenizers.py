"""Tokenizers of transformers: whose rules count, and what is written for it."""

import json
import shutil

import pytest
from huggingface_cases import change_json, tokenizer_folder
from tokenizers import Tokenizer as Reference

import zoo
from zoo.weights.huggingface.tokenizer_files import read_tokenizer, write_tokenizer

TEXTS = [
    "The cat sat.",
    "Unable caf\u00e9s! \u6625 [MASK]",
    "",
    "Dogs unables \u00c9t\u00c9 \u6625\u7720!",
]


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
        {"lowercase": False},
        {"strip_accents": False},
        {"split_cjk": False},
        {"max_word_characters": 6},
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
