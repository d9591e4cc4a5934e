"""Which merges ever happen, against the definition; whole tables against `tokenizers`."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models

from zoo.tokenizers import BytePairTokenizer
from zoo.tokenizers.bytepair.lookup import last_merges
from zoo.tokenizers.bytepair.vocabulary import ALPHABET, from_bytes, to_bytes


def merged(text, merges):
    """Byte-pair encoding by its definition: the earliest merge first, the leftmost of equals."""
    symbols = list(text)
    ranks = {tuple(merge): rank for rank, merge in enumerate(merges)}
    while len(symbols) > 1:
        pairs = [*itertools.pairwise(symbols)]
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        place = pairs.index(best)
        symbols[place : place + 2] = ["".join(best)]
    return symbols


def random_merges(rng, in_order):
    """Merges over two to four letters, with texts made twice and out of order if so asked."""
    pieces = list("abcd"[: rng.randint(2, 4)])
    merges = []
    for _ in range(rng.randint(1, 25)):
        pair = rng.choice(pieces), rng.choice(pieces)
        product = "".join(pair)
        if len(product) > 8 or pair in merges or (in_order and product in pieces):
            continue
        merges.append(pair)
        if product not in pieces:
            pieces.append(product)
    if not in_order:
        rng.shuffle(merges)
    return merges, pieces


@pytest.mark.parametrize("in_order", [True, False])
@given(random=st.randoms(use_true_random=False))
def test_last_merges_by_definition(in_order, random):
    merges, pieces = random_merges(random, in_order)
    ids = {piece: index for index, piece in enumerate(pieces)}
    pairs = [(ids[left], ids[right]) for left, right in merges]
    found = last_merges(pairs, [piece.encode() for piece in pieces])
    products = {"".join(merge) for merge in merges}
    assert {pieces[token] for token in found} == {
        piece for piece in products if merged(piece, merges) == [piece]
    }
    for token, rank in found.items():
        assert "".join(merges[rank]) == pieces[token]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_any_table_gives_the_ids_of_hugging_face(in_order, seed):
    rng = random.Random(seed)
    merges, pieces = random_merges(rng, in_order)
    vocabulary = [*ALPHABET, *(piece for piece in pieces if len(piece) > 1)]
    ours = BytePairTokenizer(vocabulary, merges)
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    theirs = HuggingFaceTokenizer(models.BPE(ids, merges))
    texts = ["".join(rng.choices("abcd", k=rng.randint(1, 40))) for _ in range(400)] + pieces
    expected = [theirs.encode(text).ids for text in texts]
    assert ours.encode(texts).to_list() == expected
    assert [[vocabulary.index(s) for s in merged(text, merges)] for text in texts] == expected


def test_tokens_of_any_length_and_with_zero_bytes():
    # Looked up by 8 bytes, by 16, merged; a zero byte at the end looks like none.
    pieces, merges = [*ALPHABET], []
    long = (b"abcdefgh", b"ijklmnopq", b"ABCDEFGHIJKLMNOP", b"QRSTUVWXYZrstuvwxyz")
    for word in (*long, b".\0\0,"):
        word = from_bytes(word)
        merges += [(word[:size], word[size]) for size in range(1, len(word))]
        pieces += [word[: size + 1] for size in range(1, len(word))]
    tokenizer = BytePairTokenizer(pieces, merges)
    texts = [to_bytes(piece) for piece in pieces]
    assert tokenizer.encode(texts).to_list() == [[index] for index in range(len(pieces))]
    both = tokenizer.encode([b".\0", b".", b".\0\0", b"\0"]).to_list()
    assert both == [[pieces.index(from_bytes(text))] for text in (b".\0", b".", b".\0\0", b"\0")]


def test_the_alphabet_is_that_of_gpt2():
    assert len(set(ALPHABET)) == 256 and ALPHABET[:3] == '!"#'
    assert from_bytes(b" a\n\x00\xff\xad") == "ĠaĊĀÿŃ"
    for value in range(256):
        assert to_bytes(from_bytes(bytes([value]))) == bytes([value])
    assert to_bytes("世") == "世".encode()
