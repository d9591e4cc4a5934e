"""Corpora: no character is lost or doubled, and too little text is told with numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data import corpus as corpus_module
from trainers.data.corpus import Document, encode_texts, split_documents
from zoo.tokenizers import ByteTokenizer, CharacterTokenizer, Tokenizer


def build(*texts, tokenizer=CharacterTokenizer.train, context_length=2, **options):
    documents = [Document(str(index), text) for index, text in enumerate(texts)]
    split = split_documents(documents, **options)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = tokenizer(split.train)
    return encode_texts(split, tokenizer, context_length)


def decoded(tokenizer, ids):
    return tokenizer.decode(ids[None]).numpy()[0].decode()


@settings(max_examples=15, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=40),
    st.floats(0.2, 0.8),
    st.integers(1, 7),
)
def test_one_document_loses_and_doubles_nothing(text, fraction, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "_CHUNK_CHARACTERS", chunk)
        patch.setattr(corpus_module, "_BATCH_CHARACTERS", 3 * chunk)
        for tokenizer in (ByteTokenizer(), CharacterTokenizer(set(text))):
            corpus = build(text, tokenizer=tokenizer, validation_fraction=fraction)
            cut = int(len(text) * (1 - fraction))
            assert decoded(tokenizer, corpus.train_ids) == text[:cut]
            assert decoded(tokenizer, corpus.validation_ids) == text[cut:]
            assert corpus.validation_characters == len(text) - cut
            assert corpus.train_ids.dtype == corpus.validation_ids.dtype == np.int32
            assert tokenizer.end_id not in corpus.train_ids


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.text("abc", min_size=4, max_size=30), min_size=2, max_size=9),
    st.integers(0, 3),
    st.integers(1, 40),
    st.booleans(),
)
def test_several_documents_are_dealt_out_whole(texts, seed, chunk, splits_anywhere):
    class Whole(ByteTokenizer):
        pass

    Whole.splits_anywhere = splits_anywhere
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "_CHUNK_CHARACTERS", chunk)
        patch.setattr(corpus_module, "_BATCH_CHARACTERS", 2 * chunk)
        corpus = build(*texts, tokenizer=Whole(), seed=seed, validation_fraction=0.3)
    parts = []
    for ids in (corpus.train_ids, corpus.validation_ids):
        assert ids[-1] == 256
        pieces = [
            bytes(p[p < 256].tolist()).decode() for p in np.split(ids, np.where(ids == 256)[0])
        ]
        parts.append(pieces[:-1])
    assert sorted(parts[0] + parts[1]) == sorted(texts)
    limit = 0.3 * sum(map(len, texts))
    held = sum(map(len, parts[1]))
    assert held == corpus.validation_characters
    assert held <= limit or parts[1] == [min(parts[1] + parts[0], key=len)]


def test_the_shuffle_follows_the_seed():
    texts = [f"document {index:02}" for index in range(50)]
    one, same, other = (build(*texts, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.train_ids, same.train_ids)
    np.testing.assert_array_equal(one.validation_ids, same.validation_ids)
    assert not np.array_equal(one.validation_ids, other.validation_ids)
    assert one.validation_characters == 5 * len(texts[0])


def test_a_document_larger_than_the_allowance_trains():
    for seed in range(5):
        corpus = build("x" * 1000, "y" * 10, "z" * 20, seed=seed, validation_fraction=0.1)
        assert len(corpus.train_ids) > 1000


def test_unknown_characters_of_validation_are_counted(warnings):
    tokenizer = CharacterTokenizer.train(["ababab"])
    corpus = build("ababababab" + "?", tokenizer=tokenizer, validation_fraction=0.4)
    assert corpus.validation_ids[-1] == tokenizer.unknown_id
    assert warnings == ["1 of 5 validation tokens are unknown to the tokenizer"]


def test_own_validation_documents():
    validation = [Document("v", "bab"), Document("w", "ab"), Document("e", "")]
    corpus = build("aaab", validation_documents=validation)
    assert corpus.validation_ids.tolist() == [3, 2, 3, 2, 3]
    assert corpus.validation_characters == 5
    corpus = build("aaab", "b", validation_documents=validation)
    assert corpus.train_ids.tolist() == [2, 2, 2, 3, 1, 3, 1]
    assert corpus.validation_ids.tolist() == [3, 2, 3, 1, 2, 3, 1]


def test_too_little_text_is_an_error_with_numbers_and_a_fix():
    for texts, part, tokens in (
        (("abc",), "training", "2 tokens"),
        (("a" * 20,), "validation", "2 tokens"),
        (("ab", "c" * 90), "validation", "3 tokens"),
    ):
        with pytest.raises(ValueError, match=rf"{part} text has {tokens}.*= 5\. Use more text"):
            build(*texts, context_length=4)
    build("a" * 50, context_length=4)
