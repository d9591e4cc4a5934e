"""How likely a text is under a causal model: log-likelihood in windows of bounded memory."""

from __future__ import annotations

from keras import ops

from zoo.generation.loop import last_tokens, minimum


def log_likelihood(model, token_ids, lengths, start_id):
    """Sum of log p(token | all before it) of each row, in nats: (B,) float32, 0 for an empty row.

    Token ids (B, P) int32 are padded on the right, P may be 0; the first is given `start_id`. Rows
    of a GPT that are longer than its context are read in overlapping windows, so that every token
    sees at least half a context of past; an LSTM carries its state and forgets nothing.
    """
    batch_size = ops.shape(token_ids)[0]
    context = model.context_length
    start = ops.full((batch_size, 1), start_id, "int32")
    # Input column i predicts column i + 1.
    sequence = ops.concatenate([start, token_ids], axis=1)
    # Short texts do not pay for a whole context.
    window = minimum(context, ops.shape(sequence)[1])
    # Padded so that every window lies inside.
    sequence = ops.pad(sequence, [[0, 0], [0, context + 1]])
    columns = ops.arange(window, dtype="int32")
    stride = max(context // 2, 1)

    def tokens_of(index):
        """Which tokens a window counts: from, up to; and the column that it reads first."""
        if not model.cache_is_bounded:
            return index * window, (index + 1) * window, index * window
        # The first window counts all that it reads; later ones read half of it as past.
        up_to = (index + 2) * stride
        first = ops.maximum(up_to - context, 0)
        return ops.where(index > 0, up_to - stride, 0), up_to, first

    def read(index, state, total):
        fresh_from, up_to, first = tokens_of(index)
        inputs = ops.take(sequence, first + columns, axis=1)  # (B, window)
        targets = ops.take(sequence, first + columns + 1, axis=1)
        if model.cache_is_bounded:
            hidden = model.backbone(inputs, training=False)
        else:
            hidden, state = model.backbone.decode(inputs, state, ops.zeros_like(lengths))
        log_probabilities = ops.log_softmax(model.backbone.logits(hidden), axis=-1)
        chosen = ops.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
        token_index = first + columns  # of the target, counted in the row's own tokens
        fresh = ops.logical_and(token_index >= fresh_from, token_index < up_to)
        counted = ops.logical_and(fresh[None], token_index[None] < lengths[:, None])
        return index + 1, state, total + ops.sum(ops.where(counted, chosen, 0.0), axis=1)

    def more(index, state, total):
        return tokens_of(index)[0] < ops.max(lengths)

    state = () if model.cache_is_bounded else model.initial_cache(batch_size, window)
    zeros = ops.zeros((batch_size,), "float32")
    return ops.while_loop(more, read, (ops.cast(0, "int32"), state, zeros))[2]


def next_token_probabilities(model, token_ids, lengths, k: int):
    """The k likeliest next tokens of each row: ids (B, k) int32, probabilities (B, k) float32."""
    batch_size, width = ops.shape(token_ids)
    window = minimum(width, model.context_length)
    prompt, lengths = last_tokens(token_ids, lengths, window)
    cache = model.initial_cache(batch_size, window)
    logits, _ = model.decode(prompt, cache, ops.zeros_like(lengths), lengths)
    values, ids = ops.top_k(ops.softmax(logits, axis=-1), k)
    return ops.cast(ids, "int32"), values
