"""How likely a text is under a causal model: log-likelihood in windows of bounded memory."""

from __future__ import annotations

from keras import ops

from zoo.generation import last_tokens


def log_likelihood(model, token_ids, lengths, start_id):
    """Sum of log p(token | all before it) of each row, in nats.

    Every token counts once, the first one given `start_id`. Up to `model.context_length` tokens
    the value is that of one forward pass. Longer rows of a GPT are read in overlapping windows,
    so that every token sees at least half a context of past; an LSTM carries its state and
    forgets nothing.

    Args:
        model: `zoo.heads.CausalLM`.
        token_ids: (B, P) int32, padded on the right; P may be 0.
        lengths: (B,) int32, real tokens of each row.
        start_id: int. What an empty context reads.

    Returns:
        (B,) float32, 0 for an empty row.
    """
    batch_size = ops.shape(token_ids)[0]
    window = model.context_length
    # Fresh tokens of a window; the rest is past that a bounded cache has to read again.
    stride = max(window // 2, 1) if model.cache_is_bounded else window
    start = ops.full((batch_size, 1), start_id, "int32")
    # Input column i predicts column i + 1; padded so that every window lies inside.
    sequence = ops.concatenate([start, token_ids], axis=1)
    sequence = ops.pad(sequence, [[0, 0], [0, window + 1]])
    columns = ops.arange(window, dtype="int32")

    def read(index, state, total):
        fresh_from = index * stride
        first = ops.maximum(fresh_from + stride - window, 0)
        inputs = ops.take(sequence, first + columns, axis=1)  # (B, window)
        targets = ops.take(sequence, first + columns + 1, axis=1)
        if model.cache_is_bounded:
            hidden = model.backbone(inputs, training=False)
        else:
            hidden, state = model.backbone.decode(inputs, state, ops.zeros_like(lengths))
        log_probabilities = ops.log_softmax(model.backbone.logits(hidden), axis=-1)
        chosen = ops.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
        place = first + columns  # of the target, counted in the row's own tokens
        fresh = ops.logical_and(place >= fresh_from, place < fresh_from + stride)
        counted = ops.logical_and(fresh[None], place[None] < lengths[:, None])
        return index + 1, state, total + ops.sum(ops.where(counted, chosen, 0.0), axis=1)

    def more(index, state, total):
        return index * stride < ops.max(lengths)

    state = () if model.cache_is_bounded else model.initial_cache(batch_size, window)
    zeros = ops.zeros((batch_size,), "float32")
    return ops.while_loop(more, read, (ops.cast(0, "int32"), state, zeros))[2]


def next_token_probabilities(model, token_ids, lengths, k: int):
    """The k likeliest next tokens of each row.

    Args:
        model: `zoo.heads.CausalLM`.
        token_ids: (B, P) int32, P >= 1, padded on the right; of a prompt longer than
            `model.context_length` the last tokens count.
        lengths: (B,) int32, at least 1.
        k: int, candidates; at most the vocabulary size.

    Returns:
        ids (B, k) int32 and probabilities (B, k) float32, likeliest first.
    """
    batch_size = ops.shape(token_ids)[0]
    window = model.context_length
    prompt, lengths = last_tokens(token_ids, lengths, window)
    cache = model.initial_cache(batch_size, window)
    logits, _ = model.decode(prompt, cache, ops.zeros_like(lengths), lengths)
    values, ids = ops.top_k(ops.softmax(logits, axis=-1), k)
    return ops.cast(ids, "int32"), values
