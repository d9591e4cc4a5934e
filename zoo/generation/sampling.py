"""From logits to the next token: greedy, temperature, top-k, top-p, min-p, repetition penalty.

A row's randomness comes from its own seed and step: neighbours and backends change nothing.
"""

from keras import ops

_MINUS_INFINITY = -1e9


def gumbel(seed, step, size: int):
    """Numbers of the Gumbel distribution, (B, size) float32: pure functions of `seed` (B,), `step`
    and their place, int32.
    """
    # A counter with the multiply-xorshift constants of C. Wellons, "lowbias32": Keras' own random
    # ops take one seed for a whole batch, which would tie rows together.
    word = _mix(ops.cast(seed, "uint32") ^ ops.cast(0x9E3779B9, "uint32"))
    word = _mix(word + ops.cast(step, "uint32"))
    places = ops.cast(ops.arange(size, dtype="int32"), "uint32") * ops.cast(0x9E3779B1, "uint32")
    word = _mix(word[:, None] ^ places[None])  # (B, size)
    # In (0, 1], with all digits of a float where it is small: there the largest numbers come from.
    uniform = ops.cast(ops.cast(ops.right_shift(word, ops.cast(1, "uint32")), "int32"), "float32")
    uniform = (uniform + 0.5) * 2.0**-31
    return -ops.log(-ops.log1p(-uniform))


def _mix(word):
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        word = word ^ ops.right_shift(word, ops.cast(shift, "uint32"))
        word = word * ops.cast(factor, "uint32")
    return word ^ ops.right_shift(word, ops.cast(15, "uint32"))


def penalize_repetition(logits, seen, penalty):
    """Makes the tokens that `seen` (B, V) marks less likely (Keskar et al., 2019, CTRL)."""
    penalty = penalty[:, None]
    return ops.where(seen, ops.where(logits > 0, logits / penalty, logits * penalty), logits)


def filter_logits(logits, top_k, top_p):
    """Logits (B, V), -1e9 where ruled out: `top_k` (B,) keeps the k likeliest, 0 all, and of those
    `top_p` (B,) the fewest whose probability reaches p (Holtzman et al., 2020).
    """
    vocabulary_size = logits.shape[-1]
    descending = -ops.sort(-logits, axis=-1)  # (B, V)
    rank = ops.arange(vocabulary_size, dtype="int32")
    k = ops.where(top_k > 0, ops.minimum(top_k, vocabulary_size), vocabulary_size)
    in_top_k = rank[None] < k[:, None]  # (B, V), of the sorted logits
    probabilities = ops.softmax(ops.where(in_top_k, descending, _MINUS_INFINITY), axis=-1)
    before = ops.cumsum(probabilities, axis=-1) - probabilities  # mass of the likelier tokens
    # The sum of all probabilities may round to 1 early: p = 1 must not depend on that.
    reached = ops.logical_and(before >= top_p[:, None], top_p[:, None] < 1)
    kept = ops.logical_and(in_top_k, ops.logical_not(reached))
    kept = ops.logical_or(kept, rank[None] == 0)
    last_kept = ops.sum(ops.cast(kept, "int32"), axis=-1, keepdims=True) - 1
    threshold = ops.take_along_axis(descending, last_kept, axis=-1)  # (B, 1)
    return ops.where(logits >= threshold, logits, _MINUS_INFINITY)


def drop_unlikely(logits, min_p):
    """Logits (B, V), -1e9 where a token's probability is below `min_p` (B,) times the likeliest's
    (Nguyen et al., 2024); 0 keeps all.
    """
    # As differences of logits: what other rules left out does not matter.
    least = ops.log(ops.maximum(min_p, 1e-30))  # at most 69 below the likeliest
    threshold = ops.max(logits, axis=-1) + ops.where(min_p > 0, least, 2 * _MINUS_INFINITY)
    return ops.where(logits >= threshold[:, None], logits, _MINUS_INFINITY)


def sample(logits, *, temperature, top_k, top_p, seed, step, min_p=None):
    """The next token of each row, (B,) int32; at temperature 0 the likeliest."""
    # Not `ops.argmax`: on TensorFlow it looks for negative zeros first, which takes ten times as
    # long as the search itself. Of equal logits both choose the first.
    greedy = ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32")
    sampled_rows = temperature > 0

    def draw():
        scaled = logits / ops.where(sampled_rows, temperature, 1.0)[:, None]
        limited = ops.any(ops.logical_or(top_k > 0, top_p < 1))
        # Sorting the vocabulary is what costs most: only when a row needs it.
        kept = ops.cond(limited, lambda: filter_logits(scaled, top_k, top_p), lambda: scaled)
        if min_p is not None:
            kept = ops.cond(ops.any(min_p > 0), lambda: drop_unlikely(kept, min_p), lambda: kept)
        # The largest logit after Gumbel noise is a draw from the softmax (Gumbel, 1954). A batch
        # rounds otherwise than a row alone: that seldom changes which is largest, but often on
        # which side of one of 100,000 summed probabilities a random point lies.
        noisy = kept + gumbel(seed, step, logits.shape[-1])
        drawn = ops.cast(ops.top_k(noisy, 1)[1][:, 0], "int32")
        return ops.where(sampled_rows, drawn, greedy)

    return ops.cond(ops.any(sampled_rows), draw, lambda: greedy)
