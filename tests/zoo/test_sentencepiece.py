"""SentencePiece models: ids and texts of the library, offsets, roles, the same ids everywhere."""

import os
import random
from pathlib import Path

import pytest
import tensorflow as tf

from zoo.text.packing import pack
from zoo.tokenizers import SentencePieceTokenizer
from zoo.tokenizers.sentencepiece_model import NORMAL, read_pieces

FOLDER = Path(__file__).parent / "fixtures" / "sentencepiece"
SHARED = os.environ.get("ZOO_DATA")
ROLES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
UNIGRAM = SentencePieceTokenizer.from_file(FOLDER / "unigram.model", roles=ROLES)
BPE = SentencePieceTokenizer.from_file(FOLDER / "bpe.model")
ATOMS = [
    *("hello", " world", "low", "est", "é", "e\u0301", "ａｂ", "春眠", "處", "😀", "Ж", "\0"),
    *(" ", "  ", "\n", "\t", "\u3000", "\u2581", "<s>", "</s>", "<mask>", "<unk>", "<0x41>", "."),
]


def mixed_texts(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(ATOMS, k=rng.randint(0, 9))) for _ in range(count)]


def processor(tokenizer):
    """The library's own, with the same model."""
    sentencepiece = pytest.importorskip("sentencepiece")
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)


@pytest.mark.parametrize("tokenizer", [UNIGRAM, BPE], ids=["unigram", "bpe"])
def test_ids_and_texts_are_the_librarys(tokenizer):
    theirs = processor(tokenizer)
    rng = random.Random(1)
    noise = [
        bytes(rng.choices(b"aB \xc3\xa9\xe4\xb8\x96\xff\xed\xa0\x80\0", k=9)) for _ in range(300)
    ]
    texts = [*mixed_texts(700, 2), *noise]
    assert tokenizer.encode(texts).to_list() == [theirs.encode(text) for text in texts]
    size = tokenizer.vocabulary_size
    assert size == theirs.vocab_size()
    rows = [rng.choices(range(size), k=rng.randint(0, 9)) for _ in range(700)]
    decoded = tokenizer.decode(tf.ragged.constant(rows, dtype=tf.int32)).numpy()
    assert [text.decode() for text in decoded] == [theirs.decode(row) for row in rows]
    pad = [theirs.pad_id()] if theirs.pad_id() >= 0 else []
    assert [tokenizer.unknown_id, tokenizer.end_id] == [theirs.unk_id(), theirs.eos_id()]
    assert [tokenizer.pad_id] == pad


def test_attributes_and_pieces():
    assert UNIGRAM.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<mask>": 4}
    assert (UNIGRAM.cls_id, UNIGRAM.sep_id, UNIGRAM.pad_id, UNIGRAM.mask_id) == (1, 2, 3, 4)
    assert UNIGRAM.encode(["<mask>"]).to_list()[0][-1] == UNIGRAM.mask_id
    assert UNIGRAM.pieces()[:5] == ["\ufffd".encode(), b"", b"", b"", b""]
    assert BPE.special_tokens == {"<pad>": 0, "</s>": 1, "<unk>": 2} and not hasattr(BPE, "cls_id")
    # With byte pieces nothing is unknown.
    assert BPE.decode(BPE.encode(["Ж😀"])).numpy()[0] == "Ж😀".encode()
    assert BPE.tokens(BPE.encode(["Ж"])).values.numpy().tolist() == [b" ", b"\xd0", b"\x96"]
    pieces = UNIGRAM.pieces()
    for index, goes_on in enumerate(UNIGRAM.continuation):
        special = index in UNIGRAM.special_tokens.values()
        chinese = "一" <= pieces[index].decode()[:1] <= "鿿"
        assert goes_on == (not special and not pieces[index].startswith(b" ") and not chinese)
    with pytest.raises(ValueError, match="without special tokens for cls, sep"):
        pack(BPE, BPE.encode(["a"]))


def test_decoding_ids_outside_the_vocabulary():
    unknown = UNIGRAM.decode([[UNIGRAM.unknown_id]]).numpy()
    assert UNIGRAM.decode([[-1], [9999]]).numpy().tolist() == [*unknown, *unknown]
    assert UNIGRAM.decode([[1, 2, 3]]).numpy().tolist() == [b""]
    with pytest.raises(ValueError, match="two axes"):
        UNIGRAM.decode([1])


def test_offsets_point_into_the_text():
    encoding = UNIGRAM.encode_with_offsets(["  hello  world ", ""])
    assert encoding.ids.to_list() == UNIGRAM.encode(["  hello  world ", ""]).to_list()
    spans = [*zip(*(encoding[i].to_list()[0] for i in (1, 2, 3)))]
    text = b"  hello  world "
    words = [i for i, (_, _, begins) in enumerate(spans) if begins]
    assert [text[spans[i][0] :][:5] for i in words] == [b"hello", b"world"]
    assert b"".join(text[start:end] for start, end, _ in spans) == b"helloworld"
    wide = UNIGRAM.encode_with_offsets(["ａｂ"])
    assert wide.starts[0, 0] == 0 and wide.ends[0, -1] == 6
    for text in mixed_texts(200, 3):
        found = UNIGRAM.encode_with_offsets([text])
        starts, ends = found.starts.to_list()[0], found.ends.to_list()[0]
        assert all(0 <= a <= b <= len(text.encode()) for a, b in zip(starts, ends))
        assert starts == sorted(starts) and ends == sorted(ends)


def model_without_end():
    # The end piece is there, but as ordinary text.
    pieces = read_pieces(UNIGRAM.model)
    assert pieces.kinds[2] != NORMAL
    old = b"\x0a\x04</s>\x15\x00\x00\x00\x00\x18\x03"
    assert UNIGRAM.model.count(old) == 1
    return UNIGRAM.model.replace(old, old[:-1] + bytes([NORMAL]))


@pytest.mark.parametrize(
    "content, options, message",
    [
        (b"", {}, "not a SentencePiece model"),
        (b"not a model", {}, "not a SentencePiece model"),
        (UNIGRAM.model[:300], {}, "not a SentencePiece model"),
        (model_without_end(), {}, "no control piece '</s>'.*Name one as end="),
        (UNIGRAM.model, {"end": "hello"}, "no control piece 'hello'"),
        (UNIGRAM.model, {"roles": {"cls": "[CLS]"}}, r"cls='\[CLS\]' is no special token"),
        (UNIGRAM.model, {"roles": {"begin": "<s>"}}, "'begin' is none of"),
        (UNIGRAM.model, {"pair_separators": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_file(content, options, message, tmp_path):
    path = tmp_path / "some.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        SentencePieceTokenizer.from_file(path, **options)
    assert str(path) in str(error.value)


def test_every_truncated_model_is_refused():
    for size in range(len(UNIGRAM.model) - 1):
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            read_pieces(UNIGRAM.model[:size])


def test_a_damaged_config_is_refused():
    config = UNIGRAM.get_config()
    with pytest.raises(ValueError, match="not base64"):
        SentencePieceTokenizer.from_config({**config, "vocabulary": "?"})
    with pytest.raises(ValueError, match="end: missing"):
        SentencePieceTokenizer.from_config({k: v for k, v in config.items() if k != "end"})
    with pytest.raises(TypeError, match="bytes of a"):
        SentencePieceTokenizer("text")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="ZOO_DATA names no folder with the data sets")
def test_a_model_with_unicode_normalisation_on_real_text():
    tokenizer = SentencePieceTokenizer.from_file(Path(SHARED, "tok_sentencepiece/test_model.model"))
    theirs = processor(tokenizer)
    for name in ("wikitext2/test.txt", "tatoeba_cmn_eng/cmn.txt"):
        lines = Path(SHARED, name).read_text(encoding="utf-8").split("\n")
        found = tokenizer.encode(lines)
        expected = theirs.encode(lines)
        assert found.to_list() == expected
        assert [text.decode() for text in tokenizer.decode(found).numpy()] == theirs.decode(
            expected
        )
