"""Configs: what `--set` understands, and what each mistake is answered with."""

import dataclasses
import json

import pytest

from trainers.config import (
    CONFIG_FILE,
    OptimizerConfig,
    TrainConfig,
    config_keys,
    describe_keys,
    differing_keys,
    read_config,
    with_overrides,
)
from trainers.data.config import DataConfig
from trainers.recipes import find_recipe
from zoo.config import ConfigError, from_dict, to_dict


def config(**options):
    values = {"recipe": "test", "preset": "gpt_char_cpu", "data": DataConfig(train="text.txt")}
    return TrainConfig(**{**values, **options})


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("batch_size=3", "batch_size", 3),
        ("jit_compile=false", "jit_compile", False),
        ("optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("optimizer.global_clipnorm=null", "optimizer.global_clipnorm", None),
        ("optimizer.name=muon", "optimizer.name", "muon"),
        ("data.train=my=text.txt", "data.train", "my=text.txt"),
        ("data.train=2024", "data.train", "2024"),
        ('data.train="2024"', "data.train", "2024"),
        ("data.start_text=\n", "data.start_text", "\n"),
        ("data.validation=held_out.txt", "data.validation", "held_out.txt"),
        ("model.dropout=0.5", "model.dropout", 0.5),
        ('model={"num_layers": 1}', "model.num_layers", 1),
        ('sample_prompts=["a", "\u6625"]', "sample_prompts", ("a", "\u6625")),
        ("sample_prompts=[]", "sample_prompts", ()),
    ],
)
def test_a_setting_reaches_its_field(setting, path, value):
    found = with_overrides(config(), [setting])
    for name in path.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("pair_column=1", "pair_column"),
        ("text_column=-1", "text_column"),
        ("label_column=2", "label_column"),
        ("id_column=0", "id_column"),
        ("token_column=1", "token_column"),
        ("tag_column=UPOS", "tag_column"),
        ("validation=2024", "validation"),
        ("pattern=true", "pattern"),
        ("vocabulary=[a]", "vocabulary"),
    ],
)
def test_columns_by_number_and_texts_that_look_like_other_values(setting, path):
    found = getattr(with_overrides(config(), [f"data.{setting}"]).data, path)
    assert found == setting.partition("=")[2]  # one spelling, so that a run resumes with either
    values = to_dict(config())
    values["data"] |= {"tag_column": -1, "text_column": "text"}  # as earlier runs wrote it
    assert from_dict(TrainConfig, values) == config()


OWN = "data.train=my.txt"


@pytest.mark.parametrize(
    ("settings", "validation", "test", "test_fraction"),
    [
        ([], "wnut17/dev", "wnut17/test", 0),
        (["data.train=wnut17/train"], "wnut17/dev", "wnut17/test", 0),
        ([OWN], None, None, 0.1),
        (["data.validation=dev.txt", OWN], "dev.txt", None, 0.1),
        ([OWN, "data.test=test.txt"], None, "test.txt", 0),
        ([OWN, "data.test=null"], None, None, 0),
        ([OWN, "data.test_fraction=0.2"], None, None, 0.2),
        ([OWN, "data.validation=wnut17/dev"], "wnut17/dev", None, 0.1),
        (['data={"train": "my.txt", "tokenizer": "wordpiece", "test": "t.txt"}'], None, "t.txt", 0),
    ],
)
def test_own_training_data_replace_all_of_the_recipes(
    settings, validation, test, test_fraction, monkeypatch
):
    told = []
    monkeypatch.setattr("absl.logging.info", lambda message, *args: told.append(message % args))
    data = with_overrides(find_recipe("wnut17_bert"), settings).data
    assert (data.validation, data.test, data.test_fraction) == (validation, test, test_fraction)
    unsaid = [split for split in ("validation", "test") if f"data.{split}=" not in str(settings)]
    replaced = [split for split in unsaid if getattr(data, split) is None]
    assert len(told) == len(replaced)
    assert all(f"are the {split} examples in place of wnut17/" in str(told) for split in replaced)


def test_settings_apply_in_order_and_leave_the_rest():
    changed = with_overrides(config(), ["steps=500", "model.num_layers=2", "steps=750"])
    assert changed == config(steps=750, model={"num_layers": 2})
    assert changed.model_config(65).num_layers == 2
    assert with_overrides(config(), []) == config()


def test_null_unsets_a_text():
    assert with_overrides(config(), ["data.pattern=*.txt", "data.pattern=null"]) == config()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "--set=steps: write --set=key.path=value"),
        (
            "stepz=5",
            "no key 'stepz'; known: .*batch_size.*model.<field of the model.*steps",
        ),
        ("data.trian=x", "no key 'data.trian'; known: .*data.train,"),
        ("optimiser.name=muon", "no group 'optimiser'; known: .*optimizer.name"),
        ("steps.more=5", "no group 'steps'"),
        ("model.heads=2", "model: unknown key 'heads'; known keys: .*num_heads"),
        ("model.vocabulary_size=9", "model.vocabulary_size cannot be set: the tokenizer decides"),
        ("model.num_layers=two", "num_layers: .*valid integer.* Received: 'two'"),
        ("model=3", "model: .* Received: 3"),
        ("data=3", "data: .* Received: 3"),
        ("batch_size=many", "batch_size: .*valid integer.* Received: 'many'"),
        ("batch_size=0", "batch_size must be at least 1. Received: 0"),
        ("steps=2.5", "steps: .*integer.* Received: 2.5"),
        ("steps=1001", "steps must be a multiple of evaluate_every, 250. Received: 1001"),
        ("seed=-1", "seed must be at least 0. Received: -1"),
        ("sample_temperature=-1", "sample_temperature must be at least 0"),
        ("precision=float8", "precision: .*'float32', 'mixed_bfloat16'"),
        ("optimizer.name=sgd", "optimizer.name: .*'adamw' or 'muon'.* Received: 'sgd'"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate must be above 0. Received: 0"),
        ("optimizer.learning_rate=NaN", "optimizer.learning_rate: "),
        ("optimizer.warmup_steps=-5", "optimizer.warmup_steps must be at least 0"),
        ("optimizer.global_clipnorm=0", "optimizer.global_clipnorm must be above 0"),
        ("optimizer.decay_fraction=0", "optimizer.decay_fraction must be above 0"),
        ("data.train=", "data.train must name a text"),
        ("preset=gpt_char_gpu", "unknown preset 'gpt_char_gpu'. Did you mean 'gpt_char_cpu'"),
        ("data.order=segments", 'data.order="segments" carries a recurrent state.*gpt_char_cpu'),
    ],
)
def test_a_mistake_is_named(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        with_overrides(config(), [setting])
    assert "\n" not in str(caught.value)


def test_segments_go_with_an_lstm():
    assert with_overrides(config(preset="lstm_char_cpu"), ["data.order=segments"])


def test_differing_keys_name_both_values():
    old = config(model={"dropout": 0.1}, sample_prompts=("a",))
    new = dataclasses.replace(
        old, seed=7, model={"num_layers": 2}, optimizer=OptimizerConfig(name="muon")
    )
    assert differing_keys(old, new) == [
        "model.dropout: 0.1 -> None",
        "model.num_layers: None -> 2",
        "optimizer.name: 'adamw' -> 'muon'",
        "seed: 0 -> 7",
    ]


def test_a_config_survives_its_file(tmp_path):
    written = config(model={"dropout": 0.1}, sample_prompts=("a", "\u6625\n"))
    assert read_config(tmp_path) is None
    (tmp_path / CONFIG_FILE).write_text(json.dumps(to_dict(written)), encoding="utf-8")
    assert read_config(tmp_path) == written
    assert differing_keys(written, read_config(tmp_path)) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": "x"}'])
def test_a_damaged_config_file_is_named(tmp_path, content):
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        read_config(tmp_path)


def test_every_key_has_a_meaning():
    assert [key for key, (_, meaning) in config_keys().items() if len(meaning) < 5] == []


def test_keys_are_those_that_set_takes():
    config = find_recipe("polarity_bert")
    for key, (default, _) in config_keys().items():
        if default in ("True", "False"):
            # Raises where the key is unknown.
            with_overrides(config, [f"{key}={json.dumps(getattr_path(config, key))}"])
    assert "data.limits.row_bytes = 16777216" in describe_keys()


def getattr_path(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config
