"""Byte-pair merging with tensorflow_text's SentencePiece operation, exactly.

Byte-pair encoding joins, again and again, the neighbouring pair of symbols that is earliest in the
list of merges (the leftmost one of equal pairs). SentencePiece joins the neighbours whose text
together is the piece with the best score: it looks at the joined text, not at the pair. The two
are the same if exactly those pieces are known that come out when their own text is merged:

Take two neighbours x and y of a text under way, and let t = xy. No merge has crossed the borders of
t, so those inside it went as they would go if t were the whole text. Merging the text t therefore
passes through the state (x, y). It has only one state of two symbols. If t merges into itself, that
state is its last merge, which is in the list and whose rank is the score of t. If it does not, no
pair of the list makes t here, and the operation does not know t. (A piece that can be made from
several pairs of the list is covered: only one of them is ever the last state.)
"""

import hashlib
import itertools
import struct
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

# Fields and values of sentencepiece_model.proto.
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_BPE = 2
_FLOAT = struct.Struct("<f").pack


def last_merges(pairs: Sequence[tuple[int, int]], texts: Sequence[bytes]) -> dict[int, int]:
    """Which tokens come out when their own text is merged: token -> rank of its last merge.

    Args:
        pairs: ids of the two tokens of each merge, best first.
        texts: the bytes of each id; one id for each text that bytes and merges make.

    Example: `last_merges([(0, 1), (2, 0)], [b"a", b"b", b"ab", b"aba"])` is `{2: 0, 3: 1}`.
    """
    if not pairs:
        return {}
    ids = {text: index for index, text in enumerate(texts)}
    products = [ids[texts[left] + texts[right]] for left, right in pairs]
    ranks = np.arange(len(pairs))
    born = np.full(len(texts), -1)  # The rank of the merge that makes a token; -1 for a byte.
    born[products] = ranks
    if len({*products}) == len(pairs) and np.all(born[np.array(pairs)] < ranks[:, None]):
        return _last_merges_in_order(np.array(pairs), products, born)
    return _last_merges_replayed(pairs, products, texts, ids)


def _last_merges_in_order(
    pairs: np.ndarray, products: Sequence[int], born: np.ndarray
) -> dict[int, int]:
    # Each merge builds on earlier ones, as training makes them, so merging a text goes through
    # the ranks upwards. Merge (a, b) is the last of its text unless some symbol at the end of a,
    # while a is being made, meets one at the start of b in a merge of a lower rank. Going back in
    # time, the symbol that was made last is parted; `until` is the rank at which it is merged.
    ranks = np.arange(len(pairs))
    keys = pairs @ [len(born), 1]
    by_key = np.argsort(keys)
    keys = keys[by_key]
    blocked = np.zeros(len(pairs), bool)
    left, right = pairs.T
    left_until = right_until = rank = ranks
    while len(rank):
        part_left = born[left] > born[right]
        made = np.maximum(born[left], born[right])
        more = made >= 0  # Else both are bytes.
        part_left, made, rank = part_left[more], made[more], rank[more]
        left = np.where(part_left, pairs[made, 1], left[more])
        right = np.where(part_left, right[more], pairs[made, 0])
        left_until = np.where(part_left, made, left_until[more])
        right_until = np.where(part_left, right_until[more], made)
        key = left * len(born) + right
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        crossing = np.where(keys[place] == key, by_key[place], len(ranks))
        # Of equal pairs the leftmost goes first: at its own rank the left symbol is gone.
        blocked[rank[(crossing < left_until) & (crossing <= right_until)]] = True
    if blocked.any():  # What needs a token that never comes out never comes out.
        for rank, parts in enumerate(born[pairs]):
            blocked[rank] |= any(part >= 0 and blocked[part] for part in parts)
    return {products[rank]: rank for rank in ranks[~blocked].tolist()}


def _last_merges_replayed(pairs, products, texts, ids) -> dict[int, int]:
    # The general case, slow: merges each text.
    rank_of = {pair: rank for rank, pair in enumerate(pairs)}
    done: dict[int, int] = {}
    for token in set(products):
        symbols, last = [ids[bytes([byte])] for byte in texts[token]], None
        while len(symbols) > 1:
            ranks = [rank_of.get(pair, len(pairs)) for pair in itertools.pairwise(symbols)]
            last = min(ranks)
            if last == len(pairs):
                break
            place = ranks.index(last)
            symbols[place : place + 2] = [products[last]]
        if symbols == [token]:
            done[token] = last
    return done


def merging_model(texts: Sequence[bytes | None], ranks: dict[int, int]) -> bytes:
    """The SentencePiece model that merges bytes to our ids.

    Args:
        texts: the bytes of each id; None for the ids that never come out of merging.
        ranks: from `last_merges`.

    Returns:
        A serialized ModelProto. It reads each byte as the character of Latin-1 with that number,
        so that ASCII stands for itself, and has one id more than `texts`, the unknown one that
        the format asks for.
    """
    pieces = []
    for index, text in enumerate(texts):
        if text is None:
            # No text has these names: their first character is not one of Latin-1.
            pieces.append(_piece(f"\u2581{index}", 0, _CONTROL))
        else:
            pieces.append(_piece(text.decode("latin-1"), -ranks.get(index, 0), _NORMAL))
    pieces.append(_piece("\u2581", 0, _UNKNOWN))
    trainer = _number(3, _BPE) + _number(40, len(texts))  # model_type, unk_id
    # No dummy prefix, no removal of spaces, no escaping of spaces.
    normalizer = _field(1, b"identity") + b"".join(_number(field, 0) for field in (3, 4, 5))
    return b"".join([*pieces, _field(2, trainer), _field(3, normalizer)])


def merge(model: bytes, words: tf.Tensor) -> tf.RaggedTensor:
    """Ids int32 [W, None] of words [W], written in Latin-1 as `merging_model` says.

    The operation keeps the parsed model as a resource of the graph's session, under a name that
    is its hash: whatever reads the same vocabulary shares it.
    """
    handle = gen_sentencepiece_tokenizer.sentencepiece_op(
        model=model, shared_name=f"bytepair_{hashlib.sha256(model).hexdigest()}"
    )
    values, splits = gen_sentencepiece_tokenizer.sentencepiece_tokenize_op(
        handle, words, 0, 1.0, False, False, False, out_type=tf.int32
    )
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def _piece(text: str, score: float, kind: int) -> bytes:
    encoded = text.encode()
    size = len(encoded)
    if size < 116:  # All lengths take one byte: the short form of what is below.
        return b"\x0a%c\x0a%c%b\x15%b\x18%c" % (size + 9, size, encoded, _FLOAT(score), kind)
    return _field(1, _field(1, encoded) + b"\x15" + _FLOAT(score) + _number(3, kind))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
