"""WordPiece vocabularies: files read and written exactly, training repeatable, errors clear."""

import pytest

from zoo.tokenizers import WordPieceTokenizer, load_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["to be, or not to BE", "that is the question: tö be", "天地玄黃 天地"] * 3


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\r\n[PAD]\n[CLS]\n[SEP]\n[MASK]\na\u2028b\n\x85\n##é".encode())
    tokenizer = WordPieceTokenizer.from_file(path, lowercase=False)
    assert tokenizer.vocabulary == [*SPECIAL[1::-1], *SPECIAL[2:], "a\u2028b", "\x85", "##é"]
    assert (tokenizer.unknown_id, tokenizer.pad_id, tokenizer.lowercase) == (0, 1, False)
    tokenizer.write_vocabulary(tmp_path / "again.txt")
    again = WordPieceTokenizer.from_file(tmp_path / "again.txt", lowercase=False)
    assert again.fingerprint == tokenizer.fingerprint
    assert b"\r" not in (tmp_path / "again.txt").read_bytes()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "PAD.*missing"),
        ("\n".join(SPECIAL[:4]).encode(), r"\[MASK\] missing"),
        ("\n".join([*SPECIAL, "a", "b", "a"]).encode(), r"vocabulary\[7\] = 'a' repeats .*\[5\]"),
        ("\n".join([*SPECIAL, "", "b"]).encode(), r"vocabulary\[5\] = ''"),
        ("\n".join([*SPECIAL, "##"]).encode(), r"vocabulary\[5\] = '##'"),
        ("\n".join([*SPECIAL, "a\0"]).encode(), r"U\+0000"),
        ("\n".join([*SPECIAL, "界" * 86]).encode(), "256 bytes"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_bad_file_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        WordPieceTokenizer.from_file(path)
    assert str(path) in str(error.value)


def test_the_longest_piece_and_bad_types():
    for piece in ("a" * 256, "##" + "a" * 256):
        tokenizer = WordPieceTokenizer([*SPECIAL, piece, "a"], max_word_characters=300)
        assert tokenizer.encode(["a" * 256]).to_list() == [[1 if "#" in piece else 5]]
    for vocabulary in ("text", None, [*SPECIAL, 1]):
        with pytest.raises(TypeError, match="string"):
            WordPieceTokenizer(vocabulary)
    with pytest.raises(ValueError, match="surrogate"):
        WordPieceTokenizer([*SPECIAL, "\ud800"])
    with pytest.raises(ValueError, match="max_word_characters=0"):
        WordPieceTokenizer(SPECIAL, max_word_characters=0)
    config = WordPieceTokenizer(SPECIAL).get_config()
    with pytest.raises(ValueError, match="lowercase: missing"):
        WordPieceTokenizer.from_config({k: v for k, v in config.items() if k != "lowercase"})


def test_training_follows_the_rules_of_the_tokenizer(tmp_path):
    tokenizer = WordPieceTokenizer.train(TEXTS, 60)
    assert tokenizer.vocabulary[:5] == SPECIAL
    assert len(tokenizer.vocabulary) <= 60
    assert {"天", "地", "玄", ",", "##b"} - {"##b"} <= set(tokenizer.vocabulary)
    assert not [piece for piece in tokenizer.vocabulary if piece in ("ö", "##ö", "B", "##天")]
    ids = tokenizer.encode(TEXTS)
    assert tokenizer.unknown_id not in ids.flat_values.numpy()
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint

    cased = WordPieceTokenizer.train(TEXTS, 60, lowercase=False)
    assert {"B", "##ö"} <= set(cased.vocabulary)
    assert cased.lowercase is False


def test_training_is_the_same_every_time_and_in_every_order():
    words = [f"{a}{b}{a}{b}" for a in "abcdefgh" for b in "stuvwxyz"]  # All pairs tie.
    first = WordPieceTokenizer.train(words * 2, 70)
    for texts in (words * 2, iter(words[::-1] * 2), [word.encode() for word in words * 2]):
        assert WordPieceTokenizer.train(texts, 70).fingerprint == first.fingerprint
    assert first.vocabulary_size == 70


def test_training_keeps_the_most_frequent_characters():
    texts = ["aaa bb bb b c c", "[MASK] " + "q" * 200]
    assert WordPieceTokenizer.train(texts, 8).vocabulary[5:] == ["b", "##b", "bb"]
    pieces = WordPieceTokenizer.train(texts, 100, min_count=1).vocabulary
    assert {"a", "##a", "b", "##b", "c", "aaa", "bb"} == set(pieces[5:]) - {"##aa", "aa"}
    assert "q" not in pieces
    # More texts than one batch takes: all of them count.
    many = WordPieceTokenizer.train(["ab"] * 1500 + ["cd"] * 2, 13)
    assert many.vocabulary[5:] == ["a", "b", "c", "d", "##b", "##d", "ab", "cd"]


def test_training_refuses_what_cannot_work():
    with pytest.raises(TypeError, match="list of strings"):
        WordPieceTokenizer.train("text", 100)
    with pytest.raises(ValueError, match="at least 6"):
        WordPieceTokenizer.train(["a a"], 5)
    for texts in ([], [""], ["a b"], ["\0 \ufffd"]):
        with pytest.raises(ValueError, match="more text or a lower min_count"):
            WordPieceTokenizer.train(texts, 100)
