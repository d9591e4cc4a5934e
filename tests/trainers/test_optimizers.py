"""Schedules at their corners; weight decay, rates by layer, gathered gradients; Muon and clipping
against Keras' own.
"""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from trainers.config import OptimizerConfig
from trainers.optim.optimizers import (
    AdamW,
    Muon,
    WarmupDecay,
    make_optimizer,
    orthogonalized,
    rate_scales,
    stack_index,
)
from zoo.config import ConfigError
from zoo.models.build import build
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig

numpy = ops.convert_to_numpy
GPT2_LIKE = {"positions": "learned", "norm": "layer_norm", "use_bias": True}


def model_of(family):
    if family == "bert":
        config = BertConfig(9, 4, num_layers=2, num_heads=2, hidden_dim=4, dropout=0.0)
        return build(config, "classify", {"num_classes": 3, "dropout": 0.0})
    if family == "lstm":
        return build(LSTMConfig(9, 4, num_layers=2, hidden_dim=4, embedding_dim=3))
    options = {**GPT2_LIKE, "tie_embeddings": False} if family == "gpt2_like" else {}
    return build(GPTConfig(9, 4, num_layers=2, num_heads=2, hidden_dim=4, **options))


def config_of(name, **options):
    return OptimizerConfig(
        **{"name": name, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.5, **options}
    )


# The schedule.


def rates(schedule, *steps):
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
    ("shape", "middle"),
    [("cosine", 0.55), ("linear", 0.55), ("exponential", 0.1**0.5), ("constant", 1)],
)
def test_rise_peak_decay(shape, middle):
    schedule = WarmupDecay(2.0, steps=110, warmup_steps=10, shape=shape, final_fraction=0.1)
    end = 2.0 if shape == "constant" else 0.2
    expected = [0.2, 1.0, 2.0, 2.0, 2 * middle, end, end]
    assert rates(schedule, 0, 4, 9, 10, 60, 110, 999) == pytest.approx(expected)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert rates(again, 3, 70) == rates(schedule, 3, 70)


def test_shapes_of_the_decay():
    cosine, linear = (
        WarmupDecay(1.0, 100, shape=s, final_fraction=0) for s in ("cosine", "linear")
    )
    assert rates(cosine, 25) == pytest.approx([0.5 + 0.5 * np.cos(np.pi / 4)])
    assert rates(linear, 25) == pytest.approx([0.75])
    exponential = WarmupDecay(2.0, 100, 20, shape="exponential", final_fraction=0.01)
    values = rates(exponential, 20, 40, 60, 80, 100)
    ratios = [later / earlier for earlier, later in itertools.pairwise(values)]
    assert ratios == pytest.approx([0.01**0.25] * 4, rel=1e-4)
    plateau = WarmupDecay(1.0, 100, 10, decay_fraction=0.4, shape="linear", final_fraction=0)
    assert rates(plateau, 10, 60, 80, 100) == pytest.approx([1, 1, 0.5, 0])


def test_no_warmup_starts_at_the_peak_and_a_long_one_never_gets_there():
    assert rates(WarmupDecay(1.0, 10, 0), 0) == [1.0]
    assert rates(WarmupDecay(1.0, 10, 100, final_fraction=1.0), 9) == pytest.approx([0.1])
    assert rates(WarmupDecay(1.0, 10, 10, final_fraction=0.1), 10) == [1.0]


# What the config names.


@pytest.mark.parametrize(
    ("name", "family"), [("adamw", "gpt2_like"), ("muon", "gpt"), ("muon", "lstm")]
)
def test_matrices_decay_vectors_do_not(name, family):
    """With zero gradients weight decay is all that moves a weight."""
    variables = model_of(family).trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape, "float32"))
    optimizer = make_optimizer(config_of(name, weight_decay=0.1), steps=10)
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    for variable in variables:
        expected = 0.95 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(numpy(variable), expected, rtol=1e-6, err_msg=variable.path)


def test_muon_orthogonalises_matrices_and_leaves_embeddings_to_adam():
    variables = model_of("gpt").trainable_variables
    optimizer = make_optimizer(OptimizerConfig(name="muon"), steps=10)
    optimizer.build(variables)
    by_adam = {
        variable.path.removeprefix("gpt/backbone/")
        for variable, velocity in zip(variables, optimizer.adam_velocities)
        if velocity is not None
    }
    assert "token_embedding/embeddings" in by_adam
    assert "block_0/feedforward/expand/kernel" not in by_adam
    assert "block_0/attention/qkv/kernel" not in by_adam


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "exponential", "final_fraction": 0.0}, "final_fraction must be above 0"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
        ({"accumulation_steps": 4}, r"steps=10, optimizer.accumulation_steps=4"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(OptimizerConfig(**values), 10)


# Rates by layer.


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("bert/backbone/token_embedding/embeddings", -1),
        ("bert/backbone/embedding_norm/beta", -1),
        ("gpt/backbone/token_embedding/reverse_embeddings", np.inf),
        ("bert/backbone/block_0/attention/qkv/kernel", 0),
        ("bert/backbone/block_11/attention_norm/gamma", 11),
        ("lstm/backbone/backward_lstm_1/lstm_cell/kernel", 1),
        ("lstm/backbone/projection/kernel", np.inf),
        ("backbone/final_norm/scale", np.inf),
        ("bert/output/bias", np.inf),
    ],
)
def test_place_in_the_stack(path, index):
    assert stack_index(path) == index


# With layer_decay 0.5 and two layers.
SCALES = {"block_0": 0.25, "block_1": 0.5, "lstm_0": 0.25, "lstm_1": 0.5, "embedding": 0.125}


@pytest.mark.parametrize(("name", "family"), [("adamw", "bert"), ("muon", "gpt"), ("muon", "lstm")])
def test_layer_decay_scales_update_and_weight_decay(name, family):
    """With a constant gradient Adam's first update is the rate; Muon's is one matrix for all."""
    variables = model_of(family).trainable_variables
    paths = [variable.path for variable in variables]
    scales = rate_scales(paths, 0.5)
    for path, scale in zip(paths, scales):
        assert scale == next((s for part, s in SCALES.items() if part in path), 1.0), path
    assert set(rate_scales(paths, 1.0)) == {1.0}
    random = np.random.default_rng(0)
    normal = [random.normal(size=v.shape).astype("float32") for v in variables]
    for factor in (0.0, 1.0):  # weight decay alone, a gradient too
        moved = []
        for layer_decay in (1.0, 0.5):
            for variable in variables:
                variable.assign(np.ones(variable.shape, "float32"))
            optimizer = make_optimizer(config_of(name, layer_decay=layer_decay), 10)
            optimizer.apply([ops.convert_to_tensor(factor * g) for g in normal], variables)
            moved.append([numpy(variable) - 1 for variable in variables])
        for path, plain, decayed, scale in zip(paths, *moved, scales):
            # Update and decay each shrink by `scale`; their product is not there to shrink.
            np.testing.assert_allclose(decayed, plain * scale, atol=2e-6, err_msg=path)


# Training.


def compiled(optimizer, jit_compile=False):
    """An embedding (whose gradient is sparse on TensorFlow), one block and a head."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(9, 4, name="token_embedding"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(4, "tanh", name="block_0"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return model


def fit(model, batch_size):
    """Twelve rows, once."""
    ids = np.random.default_rng(1).integers(0, 9, (12, 4)).astype("int32")
    model.fit(ids, ids[:, 0] % 3, batch_size=batch_size, verbose=0, shuffle=False)
    return model


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_layer_decay_trains_serializes_and_resumes(name):
    config = OptimizerConfig(name=name, layer_decay=0.5, warmup_steps=0)
    model = fit(compiled(make_optimizer(config, 4)), 6)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    assert type(optimizer) is type(model.optimizer)
    optimizer.exclude_from_weight_decay(var_names=["bias"])  # which Keras does not serialize
    fresh = compiled(optimizer)
    optimizer.build(fresh.trainable_variables)
    old = (*model.variables, *model.optimizer.variables)
    for new, variable in zip((*fresh.variables, *optimizer.variables), old, strict=True):
        new.assign(variable.numpy())
    for one, other in zip(fit(model, 6).get_weights(), fit(fresh, 6).get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "jit_compile"),
    [({"name": "adamw", "layer_decay": 0.7}, True), ({"name": "muon"}, False)],
)
def test_accumulated_batches_are_one_large_batch(options, jit_compile):
    """Two updates over three batches of two rows each, against two batches of six rows."""
    options = config_of(**options, learning_rate=0.05)
    small = config_of(**{**vars(options), "accumulation_steps": 3})
    before = compiled("sgd").get_weights()
    expected = fit(compiled(make_optimizer(options, 2)), 6).get_weights()
    accumulated = fit(compiled(make_optimizer(small, 6), jit_compile), 2).get_weights()
    for start, one, other in zip(before, expected, accumulated):
        assert np.abs(one - start).max() > 0.01
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_with_accumulation_the_schedule_ends_with_the_run():
    config = OptimizerConfig(
        learning_rate=1.0, schedule="linear", final_fraction=0, warmup_steps=0, accumulation_steps=5
    )
    optimizer = make_optimizer(config, steps=10)
    variable = keras.Variable(np.ones(2, "float32"))
    seen = []
    for _ in range(10):
        seen.append(float(optimizer.learning_rate))
        optimizer.apply([ops.ones(2)], [variable])
    assert seen == pytest.approx([1 - step / 10 for step in range(10)])
    assert float(optimizer.learning_rate) == 0
    assert int(optimizer.iterations) == 2  # updates


# Muon: Keras' update, made for all matrices together.


def random_matrices(shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype("float32") for shape in shapes]


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.integers(1, 6),
)
def test_equals_keras_one_by_one(shapes, seed, steps):
    matrices = random_matrices(shapes, seed)
    keras_own = keras.optimizers.Muon()
    found = orthogonalized([ops.convert_to_tensor(x) for x in matrices], steps)
    for x, one in zip(matrices, found):
        expected = numpy(keras_own.zeropower_via_newtonschulz5(ops.convert_to_tensor(x), steps))
        np.testing.assert_allclose(numpy(one), expected, atol=2e-4)


def test_singular_values_are_about_one_and_the_vectors_stay():
    matrices = random_matrices([(6, 20), (20, 6), (6, 6)])
    for x, one in zip(matrices, orthogonalized([ops.convert_to_tensor(x) for x in matrices])):
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        turned = u.T @ numpy(one) @ vt.T
        assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-3
        assert np.diag(turned).min() > 0.6
        assert np.diag(turned).max() < 1.3


def test_any_scale_and_rank():
    """A gradient may be tiny, huge, or of one direction only; zeros stay zeros."""
    (x,) = random_matrices([(4, 6)])
    for matrix in (x, np.outer(x[:, 0], x[0]).astype("float32")):
        scaled = [ops.convert_to_tensor(matrix * np.float32(s)) for s in (1, 1e-20, 1e-3, 1e6)]
        expected, tiny, *others = map(numpy, orthogonalized(scaled))
        assert np.isfinite(tiny).all()
        for one in others:
            np.testing.assert_allclose(one, expected, atol=2e-2)
    assert not numpy(orthogonalized([ops.zeros((3, 5))])[0]).any()


def train(optimizer, **how):
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, "tanh", name="block_0"),
            keras.layers.Dense(6, "tanh", name="block_1"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    model.compile(optimizer, "mse", **how)
    (x,) = random_matrices([(24, 5)])
    model.fit(x, x[:, :3] ** 2, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize(
    ("nesterov", "how"), [(False, {"jit_compile": True}), (True, {"run_eagerly": True})]
)
def test_training_equals_keras_own(nesterov, how):
    options = {"exclude_layers": ["head"], "weight_decay": 0.1, "nesterov": nesterov}
    ours = train(Muon(0.02, **options), **how)
    theirs = train(keras.optimizers.Muon(0.02, **options), run_eagerly=True)
    for one, other in zip(ours.weights, theirs.weights):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=2e-4, err_msg=one.path)
    shapes = [[v.shape for v in model.optimizer.variables] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


# Clipping by the global norm.


def clipped(kind, gradients, **options):

    optimizer = kind(**options)
    return [numpy(g) for g in optimizer._clip_gradients(gradients)]


@pytest.mark.parametrize("options", [{"global_clipnorm": 1.0}, {"clipnorm": 0.5}, {}])
def test_clipping_equals_keras(options):
    generator = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 3, 2), ()]
    for scale in (0.0, 1e-6, 0.1, 1e4):
        gradients = [
            ops.convert_to_tensor((scale * generator.normal(size=shape)).astype("float32"))
            for shape in shapes
        ]
        ours, theirs = (
            clipped(kind, gradients, **options) for kind in (AdamW, keras.optimizers.AdamW)
        )
        for one, other in zip(ours, theirs):
            np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_no_number_stays_of_a_norm_that_is_none(bad):
    gradients = [ops.convert_to_tensor(np.float32([1.0, bad])), ops.ones((2,))]
    assert all(np.isnan(g).all() for g in clipped(AdamW, gradients, global_clipnorm=1.0))


@pytest.mark.tensorflow_only
def test_clipping_of_rows_of_an_embedding():
    import tensorflow as tf

    def gradients():
        rows = tf.constant([[3.0, 4.0], [6.0, 8.0]])
        return [tf.IndexedSlices(rows, tf.constant([1, 0]), tf.constant([4, 2])), tf.ones((2,))]

    ours = clipped(AdamW, gradients(), global_clipnorm=1.0)
    theirs = clipped(keras.optimizers.AdamW, gradients(), global_clipnorm=1.0)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6)
