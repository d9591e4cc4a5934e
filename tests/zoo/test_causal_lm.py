"""GPT and LSTM: causality, cache against forward pass, saving, options, references."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from model_cases import (
    CONFIGS,
    MAIN_CONFIGS,
    VOCABULARY_SIZE,
    cases,
    compile_model,
    compiled,
    decode,
    forward,
    forward_in_training,
    make_model,
    shared_model,
)

import zoo
from zoo.models.attention import rotary_table, rotate
from zoo.models.attention_options import Rotary
from zoo.models.build import build, count_weights
from zoo.presets import preset_config
from zoo.text.lm import write_in_place

numpy = ops.convert_to_numpy


def random_ids(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY_SIZE, (rows, length), "int32")


def int32(values):
    return ops.convert_to_tensor(np.array(values, "int32"))


@pytest.mark.parametrize("name", cases(CONFIGS, MAIN_CONFIGS))
def test_logits_see_only_the_past(name):
    model, ids = shared_model(name), random_ids(2, 9)
    logits = numpy(forward(model)(ids))
    assert logits.shape == (2, 9, VOCABULARY_SIZE)
    assert logits.dtype == np.float32
    changed = ids.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % VOCABULARY_SIZE
    other = numpy(forward(model)(changed))
    np.testing.assert_allclose(other[:, :5], logits[:, :5], atol=1e-6)
    assert np.abs(other[:, 5:] - logits[:, 5:]).max() > 1e-3


@pytest.mark.parametrize("name", cases(CONFIGS, [*MAIN_CONFIGS, "gpt_swiglu_untied"]))
def test_cached_decoding_equals_forward_pass(name):
    """Rows of different length, prefill, then single tokens and a longer piece."""
    model, ids = shared_model(name), random_ids(3, 12)
    expected = numpy(forward(model)(ids))
    lengths = np.array([4, 1, 3], "int32")
    rows = np.arange(3)
    prompt = np.where(np.arange(4) < lengths[:, None], ids[:, :4], 7).astype("int32")
    logits, cache = decode(model)(
        ops.convert_to_tensor(prompt), model.initial_cache(3, 12), int32([0] * 3), int32(lengths)
    )
    np.testing.assert_allclose(numpy(logits), expected[rows, lengths - 1], atol=1e-5)
    position = lengths.copy()
    for piece in (1, 3, 1):
        columns = position[:, None] + np.arange(piece)
        tokens = ids[rows[:, None], columns]
        logits, cache = decode(model)(ops.convert_to_tensor(tokens), cache, int32(position))
        position = position + piece
        np.testing.assert_allclose(numpy(logits), expected[rows, position - 1], atol=1e-5)


# Each kind of layer and of option that a config can bring.
@pytest.mark.parametrize(
    "name",
    cases(
        ["gpt_faithful", "gpt_swiglu_untied", "gpt_sliding", "gpt_parallel", "lstm_projected"],
        ["gpt_sliding", "lstm_projected"],
    ),
)
def test_keras_file_and_config_round_trip(name, tmp_path):
    model, ids = shared_model(name), random_ids(2, 9)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(forward(loaded)(ids)), numpy(forward(model)(ids)))
    assert loaded.backbone.config == model.backbone.config


@pytest.mark.parametrize("name", ["gpt_dropout", "lstm_one_layer_dropout"])
def test_dropout_is_on_in_training_only(name):
    model, ids = shared_model(name), random_ids(2, 9)
    expected = numpy(compiled(lambda inputs: model(inputs, training=False))(ids))
    np.testing.assert_array_equal(numpy(forward(model)(ids)), expected)
    assert np.abs(numpy(forward_in_training(model)(ids)) - expected).max() > 1e-3


@pytest.mark.parametrize(
    "name",
    cases(
        ["gpt_swiglu_untied", "gpt_sliding", "lstm_projected"], ["gpt_sliding", "lstm_projected"]
    ),
)
def test_fit_learns_and_moves_every_weight(name):
    model = make_model(name)
    before = [numpy(weight) for weight in model.trainable_weights]
    ids = np.tile(np.arange(VOCABULARY_SIZE, dtype="int32"), (8, 2))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compile_model(model, keras.optimizers.Adam(0.03), loss)
    losses = model.fit(ids[:, :11], ids[:, 1:12], epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    for weight, old in zip(model.trainable_weights, before):
        assert np.abs(numpy(weight) - old).max() > 0, weight.path


def test_tied_embeddings_are_one_weight():
    assert len(shared_model("gpt_defaults").weights) + 1 == len(
        build(CONFIGS["gpt_defaults"], tie_embeddings=False).weights
    )


def test_grouped_query_equals_multi_head_with_repeated_keys():
    """Each group of query heads reads its own copy of the shared key and value head."""
    grouped = build(CONFIGS["gpt_grouped_query"], num_layers=1)
    full = build(CONFIGS["gpt_grouped_query"], num_layers=1, num_kv_heads=4)
    heads, head_dim = 4, 4
    for target, source in zip(full.weights, grouped.weights):
        value = numpy(source)
        if source.path.endswith("qkv/kernel"):
            query, key, value = np.split(value, [heads * head_dim, (heads + 2) * head_dim], axis=1)
            repeat = [
                part.reshape(16, 2, head_dim).repeat(2, axis=1).reshape(16, heads * head_dim)
                for part in (key, value)
            ]
            value = np.concatenate([query, *repeat], axis=1)
        target.assign(value)
    ids = random_ids(2, 9)
    np.testing.assert_allclose(numpy(forward(full)(ids)), numpy(forward(grouped)(ids)), atol=1e-5)


def test_rotary_scores_depend_on_distance_only():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype("float32")
    kind = Rotary(10000.0, 8)

    def score(query_position, key_position):
        turned = [
            numpy(rotate(ops.convert_to_tensor(x), *rotary_table(int32([[place]]), kind)))
            for x, place in ((query, query_position), (key, key_position))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_lstm_equals_the_equations():
    """One layer, written out in numpy from Hochreiter & Schmidhuber with forget gates."""
    model = shared_model("lstm_one_layer_dropout")
    ids = random_ids(2, 6)
    embeddings, kernel, recurrent, bias = (numpy(weight) for weight in model.backbone.weights[:4])
    h = c = np.zeros((2, 8))
    outputs = []

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for step in range(6):
        gates = embeddings[ids[:, step]] @ kernel + h @ recurrent + bias
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h @ embeddings.T)
    np.testing.assert_allclose(numpy(forward(model)(ids)), np.stack(outputs, 1), atol=1e-5)
    assert bias[8:16].tolist() == [1.0] * 8


def test_lstm_state_carries_over():
    model = shared_model("lstm_defaults")
    ids = random_ids(2, 10)
    backbone = model.backbone
    whole, _ = backbone.call_with_state(ids, backbone.initial_cache(2))
    first, state = backbone.call_with_state(ids[:, :4], backbone.initial_cache(2))
    second, _ = backbone.call_with_state(ids[:, 4:], state)
    both = np.concatenate([numpy(first), numpy(second)], axis=1)
    np.testing.assert_allclose(both, numpy(whole), atol=1e-6)


def test_parameter_counts_of_presets():
    """GPT-2's as published, position and token embeddings included."""
    assert count_weights(preset_config("gpt2_small")) == 124_439_808
    for name in ("gpt_char_cpu", "lstm_char_cpu"):
        count = count_weights(preset_config(name, vocabulary_size=67))
        assert abs(count / 800_000 - 1) <= 0.05, (name, count)


def test_mixed_precision_gives_float32_logits():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for name in ("gpt_defaults", "lstm_defaults"):
            model = make_model(name)
            assert numpy(forward(model)(random_ids(1, 4))).dtype == np.float32
            logits, _ = decode(model)(
                ops.convert_to_tensor(random_ids(1, 4)), model.initial_cache(1, 8), int32([0])
            )
            assert numpy(logits).dtype == np.float32
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.tensorflow_only
def test_a_block_takes_few_operations():
    """Each costs a token about a microsecond, and a session its share of seconds."""
    counts = []
    for num_layers in (1, 2):
        config = zoo.GPTConfig(9, 16, num_layers, 4, 16, num_kv_heads=2, activation="swiglu")
        model = zoo.build(config)

        def read(tokens, model=model):
            cache = model.initial_cache(tf.shape(tokens)[0], 4)
            return model.decode_token(tokens, cache, tf.zeros_like(tokens), write_in_place)[0]

        spec = tf.TensorSpec([None], tf.int32)
        graph = tf.function(read, autograph=False).get_concrete_function(spec).graph
        ignored = ("Const", "Placeholder", "ReadVariableOp")
        counts.append(sum(one.type not in ignored for one in graph.get_operations()))
    assert counts[1] - counts[0] <= 65
