"""Starting from another model's weights, freezing, LoRA and its merging, early stopping."""

import dataclasses

import keras
import numpy as np
import pytest

from trainers.config import FineTuneConfig
from trainers.metrics import should_stop
from trainers.optim.finetune import apply_freezing, load_initial
from zoo.config import ConfigError
from zoo.models.build import build
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig
from zoo.models.lora import enable_lora, merge_lora
from zoo.weights.assign import backbone_weights

BERT = BertConfig(9, 6, num_layers=2, num_heads=2, hidden_dim=4)
MODERN_BERT = BertConfig(
    9,
    6,
    num_layers=2,
    num_heads=2,
    hidden_dim=4,
    num_segments=0,
    norm_placement="pre",
    norm="rms_norm",
    positions="rotary",
    qk_norm=True,
    activation="swiglu",
    use_bias=False,
)
GPT = GPTConfig(9, 6, num_layers=2, num_heads=2, hidden_dim=4)
LSTM = LSTMConfig(9, 6, num_layers=2, hidden_dim=4, embedding_dim=3)
ENCODER = LSTMConfig(9, 6, num_layers=2, hidden_dim=4, bidirectional=True)
HEAD = {"num_classes": 3}
START = "runs/mlm"


def classifier(config=BERT, **overrides):
    return build(config, "classify", HEAD, **overrides)


def texts(task):
    ids = np.random.default_rng(0).integers(1, 9, (2, 5)).astype("int32")
    if task == "lm":
        return ids
    return {"token_ids": ids, "padding_mask": np.ones((2, 5), bool)}


def head_weights(model):
    of_backbone = {id(weight) for weight in model.backbone.weights}
    return [weight.numpy() for weight in model.weights if id(weight) not in of_backbone]


def ones(model):
    """Factors that change what the model says."""
    for weight in model.weights:
        if weight.name == "lora_kernel_b":
            weight.assign(np.ones(weight.shape))


@pytest.fixture(scope="module")
def untouched():
    """A classifier that no test may change."""
    model = classifier()
    before = model.get_weights()
    yield model
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))
    assert not any("lora" in weight.path for weight in model.weights)


@pytest.mark.parametrize(
    ("config", "source_task", "task"),
    [
        (BERT, "mlm", "classify"),
        (MODERN_BERT, "mlm", "tag"),
        (GPT, "lm", "lm"),
        (LSTM, "lm", "classify"),
        (ENCODER, "tag", "classify"),
    ],
    ids=["bert", "modern_bert", "gpt", "lstm", "bidirectional"],
)
def test_a_backbone_moves_between_heads(config, source_task, task):
    config = dataclasses.replace(config, num_layers=1)
    heads = {"classify": HEAD, "tag": {"num_tags": 4}}
    source = build(config, source_task, heads.get(source_task))
    model = build(config, task, heads.get(task))
    fresh_head = head_weights(model)
    ids = texts("lm")
    assert not np.allclose(model.backbone(ids), source.backbone(ids))
    copied = load_initial(model, source)
    assert copied == sum(np.prod(w.shape) for w in model.backbone.weights)
    np.testing.assert_array_equal(model.backbone(ids), source.backbone(ids))
    for old, new in zip(fresh_head, head_weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_top_layers_can_be_dropped():
    source, model = build(BERT, "mlm"), classifier(num_layers=1)
    load_initial(model, source, drop_layers=1)
    here, there = backbone_weights(model.backbone), backbone_weights(source.backbone)
    assert set(there) - set(here) == {name for name in there if name.startswith("block_1/")}
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_a_pooler_and_dropout_may_differ_and_positions_may_be_fewer():
    source = build(BERT, "mlm", use_pooler=False, dropout=0.5)
    model = classifier(context_length=4)
    pooler = model.backbone.pooler.kernel.numpy()
    load_initial(model, source)
    np.testing.assert_array_equal(model.backbone.pooler.kernel, pooler)
    np.testing.assert_array_equal(
        model.backbone.position_embedding.embeddings,
        source.backbone.position_embedding.embeddings[:4],
    )


@pytest.mark.parametrize(
    ("there", "drop", "message"),
    [
        ({"vocabulary_size": 8}, 0, "vocabulary_size is 8 there and 9 here"),
        ({"hidden_dim": 8}, 0, "hidden_dim is 8 there and 4 here. Use --set=model.hidden_dim=8"),
        ({"num_segments": 0}, 0, "is 0 there and 2 here. Use --set=model.num_segments=0"),
        ({"context_length": 5}, 0, "is 5 there and 6 here. Use --set=model.context_length=5"),
        ({"num_heads": 1}, 0, "num_heads is 1 there and 2 here. Use --set=model.num_heads=1"),
        ({"positions": "rotary", "qk_norm": True}, 0, 'positions="rotary" --set=model.qk_norm=tr'),
        ({"num_layers": 3}, 0, "is 3 there and 2 here. Use --set=model.num_layers=3"),
        ({}, 1, "without 1 layers,.* is 1 there and 2 here. Use --set=model.num_layers=1"),
        ({}, 2, "drop_layers must be below 2"),
    ],
)
def test_models_that_do_not_fit_say_what_to_set(untouched, there, drop, message):
    with pytest.raises(ConfigError, match=message):
        load_initial(untouched, build(BERT, "mlm", **there), drop)


BELOW = ("token_embedding", "position_embedding", "segment_embedding", "embedding_norm")


@pytest.mark.parametrize(
    ("config", "options", "frozen"),
    [
        (BERT, {"freeze": "embeddings"}, BELOW),
        (BERT, {"freeze_layers": 1}, (*BELOW, "block_0")),
        (MODERN_BERT, {"freeze": "backbone"}, ("token_embedding", "block_", "final_norm")),
        (ENCODER, {"freeze_layers": 1}, ("token_embedding", "lstm_0", "backward_lstm_0")),
    ],
)
def test_what_is_frozen_stays_and_the_rest_moves(config, options, frozen):
    model = classifier(config)
    count = apply_freezing(model, FineTuneConfig(START, **options))
    assert count == sum(np.prod(weight.shape) for weight in model.trainable_weights)
    weights = {**backbone_weights(model.backbone), "head/kernel": model.output_layer.kernel}
    assert set(frozen) <= {prefix for prefix in frozen for name in weights if prefix in name}
    before = {name: weight.numpy() for name, weight in weights.items()}
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.train_on_batch(texts("classify"), np.ones((2, 3)))
    for name, weight in weights.items():
        assert weight.trainable != name.startswith(frozen), name
        if name.startswith(frozen):
            np.testing.assert_array_equal(weight, before[name], err_msg=name)
        elif name.endswith("kernel"):
            assert not np.array_equal(weight, before[name]), name


def test_nothing_is_frozen_by_default():
    model = classifier(num_layers=1)
    trainable = len(model.trainable_weights)
    apply_freezing(model, FineTuneConfig())
    assert len(model.trainable_weights) == trainable > 0


def test_freezing_too_much_is_refused(untouched):
    with pytest.raises(ConfigError, match=r"at most model.num_layers, 2. Received: 3"):
        apply_freezing(untouched, FineTuneConfig(START, freeze_layers=3))
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        apply_freezing(build(GPT), FineTuneConfig(START, freeze="backbone"))


@pytest.mark.parametrize(
    ("config", "task"),
    [(BERT, "classify"), (MODERN_BERT, "classify"), (GPT, "lm"), (LSTM, "lm")],
    ids=["bert", "modern_bert", "gpt", "lstm_projection"],
)
def test_lora_trains_factors_and_merges_into_plain_weights(config, task):
    config = dataclasses.replace(config, num_layers=1)
    model = build(config, task, HEAD if task == "classify" else None)
    inputs = texts(task)
    start = np.array(model(inputs))
    layers = enable_lora(model, rank=2, alpha=3.0)
    # Attention's two products and the feed-forward's two, of each block; the LSTM's projection.
    assert layers == (1 if config.family == "lstm" else 4)
    np.testing.assert_array_equal(model(inputs), start)  # B is zero at first
    of_backbone = {w.name for w in model.trainable_weights if "backbone" in w.path}
    assert {"lora_kernel_a", "lora_kernel_b"} <= of_backbone
    frozen = [w for w in model.backbone.weights if not w.trainable]
    before = [w.numpy() for w in frozen]
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.train_on_batch(inputs, np.ones_like(start))
    assert all(np.array_equal(w, old) for w, old in zip(frozen, before))
    factors = [w for w in model.weights if w.name == "lora_kernel_b"]
    assert all(np.any(factor.numpy()) for factor in factors)
    ones(model)
    tuned = np.array(model(inputs))
    assert np.abs(tuned - start).max() > 1e-3
    traced = model.predict_on_batch(inputs)
    assert merge_lora(model) == layers
    assert not any("lora" in w.path for w in model.variables)
    np.testing.assert_allclose(model(inputs), tuned, atol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(inputs), traced, atol=1e-5)


def test_a_merged_model_saves_and_loads(tmp_path):
    model = classifier(num_layers=1)
    enable_lora(model, 2)
    ones(model)
    tuned = np.array(model(texts("tag")))
    merge_lora(model)
    model.save_weights(tmp_path / "plain.weights.h5")
    for loaded in (classifier(num_layers=1), type(model).from_config(model.get_config())):
        assert len(loaded.weights) == len(model.weights)
        loaded.load_weights(tmp_path / "plain.weights.h5")
        np.testing.assert_allclose(loaded(texts("tag")), tuned, atol=1e-5)


def test_merging_a_plain_model_changes_nothing(untouched):
    assert merge_lora(untouched) == 0


def test_merging_in_half_precision_keeps_float32_kernels():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(GPT, num_layers=1)
        enable_lora(model, 2)
        qkv = model.backbone.blocks[0].attention.qkv
        qkv.lora_kernel_b.assign(np.full(qkv.lora_kernel_b.shape, 1e-4))
        expected = qkv._kernel.numpy() + qkv.lora_kernel_a.numpy() @ qkv.lora_kernel_b.numpy()
        merge_lora(model)
        np.testing.assert_allclose(qkv.kernel, expected, rtol=1e-6)
    finally:
        keras.config.set_dtype_policy("float32")


def test_lora_through_the_config():
    model = classifier(num_layers=1)
    apply_freezing(model, FineTuneConfig(START, lora_rank=2, lora_alpha=8.0))
    qkv = model.backbone.blocks[0].attention.qkv
    assert (qkv.lora_rank, qkv.lora_alpha) == (2, 8.0)
    assert model.backbone.pooler.kernel.trainable and not model.backbone.pooler.lora_enabled
    with pytest.raises(ConfigError, match="a lstm backbone has none"):
        apply_freezing(classifier(ENCODER), FineTuneConfig(START, lora_rank=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze": "embeddings"}, "set finetune.init_from"),
        ({"lora_rank": 4}, "set finetune.init_from"),
        ({"init_from": ""}, "init_from must be a bundle folder"),
        ({"init_from": START, "freeze_layers": -1}, "freeze_layers must be at least 0"),
        ({"init_from": START, "lora_rank": 0}, "lora_rank must be at least 1"),
        ({"init_from": START, "lora_alpha": 2.0}, "null where lora_rank is null"),
        ({"init_from": START, "lora_rank": 2, "freeze_layers": 1}, "LoRA freezes"),
    ],
)
def test_bad_configs(values, message):
    with pytest.raises(ConfigError, match=message):
        FineTuneConfig(**values)
    assert dataclasses.replace(FineTuneConfig(START), freeze="backbone").freeze == "backbone"


def test_early_stopping():
    losses = [3.0, 2.0, 2.5, 2.0, 1.9, 2.1, 2.2]
    log = [{"step": i, "val_loss": loss, "val_f1": -loss} for i, loss in enumerate(losses)]

    def decisions(metric, mode, patience):
        return [should_stop(log[:n], metric, mode, patience) for n in range(len(log) + 1)]

    # An equal value is no improvement: with patience 2 the run ends after the fourth evaluation.
    assert decisions("val_loss", "min", 2) == [False] * 4 + [True, False, False, True]
    assert decisions("val_loss", "min", 1) == [False] * 3 + [True, True, False, True, True]
    assert decisions("val_loss", "min", 3) == [False] * 8
    assert decisions("val_f1", "max", 2) == decisions("val_loss", "min", 2)
