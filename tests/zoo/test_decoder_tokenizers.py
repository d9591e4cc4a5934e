"""Tokenizers of today's decoders: ids and texts of Hugging Face's library, on text of all kinds."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Reference

import zoo
from zoo.tokenizers import ByteFallbackTokenizer, BytePairTokenizer
from zoo.tokenizers.bytepair.patterns import RULES
from zoo.tokenizers.bytepair.vocabulary import from_bytes
from zoo.weights.huggingface.causal_tokenizers import read_causal_tokenizer

SHARED = os.environ.get("ZOO_DATA")
REPOSITORY = Path(__file__).parents[2]
TEXT = """
don't I'LL we've They're it's 'S 'd ſ 'ſ 'Re he'll x'sy ''s !'s the café naïve
Straße привет МИР слово 你好 世界 日本語 한국어 각 مرحبا السَّلام हिन्दी नमस्ते क़ा ด้วย
tiếng Å 👩‍🚀 😀 🏳️‍🌈 ½ ² ٣٤٥ १२३ 12345 1234567 007 3.14 ① Ⅷ __init__ def foo(x):
return x**2 #include { } ; // -> != \\n <b> [x] <|endoftext|> <|im_end|> <s>
</s> <unk> ▁ ▁▁ _ <0x41>
"""
WORDS = TEXT.split()
BLANKS = [*" \n\r\t\v\f\x85\u00a0\u3000\u2028\u200b\u2003", "  ", "   ", "\r\n", "\n    ", " \n "]
MARKS = "\u0301\u0323\u0344\u0338\u093c\u09be\u1161\u11a8\u3099\u05b4\u0651\u0f71\u1dfa\u0898"
NEW = "\U00011de0\U00016ff4\U000105d2\ufffe\uffff\ufffd\U0010ffff\x7f\ufeff\x00\x04\x13"
LETTERS = "'’!?.,-\"sSdDtTmMlLrReEvV09aZ \n\r\t"
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Bytes that the vocabulary of "smollm" here lacks, as the published one does.
LACKING = from_bytes(
    b"\xc0\xc1\xf1\xf2\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x04\x06\x13\x14"
)
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
# name -> normalizer, pre_tokenizer, whether decoding strips a space, added tokens.
PHI_TOKENS = {
    "<|im_end|>": {"rstrip": True, "special": True},
    "<pad>": {"lstrip": True, "special": True},
    "<b>": {"rstrip": True},
}
GEMMA_TOKENS = {"\n\n": {}, "\n\n\n": {}, "▁▁": {}, "<b>": {}, "<|im_end|>": {"special": True}}
FALLBACK = {
    "llama2": (PREPEND, None, True, {}),
    "phi3": (PREPEND, None, True, PHI_TOKENS),
    "mistral": (None, METASPACE | {"prepend_scheme": "first"}, True, {}),
    "always": (None, METASPACE | {"prepend_scheme": "always"}, True, PHI_TOKENS),
    "gemma": (REPLACE, GEMMA_SPLIT | {"invert": False}, False, GEMMA_TOKENS),
}


def fuzzed(count, seed):
    """Strings of words, blanks, marks and characters of all scripts."""
    rng = random.Random(seed)

    def part():
        kind = rng.random()
        if kind < 0.45:
            return rng.choice(WORDS)
        if kind < 0.73:
            return rng.choice(BLANKS) * rng.choice([1, 1, 1, 2, 3])
        if kind < 0.80:
            return rng.choice(MARKS)
        if kind < 0.88:
            return "".join(rng.choices(LETTERS, k=rng.randint(1, 6)))
        if kind < 0.94:
            return str(rng.randrange(10 ** rng.randint(1, 9)))
        start = rng.choice(
            [0, 0x80, 0x300, 0x900, 0x2000, 0xA000, 0xE000, 0x10000, 0x20000, 0x90000]
        )
        return chr(start + rng.randrange(0x800)) + rng.choice(["", "", rng.choice(NEW)])

    return ["".join(part() for _ in range(rng.randint(0, 12))) for _ in range(count)]


def code():
    """Paragraphs of this repository's own source."""
    files = sorted(REPOSITORY.glob("zoo/t*/**/*.py"))[:30]
    return [part for file in files for part in file.read_text(encoding="utf-8").split("\n\n")]


TEXTS = [*fuzzed(3000, seed=1), *code()]


def trained_byte_pairs(pattern, path):
    """A vocabulary of the library's own training, with the rules of a published model."""
    reference = Reference(models.BPE())
    own = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = {"smollm": [digits, own]}.get(pattern, [own])
    if regex := RULES.get(pattern, RULES["gpt2"]).pattern:
        steps = [pre_tokenizers.Split(Regex(regex), "isolated"), plain]
    reference.pre_tokenizer = pre_tokenizers.Sequence(steps)
    reference.decoder = decoders.ByteLevel()
    if pattern in ("qwen2", "neox"):
        reference.normalizer = normalizers.NFC()
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in LACKING]
    limit = 256 if pattern != "smollm" else len(alphabet)
    trainer = trainers.BpeTrainer(
        vocab_size=2500,
        initial_alphabet=alphabet if pattern == "smollm" else pre_tokenizers.ByteLevel.alphabet(),
        limit_alphabet=limit,
        special_tokens=[*CHAT],
        show_progress=False,
    )
    training = [
        t for t in TEXTS if pattern != "smollm" or not {*t} & {*"\x00\x04\x13", "\U00090000"}
    ]
    reference.train_from_iterator(training, trainer)
    if pattern == "neox":
        reference.add_tokens([AddedToken(" " * i, normalized=True) for i in range(12, 1, -1)])
    content = json.loads(reference.to_str())
    if pattern == "llama3":
        vocabulary = content["model"]["vocab"]
        content["model"]["ignore_merges"] = True
        # Words that no merge makes; one of them is longer than two 64-bit numbers.
        for word in ("Ġsupercalifragilistic", "Ġxq", "zq", from_bytes("世界日".encode()), "123"):
            vocabulary.setdefault(word, len(vocabulary))
        names = {token["content"] for token in content["added_tokens"]}
        assert not names - vocabulary.keys()
        content["added_tokens"].append(added_json("[x]", len(vocabulary), normalized=True))
    path.write_text(json.dumps(content), encoding="utf-8")


def added_json(name, index, **flags):
    """An entry of `added_tokens`."""
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": index, "content": name, **off, **flags}


def trained_byte_fallback(name, path):
    """The same for characters with byte fallback; the file is put together here."""
    normalizer, pre_tokenizer, strip, added = FALLBACK[name]
    reference = Reference(models.BPE())
    # As SentencePiece: no piece goes on behind a word with the space of the next one.
    words = pre_tokenizers.Split(Regex(r"(?<=\S)(?= )|\n"), "merged_with_previous")
    spaces = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    reference.pre_tokenizer = pre_tokenizers.Sequence([words, spaces])
    trainer = trainers.BpeTrainer(vocab_size=2500, limit_alphabet=500, show_progress=False)
    reference.train_from_iterator(TEXTS, trainer)
    model = json.loads(reference.to_str())["model"]
    special = {"<unk>", "<s>", "</s>"} | {n for n, flags in added.items() if flags.get("special")}
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    apart = {*special, *of_bytes}
    merges = [m for m in model["merges"] if apart.isdisjoint((*m, "".join(m)))]
    pieces = dict.fromkeys(["<unk>", "<s>", "</s>", *of_bytes, *model["vocab"], *added])
    ids = {piece: index for index, piece in enumerate(pieces)}
    steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else []
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]}},
    }
    model |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    tokens = {n: {"special": True} for n in ("<unk>", "<s>", "</s>")} | added
    content = {
        "version": "1.0",
        "added_tokens": [added_json(n, ids[n], **flags) for n, flags in tokens.items()],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": processor,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": model | {"vocab": ids, "merges": merges},
    }
    path.write_text(json.dumps(content), encoding="utf-8")


NAMES = ["gpt2", "smollm", "llama3", "qwen2", "neox", *FALLBACK]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders with a tokenizer.json, made when first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            train = trained_byte_fallback if name in FALLBACK else trained_byte_pairs
            train(name, made[name] / "tokenizer.json")
        return made[name]

    return folder


def assert_equal(ours, reference, texts):
    """The same ids with and without special tokens, and the same texts back."""
    rows = ours.encode(texts)
    encoded = reference.encode_batch(texts, add_special_tokens=False)
    wrong = [(t, e.ids, o) for t, e, o in zip(texts, encoded, rows.to_list()) if e.ids != o]
    assert not wrong, wrong[:3]
    # Bytes that are no character are U+FFFD in the library.
    decoded = [text.decode("utf-8", "replace") for text in ours.decode(rows).numpy()]
    assert decoded == reference.decode_batch([e.ids for e in encoded], skip_special_tokens=True)
    reference.encode_special_tokens = True
    encoded = reference.encode_batch(texts, add_special_tokens=False)
    reference.encode_special_tokens = False
    found = ours.encode_text(texts).to_list()
    wrong = [(t, e.ids, o) for t, e, o in zip(texts, encoded, found) if e.ids != o]
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_texts_of_the_library(name, folders, tmp_path):
    folder = folders(name)
    ours = read_causal_tokenizer(folder)
    reference = Reference.from_file(str(folder / "tokenizer.json"))
    assert_equal(ours, reference, [*fuzzed(2500, seed=2), *code()[:500], "", " ", "a" * 3000])
    ours.save(tmp_path)
    again = zoo.load_tokenizer(tmp_path)
    assert again.fingerprint == ours.fingerprint and again.end_ids == ours.end_ids
    assert again.start_id == ours.start_id
    if isinstance(ours, BytePairTokenizer):
        ours.write_files(tmp_path)
        assert read_causal_tokenizer(tmp_path).fingerprint == ours.fingerprint


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_all_texts_of_the_data_sets(name, folders):
    if not SHARED:
        pytest.skip("ZOO_DATA names no folder with the data sets")
    folder = folders(name)
    ours = read_causal_tokenizer(folder)
    reference = Reference.from_file(str(folder / "tokenizer.json"))
    for path in sorted(path for path in Path(SHARED).glob("*/*") if path.is_file()):
        lines = path.read_bytes()[: 1 << 21].decode("utf-8", "replace").split("\n")
        for first in range(0, len(lines), 4096):
            assert_equal(ours, reference, lines[first : first + 4096])


@pytest.mark.parametrize("name", ["gpt2", "llama3", "gemma", "mistral"])
def test_any_bytes_come_back(name, folders):
    rng = np.random.default_rng(4)
    texts = [rng.bytes(int(size)) for size in rng.integers(0, 40, 500)]
    texts += [
        b"\xff",
        b"a\xe4\xbd",
        b"\xf0\x9f\x98",
        b"\xef\xbf\xbd\xef\xbf",
        b"\xed\xa0\x80",
        b"\xc0\x80",
    ]
    ours = read_causal_tokenizer(folders(name))
    strips = isinstance(ours, ByteFallbackTokenizer) and ours.prefix != "never"
    expected = [text.removeprefix(b" ") if strips else text for text in texts]
    assert ours.decode(ours.encode(texts)).numpy().tolist() == expected


@pytest.mark.parametrize("name", NAMES)
def test_spelled_tokens_make_up_the_text(name, folders):
    """A space at the beginning, NFC and blanks that a token takes in are what is lost."""
    ours = read_causal_tokenizer(folders(name))
    texts = [*fuzzed(500, seed=5), "", " a", "a  b "]
    ids = ours.encode(texts)
    joined = [b"".join(row) for row in ours.spell(ids).numpy()]
    special = {*ours.special_tokens.values()}
    decoded = ours.decode(ids).numpy().tolist()
    rows = [*zip(texts, ids.to_list(), joined, decoded)]
    plain = [row for row in rows if special.isdisjoint(row[1])]
    assert len(plain) > 300
    assert [row for row in plain if row[2] != row[3]] == []
    same = sum(text.encode() == one for text, _, one, _ in rows)
    assert same == len(rows) if name in ("gpt2", "llama3") else same > 390


@pytest.mark.parametrize("name", ["qwen2", "gemma", "phi3"])
def test_what_a_user_writes_is_text(name, folders):
    ours = read_causal_tokenizer(folders(name))
    reference = Reference.from_file(str(folders(name) / "tokenizer.json"))
    end = "<|im_end|>"
    index = ours.special_tokens[end]
    rows = [["a", end, "b " + end + " c", end + "\n"], [end[:5], end[5:]], ["x", "  "]]
    is_text = [[True, False, True, False], [False, True], [True, False]]
    ids = ours.encode_parts(tf.ragged.constant(rows), tf.ragged.constant(is_text))
    assert [row.count(index) for row in ids.to_list()] == [2, 0, 0]
    # Where nothing looks like a special token the parts are their joined text.
    rows = [["user\n", f" {a}", b, "\n\n"] for a, b in zip(fuzzed(200, 6), fuzzed(200, 7))]
    rows = [row for row in rows if not any(n in "".join(row) for n in ours.special_tokens)]
    assert len(rows) > 80
    ids = ours.encode_parts(rows, [[False, True, True, False]] * len(rows)).to_list()
    joined = ["".join(row) for row in rows]
    assert ids == [e.ids for e in reference.encode_batch(joined, add_special_tokens=False)]


def test_a_merge_that_makes_a_special_token_is_left_out(folders, tmp_path):
    content = json.loads((folders("mistral") / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = [["<", "s"], ["<s", ">"], *content["model"]["merges"]]
    for piece in ("<s", "s>"):
        content["model"]["vocab"].setdefault(piece, len(content["model"]["vocab"]))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    ours = read_causal_tokenizer(tmp_path)
    assert ours.special_tokens["<s>"] not in ours.encode_text(["a<s>b"]).to_list()[0]
    assert ours.special_tokens["<s>"] in ours.encode(["a<s>b"]).to_list()[0]


def test_what_stands_before_a_text_and_what_ends_an_answer(folders, tmp_path):
    files = {
        "tokenizer.json": json.loads((folders("phi3") / "tokenizer.json").read_text()),
        "tokenizer_config.json": {"eos_token": {"content": "</s>"}, "bos_token": "<s>"},
        "config.json": {"eos_token_id": 0},
    }

    def read():
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        return read_causal_tokenizer(tmp_path)

    tokenizer = read()
    ids = tokenizer.special_tokens
    assert (tokenizer.start_id, tokenizer.end_id) == (ids["<s>"], ids["</s>"])
    assert tokenizer.end_ids == (ids["</s>"], ids["<unk>"])  # config.json's
    files["generation_config.json"] = {"eos_token_id": [ids["</s>"], ids["<|im_end|>"]]}
    assert read().end_ids == (ids["</s>"], ids["<|im_end|>"])
    files["tokenizer_config.json"] = {"add_bos_token": False}
    assert read().start_id is None and read().end_ids == (ids["</s>"], ids["<|im_end|>"])
    files["generation_config.json"] = {"eos_token_id": 10**6}
    with pytest.raises(ValueError, match=r"generation_config\.json.*1000000 is no id"):
        read()
    files["generation_config.json"] = {}
    decoder = {"9999": {"content": "<|late|>", "special": True}}
    files["tokenizer_config.json"] = {"added_tokens_decoder": decoder}
    with pytest.raises(ValueError, match=r"is not in tokenizer\.json with id '9999'"):
        read()


def test_a_language_model_reads_the_start_before_every_text(folders):
    tokenizer = read_causal_tokenizer(folders("mistral"))
    config = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "context_length": 16}
    model = zoo.build("gpt_char_cpu", vocabulary_size=tokenizer.vocabulary_size + 3, **config)
    lm = zoo.TextLM(tokenizer, model)
    ids, lengths = lm._prompt(tf.constant(["", "foo(x)"]))
    start = tokenizer.start_id
    assert ids.numpy()[:, 0].tolist() == [start, start]
    assert lengths.numpy().tolist() == [1, 1 + len(tokenizer.encode(["foo(x)"]).to_list()[0])]
    # What follows a text keeps the space that decoding takes from the beginning of one.
    word = tokenizer.encode([" the"])
    assert tokenizer.decode(word).numpy().tolist() == [b"the"]
    assert tokenizer.decode_after(word).numpy().tolist() == [b" the"]


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("llama3", lambda f: f["pre_tokenizer"]["pretokenizers"].pop(), "known rules are gpt2"),
        (
            "llama3",
            lambda f: f["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\d+"),
            r"known rules are gpt2 .*, smollm .*, llama3 .*, qwen2",
        ),
        ("smollm", lambda f: f["model"].update(unk_token="<|endoftext|>"), "unk_token"),
        ("qwen2", lambda f: f["normalizer"].update(type="NFKC"), "normalizer: type"),
        ("gpt2", lambda f: f["added_tokens"][0].update(single_word=True), "single_word"),
        ("mistral", lambda f: f["pre_tokenizer"].update(split=True), "split must be false"),
        ("mistral", lambda f: f["decoder"]["decoders"].pop(), "decoder must be"),
        ("mistral", lambda f: f["pre_tokenizer"].update(type="Whitespace"), "known are Prepend"),
        ("phi3", lambda f: f["added_tokens"][-1].update(normalized=True), "normalised text"),
        ("gemma", lambda f: f["model"]["vocab"].pop("<0x41>"), "no piece '<0x41>'|each once"),
    ],
)
def test_rules_that_are_not_known_are_refused(name, change, message, folders, tmp_path):
    content = json.loads((folders(name) / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_causal_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)
