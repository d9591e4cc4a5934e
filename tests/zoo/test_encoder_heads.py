"""Heads on encoders: shapes, training, gathering, pooling, saving, precision, build's errors."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import (
    ENCODER_CONFIGS,
    VOCABULARY_SIZE,
    cases,
    compile_model,
    compiled,
    encode,
    forward,
    make_encoder,
    shared_encoder,
)

from zoo.config import ConfigError
from zoo.models.build import HEADS, build
from zoo.models.configs import GPTConfig
from zoo.models.heads import EncoderHead, MaskedLM, pool

numpy = ops.convert_to_numpy
OPTIONS = {"classify": {"num_classes": 3}, "pair": {"num_classes": 2}, "tag": {"num_tags": 4}}
TASKS = [task for task in HEADS if issubclass(HEADS[task], EncoderHead)]
# Each head and each kind of backbone at least once; "pair" is "classify" by another name.
CASES = [
    ("mlm", "bert_modern"),
    ("classify", "bert_published"),
    ("tag", "bert_modern"),
    ("span", "bert_no_segments"),
    ("embed", "bert_published"),
    ("regress", "bilstm_projected"),
    ("tag", "lstm_forwards"),
    ("mlm", "bert_windows"),
    ("classify", "bert_windows"),
    ("mlm", "bert_shared"),
    ("classify", "bert_relative"),
    ("tag", "bert_relative_apart"),
]


def batch(rows=4, length=6, masked=False):
    rng = np.random.default_rng(0)
    inputs = {
        "token_ids": rng.integers(0, VOCABULARY_SIZE, (rows, length), "int32"),
        "padding_mask": np.arange(length) < np.array([6, 3, 5, 2])[:rows, None],
        "segment_ids": (np.arange(length) > 2).astype("int32") + np.zeros((rows, 1), "int32"),
    }
    if masked:
        inputs["masked_positions"] = np.array([[1, 5], [0, 2], [3, 4], [1, 0]], "int32")[:rows]
    return inputs


def targets(task, output):
    """Labels and a loss that fit an output's shape."""
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rows = output.shape[0]
    if task in ("mlm", "tag"):
        return np.ones(output.shape[:2], "int32"), sparse
    if task in ("classify", "pair"):
        return np.arange(rows) % 2, sparse
    # Not all the same: a layer norm's output has a fixed mean, and no gradient towards ones.
    values = np.random.default_rng(1).normal(size=output.shape)
    return values.astype("float32"), keras.losses.MeanSquaredError()


@pytest.mark.parametrize(("task", "name"), cases(CASES, [CASES[0], CASES[1], CASES[5]]))
def test_one_step_of_fit_moves_every_weight(task, name):
    model = make_encoder(name, task, OPTIONS.get(task))
    inputs = batch(masked=task == "mlm")
    output = forward(model)(inputs)
    assert numpy(output).dtype == np.float32
    assert model.task == task
    assert (model.context_length, model.vocabulary_size) == (12, VOCABULARY_SIZE)
    before = [numpy(weight) for weight in model.trainable_weights]
    labels, loss = targets(task, output)
    compile_model(model, keras.optimizers.SGD(1.0), loss)
    losses = model.fit(inputs, labels, batch_size=4, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    for weight, old in zip(model.trainable_weights, before):
        assert np.abs(numpy(weight) - old).max() > 0, weight.path


@pytest.mark.parametrize("task", cases(TASKS, ["mlm", "classify"]))
def test_keras_file_round_trip(task, tmp_path):
    """From token ids alone, too: padding mask and segments are optional."""
    model = shared_encoder("bert_published", task, **OPTIONS.get(task, {}))
    inputs = {"token_ids": batch()["token_ids"]}
    expected = numpy(forward(model)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(forward(loaded)(inputs)), expected)
    assert type(loaded) is HEADS[task]
    assert (
        loaded.head_config() == model.head_config() == json.loads(json.dumps(model.head_config()))
    )
    model.save_weights(tmp_path / "model.weights.h5")
    other = make_encoder("bert_published", task, model.head_config(), seed=1)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(forward(other)(inputs)), expected)


def test_masked_positions_equal_gathered_logits():
    model, inputs = shared_encoder("bert_published", "mlm"), batch()
    full = numpy(forward(model)(inputs))
    assert full.shape == (4, 6, VOCABULARY_SIZE)
    positions = batch(masked=True)["masked_positions"]
    picked = numpy(forward(model)({**inputs, "masked_positions": positions}))
    np.testing.assert_allclose(picked, full[np.arange(4)[:, None], positions], atol=1e-6)


def test_masked_lm_ties_its_output_to_the_embedding():
    model = shared_encoder("bert_published", "mlm")
    heads = [w.path for w in model.weights if VOCABULARY_SIZE in w.shape]
    assert len(heads) == 2, heads  # the embedding and the output bias
    with pytest.raises(ConfigError, match=r"MaskedLM needs a BertBackbone\. Received: lstm"):
        MaskedLM(make_encoder("bilstm", "tag", {"num_tags": 2}).backbone)


def test_pooling_reads_real_tokens_only():
    hidden = np.array([[[1.0, -4.0], [3.0, -2.0], [99.0, 99.0]], [[7.0, 7.0]] * 3], "float32")
    mask = np.array([[True, True, False], [False] * 3])
    assert numpy(pool(hidden, mask, "mean")).tolist() == [[2.0, -3.0], [0.0, 0.0]]
    assert numpy(pool(hidden, mask, "max")).tolist() == [[3.0, -2.0], [0.0, 0.0]]
    assert numpy(pool(hidden, mask, "cls")).tolist() == [[1.0, -4.0], [7.0, 7.0]]
    assert numpy(pool(hidden[:1], None, "max")).tolist() == [[99.0, 99.0]]
    assert numpy(pool(hidden[:1, :2], None, "mean")).tolist() == [[2.0, -3.0]]


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_padding_does_not_change_pooled_outputs(pooling):
    model = make_encoder("bert_modern", "regress", {"pooling": pooling})
    inputs = batch()
    short = {key: value[1:2, :3] for key, value in inputs.items()}
    np.testing.assert_allclose(
        numpy(forward(model)(inputs))[1], numpy(forward(model)(short))[0], atol=1e-5
    )


@pytest.mark.parametrize("head", [{}, {"embedding_dim": 5}, {"normalize": False}])
def test_sentence_vectors(head):
    model = shared_encoder("bert_published", "embed", **head)
    vectors = numpy(forward(model)(batch()))
    assert vectors.shape == (4, head.get("embedding_dim", 8))
    lengths = np.linalg.norm(vectors, axis=-1)
    assert np.allclose(lengths, 1, atol=1e-5) == head.get("normalize", True)


def test_pooler_trains_where_it_is_read():
    for task, options, trains in (
        ("classify", {"num_classes": 2}, True),
        ("classify", {"num_classes": 2, "pooling": "mean"}, False),
        ("tag", {"num_tags": 2}, False),
    ):
        model = shared_encoder("bert_published", task, **options)
        paths = [weight.path for weight in model.trainable_weights]
        assert any("pooler" in path for path in paths) == trains, (task, options)


@pytest.mark.tensorflow_only  # on JAX: test_causal_lm.py
def test_mixed_precision_gives_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for name, task in (
            ("bert_modern", "mlm"),
            ("bert_published", "embed"),
            ("bilstm_projected", "span"),
        ):
            model = make_encoder(name, task)
            hidden = encode(model.backbone)(batch()["token_ids"])
            assert keras.backend.standardize_dtype(hidden.dtype) == "bfloat16"
            assert numpy(forward(model)(batch())).dtype == np.float32
    finally:
        keras.config.set_dtype_policy("float32")


def test_dropout_is_on_in_training_only():
    model, inputs = make_encoder("bert_published", "tag", {"num_tags": 2}, dropout=0.5), batch()
    expected = numpy(forward(model)(inputs))
    np.testing.assert_array_equal(numpy(forward(model)(inputs)), expected)
    dropped = numpy(compiled(lambda: model(inputs, training=True))())
    assert np.abs(dropped - expected).max() > 1e-3


@pytest.mark.tensorflow_only
def test_lora_and_int8_as_keras_users_expect():
    model, inputs = make_encoder("bert_published", "classify", {"num_classes": 2}), batch()
    expected = numpy(forward(model)(inputs))
    model.backbone.blocks[0].feedforward.expand.enable_lora(2)
    adapted = numpy(compiled(lambda: model(inputs))())
    np.testing.assert_allclose(adapted, expected, atol=1e-5)  # starts as a no-op
    model = make_encoder("bert_published", "classify", {"num_classes": 2})
    model.quantize("int8")
    np.testing.assert_allclose(numpy(forward(model)(inputs)), expected, atol=0.1)


@pytest.mark.parametrize(
    ("config", "task", "head", "message"),
    [
        ("bert_published", "lm", {}, "bert cannot do task 'lm'; it can do: mlm, classify, pair"),
        ("bilstm", "mlm", {}, "cannot do task 'mlm'; it can do: classify"),
        ("bert_published", "ner", {}, "unknown task 'ner'; known tasks: lm, mlm, classify"),
        ("bert_published", "classify", {}, "task 'classify' needs the head option 'num_classes'"),
        ("bert_published", "tag", {"tags": 3}, "no head option 'tags'; known options: num_tags"),
        ("bert_published", "mlm", {"depth": 3}, "no head option 'depth'; known options: none"),
        ("bert_published", "tag", {"num_tags": 1}, "num_tags must be a whole number from 2 on"),
        ("bert_published", "span", {"dropout": 1}, r"dropout must be in \[0, 1\). Received: 1"),
        ("bert_published", "embed", {"pooling": "sum"}, "pooling must be one of cls, mean, max"),
    ],
)
def test_build_names_what_does_not_fit(config, task, head, message):
    with pytest.raises(ConfigError, match=message):
        build(ENCODER_CONFIGS[config], task, head)


def test_gpt_has_one_task():
    with pytest.raises(ConfigError, match=r"gpt cannot do task 'tag'; it can do: lm$"):
        build(GPTConfig(9), "tag", {"num_tags": 2})
