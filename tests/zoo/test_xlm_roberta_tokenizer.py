"""XLM-R's tokenizer: the ids of transformers and `tokenizers`, words, pairs, what is refused."""

import itertools
import json
import random
import re
import shutil

import numpy as np
import pytest
import tokenizers
from huggingface_cases import FIXTURES, change_config, change_json, copy_model

import zoo
from zoo.text.packing import pack
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.huggingface.writing import write_tokenizer

FOLDER = FIXTURES / "xlm-roberta"
TOKENIZER = read_tokenizer(FOLDER, "xlm-roberta")
ATOMS = [
    *("the cat", " dog", "кошка", " собака", "春眠", "，", "。", "แมว", "القط", " ال", "x", "!"),
    *("é", "e\u0301", "ａｂ", "ﬁ", "😀", " ", "  ", "\n", "\t", "\u3000", "\u00a0", "\u200b"),
    *("<s>", "</s>", "<mask>", "<unk>", "<pad>", "<mask", "mask>", "<", ">", ".", "\0"),
]


@pytest.fixture
def written(tmp_path):
    """The tokenizer as tokenizer.json alone."""
    write_tokenizer(TOKENIZER, tmp_path, "xlm-roberta", 16)
    return tmp_path


def test_ids_are_those_of_transformers():
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    assert TOKENIZER.special_tokens == {**special, "<mask>": TOKENIZER.vocabulary_size - 1}
    for case in json.loads((FOLDER / "expected_ids.json").read_text()):
        assert TOKENIZER.encode([case["text"]]).to_list() == [case["ids"]], case["text"]


def test_ids_of_fuzzed_texts_are_those_of_tokenizers(written):
    reference = tokenizers.Tokenizer.from_file(str(written / "tokenizer.json"))
    rng = random.Random(1)
    texts = ["".join(rng.choices(ATOMS, k=rng.randint(0, 12))) for _ in range(3000)]
    wanted = [row.ids for row in reference.encode_batch(texts, add_special_tokens=False)]
    assert TOKENIZER.encode(texts).to_list() == wanted
    encoded = TOKENIZER.encode_with_offsets(texts)
    assert encoded.ids.to_list() == wanted
    columns = (part.to_list() for part in (encoded.starts, encoded.ends, encoded.word_starts))
    for text, starts, ends, first in zip(texts, *columns):
        size = len(text.encode())
        assert all(0 <= a <= b <= size for a, b in zip(starts, ends))
        assert starts == sorted(starts) and first[:1] in ([], [True])


def test_files_and_classes(written, tmp_path):
    for model_type in ("xlm-roberta", "bert", "distilbert"):
        assert read_tokenizer(FOLDER, model_type).fingerprint == TOKENIZER.fingerprint
        assert read_tokenizer(written, model_type).fingerprint == TOKENIZER.fingerprint
    TOKENIZER.save(tmp_path / "ours")
    loaded = zoo.load_tokenizer(tmp_path / "ours")
    assert loaded.get_config() == TOKENIZER.get_config()
    pair = tokenizers.Tokenizer.from_file(str(written / "tokenizer.json")).encode("x", "!")
    packed = pack(TOKENIZER, TOKENIZER.encode(["x"]), TOKENIZER.encode(["!"]))
    assert packed["token_ids"].numpy().tolist() == [pair.ids]
    assert packed["segment_ids"].numpy().tolist() == [pair.type_ids]
    assert [t for t in pair.tokens if t[0] == "<"] == ["<s>", "</s>", "</s>", "</s>"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cat sat, the dog.", ["the", "cat", "sat", ",", "the", "dog", "."]),
        ("  кошка <mask>  сидит!", ["кошка", "<mask>", "сидит", "!"]),
        ("القط يجلس", ["القط", "يجلس"]),
        ("", []),
    ],
)
def test_words(text, words):
    encoded = TOKENIZER.encode_with_offsets([text])
    starts, ends, first = (part.to_list()[0] for part in encoded[1:])
    places = [*np.flatnonzero(first), len(first)]
    spans = [(starts[a], max(ends[a:b])) for a, b in itertools.pairwise(places)]
    assert [text.encode()[a:b].decode() for a, b in spans] == words


def test_words_of_scripts_without_spaces():
    """Each piece is one, and a space alone goes with what is behind it."""
    text = "我喜欢猫。"
    encoded = TOKENIZER.encode_with_offsets([text])
    starts, first = encoded.starts.to_list()[0], encoded.word_starts.to_list()[0]
    begins = [start for start, is_first in zip(starts, first) if is_first]
    assert len(begins) > 3 and len(set(begins)) == len(begins) and begins[0] == 0
    pieces = [piece.decode() for piece in TOKENIZER.pieces()]
    chinese = [i for i, piece in enumerate(pieces) if re.match("[一-鿿]", piece)]
    assert len(chinese) > 20 and not TOKENIZER.continuation[chinese].any()


def changed(folder, **parts):
    """The tokenizer.json of a folder with other parts."""
    change_json(folder / "tokenizer.json", **parts)
    return folder


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": []}},
            r"post_processor: single is \[\] and pair \[\]; only <s> A </s> and",
        ),
        ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "pre_tokenizer must be Metaspace"),
        ({"normalizer": {"type": "NFC"}}, "no step of a SentencePiece model's normalizer"),
    ],
)
def test_rules_that_are_refused(parts, message, written):
    with pytest.raises(zoo.BundleError, match=message) as error:
        read_tokenizer(changed(written, **parts), "xlm-roberta")
    assert "tokenizer.json" in str(error.value)


def test_names_that_are_refused(written):
    config = written / "tokenizer_config.json"
    change_json(config, cls_token="[CLS]")
    with pytest.raises(zoo.BundleError, match="cls_token is '\\[CLS\\]', and only '<s>'"):
        read_tokenizer(written, "xlm-roberta")
    change_json(config, cls_token="<s>", tokenizer_class="LlamaTokenizer")
    with pytest.raises(zoo.BundleError, match="supported for xlm-roberta are XLMRobertaTokenizer"):
        read_tokenizer(written, "xlm-roberta")
    with pytest.raises(zoo.BundleError, match="supported for bert are BertTokenizer"):
        read_tokenizer(written, "bert")
    change_json(config, tokenizer_class="PreTrainedTokenizerFast")
    added = json.loads((written / "tokenizer.json").read_text())["added_tokens"]
    changed(written, added_tokens=[*added, {"id": 999, "content": "new"}])
    with pytest.raises(zoo.BundleError, match="added_tokens: 'new' has id 999, which is none"):
        read_tokenizer(written, "bert")


def test_pieces_in_another_order(tmp_path):
    shutil.copy(
        FIXTURES.parent / "sentencepiece" / "bpe.model", tmp_path / "sentencepiece.bpe.model"
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(zoo.BundleError, match="not a unigram model of SentencePiece"):
        read_tokenizer(tmp_path, "xlm-roberta")
    shutil.copy(
        FIXTURES.parent / "encoder_decoders" / "t5" / "spiece.model",
        tmp_path / "sentencepiece.bpe.model",
    )
    with pytest.raises(zoo.BundleError, match=r"the first pieces are .*<pad>.*not <unk>, <s> and"):
        read_tokenizer(tmp_path, "xlm-roberta")


def test_a_vocabulary_that_is_larger_than_the_embedding(tmp_path):
    folder = copy_model("xlm-roberta_model", tmp_path)
    change_config(folder, vocab_size=100)
    with pytest.raises(zoo.BundleError, match="the tokenizer has 125 ids, and the embedding only"):
        zoo.load(folder)
