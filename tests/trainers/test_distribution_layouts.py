"""Tensor parallelism: every large weight of every model is cut, by one rule."""

import math

import pytest

import zoo
from trainers.distribution.on_jax import LAYOUTS, MODEL_AXIS, check_shards, layout_of
from zoo.config import ConfigError

SMALL = {"hidden_dim": 8, "num_layers": 2, "context_length": 8}
HEADS = {
    "mlm": {},
    "classify": {"num_classes": 3},
    "pair": {"num_classes": 3},
    "regress": {},
    "tag": {"num_tags": 3},
    "span": {},
    "embed": {"embedding_dim": 4},
}


def models():
    for options in (
        {},
        {"tie_embeddings": False, "positions": "learned", "use_bias": True, "num_kv_heads": 1},
        {"activation": "swiglu", "norm": "layer_norm"},
    ):
        yield zoo.build("gpt_char_cpu", vocabulary_size=9, num_heads=2, **SMALL, **options)
    for task, head in HEADS.items():
        yield zoo.build("bert_tiny", task, head, vocabulary_size=9, num_heads=2, **SMALL)
    yield zoo.build("lstm_char_cpu", vocabulary_size=9, embedding_dim=4, **SMALL)
    yield zoo.build("lstm_encoder_cpu", "tag", {"num_tags": 3}, vocabulary_size=9, **SMALL)


def test_every_matrix_is_cut_once():
    import re

    for model in models():
        for weight in model.weights:
            matching = [pattern for pattern in LAYOUTS if re.fullmatch(pattern, weight.path)]
            assert len(matching) <= 1, weight.path
            axes = layout_of(weight.path)
            if axes is not None:
                assert len(axes) == len(weight.shape), weight.path
                assert axes.count(MODEL_AXIS) == 1
            if len(weight.shape) > 1:
                assert axes is not None, f"{weight.path} would be whole on every device"


def test_pairs_of_products_meet_in_one_sum():
    """First by columns, then by rows: what is between them never leaves its device."""
    for first, second in (("attention/qkv", "attention/output"), ("feedforward/expand",) * 2):
        block = "gpt/backbone/block_0/"
        assert layout_of(f"{block}{first}/kernel") == (None, MODEL_AXIS)
        second = second.replace("expand", "contract")
        assert layout_of(f"{block}{second}/kernel") == (MODEL_AXIS, None)


def test_an_uneven_cut_is_refused():
    model = zoo.build("gpt_char_cpu", vocabulary_size=9, num_heads=2, **SMALL)
    check_shards(model.weights, 4)
    assert math.prod(model.weights[0].shape) > 0
    with pytest.raises(ConfigError, match=r"does not divide by --model_shards=3"):
        check_shards(model.weights, 3)
