"""The tokenizer that a run's settings ask for."""

import re
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from trainers.data.config import DataConfig
from trainers.tasks.tokens import spaced
from trainers.tokenizers import encoder_tokenizer, language_model_tokenizer
from zoo.config import ConfigError
from zoo.tokenizers import BytePairTokenizer, SentencePieceTokenizer
from zoo.tokenizers.base import ROLES, require_roles

MODELS = Path(__file__).parent.parent / "zoo" / "fixtures" / "sentencepiece"
TEXTS = ["low lower lowest newer the newest"] * 9


def data(**options):
    return DataConfig(train="text.txt", **options)


def test_byte_pairs_are_trained():
    make = language_model_tokenizer(data(tokenizer="bytepair", max_vocabulary_size=280))
    tokenizer = make(TEXTS)
    assert tokenizer.fingerprint == BytePairTokenizer.train(TEXTS, 280).fingerprint
    encoder = encoder_tokenizer(data(tokenizer="bytepair", max_vocabulary_size=280), lambda: TEXTS)
    require_roles(encoder, *ROLES)
    assert encoder.pair_separators == 2 and encoder.vocabulary_size <= 280
    ids = encoder.encode(["a <mask>"]).to_list()[0]
    assert ids[-1] == encoder.mask_id and len(ids) == 2


@pytest.mark.parametrize("kept", ["tokenizer.json", "vocab.json"])
def test_byte_pairs_are_read(kept, tmp_path):
    wanted = language_model_tokenizer(data(tokenizer="bytepair"))(TEXTS)
    encoder = encoder_tokenizer(data(tokenizer="bytepair"), lambda: TEXTS)
    for tokenizer, make in (
        (wanted, language_model_tokenizer),
        (encoder, lambda settings: encoder_tokenizer(settings, None)),
    ):
        tokenizer.write_files(tmp_path)
        if kept != "tokenizer.json":
            (tmp_path / "tokenizer.json").unlink()
        read = make(data(tokenizer="bytepair", vocabulary=str(tmp_path)))
        assert read.fingerprint == tokenizer.fingerprint
        if kept == "tokenizer.json":
            assert make(data(tokenizer="bytepair", vocabulary=str(tmp_path / kept))).merges


def test_sentencepiece_models_are_read():
    unigram = data(tokenizer="sentencepiece", vocabulary=str(MODELS / "unigram.model"))
    assert isinstance(language_model_tokenizer(unigram), SentencePieceTokenizer)
    encoder = encoder_tokenizer(unigram, None)
    require_roles(encoder, "cls", "sep", "pad", "mask")
    assert encoder.pair_separators == 2
    bpe = data(tokenizer="sentencepiece", vocabulary=str(MODELS / "bpe.model"))
    with pytest.raises(ValueError, match="without special tokens for cls"):
        require_roles(encoder_tokenizer(bpe, None), "cls")


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"needs data\.vocabulary"):
        language_model_tokenizer(data(tokenizer="sentencepiece"))
    with pytest.raises(ConfigError, match=re.escape(f"{str(tmp_path)!r} has no tokenizer.json")):
        language_model_tokenizer(data(tokenizer="bytepair", vocabulary=str(tmp_path)))
    shutil.copy(MODELS / "bpe.model", tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="not valid JSON"):
        language_model_tokenizer(data(tokenizer="bytepair", vocabulary=str(tmp_path)))


def test_words_of_a_sentence_are_encoded_as_in_its_text():
    sentences = [["Ada", "it's", "low,", "U.S.", "12"], [], ["newest"]]
    tokenizer = BytePairTokenizer.train(TEXTS, 280)
    words = tf.ragged.constant(sentences, dtype=tf.string)
    whole = tokenizer.encode([" ".join(sentence) for sentence in sentences])
    parts = tokenizer.encode(spaced(words))
    assert parts.flat_values.numpy().tolist() == whole.flat_values.numpy().tolist()
