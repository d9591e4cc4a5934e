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

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from zoo.tokenizers.sentencepiece_model import CONTROL, NORMAL, UNKNOWN, write_merging_model


def last_merges(pairs: Sequence[tuple[int, int]], texts: Sequence[bytes]) -> dict[int, int]:
    """Which tokens come out when their own text is merged: token -> rank of its last merge.

    Args:
        pairs: ids of the two tokens of each merge, best first.
        texts: the bytes of each id; one id for each text that bytes and merges make.

    Example:
        >>> last_merges([(0, 1), (2, 0)], [b"a", b"b", b"ab", b"aba"])
        {2: 0, 3: 1}
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


def merging_model(tokens: Mapping[int, bytes], ranks: Mapping[int, int], size: int) -> bytes:
    """The SentencePiece model that merges bytes to the ids of tokens, by the ranks of last merges.

    It reads each byte as the character of Latin-1 with that number, so that ASCII stands for
    itself, and has one id more than the vocabulary, the unknown one that the format asks for.
    """
    pieces = [
        (tokens[index].decode("latin-1"), -ranks.get(index, 0), NORMAL)
        if index in tokens
        # No text has these names: their first character is not one of Latin-1.
        else (f"\u2581{index}", 0, CONTROL)
        for index in range(size)
    ]
    return write_merging_model([*pieces, ("\u2581", 0, UNKNOWN)], unknown_id=size)
