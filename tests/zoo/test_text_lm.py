"""Strings in, strings out: options, limits, odd inputs, and the bundle that keeps it all."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_cases import greedy_options

import zoo
from zoo.bundle import CONFIG_FILE, WEIGHTS_FILE
from zoo.generation import loop as generation
from zoo.generation.options import MAX_NEW_TOKENS, complete_options, options_by_row
from zoo.text.lm import prompt_reader, write_in_place

pytestmark = pytest.mark.tensorflow_only

TEXT = "hello world, this is a small text"


def make_bundle(folder, family="gpt"):
    keras.utils.set_random_seed(0)
    tokenizer = zoo.CharacterTokenizer.train([TEXT])
    config = {
        "gpt": zoo.GPTConfig(
            vocabulary_size=tokenizer.vocabulary_size,
            context_length=8,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            initializer_range=0.5,
        ),
        "lstm": zoo.LSTMConfig(
            vocabulary_size=tokenizer.vocabulary_size, context_length=8, hidden_dim=8
        ),
    }[family]
    return zoo.save(folder, zoo.build(config), tokenizer)


@pytest.fixture(scope="module", params=["gpt", "lstm"])
def lm(request, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"), request.param).lm


def test_blocks_of_one_kind_are_read_by_one_graph():
    """With the weights of each: every second block has a window, none has the first one's."""
    kinds = ("full_attention", "sliding_attention")
    config = zoo.GPTConfig(20, 16, 5, 4, 16, token_shift=2, sliding_window=4, layer_types=kinds)
    model = zoo.build(config)
    for seed, variable in enumerate(model.variables):
        variable.assign(keras.random.normal(variable.shape, stddev=0.5, seed=seed))
    ids, lengths = np.arange(24, dtype="int32").reshape(2, 12) % 20, np.int32([12, 9])
    inputs = ids, model.initial_cache(2, 14), np.zeros(2, "int32"), lengths
    read = tf.function(prompt_reader(model).backbone.decode).get_concrete_function(*inputs)
    expected, got = (tf.nest.flatten(one(*inputs)) for one in (model.backbone.decode, read))
    for wanted, value in zip(expected, got, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)
    functions = read.graph.as_graph_def().library.function
    names = [function.signature.name for function in functions]
    assert sum(name.startswith("__inference_read_block_") for name in names) == 2


def test_text_is_the_prompt_byte_for_byte_and_the_completion(lm):
    prompts = [b"hello", b"", "\u4f60\u597d".encode(), b"\xff\x00\xfe", b"hello " * 100]
    outputs = lm.generate(prompts, max_new_tokens=5)
    for prompt, text, completion, count in zip(
        prompts,
        outputs["text"].numpy(),
        outputs["completion"].numpy(),
        outputs["token_count"].numpy(),
    ):
        assert text == prompt + completion
        assert len(completion.decode()) == count <= 5
        assert "\ufffd" not in completion.decode()
        assert b"<|" not in completion


def test_a_long_prompt_keeps_its_last_tokens(lm):
    texts = ["x" * 100 + "hello wo", "hello wo"]
    long, tail = lm.generate(texts, max_new_tokens=12)["completion"].numpy()
    assert long == tail


def test_sampling_is_reproducible_with_a_seed_and_fresh_without(lm):
    options = {"temperature": 1.5, "max_new_tokens": 30}

    def sample(rows=3, **seed):
        return lm.generate(["hello"] * rows, **options, **seed)["text"].numpy().tolist()

    assert sample(seed=[1, 2, 1]) == sample(seed=[1, 2, 1])
    first, second, third = sample(seed=[1, 2, 1])
    assert first == third
    assert first != second
    # Twelve: a few may end at once, and be equal.
    assert sample(12) != sample(12)
    assert len(set(sample(12))) > 1


def test_a_value_out_of_range_names_its_option(lm):
    wrong = {
        "max_new_tokens": [-1],
        "temperature": [-0.5, float("nan"), float("inf")],
        "top_k": [-3],
        "top_p": [0.0, 1.5, float("nan")],
    }
    for option, values in wrong.items():
        for value in values:
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"{option} must be"):
                lm.generate(["a", "b"], **{option: [value, value]})


def test_wrong_number_of_values_and_unknown_options(lm):
    with pytest.raises(tf.errors.InvalidArgumentError, match="seed must have one value, or one"):
        lm.generate(["a", "b"], seed=[1, 2, 3])
    with pytest.raises(TypeError, match="unknown option top_q; known: max_new_tokens"):
        lm.generate(["a"], top_q=1)


def test_max_new_tokens_zero_and_huge(lm):
    outputs = lm.generate(["hello"], max_new_tokens=0)
    assert outputs["text"].numpy() == [b"hello"]
    assert outputs["token_count"].numpy() == [0]
    assert outputs["log_probability"].numpy() == [0.0]
    one = tf.constant(1)
    options = options_by_row(complete_options({"max_new_tokens": [2**31 - 1]}), one, one)
    assert options["max_new_tokens"].numpy() == [MAX_NEW_TOKENS]


def test_ids_without_text_are_never_chosen():
    tokenizer = zoo.CharacterTokenizer.train(["ab"])
    keras.utils.set_random_seed(0)
    model = zoo.build("lstm_char_cpu", vocabulary_size=300, hidden_dim=4, num_layers=1)
    texts = zoo.TextLM(tokenizer, model).generate(
        ["a"] * 8, max_new_tokens=40, temperature=1.0, seed=list(range(8))
    )
    assert set(b"".join(texts["completion"].numpy()).decode()) == {"a", "b"}


def test_no_text_gives_no_answer(lm):
    empty = tf.zeros([0], tf.string)
    assert {name: value.shape[0] for name, value in lm.generate(empty).items()} == {
        "text": 0,
        "completion": 0,
        "token_count": 0,
        "log_probability": 0,
        "finish_reason": 0,
    }
    assert lm.generate(empty, seed=np.zeros([0], "int32"))["text"].shape == (0,)
    assert lm.score(empty)["perplexity"].shape == (0,)
    assert lm.score(empty)["log_probabilities"].shape[0] == 0
    assert lm.next_token(empty)["tokens"].shape == (0, 10)


# The fixture is shared on purpose: every example asks the same model.
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_any_bytes_are_answered_alike_alone_and_together(lm, texts):
    together = lm.generate(texts, max_new_tokens=6)["text"].numpy().tolist()
    scores = lm.score(texts)
    for row, text in enumerate(texts):
        assert together[row].startswith(text)
        assert lm.generate([text], max_new_tokens=6)["text"].numpy()[0] == together[row]
        alone = lm.score([text])["log_likelihood"].numpy()[0]
        np.testing.assert_allclose(alone, scores["log_likelihood"].numpy()[row], rtol=1e-4)


def test_tokens_written_in_place_give_the_text_of_the_copied_cache(lm):
    """Prompts of different lengths, on past the context, where full caches are read again."""
    texts = ["h", "hello", "small text hello", ""]
    ids, lengths = lm._prompt(tf.constant(texts))
    options = greedy_options(4, 30)
    banned = [lm.tokenizer.unknown_id]
    plain = generation.generate(lm.model, ids, lengths, options, 30, lm.tokenizer.end_ids, banned)
    served = lm.generate(texts, max_new_tokens=[30])
    assert served["token_count"].numpy().tolist() == plain.lengths.numpy().tolist()
    np.testing.assert_allclose(served["log_probability"], plain.log_probability, rtol=1e-4)
    rows = tf.RaggedTensor.from_tensor(plain.token_ids, plain.lengths)
    assert served["completion"].numpy().tolist() == lm.tokenizer.decode(rows).numpy().tolist()


def test_writing_in_place_replaces_what_was_there():
    rng = np.random.default_rng(0)
    cache = tf.constant(rng.normal(size=(2, 3, 4, 5)).astype("float32"))
    indices = [[row, head, 1 + 2 * row] for row in range(2) for head in range(3)]
    rows = tf.constant(rng.normal(size=(6, 5)).astype("float32"))
    before = cache.numpy()
    got = write_in_place(cache, tf.constant(indices), rows)
    expected = tf.tensor_scatter_nd_update(cache, indices, rows)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(cache.numpy(), before)  # it is held here: a copy was written


def test_score_is_a_sum_over_tokens(lm):
    outputs = lm.score(["hello", ""])
    assert outputs["token_count"].numpy().tolist() == [5, 0]
    assert outputs["log_likelihood"].numpy()[1] == 0
    assert outputs["perplexity"].numpy()[1] == 1
    mean = outputs["log_likelihood"].numpy()[0] / 5
    assert outputs["perplexity"].numpy()[0] == pytest.approx(np.exp(-mean), rel=1e-5)
    assert outputs["tokens"].numpy().tolist() == [[b"h", b"e", b"l", b"l", b"o"], [b""] * 5]
    found = outputs["log_probabilities"].numpy()
    assert found[1].tolist() == [0] * 5
    np.testing.assert_allclose(found.sum(1), outputs["log_likelihood"], rtol=1e-5)
    # The first one is what `next_token` says of no text; others read `start_id` in addition.
    next_token = lm.next_token([""])
    likely = dict(zip(next_token["tokens"].numpy()[0], next_token["probabilities"].numpy()[0]))
    top = next(token for token in likely if not token.startswith(b"<"))
    found = lm.score([top])["log_probabilities"].numpy()[0]
    np.testing.assert_allclose(np.exp(found), [likely[top]], rtol=1e-3)


def test_next_token_gives_the_likeliest(lm):
    outputs = lm.next_token(["hell", ""])
    probabilities = outputs["probabilities"].numpy()
    assert outputs["tokens"].shape == probabilities.shape == (2, 10)
    assert (np.diff(probabilities, axis=1) <= 0).all()
    assert (probabilities.sum(axis=1) <= 1 + 1e-6).all()
    likeliest = outputs["tokens"].numpy()[:, 0].tolist()
    chosen = lm.generate(["hell", ""], max_new_tokens=1)["completion"].numpy().tolist()
    for token, completion in zip(likeliest, chosen):
        assert token.startswith(b"<|") or token == completion


def test_a_compiled_models_bundle_has_no_optimizer(tmp_path):
    plain = make_bundle(tmp_path / "plain")
    model = plain.model
    ids = np.ones((2, 4), "int32")
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(ids, ids, verbose=0)
    zoo.save(tmp_path / "fitted", model, plain.tokenizer)
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("plain", "fitted")]
    assert sizes[0] == sizes[1]


def edit_config(folder, **values):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def swap_tokenizer(folder):
    zoo.CharacterTokenizer.train(["other letters"]).save(folder / "tokenizer")


def cut_weights(folder):
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), "config.json: no such file"),
    "half a config": (
        lambda folder: (folder / CONFIG_FILE).write_text('{"format'),
        "not valid JSON",
    ),
    "not an object": (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "not a JSON object"),
    "newer format": (lambda folder: edit_config(folder, format_version=99), "is 99, and only 1, 2"),
    "unknown key": (lambda folder: edit_config(folder, extra=1), "unknown key 'extra'"),
    "unknown family": (lambda folder: edit_config(folder, family="cnn"), "unknown family 'cnn'"),
    "bad model": (lambda folder: edit_config(folder, model={}), "missing key 'vocabulary_size'"),
    "other tokenizer": (swap_tokenizer, "not the tokenizer that the weights were trained with"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer.json"),
    "cut weights": (cut_weights, "checksum differs"),
    "no weights": (lambda folder: (folder / WEIGHTS_FILE).unlink(), "no such file"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    make_bundle(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_says_what_is_wrong(saved, tmp_path, damage):
    folder = tmp_path / "bundle"
    shutil.copytree(saved, folder)
    hurt, message = DAMAGE[damage]
    hurt(folder)
    with pytest.raises(zoo.BundleError, match=message) as error:
        zoo.load(folder)
    assert str(folder) in str(error.value)


def test_a_full_disk_leaves_the_old_bundle(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(OSError, match=r"the weights need [\d,]+ bytes and 0 are free"):
        zoo.save(tmp_path, bundle.model, bundle.tokenizer)
    assert zoo.load(tmp_path).config == bundle.config
    assert not list(tmp_path.glob(".partial-*"))


def test_a_tokenizer_with_too_many_ids_is_refused(tmp_path):
    bundle = make_bundle(tmp_path / "small")
    with pytest.raises(ValueError, match="the tokenizer has 257 ids but the model only"):
        zoo.save(tmp_path / "other", bundle.model, zoo.ByteTokenizer())
    assert not (tmp_path / "other").exists()
