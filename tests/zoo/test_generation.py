"""Generation and scoring against the slow way: one forward pass for every token."""

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import (
    CONFIGS,
    VOCABULARY_SIZE,
    compiled,
    forward,
    greedy_options,
    shared_model,
)

from zoo.generation import loop as generation
from zoo.generation.loop import SamplingOptions, last_tokens
from zoo.models.build import build

numpy = ops.convert_to_numpy
FAMILIES = ["gpt_defaults", "gpt_faithful", "lstm_defaults"]
CONTEXT = 12


def tensor(values, dtype="int32"):
    return ops.convert_to_tensor(np.array(values, dtype))


def generate(model, ids, lengths, options, max_steps, **keywords):
    @compiled
    def run(ids, lengths, options):
        return generation.generate(model, ids, lengths, options, max_steps, **keywords)

    return run(ids, lengths, options)


def log_probabilities(model, ids, lengths, start_id):
    @compiled
    def run(ids, lengths):
        return generation.log_probabilities(model, ids, lengths, start_id)

    return run(ids, lengths)


def batch_of(prompts):
    """Right-padded ids with rubbish in the padding, and lengths."""
    width = max(map(len, prompts))
    rows = [[*prompt, *[5] * (width - len(prompt))] for prompt in prompts]
    return tensor(rows), tensor([len(prompt) for prompt in prompts])


def next_log_probabilities(model, sequence):
    """By a whole forward pass. Padded to one shape: JAX compiles every shape anew."""
    width = CONTEXT if model.cache_is_bounded else 40
    padded = np.array([[*sequence, *[0] * (width - len(sequence))]], "int32")
    return numpy(ops.log_softmax(forward(model)(padded), axis=-1))[0, len(sequence) - 1]


def slow_greedy(model, prompt, steps):
    """Greedy continuation by whole forward passes, with the documented sliding window."""
    window, out, total = list(prompt)[-CONTEXT:], [], 0.0
    for _ in range(steps):
        log_probabilities = next_log_probabilities(model, window)
        token = int(log_probabilities.argmax())
        total += log_probabilities[token]
        out.append(token)
        if model.cache_is_bounded and len(window) == CONTEXT:
            window = window[-(CONTEXT // 2) :]
        window.append(token)
    return out, total


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_equals_the_slow_way(name):
    """Short, exact-length and over-long prompts in one batch, well past the context."""
    model = shared_model(name)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, VOCABULARY_SIZE, n).tolist() for n in (1, 4, 12, 19)]
    ids, lengths = batch_of(prompts)
    result = generate(model, ids, lengths, greedy_options(4, 20), 20)
    for row, prompt in enumerate(prompts):
        expected, total = slow_greedy(model, prompt, 20)
        assert numpy(result.token_ids)[row].tolist() == expected
        assert numpy(result.log_probability)[row] == pytest.approx(total, rel=1e-4)
    assert numpy(result.lengths).tolist() == [20] * 4


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", FAMILIES)
def test_a_rows_answer_does_not_depend_on_its_neighbours(name):
    model = shared_model(name)
    prompts = [[1], [2, 3, 4, 5, 6], [7] * 11, [8, 9]]
    fields = {
        "max_new_tokens": np.array([20, 3, 9, 0], "int32"),
        "temperature": np.array([1.0, 0.0, 0.7, 1.0], "float32"),
        "top_k": np.array([0, 0, 4, 0], "int32"),
        "top_p": np.array([0.9, 1.0, 1.0, 1.0], "float32"),
        "seed": np.array([7, 8, 9, 10], "int32"),
    }

    def run(rows):
        ids, lengths = batch_of([prompts[row] for row in rows])
        options = SamplingOptions(
            **{name: ops.convert_to_tensor(value[rows]) for name, value in fields.items()}
        )
        steps = int(fields["max_new_tokens"][rows].max())
        result = generate(model, ids, lengths, options, steps)
        return [
            numpy(result.token_ids)[i, : numpy(result.lengths)[i]].tolist()
            for i in range(len(rows))
        ]

    together = run([0, 1, 2, 3])
    assert [len(tokens) for tokens in together] == [20, 3, 9, 0]
    for row in range(4):
        assert run([row]) == [together[row]]
    assert run([2, 0]) == [together[2], together[0]]


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", ["gpt_defaults", "lstm_defaults"])  # a bounded cache and none
def test_finished_rows_leave_the_batch_and_all_answers_are_the_same(name):
    import tensorflow as tf

    model, rng, rows_kept = shared_model(name), np.random.default_rng(5), []

    def take(tensor, kept):
        if tensor.dtype == tf.bool:  # `finished`, once each time that rows leave
            tf.numpy_function(lambda rows: rows_kept.append(rows.tolist()), [kept], [])
        return tf.gather(tensor, kept)

    def function(**more):
        row, ids_spec = (tf.TensorSpec([None] * rank, tf.int32) for rank in (1, 2))

        @tf.function(autograph=False, input_signature=[ids_spec, row, row, row])
        def run(ids, lengths, most, seeds):
            zeros = tf.zeros_like(most)
            temperature = tf.cast(seeds % 2, tf.float32)  # every other row draws
            options = SamplingOptions(most, temperature, zeros, temperature * 0 + 1.0, seeds)
            return generation.generate(
                model, ids, lengths, options, tf.reduce_max(most), end_ids=(3,), **more
            )

        return run

    staying, leaving = function(), function(take=take)
    for count in (1, 2, 3, 8, 8, 8):
        prompts = [rng.integers(0, VOCABULARY_SIZE, n).tolist() for n in rng.integers(1, 19, count)]
        most = rng.integers(0, 40, count).astype("int32")
        ids, lengths = batch_of(prompts)
        given = ids, lengths, most, rng.integers(0, 99, count).astype("int32")
        expected, found = staying(*given), leaving(*given)
        for one, other in zip(expected[:2], found[:2]):
            assert numpy(one).tolist() == numpy(other).tolist()
        np.testing.assert_allclose(expected.log_probability, found.log_probability, rtol=1e-5)
    assert {len(rows) for rows in rows_kept} >= {1, 6}


@pytest.mark.tensorflow_only
def test_end_token_stops_a_row_and_is_not_returned():
    model = shared_model("gpt_defaults")
    ids, lengths = batch_of([[1, 2, 3], [4, 5]])
    free = generate(model, ids, lengths, greedy_options(2, 12), 12)
    end_id = int(numpy(free.token_ids)[0, 4])
    stopped = generate(model, ids, lengths, greedy_options(2, 12), 12, end_ids=(end_id,))
    for row in range(2):
        tokens = numpy(free.token_ids)[row].tolist()
        expected = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
        count = int(numpy(stopped.lengths)[row])
        assert numpy(stopped.token_ids)[row].tolist() == expected + [0] * (12 - count)
        assert count == len(expected)


@pytest.mark.tensorflow_only
def test_banned_ids_never_appear_and_penalty_discourages():
    model = shared_model("gpt_defaults")
    ids, lengths = batch_of([[1, 2, 3]])
    banned = set(
        numpy(generate(model, ids, lengths, greedy_options(1, 9), 9).token_ids)[0].tolist()
    )
    other = generate(model, ids, lengths, greedy_options(1, 9), 9, banned_ids=tuple(banned))
    assert not banned & set(numpy(other.token_ids)[0].tolist())
    harsh = greedy_options(1, 9)._replace(repetition_penalty=tensor([1e6], "float32"))
    tokens = numpy(generate(model, ids, lengths, harsh, 9).token_ids)[0].tolist()
    assert len({*tokens, 1, 2, 3}) == 12  # nothing comes twice


def test_last_tokens():
    ids, lengths = last_tokens(tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]), tensor([5, 2]), 3)
    assert numpy(ids)[0].tolist() == [3, 4, 5]
    assert numpy(ids)[1, :2].tolist() == [6, 7]
    assert numpy(lengths).tolist() == [3, 2]


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_of_tokens_equal_the_forward_pass(name):
    model = shared_model(name)
    texts = [[3, 1, 4, 1, 5, 9, 2, 6], [5], [], [2] * 12]
    ids, lengths = batch_of(texts)
    scores = numpy(log_probabilities(model, ids, lengths, start_id=11))
    assert scores.shape == (4, 12) and scores.dtype == np.float32
    for score, text in zip(scores, texts):
        if text:
            padded = np.array([[11, *text[:-1], *[0] * (CONTEXT - len(text))]], "int32")
            expected = numpy(ops.log_softmax(forward(model)(padded), axis=-1))[0]
            expected = expected[np.arange(len(text)), text]
            np.testing.assert_allclose(score[: len(text)], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, CONTEXT + 1, 40])
def test_scores_of_long_text_are_of_each_token(name, length):
    """A GPT sees at least half a context of past; an LSTM all of it."""
    model = shared_model(name)
    text = np.random.default_rng(0).integers(0, VOCABULARY_SIZE, length).tolist()
    ids, lengths = batch_of([text])
    scores = numpy(log_probabilities(model, ids, lengths, start_id=11))[0]
    sequence, expected = [11, *text], []
    stride = CONTEXT // 2
    for target in range(1, length + 1):
        first = 0
        if model.cache_is_bounded:
            first = max((target - 1) // stride * stride + stride - CONTEXT, 0)
        expected.append(next_log_probabilities(model, sequence[first:target])[sequence[target]])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 63, 64, 150])
def test_pieces_are_as_the_whole_text(width):
    model = shared_model("gpt_defaults")
    random = np.random.default_rng(width)
    hidden = random.normal(size=(3, width, model.backbone.output_dim)).astype("float32")
    targets = random.integers(0, VOCABULARY_SIZE, (3, width), "int32")
    logs = numpy(ops.log_softmax(model.backbone.logits(hidden), axis=-1))
    expected = np.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
    tensors = (ops.convert_to_tensor(x) for x in (hidden, targets))
    found = numpy(generation.target_log_probabilities(model.backbone, *tensors))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.tensorflow_only
def test_next_token_probabilities():
    model = shared_model("gpt_defaults")
    ids, lengths = batch_of([[1, 2, 3], [4]])
    candidates, probabilities = generation.next_token_probabilities(model, ids, lengths, 4)
    softmax = numpy(ops.softmax(model(np.array([[4]], "int32"))))[0, -1]
    assert numpy(candidates)[1].tolist() == np.argsort(-softmax)[:4].tolist()
    np.testing.assert_allclose(numpy(probabilities)[1], np.sort(softmax)[::-1][:4], rtol=1e-4)


@pytest.mark.tensorflow_only
def test_a_cache_that_grows_gives_the_same_text():
    """Dynamic shapes, as served: the cache grows twice, then slides; static ones: one size."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = build(CONFIGS["gpt_grouped_query"], num_layers=1, context_length=100)
    prompts, lengths = batch_of([[1, 2, 3], [4] * 20])
    options = greedy_options(2, 120)._replace(
        temperature=tensor([0.0, 1.0], "float32"), max_new_tokens=tensor([120, 90])
    )
    sizes = []
    extend = model.extend_cache
    model.extend_cache = lambda cache, extra: sizes.append(extra) or extend(cache, extra)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([], tf.int32),
        ],
    )
    def dynamic(ids, lengths, steps):
        return generation.generate(model, ids, lengths, options, steps)

    @tf.function(autograph=False)
    def static():
        return generation.generate(model, prompts, lengths, options, 120)

    whole = static()
    assert sizes == []
    grown = dynamic(prompts, lengths, tf.constant(120))
    assert len(sizes) == 1  # traced once, run as often as needed
    np.testing.assert_array_equal(numpy(grown.token_ids), numpy(whole.token_ids))
    assert numpy(grown.lengths).tolist() == [120, 90]
