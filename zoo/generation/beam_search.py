"""Beam search by the cache protocol of a model: the likeliest texts, and not the likeliest tokens.

What is found, in which order, is what transformers finds with the same settings.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from zoo.generation.loop import SLOT_BLOCK, SamplingOptions, minimum, seen_tokens
from zoo.generation.sampling import sample

_NEVER = -1e9  # score of what must not be chosen
_NONE = -1e38  # score of a found text where there is none; with a penalty others have -1e33


class BeamOptions(NamedTuple):
    """How each row is searched. All (B,)."""

    sampling: SamplingOptions  # of rows with one beam, which choose as in `generate`
    num_beams: object  # int32, at least 1
    length_penalty: object  # float32, what a text's number of tokens is raised to
    min_new_tokens: object = None  # int32, before which no text ends; None is off


class Rules(NamedTuple):
    """What holds for all rows; `zoo.text.config.SearchConfig` has the meaning of each."""

    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    forced_end: bool = False
    banned_ids: Sequence[int] = ()
    renormalize: bool = False


class Beams(NamedTuple):
    """What was found, best first; of a row with fewer beams the last ones are empty."""

    token_ids: object  # (B, K, N) int32, then padding (id 0)
    lengths: object  # (B, K) int32, without the end token
    scores: object  # (B, K) float32, sum of log p(token) / tokens ** length_penalty, or 0


class _Request(NamedTuple):
    model: object
    options: BeamOptions
    width: object  # K
    rules: Rules
    end_ids: Sequence[int]
    banned_ids: Sequence[int]
    start_ids: Sequence[int]  # that all texts begin with
    max_slots: object
    write: Callable


class _State(NamedTuple):
    step: object  # () int32, tokens chosen so far
    last: object  # (B*K,) the newest token of each beam
    tokens: object  # (B, K, N)
    scores: object  # (B, K) sum of log p(token)
    finished: Beams
    is_open: object  # (B,) whether something better may still be found
    slots: object  # () int32, slots of the cache
    cache: object


def beam_search(
    model,
    start_ids: Sequence[int],
    options: BeamOptions,
    width,
    max_steps,
    end_ids: Sequence[int] = (),
    banned_ids: Sequence[int] = (),
    write: Callable = ops.scatter_update,
    rules: Rules = Rules(),  # noqa: B008  it does not change
) -> Beams:
    """The best `num_beams` texts of each row, whatever its neighbours are.

    All begin with `start_ids`, of which the first is not counted by a length penalty; the model
    decodes B * K rows, those of one source together. The `width` K is the largest of
    `options.num_beams`, `max_steps` N that of `max_new_tokens`, which must fit the context with the
    start ids; ints where shapes are static (JAX).
    """
    batch_size, prompt = ops.shape(options.num_beams)[0], len(start_ids)
    max_slots = max_steps + prompt - 1
    slots = minimum(SLOT_BLOCK + prompt, max_slots)
    if isinstance(max_slots, int):  # static shapes: all slots at once
        slots = max_slots
    request = _Request(
        *(model, options, width, rules, end_ids, banned_ids, start_ids, max_slots, write)
    )
    empty = ops.zeros((batch_size, width, max_steps), "int32")
    never = ops.full((batch_size, width), _NEVER, "float32")
    none = ops.full((batch_size, width), _NONE, "float32")
    # All beams begin alike, so the first one counts alone.
    first = ops.arange(width, dtype="int32")[None] == 0
    last = ops.full((batch_size * width,), start_ids[-1], "int32")
    cache = model.initial_cache(batch_size * width, slots)
    if prompt > 1:
        before = ops.broadcast_to(
            ops.convert_to_tensor(start_ids[:-1], "int32"), (batch_size * width, prompt - 1)
        )
        _, cache = model.decode(before, cache, ops.zeros_like(last))
    state = _State(
        step=ops.cast(0, "int32"),
        last=last,
        tokens=empty,
        scores=ops.where(first, 0.0, never),
        finished=Beams(empty, ops.zeros_like(never, "int32"), none),
        is_open=options.sampling.max_new_tokens > 0,
        slots=ops.cast(slots, "int32"),
        cache=cache,
    )
    found = _search(request, state).finished
    # Behind a row's beams may stand texts that better ones have displaced.
    unused = found.scores <= _NONE / 2
    lengths, scores = ops.where(unused, 0, found.lengths), ops.where(unused, 0.0, found.scores)
    return found._replace(lengths=lengths, scores=scores)


def _search(request: _Request, state: _State) -> _State:
    """Extends beams until no row is open."""

    def is_open(*state):
        return ops.any(_State(*state).is_open)

    def extend(*state):
        return tuple(_extend(request, _State(*state)))

    if isinstance(request.max_slots, int):
        return _State(*ops.while_loop(is_open, extend, tuple(state)))

    def has_slots(*state):
        free = _place(request, _State(*state)) < _State(*state).slots
        return ops.logical_and(is_open(*state), free)

    def fill_slots(*state):
        state = _State(*state)
        more = ops.where(_place(request, state) < state.slots, 0, SLOT_BLOCK)
        more = ops.minimum(more, request.max_slots - state.slots)
        cache = request.model.extend_cache(state.cache, more)
        state = state._replace(cache=cache, slots=state.slots + more)
        return ops.while_loop(has_slots, extend, tuple(state))

    return _State(*ops.while_loop(is_open, fill_slots, tuple(state)))


def _place(request: _Request, state: _State):
    """The slot of the newest token."""
    return state.step + (len(request.start_ids) - 1)


def _at(ids: Sequence[int], size: int) -> np.ndarray:
    """(V,) about minus infinity at these ids, else 0."""
    values = np.zeros((size,), "float32")
    values[list(ids)] = _NEVER
    return values


def _log_probabilities(request: _Request, state: _State, logits):
    """Of each beam's next tokens by the rules, from logits (B*K, V): (B, K, V)."""
    rules, options, vocabulary = request.rules, request.options, logits.shape[-1]
    found = ops.log_softmax(logits, axis=-1)
    if rules.no_repeat_ngram_size:
        found = ops.where(_repeats(request, state, vocabulary), _NEVER, found)
    found = ops.reshape(found, (-1, request.width, vocabulary))
    bias = _at(rules.banned_ids, vocabulary)
    if options.min_new_tokens is not None:
        may_end = (state.step >= options.min_new_tokens)[:, None, None]  # (B, 1, 1)
        bias = ops.where(may_end, bias, bias + _at(request.end_ids, vocabulary))
    found = found + bias
    if rules.forced_end:
        others = _at({*range(vocabulary)} - {*request.end_ids}, vocabulary)
        is_last = state.step + 1 >= options.sampling.max_new_tokens
        found = ops.where(is_last[:, None, None], others, found)
    if rules.renormalize:
        found = ops.log_softmax(found, axis=-1)
    return found + _at(request.banned_ids, vocabulary)


def _repeats(request: _Request, state: _State, vocabulary: int):
    """(B*K, V) bool: which tokens would end a run of tokens that stands in the text already."""
    more, place = request.rules.no_repeat_ngram_size - 1, _place(request, state)
    tokens = ops.reshape(state.tokens, (-1, ops.shape(state.tokens)[2]))
    rows, width = ops.shape(tokens)
    start = ops.convert_to_tensor(request.start_ids, "int32")
    start = ops.broadcast_to(start, (rows, len(request.start_ids)))
    width = width + len(request.start_ids)
    tokens = ops.pad(ops.concatenate([start, tokens], axis=1), [[0, 0], [0, more]])
    same = (ops.arange(width, dtype="int32") + more <= place)[None]  # runs that are complete
    for offset in range(more):
        newest = ops.take(tokens, ops.maximum(place + 1 - more + offset, 0), axis=1)
        same = ops.logical_and(same, tokens[:, offset : offset + width] == newest[:, None])
    # What no run ends with goes to an extra class.
    ends = ops.where(same, tokens[:, more : more + width], vocabulary)
    return seen_tokens(ends, ops.full((rows,), width, "int32"), vocabulary)


def _extend(request: _Request, state: _State) -> _State:
    """Reads the newest token of each beam and keeps the best continuations of all of a row's."""
    options, width = request.options, request.width
    position = ops.broadcast_to(_place(request, state), ops.shape(state.last))
    logits, cache = request.model.decode_token(state.last, state.cache, position, request.write)
    vocabulary = logits.shape[-1]
    batch_size = ops.shape(state.scores)[0]
    log_probabilities = _log_probabilities(request, state, logits)
    totals = state.scores[:, :, None] + log_probabilities
    # Twice as many as beams: should half of them end, a row still has as many to go on with.
    totals = ops.reshape(totals, (batch_size, width * vocabulary))
    scores, index = ops.top_k(totals, 2 * width)  # (B, 2K)
    rank = ops.arange(2 * width, dtype="int32")[None]
    num_beams = options.num_beams[:, None]  # (B, 1)
    beams = ops.cast(index // vocabulary, "int32")
    chosen = ops.cast(index % vocabulary, "int32")
    is_single = num_beams == 1
    token, score = _sampled(request, state, log_probabilities[:, 0])
    is_sampled = ops.logical_and(is_single, rank == 0)
    scores = ops.where(is_sampled, score[:, None], scores)
    beams = ops.where(is_sampled, 0, beams)
    chosen = ops.where(is_sampled, token[:, None], chosen)
    most = options.sampling.max_new_tokens
    step = state.step + 1
    ends = ops.zeros_like(chosen, "bool")
    for end_id in request.end_ids:
        ends = ops.logical_or(ends, chosen == end_id)
    stops = ops.logical_or(ends, (step >= most)[:, None])

    columns = ops.arange(ops.shape(state.tokens)[2], dtype="int32")
    here = ops.logical_and(columns == state.step, ops.logical_not(ends)[..., None])
    tokens = ops.where(here, chosen[..., None], _of_beams(state.tokens, beams))  # (B, 2K, N)

    # What ended in this step stands beside what had ended, if it is among the best.
    counted = ops.cast(_place(request, state) + 1, "float32")
    penalty = counted ** options.length_penalty[:, None]
    ended = ops.logical_and(stops, ops.logical_and(rank < num_beams, state.is_open[:, None]))
    ended = ops.logical_and(ended, scores > _NEVER / 2)
    lengths = step - ops.cast(ends, "int32")
    new = Beams(tokens, lengths, ops.where(ended, scores / penalty, _NONE))
    merged = [ops.concatenate(pair, axis=1) for pair in zip(state.finished, new)]
    best, order = ops.top_k(merged[2], width)
    is_beam = rank[:, :width] < num_beams  # (B, K)
    best = ops.where(is_beam, best, _NONE)
    finished = Beams(_of_beams(merged[0], order), _of_beams(merged[1], order), best)

    continues = rank < ops.where(is_single, 1, 2 * num_beams)
    goes_on = ops.logical_and(ops.logical_not(stops), continues)
    scores, order = ops.top_k(ops.where(goes_on, scores, scores + _NEVER), width)
    scores = ops.where(is_beam, scores, _NEVER)
    beams = _of_beams(beams, order)
    # A row goes on while it has found too few texts, or its best beam beats the worst of them.
    worst = ops.min(ops.where(is_beam, best, -_NONE), axis=1)
    may_improve = ops.logical_not(is_single[:, 0])
    if request.rules.early_stopping == "never":
        longest = ops.cast(most + len(request.start_ids) - 1, "float32")
        longest = ops.where(options.length_penalty > 0, longest, counted)
        penalty = (longest**options.length_penalty)[:, None]
    if request.rules.early_stopping is True:
        may_improve = ops.zeros_like(may_improve)
    better = scores[:, 0] / penalty[:, 0] > worst
    may_improve = ops.logical_or(worst <= _NONE / 2, ops.logical_and(may_improve, better))
    unfinished = step < most
    flat = ops.reshape(beams + width * ops.arange(batch_size, dtype="int32")[:, None], (-1,))

    def reordered():
        return keras.tree.map_structure(lambda part: ops.take(part, flat, axis=0), cache)

    if isinstance(width, int):
        cache = reordered() if width > 1 else cache
    else:
        cache = ops.cond(width > 1, reordered, lambda: cache)
    return state._replace(
        step=step,
        last=ops.reshape(_of_beams(chosen, order), (-1,)),
        tokens=_of_beams(tokens, order),
        scores=scores,
        finished=finished,
        is_open=ops.logical_and(state.is_open, ops.logical_and(may_improve, unfinished)),
        cache=cache,
    )


def _sampled(request: _Request, state: _State, log_probabilities):
    """The next token of each row with one beam, and the score with it: both (B,)."""
    options = request.options.sampling
    token = sample(
        log_probabilities,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        step=state.step,
    )
    chosen = ops.take_along_axis(log_probabilities, token[:, None], axis=1)
    return token, state.scores[:, 0] + chosen[:, 0]


def _of_beams(values, index):
    """Entries (B, J, ...) of `values` (B, K, ...) by `index` (B, J)."""
    batch_size, count = ops.shape(values)[:2]
    rows = ops.cast(index, "int32") + count * ops.arange(batch_size, dtype="int32")[:, None]
    inner = ops.shape(values)[2:]
    return ops.take(ops.reshape(values, (batch_size * count, *inner)), rows, axis=0)
