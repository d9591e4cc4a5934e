"""Generation and scoring by the cache protocol of a model: no family and no tokenizer is known.

Runs eagerly, in `tf.function` with dynamic shapes (as served), and in `jax.jit` with static ones.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from zoo.generation.sampling import penalize_repetition, sample

# A cache of dynamic size starts with slots for the prompt and this many tokens, and grows by as
# many: writing a token copies the cache (TensorFlow's scatter is not in place), so that a token's
# cost would otherwise grow with what the request might still become.
SLOT_BLOCK = 32
_SCORED = 64  # tokens of each row whose logits `log_probabilities` holds at once


class SamplingOptions(NamedTuple):
    """How each row chooses its tokens; see `zoo.generation.sampling`. All (B,)."""

    max_new_tokens: object  # int32, at least 0
    temperature: object  # float32, 0 is greedy
    top_k: object  # int32, 0 is off
    top_p: object  # float32 in (0, 1], 1 is off
    seed: object  # int32
    repetition_penalty: object = None  # float32 above 0, 1 is off, as None is
    min_p: object = None  # float32 in [0, 1), 0 is off, as None is


class Stopping(NamedTuple):
    """What ends rows beside end tokens, told of each token once it is chosen."""

    state: object  # nested tensors (B, ...), before the first token
    step: Callable  # (state, token (B,), active (B,) bool) -> (state, ended (B,) bool)


class Generated(NamedTuple):
    """What was generated."""

    token_ids: object  # (B, N) int32, the new tokens, then padding (id 0)
    lengths: object  # (B,) int32, new tokens of each row; the end token is not one of them
    log_probability: object  # (B,) float32, sum of log p(token), the end token's included
    stopping: object  # the state of `Stopping` after the last token


class _Request(NamedTuple):
    """What stays the same in all steps."""

    model: keras.Model
    end_ids: Sequence[int]
    stop: Callable | None  # `Stopping.step`
    bias: object  # (V,) float32, added to the logits: 0, or about minus infinity where banned
    columns: object  # (W + N,) int32
    max_slots: object  # int or scalar, slots that the cache can come to need
    is_growing: bool  # whether the cache begins with fewer
    write: Callable  # single tokens into the cache, as `keras.ops.scatter_update`
    take: Callable | None  # rows of a tensor by their indices, where rows may leave the batch


class _Results(NamedTuple):
    """Of all rows of the request."""

    tokens: object  # (B, W + N) prompt and new tokens
    total: object  # (B,) tokens of each row in `tokens`
    stopping: object
    log_probability: object  # (B,)


class _State(NamedTuple):
    """Of the rows that are in the batch: R of B, all where none may leave."""

    tokens: object  # (R, W + N)
    total: object  # (R,)
    stopping: object
    log_probability: object  # (R,)
    last: object  # (R,) the newest token, not yet read by the model
    position: object  # (R,) tokens that the cache holds
    finished: object  # (R,) bool
    number: object  # (R,) int32, of the row in the request
    options: dict  # of `SamplingOptions`, those that are not None, (R,)
    cache: object
    step: object  # () int32, tokens chosen so far
    slots: object  # () int32, slots of the cache
    left: object  # `_Results`, right for rows that have left; () where none may


def generate(
    model,
    token_ids,
    lengths,
    options: SamplingOptions,
    max_steps,
    end_ids: Sequence[int] = (),
    banned_ids: Sequence[int] = (),
    write: Callable = ops.scatter_update,
    stopping: Stopping | None = None,
    take: Callable | None = None,
) -> Generated:
    """Continues each row by up to its own `max_new_tokens` tokens, whatever its neighbours are.

    Prompts (B, P) int32, P >= 1, are padded on the right; of one longer than `model.context_length`
    the last tokens are read. Where a row fills a bounded cache (GPT), its last half context is read
    again. `max_steps`, at least `max(options.max_new_tokens)`, is the width N of the result, an int
    where shapes are static (JAX). A row that chooses one of `end_ids` stops, and after a token at
    which `stopping` ends it; `banned_ids` are never chosen. With `take`, as `tf.gather` is called,
    rows that are finished leave the batch, and the others go on without their cost: all that the
    model knows of a row must then be in its cache.
    """
    batch_size, prompt_width = ops.shape(token_ids)
    window = minimum(prompt_width, model.context_length)
    prompt, lengths = last_tokens(token_ids, lengths, window)
    max_slots = window + max_steps
    if model.cache_is_bounded:
        max_slots = minimum(max_slots, model.context_length)
    # Static shapes (JAX, or a graph traced for one shape) cannot grow: all slots at once.
    is_growing = model.cache_is_bounded and not isinstance(max_slots, int)
    slots = ops.minimum(window + SLOT_BLOCK, max_slots) if is_growing else max_slots
    bias = np.zeros((model.vocabulary_size,), "float32")
    bias[list(banned_ids)] = -1e9
    columns = ops.arange(window + max_steps, dtype="int32")
    stop = None if stopping is None else stopping.step
    take = None if isinstance(batch_size, int) else take
    request = _Request(*(model, end_ids, stop, bias, columns, max_slots, is_growing, write, take))
    zeros = ops.zeros_like(lengths)
    logits, cache = model.decode(prompt, model.initial_cache(batch_size, slots), zeros, lengths)
    begun = _Results(
        tokens=ops.pad(prompt, [[0, 0], [0, max_steps]]),
        total=lengths,
        stopping=() if stopping is None else stopping.state,
        log_probability=ops.zeros_like(options.temperature),
    )
    state = _State(
        *begun,
        last=zeros,
        position=lengths,
        finished=options.max_new_tokens <= 0,
        number=ops.arange(batch_size, dtype="int32"),
        options={name: value for name, value in options._asdict().items() if value is not None},
        cache=cache,
        step=ops.cast(0, "int32"),
        slots=ops.cast(slots, "int32"),
        left=() if take is None else begun,
    )
    result = _generate_all(request, _choose(request, logits, state))
    new_columns = lengths[:, None] + ops.arange(max_steps, dtype="int32")  # (B, N)
    new_tokens = ops.take_along_axis(result.tokens, new_columns, axis=1)
    new_lengths = result.total - lengths
    is_new = ops.arange(max_steps, dtype="int32")[None] < new_lengths[:, None]
    return Generated(
        ops.where(is_new, new_tokens, 0),
        new_lengths,
        result.log_probability,
        result.stopping,
    )


def _generate_all(request: _Request, state: _State) -> _Results:
    """Reads and chooses tokens until every row is finished."""

    def is_unfinished(*state):
        return ops.logical_not(ops.all(_State(*state).finished))

    def is_worth_it(*state):
        """Whether most rows still need the next token, so that none has to leave before."""
        return is_unfinished(*state) if request.take is None else _few_finished(_State(*state))

    def next_token(*state):
        state = _State(*state)
        logits, cache = request.model.decode_token(
            state.last, state.cache, state.position, request.write
        )
        # A finished row writes over its own start: it must not run past the cache.
        position = ops.where(state.finished, 0, state.position + 1)
        state = state._replace(cache=cache, position=position)
        return tuple(_choose(request, logits, state))

    # Two loops, so that the inner one, which runs for every token, has no branches.
    def goes_on(*state):
        if not request.model.cache_is_bounded:
            return is_worth_it(*state)
        free = ops.all(_State(*state).position < _State(*state).slots)
        return ops.logical_and(is_worth_it(*state), free)

    def go_on(*state):
        return ops.while_loop(goes_on, next_token, tuple(_make_room(request, _State(*state))))

    state = _State(*ops.while_loop(is_unfinished, go_on, tuple(state)))
    return _results(state)


def _few_finished(state: _State):
    """Whether less than a quarter of the rows are finished: fewer are not worth a copied cache."""
    finished = ops.sum(ops.cast(state.finished, "int32"))
    return 4 * finished < ops.shape(state.finished)[0]


def _results(state: _State) -> _Results:
    """Those of rows that have left, and of those that are here."""
    here = _Results(*state[: len(_Results._fields)])
    if not state.left:
        return here
    where = state.number[:, None]

    def put(all_rows, rows):
        return ops.scatter_update(all_rows, where, rows)

    return keras.tree.map_structure(put, state.left, here)


def _choose(request: _Request, logits, state: _State) -> _State:
    """Appends one token to each row that is not finished."""
    options = SamplingOptions(**state.options)
    token = sample(
        _penalized(options, logits, state) + request.bias,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        seed=options.seed,
        step=state.step,
    )
    log_probabilities = ops.log_softmax(logits, axis=-1)
    chosen = ops.take_along_axis(log_probabilities, token[:, None], axis=1)[:, 0]
    active = ops.logical_not(state.finished)
    log_probability = state.log_probability + ops.where(active, chosen, 0.0)
    ended = ops.zeros_like(active)
    for end_id in request.end_ids:
        ended = ops.logical_or(ended, token == end_id)
    grows = ops.logical_and(active, ops.logical_not(ended))
    stopping = state.stopping
    if request.stop is not None:
        stopping, found = request.stop(stopping, token, grows)
        ended = ops.logical_or(ended, found)
    finished = ops.logical_or(state.finished, ended)
    here = ops.logical_and(request.columns[None] == state.total[:, None], grows[:, None])
    step = state.step + 1
    return state._replace(
        step=step,
        tokens=ops.where(here, token[:, None], state.tokens),
        total=state.total + ops.cast(grows, "int32"),
        last=token,
        finished=ops.logical_or(finished, step >= options.max_new_tokens),
        stopping=stopping,
        log_probability=log_probability,
    )


def _penalized(options: SamplingOptions, logits, state: _State):
    """Logits (B, V) by `repetition_penalty`, for what the prompt and the new tokens hold."""
    penalty = options.repetition_penalty
    if penalty is None:
        return logits

    def penalized():
        seen = seen_tokens(state.tokens, state.total, logits.shape[-1])
        return penalize_repetition(logits, seen, penalty)

    return ops.cond(ops.any(penalty != 1), penalized, lambda: logits)


def _make_room(request: _Request, state: _State) -> _State:
    """Now and then: finished rows leave, and every row can write its next token."""

    def when(condition, change, state):
        return _State(
            *ops.cond(condition, lambda: tuple(change(request, state)), lambda: tuple(state))
        )

    if request.take is not None:
        state = when(ops.logical_not(_few_finished(state)), _leave, state)
    if not request.model.cache_is_bounded:
        return state
    full = ops.any(state.position >= request.model.context_length)
    state = when(full, _reread, state)
    if request.is_growing:
        state = when(ops.any(state.position >= state.slots), _grow, state)
    return state


def _leave(request: _Request, state: _State) -> _State:
    """Without the rows that are finished."""
    kept = ops.nonzero(ops.logical_not(state.finished))[0]
    shared = {"step": state.step, "slots": state.slots, "left": _results(state)}
    rows = state._replace(**dict.fromkeys(shared, ()))
    rows = keras.tree.map_structure(lambda x: request.take(x, kept), rows)
    return rows._replace(**shared)


def _reread(request: _Request, state: _State) -> _State:
    """Reads the last half context again, for the rows whose cache is full."""
    model = request.model
    full = state.position >= model.context_length
    kept = model.context_length // 2
    # The newest token (at total - 1) is read by the step that follows.
    recent, _ = last_tokens(state.tokens, state.total - 1, kept)
    slots = state.slots if request.is_growing else request.max_slots
    empty = model.initial_cache(ops.shape(state.tokens)[0], slots)
    _, fresh = model.decode(recent, empty, ops.zeros_like(state.position))

    def select(new, old):
        return ops.where(ops.reshape(full, (-1,) + (1,) * (len(new.shape) - 1)), new, old)

    return state._replace(
        cache=keras.tree.map_structure(select, fresh, state.cache),
        position=ops.where(full, kept, state.position),
    )


def _grow(request: _Request, state: _State) -> _State:
    """Gives the cache more slots."""
    more = ops.minimum(SLOT_BLOCK, request.max_slots - state.slots)
    cache = request.model.extend_cache(state.cache, more)
    return state._replace(cache=cache, slots=state.slots + more)


def last_tokens(token_ids, lengths, width):
    """The last `width` real tokens of each row, moved to the left edge, and how many they are."""
    first = ops.maximum(lengths - width, 0)
    columns = first[:, None] + ops.arange(width, dtype="int32")  # (B, width)
    columns = ops.minimum(columns, ops.shape(token_ids)[1] - 1)
    return ops.take_along_axis(token_ids, columns, axis=1), ops.minimum(lengths, width)


def minimum(a, b):
    """The smaller one: of Python ints an int (static shapes stay static), else a tensor."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)


def seen_tokens(tokens, total, vocabulary_size: int):
    """(B, V) bool: which ids occur among the first `total` entries of each row."""
    count, width = ops.shape(tokens)
    real = ops.arange(width, dtype="int32")[None] < total[:, None]
    # Padding goes to an extra class that is cut off again.
    ids = ops.where(real, tokens, vocabulary_size)
    rows = ops.broadcast_to(ops.arange(count, dtype="int32")[:, None], (count, width))
    indices = ops.reshape(ops.stack([rows, ids], axis=-1), (-1, 2))
    seen = ops.zeros((count, vocabulary_size + 1), "int32")
    ones = ops.ones_like(indices[:, 0])
    return ops.scatter_update(seen, indices, ones)[:, :vocabulary_size] > 0


def log_probabilities(model, token_ids, lengths, start_id):
    """log p(token | all before it) of each token, in nats: (B, P) float32; padding's means nothing.

    Token ids (B, P) int32 are padded on the right, P may be 0; the first is given `start_id`. Where
    the cache is bounded (GPT) windows overlap: every token sees at least half a context of past.
    """
    batch_size, context = ops.shape(token_ids)[0], model.context_length
    start = ops.full((batch_size, 1), start_id, "int32")
    sequence = ops.concatenate([start, token_ids], axis=1)  # column i predicts column i + 1
    # Short texts do not pay for a whole context.
    window = minimum(context, ops.shape(sequence)[1])
    # Padded so that every window lies inside.
    sequence = ops.pad(sequence, [[0, 0], [0, context + 1]])
    columns = ops.arange(window, dtype="int32")
    stride = max(context // 2, 1)

    def tokens_of(index):
        """The token that a window counts first, and the column that it reads first."""
        if not model.cache_is_bounded:
            return index * window, index * window
        # The first window counts all that it reads; later ones read half of it as past.
        fresh = ops.where(index > 0, (index + 1) * stride, 0)
        return fresh, ops.maximum((index + 2) * stride - context, 0)

    def read(index, state, found):
        fresh, first = tokens_of(index)
        inputs = ops.take(sequence, first + columns, axis=1)  # (B, window)
        targets = ops.take(sequence, first + columns + 1, axis=1)
        before = model.initial_cache(batch_size, window) if model.cache_is_bounded else state
        hidden, after = model.backbone.decode(inputs, before, ops.zeros_like(lengths))
        state = () if model.cache_is_bounded else after
        values = target_log_probabilities(model.backbone, hidden, targets)
        return index + 1, state, _with_columns(found, values, first, fresh)

    def more(index, state, found):
        return tokens_of(index)[0] < ops.max(lengths)

    state = () if model.cache_is_bounded else model.initial_cache(batch_size, window)
    found = ops.zeros_like(token_ids, "float32")
    return ops.while_loop(more, read, (ops.cast(0, "int32"), state, found))[2]


def target_log_probabilities(backbone, hidden, targets):
    """log p of each of `targets` (B, T), after hidden states (B, T, D): (B, T) float32.

    In pieces of the text: logits of all T tokens would take gigabytes where V is 100,000.
    """
    width = ops.shape(hidden)[1]
    size = minimum(width, _SCORED)

    def add_piece(begin, found):
        first = ops.minimum(begin, width - size)  # the last piece begins where it fits
        columns = first + ops.arange(size, dtype="int32")
        logits = backbone.logits(ops.take(hidden, columns, axis=1))
        wanted = ops.take(targets, columns, axis=1)[..., None]
        values = ops.take_along_axis(ops.log_softmax(logits, axis=-1), wanted, axis=-1)[..., 0]
        return begin + size, _with_columns(found, values, first, begin)

    state = ops.cast(0, "int32"), ops.zeros_like(targets, "float32")
    return ops.while_loop(lambda begin, found: begin < width, add_piece, state)[1]


def _with_columns(found, values, first, fresh):
    """`found` (B, T), with columns from `first` on from `values` (B, W), those before `fresh` not.

    A choice, as a slice is written by an operation of XLA: 1 ms for 100,000 tokens.
    """
    columns = ops.arange(ops.shape(found)[1], dtype="int32")
    place, width = columns - first, ops.shape(values)[1]
    new = ops.take(values, ops.clip(place, 0, width - 1), axis=1)
    return ops.where(ops.logical_and(columns >= fresh, place < width), new, found)


def next_token_probabilities(model, token_ids, lengths, k: int):
    """The k likeliest next tokens of each row: ids (B, k) int32, probabilities (B, k) float32."""
    batch_size, width = ops.shape(token_ids)
    window = minimum(width, model.context_length)
    prompt, lengths = last_tokens(token_ids, lengths, window)
    cache = model.initial_cache(batch_size, window)
    logits, _ = model.decode(prompt, cache, ops.zeros_like(lengths), lengths)
    values, ids = ops.top_k(ops.softmax(logits, axis=-1), k)
    return ops.cast(ids, "int32"), values
