"""Configs: JSON round trip, unknown keys and wrong types told by name."""

import dataclasses
import json

import pytest

from zoo.config import ConfigError, from_dict, to_dict
from zoo.models.build import build
from zoo.models.configs import BertConfig, GPTConfig, LSTMConfig
from zoo.presets import PRESETS, preset_config


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip_through_json(preset):
    config = PRESETS[preset].config
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "missing key 'vocabulary_size'"),
        ({"vocabulary_size": 9, "layers": 2}, "unknown key 'layers'; known keys: vocabulary_size"),
        ({"vocabulary_size": "9"}, "vocabulary_size: Input should be a valid integer"),
        ({"vocabulary_size": 9, "norm": "batch"}, "'layer_norm' or 'rms_norm'"),
        ({"vocabulary_size": 9, "num_layers": 1.5}, "num_layers"),
        ({"vocabulary_size": 9, "dropout": 1.0}, "dropout must be below 1. Received: 1.0"),
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1. Received: 0"),
        ({"vocabulary_size": 9, "hidden_dim": 6}, "hidden_dim must be a multiple of num_heads"),
        ({"vocabulary_size": 9, "num_kv_heads": 3}, "num_heads must be a multiple of num_kv_heads"),
        ({"vocabulary_size": 9, "hidden_dim": 12}, "must be even"),
        ({"vocabulary_size": 9, "token_shift": -1}, "token_shift must be at least 0, and below"),
        ({"vocabulary_size": 9, "token_shift": 128}, "token_shift=128, hidden_dim=128"),
    ],
)
def test_bad_values_name_the_field(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        from_dict(GPTConfig, values, where="config.json")
    assert str(error.value).startswith("config.json: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_segments": -1}, "num_segments must be at least 0. Received: -1"),
        ({"norm_placement": "middle"}, "norm_placement: Input should be 'post' or 'pre'"),
        ({"hidden_dim": 6}, "hidden_dim must be a multiple of num_heads"),
        ({"hidden_dim": 12, "positions": "rotary"}, "must be even"),
        ({"bidirectional": True}, "unknown key 'bidirectional'"),
    ],
)
def test_bad_bert_values_name_the_field(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(BertConfig, {"vocabulary_size": 9, **values})


def test_initial_weights_shrink_with_depth_where_norms_come_first():
    assert BertConfig(9, num_layers=8).residual_stddev == 0.02
    assert BertConfig(9, num_layers=8, norm_placement="pre").residual_stddev == 0.005
    assert GPTConfig(9, num_layers=8).residual_stddev == 0.005


def test_configs_of_older_bundles_have_no_token_shift():
    values = to_dict(GPTConfig(vocabulary_size=9))
    del values["token_shift"]
    assert from_dict(GPTConfig, values).token_shift == 0


def test_int_is_accepted_for_float():
    assert from_dict(LSTMConfig, {"vocabulary_size": 9, "forget_bias": 2}).forget_bias == 2.0


def test_unknown_preset_and_field():
    with pytest.raises(ConfigError, match="Did you mean 'gpt_char'"):
        preset_config("gpt_charr")
    with pytest.raises(ConfigError, match="no field depth; known fields: vocabulary_size"):
        preset_config("gpt_char", depth=3)
    with pytest.raises(ConfigError, match="needs vocabulary_size"):
        build("gpt_char_cpu")


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig(vocabulary_size=3).num_layers = 2
