"""Encoder-decoders: what a target token may depend on, the cache, beam search, what is saved."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import VOCABULARY_SIZE, cases, compile_model, compiled, forward

import zoo
from zoo.generation.beam_search import BeamOptions, beam_search
from zoo.generation.loop import SamplingOptions, generate
from zoo.models.build import build, count_weights
from zoo.models.configs import EncoderDecoderConfig, LSTMEncoderDecoderConfig
from zoo.models.encoder_decoder import ConditionedDecoder

numpy = ops.convert_to_numpy
_SHAPE = {
    "vocabulary_size": VOCABULARY_SIZE,
    "context_length": 12,
    "num_layers": 1,
    "decoder_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "initializer_range": 0.6,
}
_T5 = {"positions": "relative", "relative_buckets": 8, "relative_distance": 6, "key_dim": 6}
_BART = {"norm": "layer_norm", "use_bias": True, "norm_placement": "post"}
CONFIGS = {
    "modern": EncoderDecoderConfig(**_SHAPE, qk_norm=True),
    "t5": EncoderDecoderConfig(**_SHAPE, **_T5, query_scalar=1, scale_logits=True),
    "t5_untied": EncoderDecoderConfig(
        **_SHAPE, **_T5, activation="geglu_tanh", tie_embeddings=False
    ),
    "bart": EncoderDecoderConfig(
        **_SHAPE,
        **_BART,
        positions="learned",
        embedding_norm=True,
        activation="gelu",
        logit_bias=True,
    ),
    "marian": EncoderDecoderConfig(
        **_SHAPE, **_BART, positions="sinusoidal", activation="silu", scale_embeddings=True
    ),
    "lstm": LSTMEncoderDecoderConfig(
        VOCABULARY_SIZE, 12, 2, 8, embedding_dim=6, initializer_range=0.6, tie_embeddings=False
    ),
}
ON_JAX = ["modern", "t5"]
BANNED = 5  # an id that no search may choose
MASK = np.arange(7) < np.array([7, 1, 4])[:, None]


@functools.cache
def shared(name):
    """A model for all tests that do not change it."""
    keras.utils.set_random_seed(3)
    model = build(CONFIGS[name], "translate")
    if getattr(CONFIGS[name], "logit_bias", False):
        model.backbone.logit_bias.assign(np.linspace(-1, 1, VOCABULARY_SIZE))
    return model


def random_ids(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY_SIZE, (rows, length), "int32")


def logits_of(model, sources, mask, targets):
    inputs = {"token_ids": sources, "padding_mask": mask, "target_ids": targets}
    return numpy(forward(model)(inputs))


@pytest.mark.parametrize("name", cases(CONFIGS, ON_JAX))
def test_padding_the_future_and_neighbours_change_nothing(name):
    model, sources, targets = shared(name), random_ids(3, 7), random_ids(3, 6, 1)
    logits = logits_of(model, sources, MASK, targets)
    garbage = np.where(MASK, sources, (sources + 3) % VOCABULARY_SIZE)
    future = np.concatenate([targets[:, :4], targets[:, 4:] * 0], axis=1)
    np.testing.assert_allclose(
        logits_of(model, garbage, MASK, future)[:, :4], logits[:, :4], atol=1e-5
    )
    for row, length in enumerate(MASK.sum(axis=1)):
        alone = logits_of(model, sources[row : row + 1, :length], None, targets[row : row + 1])
        np.testing.assert_allclose(logits[row], alone[0], atol=1e-5)
    # The source counts: all of it, and the order of its tokens.
    last = sources.copy()
    last[0, 6] = (last[0, 6] + 1) % VOCABULARY_SIZE
    assert np.abs(logits_of(model, last, MASK, targets)[0, 0] - logits[0, 0]).max() > 1e-4
    swapped = sources[:, ::-1].copy()
    assert np.abs(logits_of(model, swapped, None, targets)[0] - logits[0]).max() > 1e-4


@pytest.mark.parametrize("name", cases(CONFIGS, ON_JAX))
def test_the_cache_gives_the_logits_of_a_whole_pass(name):
    model, sources, targets = shared(name), random_ids(3, 7), random_ids(6, 6, 1)

    @compiled
    def run(sources, mask, targets):
        decoder = model.decoder(sources, mask)
        logits, cache = decoder.decode(
            targets[:, :2], decoder.initial_cache(6, 4), ops.zeros(6, "int32")
        )
        found, cache = [logits], decoder.extend_cache(cache, 3)
        for place in range(2, 6):
            position = ops.full((6,), place, "int32")
            logits, cache = decoder.decode_token(targets[:, place], cache, position)
            found.append(logits)
        return ops.stack(found, axis=1)

    # Two targets of each source, side by side.
    expected = logits_of(model, np.repeat(sources, 2, 0), np.repeat(MASK, 2, 0), targets)
    found = run(ops.convert_to_tensor(sources), ops.convert_to_tensor(MASK), targets)
    np.testing.assert_allclose(numpy(found), expected[:, 1:], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_counted_and_saved(name, tmp_path):
    model = shared(name)
    assert model.count_params() == count_weights(CONFIGS[name], "translate")
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    inputs = random_ids(1, 5), None, random_ids(1, 3)
    np.testing.assert_array_equal(logits_of(again, *inputs), logits_of(model, *inputs))


def test_a_distance_has_the_bucket_of_its_logarithm():
    layer = shared("t5").backbone.encoder.relative
    layer.embedding.set_weights([np.arange(16.0).reshape(8, 2)])
    steps = ops.arange(9, dtype="int32")
    buckets = numpy(layer(steps, steps))[0, 4] / 2  # of a token in the middle
    # 8 buckets: 4 to each side, one for each of 2 distances, then by the logarithm up to 6.
    np.testing.assert_array_equal(buckets, [3, 2, 2, 1, 0, 5, 6, 6, 7])


@pytest.mark.tensorflow_only
def test_it_learns_with_fit():
    keras.utils.set_random_seed(0)
    model = build(CONFIGS["modern"], "translate")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_model(model, keras.optimizers.Adam(0.02), loss)
    ids = random_ids(16, 5)
    inputs = {"token_ids": ids, "target_ids": ids[:, :-1], "padding_mask": np.ones_like(ids, bool)}
    losses = model.fit(inputs, ids[:, 1:], epochs=12, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def slow_beams(model, source, num_beams, penalty, steps, start, end):
    """(score, ids) of one row, best first, by a whole pass for each beam and step."""

    def next_scores(ids):
        targets = np.zeros((1, 12), "int32")  # of one shape: JAX compiles each
        targets[0, : len(start + ids)] = start + ids
        scores = logits_of(model, source, None, targets)[0, len(start + ids) - 1]
        return np.where(np.arange(VOCABULARY_SIZE) == BANNED, -1e9, scores)

    beams, found = [(0.0, [])], []
    for step in range(steps):
        counted = step + len(start)
        every = [
            (score + own, ids, token)
            for score, ids in beams
            for token, own in enumerate(next_scores(ids).tolist())
        ]
        every = sorted(every, key=lambda one: -one[0])[: 2 * num_beams if num_beams > 1 else 1]
        beams = []
        for rank, (score, ids, token) in enumerate(every):
            if token == end or step + 1 == steps:
                if rank < num_beams:
                    found.append((score / counted**penalty, ids + [token] * (token != end)))
            elif len(beams) < num_beams:
                beams.append((score, [*ids, token]))
        found = sorted(found, key=lambda one: -one[0])[:num_beams]
        is_full = len(found) == num_beams
        if not beams or (is_full and beams[0][0] / counted**penalty <= found[-1][0]):
            break
    return found


def sampling(most, temperature=0.0):
    rows = len(most)
    return SamplingOptions(
        max_new_tokens=ops.convert_to_tensor(np.array(most, "int32")),
        temperature=ops.full((rows,), temperature, "float32"),
        top_k=ops.zeros((rows,), "int32"),
        top_p=ops.ones((rows,), "float32"),
        seed=ops.arange(rows, dtype="int32"),
    )


def search(model, sources, mask, most, beams, penalties, start, temperature=0.0):
    width, steps = max(beams), max(most)

    @compiled
    def run(sources, mask, most, beams, penalties):
        options = BeamOptions(most, beams, penalties)
        decoder = model.decoder(sources, mask)
        return beam_search(
            decoder, start, options, width, steps, end_ids=(0,), banned_ids=(BANNED,)
        )

    numbers = np.array(beams, "int32"), np.array(penalties, "float32")
    tensors = map(ops.convert_to_tensor, (sources, mask, *numbers))
    sources, mask, beams, penalties = tensors
    return run(sources, mask, sampling(most, temperature), beams, penalties)


@pytest.mark.parametrize(
    ("name", "start"),
    cases([("modern", (1,)), ("t5", (1, 2)), ("bart", (2, 1)), ("lstm", (1, 2))], [("t5", (1, 2))]),
)
def test_beams_are_those_of_a_slow_search(name, start):
    model, sources = shared(name), random_ids(3, 7, 8)
    most, beams, penalties = [6, 4, 6], [4, 2, 1], [1.0, 0.0, 2.0]
    ids, lengths, scores = map(numpy, search(model, sources, MASK, most, beams, penalties, start))
    for row in range(3):
        source = sources[row : row + 1, : MASK[row].sum()]
        slow = slow_beams(
            _scored(model), source, beams[row], penalties[row], most[row], list(start), end=0
        )
        found = [ids[row, beam, : lengths[row, beam]].tolist() for beam in range(len(slow))]
        assert found == [one for _, one in slow]
        np.testing.assert_allclose(scores[row, : len(slow)], [s for s, _ in slow], atol=1e-4)
        assert not lengths[row, len(slow) :].any() and not scores[row, len(slow) :].any()


@functools.cache
def _scored(model):
    """Log-probabilities in place of logits."""
    return lambda inputs: ops.log_softmax(model(inputs), axis=-1)


def test_rows_of_one_beam_choose_as_generate_does():
    model, sources = shared("modern"), random_ids(3, 7, 8)
    for temperature in (0.0, 1.0):
        ids, lengths, scores = search(
            model, sources, MASK, [6, 6, 5], [1, 3, 1], [0.0] * 3, (1,), temperature
        )

        @compiled
        def run(sources, mask, options):
            decoder = model.decoder(sources, mask)
            prompt, one = ops.ones((3, 1), "int32"), ops.ones((3,), "int32")
            return generate(decoder, prompt, one, options, 6, end_ids=(0,), banned_ids=(BANNED,))

        arguments = map(ops.convert_to_tensor, (sources, MASK))
        expected = run(*arguments, sampling([6, 6, 5], temperature))
        for row in (0, 2):
            np.testing.assert_array_equal(ids[row, 0], expected.token_ids[row])
            assert lengths[row, 0] == expected.lengths[row]
            np.testing.assert_allclose(scores[row, 0], expected.log_probability[row], atol=1e-4)


def test_no_room_and_wrong_inputs():
    with pytest.raises(zoo.ConfigError, match=r"cannot do task 'lm'; it can do: translate"):
        build(CONFIGS["modern"], "lm")
    with pytest.raises(zoo.ConfigError, match="relative_distance must be above half"):
        EncoderDecoderConfig(9, relative_buckets=32, relative_distance=16)
    with pytest.raises(zoo.ConfigError, match="bidirectional must be False"):
        LSTMEncoderDecoderConfig(9, bidirectional=True)
    model = shared("modern")
    with pytest.raises(TypeError, match=r"Translator takes a dict of inputs.*target_ids"):
        model({"token_ids": random_ids(1, 3)})
    mask = np.ones((1, 4), bool)
    ids = random_ids(1, 3)
    with pytest.raises(ValueError, match="padding_mask must have the shape of token_ids"):
        model({"token_ids": ids, "padding_mask": mask, "target_ids": ids})
    assert isinstance(model.decoder(ids), ConditionedDecoder)
