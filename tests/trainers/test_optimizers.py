"""Schedules at their corners; which weights decay."""

import keras
import numpy as np
import pytest

from trainers.config import OptimizerConfig
from trainers.optimizers import WarmupDecay, make_optimizer
from zoo.configs import GPTConfig, LSTMConfig
from zoo.presets import build

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


@pytest.mark.parametrize(("shape", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1)])
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
