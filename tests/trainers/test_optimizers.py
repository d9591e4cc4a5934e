"""Schedules at their corners; which weights decay; rates by layer; accumulated gradients."""

import itertools

import keras
import numpy as np
import pytest

from trainers.config import OptimizerConfig
from trainers.optim.adamw import rate_scales, stack_index
from trainers.optim.optimizers import make_optimizer
from trainers.optim.schedule import WarmupDecay
from zoo.config import ConfigError
from zoo.models.build import build
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig

MODELS = [
    GPTConfig(vocabulary_size=5, context_length=4, num_layers=1, num_heads=2, hidden_dim=8),
    GPTConfig(
        vocabulary_size=5,
        context_length=4,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        positions="learned",
        norm="layer_norm",
        use_bias=True,
        tie_embeddings=False,
    ),
    LSTMConfig(vocabulary_size=5, context_length=4, hidden_dim=4, embedding_dim=3),
]


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


def test_cosine_is_not_linear():
    cosine, linear = (
        WarmupDecay(1.0, 100, shape=s, final_fraction=0) for s in ("cosine", "linear")
    )
    assert rates(cosine, 25) == pytest.approx([0.5 + 0.5 * np.cos(np.pi / 4)])
    assert rates(linear, 25) == pytest.approx([0.75])


def test_exponential_loses_the_same_share_every_step():
    schedule = WarmupDecay(2.0, 100, 20, shape="exponential", final_fraction=0.01)
    values = rates(schedule, 20, 40, 60, 80, 100)
    ratios = [later / earlier for earlier, later in itertools.pairwise(values)]
    assert ratios == pytest.approx([0.01**0.25] * 4, rel=1e-4)


def test_plateau_then_decay():
    schedule = WarmupDecay(1.0, 100, 10, decay_fraction=0.4, shape="linear", final_fraction=0)
    assert rates(schedule, 10, 60, 80, 100) == pytest.approx([1, 1, 0.5, 0])


def test_no_warmup_starts_at_the_peak_and_a_long_one_never_gets_there():
    assert rates(WarmupDecay(1.0, 10, 0), 0) == [1.0]
    assert rates(WarmupDecay(1.0, 10, 100, final_fraction=1.0), 9) == pytest.approx([0.1])
    assert rates(WarmupDecay(1.0, 10, 10, final_fraction=0.1), 10) == [1.0]


def test_a_schedule_survives_keras_serialization():
    schedule = WarmupDecay(1.0, 100, 10, 0.5, "linear", 0.2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert rates(again, 3, 70) == rates(schedule, 3, 70)


@pytest.mark.parametrize("model_config", MODELS, ids=["gpt", "gpt2_like", "lstm"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_matrices_decay_vectors_do_not(name, model_config):
    """With zero gradients weight decay is all that moves a weight."""
    model = build(model_config)
    before = [np.ones(variable.shape, "float32") for variable in model.trainable_variables]
    for variable, ones in zip(model.trainable_variables, before):
        variable.assign(ones)
    config = OptimizerConfig(name, 0.5, schedule="constant", warmup_steps=0, weight_decay=0.1)
    optimizer = make_optimizer(config, steps=10)
    optimizer.apply([keras.ops.zeros(v.shape) for v in before], model.trainable_variables)
    for variable in model.trainable_variables:
        expected = 0.95 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, err_msg=variable.path)


def test_muon_orthogonalises_matrices_and_leaves_embeddings_to_adam():
    model = build(MODELS[0])
    optimizer = make_optimizer(OptimizerConfig(name="muon"), steps=10)
    optimizer.build(model.trainable_variables)
    by_adam = {
        variable.path.removeprefix("gpt/backbone/")
        for variable, velocity in zip(model.trainable_variables, optimizer.adam_velocities)
        if velocity is not None
    }
    assert "token_embedding/embeddings" in by_adam
    assert "block_0/feedforward/expand/kernel" not in by_adam
    assert "block_0/attention/qkv/kernel" not in by_adam


def test_clipping_can_be_off():
    assert make_optimizer(OptimizerConfig(global_clipnorm=None), 10).global_clipnorm is None
    assert make_optimizer(OptimizerConfig(global_clipnorm=0.5), 10).global_clipnorm == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "exponential", "final_fraction": 0.0}, "final_fraction must be above 0"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**values)


def test_a_step_is_a_batch_and_the_last_update_is_the_last_step():
    with pytest.raises(ConfigError, match=r"steps=10, optimizer.accumulation_steps=4"):
        make_optimizer(OptimizerConfig(accumulation_steps=4), steps=10)


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("bert/backbone/token_embedding/embeddings", -1),
        ("bert/backbone/segment_embedding/embeddings", -1),
        ("bert/backbone/embedding_norm/beta", -1),
        ("gpt/backbone/token_embedding/reverse_embeddings", np.inf),
        ("bert/backbone/block_0/attention/qkv/kernel", 0),
        ("bert/backbone/block_11/attention_norm/gamma", 11),
        ("lstm/backbone/lstm_1/lstm_cell/kernel", 1),
        ("lstm/backbone/backward_lstm_1/lstm_cell/kernel", 1),
        ("lstm/backbone/projection/kernel", np.inf),
        ("backbone/final_norm/scale", np.inf),
        ("pooler/kernel", np.inf),
        ("bert/output/bias", np.inf),
    ],
)
def test_place_in_the_stack(path, index):
    assert stack_index(path) == index


def small(family):
    if family == "bert":
        config = BertConfig(9, 4, num_layers=2, num_heads=2, hidden_dim=4, dropout=0.0)
        return build(config, "classify", {"num_classes": 3, "dropout": 0.0})
    if family == "lstm":
        return build(LSTMConfig(9, 4, num_layers=2, hidden_dim=4))
    return build(GPTConfig(9, 4, num_layers=2, num_heads=2, hidden_dim=4))


# With layer_decay 0.5 and two layers.
SCALES = {"block_0": 0.25, "block_1": 0.5, "lstm_0": 0.25, "lstm_1": 0.5, "embedding": 0.125}


@pytest.mark.parametrize("family", ["gpt", "bert", "lstm"])
def test_rates_fall_from_block_to_block(family):
    paths = [variable.path for variable in small(family).trainable_variables]
    for path, scale in zip(paths, rate_scales(paths, 0.5)):
        assert scale == next((s for part, s in SCALES.items() if part in path), 1.0), path
    assert set(rate_scales(paths, 1.0)) == {1.0}


def moved(model, config, gradients):
    """How far one update moves each variable from 1, in units of the undecayed update."""
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape, "float32"))
    make_optimizer(config, 10).apply(gradients, model.trainable_variables)
    return [variable.numpy() - 1 for variable in model.trainable_variables]


@pytest.mark.parametrize("family", ["gpt", "bert", "lstm"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("gradient", [0.0, 1.0], ids=["weight_decay_alone", "gradient_too"])
def test_layer_decay_scales_update_and_weight_decay(name, family, gradient):
    """With a constant gradient Adam's first update is the rate; Muon's is one matrix for all."""
    model = small(family)
    random = np.random.default_rng(0)
    gradients = [
        keras.ops.convert_to_tensor(gradient * random.normal(size=v.shape).astype("float32"))
        for v in model.trainable_variables
    ]
    options = {"name": name, "learning_rate": 0.5, "schedule": "constant", "warmup_steps": 0}
    plain = moved(model, OptimizerConfig(**options), gradients)
    decayed = moved(model, OptimizerConfig(**options, layer_decay=0.5), gradients)
    scales = rate_scales([v.path for v in model.trainable_variables], 0.5)
    for variable, one, other, scale in zip(model.trainable_variables, plain, decayed, scales):
        # The update and the decay each shrink by `scale`; their product is not there to shrink.
        np.testing.assert_allclose(other, one * scale, atol=2e-6, err_msg=variable.path)


def compiled(optimizer, jit_compile):
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


@pytest.mark.parametrize(("name", "jit_compile"), [("adamw", True), ("muon", False)])
def test_layer_decay_trains_serializes_and_resumes(name, jit_compile):
    config = OptimizerConfig(name=name, layer_decay=0.5, warmup_steps=0)
    model = fit(compiled(make_optimizer(config, 4), jit_compile), 6)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    assert type(optimizer) is type(model.optimizer)
    optimizer.exclude_from_weight_decay(var_names=["bias"])  # which Keras does not serialize
    fresh = compiled(optimizer, jit_compile)
    optimizer.build(fresh.trainable_variables)
    old = (*model.variables, *model.optimizer.variables)
    for new, variable in zip((*fresh.variables, *optimizer.variables), old, strict=True):
        new.assign(variable.numpy())
    for one, other in zip(fit(model, 6).get_weights(), fit(fresh, 6).get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "jit_compile"),
    [
        ({"name": "adamw"}, True),
        ({"name": "muon"}, False),
        ({"name": "adamw", "layer_decay": 0.7}, False),
    ],
)
def test_accumulated_batches_are_one_large_batch(options, jit_compile):
    """Two updates over three batches of two rows each, against two batches of six rows."""
    options = {**options, "learning_rate": 0.05, "schedule": "constant", "warmup_steps": 0}
    large = make_optimizer(OptimizerConfig(**options), 2)
    small_ones = make_optimizer(OptimizerConfig(**options, accumulation_steps=3), 6)
    before = compiled("sgd", False).get_weights()
    expected = fit(compiled(large, jit_compile), 6).get_weights()
    accumulated = fit(compiled(small_ones, jit_compile), 2).get_weights()
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
        optimizer.apply([keras.ops.ones(2)], [variable])
    assert seen == pytest.approx([1 - step / 10 for step in range(10)])
    assert float(optimizer.learning_rate) == 0
    assert int(optimizer.iterations) == 2  # updates
