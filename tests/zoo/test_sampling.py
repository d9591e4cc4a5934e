"""Sampling against plain numpy, on logits we did not choose."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from keras import ops

from zoo.generation.sampling import (
    drop_unlikely,
    filter_logits,
    gumbel,
    penalize_repetition,
    sample,
)

numpy = ops.convert_to_numpy


def tensor(values, dtype):
    return ops.convert_to_tensor(np.array(values, dtype))


def draw(logits, temperature, top_k=0, top_p=1.0, seed=0, step=0, min_p=0.0):
    rows = len(logits)
    return numpy(
        sample(
            tensor(logits, "float32"),
            temperature=tensor(np.broadcast_to(temperature, rows), "float32"),
            top_k=tensor(np.broadcast_to(top_k, rows), "int32"),
            top_p=tensor(np.broadcast_to(top_p, rows), "float32"),
            min_p=tensor(np.broadcast_to(min_p, rows), "float32"),
            seed=tensor(np.broadcast_to(seed, rows), "int32"),
            step=step,
        )
    )


def reference_kept(logits, k, p):
    """The kept ids by the definition: sort, cut at k, then the shortest prefix that reaches p.

    `None` where a prefix sum is so near p that float32 may fall on either side.
    """
    order = np.argsort(-logits, kind="stable")
    order = order[: k or len(order)]
    if p == 1:
        return set(order.tolist())
    probabilities = np.exp(logits[order].astype("float64") - logits[order].max())
    sums = np.cumsum(probabilities / probabilities.sum())[:-1]
    if np.any(np.abs(sums - p) < 1e-5):
        return None
    return set(order[: 1 + int(np.sum(sums < p))].tolist())


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 14), st.floats(0.01, 1.0))
@example(14, 0, 1.0)  # on JAX the eleven likeliest add up to 1 exactly
def test_filter_keeps_what_the_definition_keeps(seed, k, p):
    logits = np.random.default_rng(seed).normal(0, 3, (12,)).astype("float32")
    expected = reference_kept(logits, k, p)
    assume(expected is not None)
    kept = numpy(
        filter_logits(tensor([logits], "float32"), tensor([k], "int32"), tensor([p], "float32"))
    )
    assert set(np.flatnonzero(kept[0] > -1e8).tolist()) == expected


def test_temperature_zero_is_argmax_and_top_k_one_too():
    logits = np.random.default_rng(0).normal(size=(50, 9))
    expected = logits.argmax(1)
    np.testing.assert_array_equal(draw(logits, 0.0), expected)
    np.testing.assert_array_equal(draw(logits, 3.0, top_k=1, seed=range(50)), expected)
    np.testing.assert_array_equal(draw(logits, 3.0, top_p=1e-6, seed=range(50)), expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    logits = np.array([0.0, 1.0, -1.0, 2.0])
    rows = 40_000
    tokens = draw(np.tile(logits, (rows, 1)), temperature, seed=range(rows), step=5)
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    # 5 standard deviations of a binomial share
    margin = 5 * np.sqrt(expected * (1 - expected) / rows)
    assert (np.abs(np.bincount(tokens, minlength=4) / rows - expected) < margin).all()


def test_a_rows_draw_is_its_own():
    """Same seed, same token, wherever the row stands and whatever its neighbours want."""
    logits = np.random.default_rng(1).normal(size=(6, 20))
    temperature = np.array([0.0, 1.0, 1.0, 0.7, 2.0, 1.0])
    top_k, top_p = np.array([0, 0, 3, 0, 5, 0]), np.array([1.0, 1.0, 1.0, 0.4, 0.9, 1.0])
    seeds = np.arange(6) * 1000
    min_p = np.array([0.0, 0.0, 0.3, 0.0, 0.0, 0.8])
    together = draw(logits, temperature, top_k, top_p, seeds, 2, min_p)
    for row in range(6):
        one = slice(row, row + 1)
        options = (values[one] for values in (logits, temperature, top_k, top_p, seeds))
        alone = draw(*options, 2, min_p[one])
        assert alone[0] == together[row]


def test_noise_is_gumbels_and_depends_on_seed_step_and_place():
    seeds = tensor(np.arange(-20_000, 20_000), "int32")
    values = numpy(gumbel(seeds, 3, 3))
    for column in values.T:  # by its distribution function evenly in [0, 1]
        counts = np.histogram(np.exp(-np.exp(-column)), 20, (0, 1))[0]
        assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()
    others = [
        numpy(gumbel(seeds, 4, 3))[:, 0],
        values[:, 1],
        values[:, 2],
        np.roll(values[:, 0], 1),
    ]
    for other in others:
        assert abs(np.corrcoef(values[:, 0], other)[0, 1]) < 0.03
    # Neighbouring places of one row, of which a vocabulary has many.
    row = numpy(gumbel(seeds[:1], 0, 100_000))[0]
    assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 0.02
    counts = np.histogram(np.exp(-np.exp(-row)), 20, (0, 1))[0]
    assert (np.abs(counts - 5000) < 5 * np.sqrt(5000)).all()
    # The same numbers on every backend and machine: served and Python sampling must agree.
    expected = [[0.22478072, -0.9015484], [0.3915838, -0.15323664], [0.98488843, 0.6999181]]
    np.testing.assert_allclose(
        numpy(gumbel(tensor([-2, -1, 0], "int32"), 3, 2)), expected, rtol=1e-5
    )


def test_rare_tokens_of_a_large_vocabulary_are_as_frequent_as_they_are_likely():
    """One token with half of the probability, 50,000 with a hundred-thousandth each."""
    rows, size = 400, 50_000
    logits = np.zeros(size + 1, "float32")
    logits[0] = np.log(size)
    tokens = draw(np.tile(logits, (rows, 1)), 1.0, seed=range(rows))
    rare = tokens[tokens > 0]
    assert abs(len(rare) - rows / 2) < 5 * np.sqrt(rows / 4)
    assert abs(rare.mean() - size / 2) < 5 * size / np.sqrt(12 * len(rare))
    assert len(set(rare.tolist())) > 0.98 * len(rare)


def test_a_rounding_of_the_logits_seldom_changes_a_draw():
    """As between a row alone and in a batch; a point among summed probabilities moves 3 of 200."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, 20_000)).astype("float32")
    rounded = logits + rng.normal(0, 1e-4, logits.shape).astype("float32")
    assert (draw(logits, 1.0, seed=range(200)) == draw(rounded, 1.0, seed=range(200))).all()


def test_repetition_penalty():
    logits = tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]], "float32")
    seen = ops.convert_to_tensor(np.array([[True, True, False], [False, False, False]]))
    result = numpy(penalize_repetition(logits, seen, tensor([2.0, 2.0], "float32")))
    np.testing.assert_allclose(result, [[1.0, -4.0, 1.0], [2.0, -2.0, 1.0]])


# As transformers' processors made them: `python -m tools.logits_processors`.
RECORDED = Path(__file__).parent / "fixtures" / "logits_processors.json"


def test_penalty_temperature_and_filters_together_are_those_of_transformers():
    cases = json.loads(RECORDED.read_text(encoding="utf-8"))["cases"]
    columns = {name: np.array([case[name] for case in cases]) for name in cases[0]}
    seen = np.zeros(columns["logits"].shape, bool)
    np.put_along_axis(seen, columns["seen"], True, axis=1)
    options = {
        name: tensor(columns[name], "int32" if name == "top_k" else "float32")
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    }
    logits = penalize_repetition(
        tensor(columns["logits"], "float32"),
        ops.convert_to_tensor(seen),
        options["repetition_penalty"],
    )
    scaled = logits / options["temperature"][:, None]
    kept = drop_unlikely(
        filter_logits(scaled, options["top_k"], options["top_p"]), options["min_p"]
    )
    expected = columns["probabilities"]
    assert (expected == 0).any() and (expected > 0).sum(axis=1).max() == expected.shape[1]
    np.testing.assert_allclose(numpy(ops.softmax(kept, axis=-1)), expected, atol=1e-6)
    # `sample` puts them together in that order: what it draws has these frequencies.
    draws = 500
    tokens = draw(
        np.repeat(numpy(logits), draws, axis=0),
        *(np.repeat(columns[name], draws) for name in ("temperature", "top_k", "top_p")),
        seed=np.arange(draws * len(cases)),
        min_p=np.repeat(columns["min_p"], draws),
    )
    shares = np.stack([np.bincount(row, minlength=14) for row in tokens.reshape(-1, draws)]) / draws
    assert not shares[expected == 0].any()
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws)).all()


def test_min_p_keeps_by_the_likeliest():
    logits = np.log([[0.5, 0.3, 0.15, 0.05]] * 4)
    kept = drop_unlikely(tensor(logits, "float32"), tensor([0.0, 0.2, 0.5, 0.99], "float32"))
    assert (numpy(kept) > -1e8).sum(axis=1).tolist() == [4, 3, 2, 1]
