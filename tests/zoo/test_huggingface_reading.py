"""Models of transformers, loaded: the numbers are transformers'."""

import json
import re
import shutil

import numpy as np
import pytest
from absl import logging
from huggingface_cases import (
    answer,
    change_config,
    change_weights,
    copy_model,
    expected,
    model_inputs,
    tokenizer_folder,
)

import zoo
from zoo.bundle import FORMAT_VERSION
from zoo.weights.huggingface.tokenizer_files import read_tokenizer

pytestmark = pytest.mark.usefixtures("eager_functions")


@pytest.mark.parametrize("name", ["bert_classify", "gpt2_lm"])
def test_a_bundle_like_any_other(name, tmp_path):
    folder = copy_model(name, tmp_path / "theirs")
    bundle = zoo.load(folder)
    config = bundle.config
    assert (config.format_version, config.family) == (FORMAT_VERSION, bundle.model.name)
    assert config.parameters == bundle.model.count_params()
    assert config.weights_sha256 == ""
    if name == "gpt2_lm":
        assert config.start_id == bundle.tokenizer.end_id == 264
        score = bundle.lm.score(["the cat sat"])["log_likelihood"].numpy()
        assert score.shape == (1,) and score < 0
    else:
        assert config.labels == ("bad", "g\u00fct", "so so")
        assert config.text.max_length == 16
        scores = bundle.text_model.predict(["the cat sat", ""])["scores"].numpy()
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    saved = zoo.save(
        tmp_path / "ours",
        bundle.model,
        bundle.tokenizer,
        start_id=config.start_id,
        labels=config.labels,
        text=config.text,
    )
    again = zoo.load(tmp_path / "ours")
    assert again.config == saved.config
    np.testing.assert_array_equal(
        answer(again.model, expected(name)), answer(bundle.model, expected(name))
    )
    with pytest.raises(ValueError, match="holds a model of transformers"):
        zoo.save(folder, bundle.model, bundle.tokenizer, labels=config.labels)
    assert zoo.load(folder).config == config


@pytest.mark.parametrize("model_type", ["bert", "roberta", "gpt2"])
def test_token_ids_are_those_of_transformers(model_type, tmp_path):
    cases = json.loads((tokenizer_folder(model_type) / "expected_ids.json").read_text())
    texts, ids = [case["text"] for case in cases], [case["ids"] for case in cases]
    folder = shutil.copytree(tokenizer_folder(model_type), tmp_path / "tokenizer")
    assert read_tokenizer(folder, model_type).encode(texts).to_list() == ids
    (folder / "tokenizer.json").unlink()
    assert read_tokenizer(folder, model_type).encode(texts).to_list() == ids


def _as_in_2018(tensors):
    """Names as in BERT's first checkpoints, with buffers and with tied weights twice."""
    renamed = {
        re.sub(
            r"LayerNorm\.(weight|bias)$",
            lambda match: f"LayerNorm.{'gamma' if match[1] == 'weight' else 'beta'}",
            name,
        ): value
        for name, value in tensors.items()
    }
    renamed["bert.embeddings.position_ids"] = np.arange(16, dtype="float32")[None]
    embedding = tensors["bert.embeddings.word_embeddings.weight"]
    renamed["cls.predictions.decoder.weight"] = embedding
    renamed["cls.predictions.decoder.bias"] = renamed.pop("cls.predictions.bias")
    return renamed


def _bare_gpt2(tensors):
    """Names as in OpenAI's files: no prefix, causal masks, the tied head once more."""
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    bare["lm_head.weight"] = bare["wte.weight"]
    bare |= {f"h.{layer}.attn.bias": np.ones((1, 1, 16, 16), "float32") for layer in range(2)}
    return bare | {f"h.{layer}.attn.masked_bias": np.float32(-1e4) for layer in range(2)}


@pytest.mark.parametrize(
    ("name", "change"), [("bert_pretraining", _as_in_2018), ("gpt2_lm", _bare_gpt2)]
)
def test_names_of_older_files(name, change, tmp_path):
    new = zoo.load(copy_model(name, tmp_path / "new"))
    folder = copy_model(name, tmp_path / "old")
    change_weights(folder, change)
    old = zoo.load(folder)
    np.testing.assert_array_equal(
        answer(old.model, expected(name)), answer(new.model, expected(name))
    )


def test_half_precision_is_read_as_float32(tmp_path):
    folder = copy_model("bert_model", tmp_path)
    change_weights(folder, lambda tensors: {k: v.astype("float16") for k, v in tensors.items()})
    bundle = zoo.load(folder)
    assert {str(weight.dtype) for weight in bundle.model.weights} == {"float32"}
    arrays = expected("bert_model")
    hidden = np.asarray(bundle.model.encode(model_inputs(arrays), False))
    real = arrays["attention_mask"].astype(bool)
    np.testing.assert_allclose(hidden[real], arrays["last_hidden_state"][real], atol=0.02)


def _logged(monkeypatch):
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            logging, level, lambda text, *values, level=level: lines.append((level, text % values))
        )
    return lines


def test_another_task_has_a_new_head(tmp_path, monkeypatch):
    lines = _logged(monkeypatch)
    bundle = zoo.load(copy_model("bert_mlm", tmp_path), task="tag")
    assert (bundle.config.task, bundle.config.labels) == ("tag", ("LABEL_0", "LABEL_1"))
    theirs = zoo.load(tmp_path)
    arrays = model_inputs(expected("bert_mlm"))
    np.testing.assert_array_equal(
        bundle.model.encode(arrays, False), theirs.model.encode(arrays, False)
    )
    warned = [line for level, line in lines if level == "warning"]
    assert len(warned) == 1
    assert "new, random weights for task 'tag': ['output/kernel', 'output/bias']" in warned[0]
    told = [line for level, line in lines if level == "info"]
    assert "cls.predictions.transform.dense.weight" in told[0]


def test_a_classifier_on_a_bare_encoder(tmp_path, monkeypatch):
    lines = _logged(monkeypatch)
    bundle = zoo.load(copy_model("roberta_model", tmp_path), task="classify")
    assert bundle.model.num_classes == 2
    # RoBERTa's classifier has a dense layer of its own, and not the pooler.
    assert "pooler/kernel" in lines[-1][1]
    bert = zoo.load(copy_model("bert_model", tmp_path / "bert"), task="regress")
    np.testing.assert_allclose(
        np.asarray(bert.model.backbone.pool(bert.model.encode(_inputs(), False))),
        expected("bert_model")["pooler_output"],
        atol=1e-5,
    )


def _inputs():
    return model_inputs(expected("bert_model"))


def test_a_pair_classifier_is_a_classifier(tmp_path):
    folder = copy_model("bert_classify", tmp_path)
    single, pair = zoo.load(folder), zoo.load(folder, task="pair")
    assert pair.config.task == "pair"
    arrays = expected("bert_classify")
    np.testing.assert_array_equal(answer(pair.model, arrays), answer(single.model, arrays))
    assert set(pair.text_model.predict(["the cat"], ["a dog"])) == {"label", "scores", "classes"}


def test_next_sentence_prediction_is_left_out_and_said(tmp_path, monkeypatch):
    lines = _logged(monkeypatch)
    bundle = zoo.load(copy_model("bert_pretraining", tmp_path))
    assert bundle.model.backbone.config.use_pooler
    assert [line for _, line in lines if "cls.seq_relationship.weight" in line]


def test_settings_of_transformers_config(tmp_path):
    folder = copy_model("distilbert_classify", tmp_path)
    change_config(folder, dropout=0.3, seq_classif_dropout=0.4, initializer_range=0.05)
    bundle = zoo.load(folder)
    config = bundle.model.backbone.config
    assert (config.dropout, config.initializer_range) == (0.3, 0.05)
    assert (config.num_segments, config.pooler_activation) == (0, "relu")
    head = {"num_classes": 3, "pooling": "cls", "dropout": 0.4, "ngrams": 0}
    assert bundle.config.head == head


def test_roberta_ignores_segments(tmp_path):
    model = zoo.load(copy_model("roberta_classify", tmp_path)).model
    inputs = model_inputs(expected("roberta_classify"))
    others = {**inputs, "segment_ids": np.zeros_like(inputs["segment_ids"])}
    assert inputs["segment_ids"].any()
    np.testing.assert_array_equal(model(inputs), model(others))
    del others["segment_ids"]
    np.testing.assert_array_equal(model(inputs), model(others))


def test_our_own_bundle_with_another_head(tmp_path):
    config = zoo.BertConfig(
        21, context_length=16, num_layers=1, num_heads=1, hidden_dim=4, num_segments=2
    )
    tokenizer = zoo.load(copy_model("bert_model", tmp_path / "theirs")).tokenizer
    zoo.save(tmp_path / "ours", zoo.build(config, "mlm"), tokenizer)
    first = zoo.load(tmp_path / "ours")
    other = zoo.load(tmp_path / "ours", task="embed")
    np.testing.assert_array_equal(
        first.model.encode(_small(), False), other.model.encode(_small(), False)
    )
    assert other.text_model.embed(["the cat"])["embedding"].shape == (1, 4)
    with pytest.raises(zoo.BundleError, match="task 'classify' needs labels"):
        zoo.load(tmp_path / "ours", task="classify")
    with pytest.raises(zoo.BundleError, match="bert cannot do task 'lm'"):
        zoo.load(tmp_path / "ours", task="lm")


def _small():
    return {"token_ids": np.arange(12).reshape(2, 6)}
