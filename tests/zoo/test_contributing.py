"""CONTRIBUTING.md names all the places: a toy family, task and signature need no other."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from huggingface_cases import answer, change_config, change_weights, copy_model, expected

import zoo
from export.saved_model import export_saved_model
from zoo import presets
from zoo.models import build
from zoo.models.heads import Regressor
from zoo.text.base import signature
from zoo.text.models import TEXT_MODELS, TextClassifier, TextRegressor
from zoo.weights import families

pytestmark = pytest.mark.tensorflow_only


def test_a_family_is_a_row(tmp_path, monkeypatch):
    """One with BERT's computation, whose tensors and options have other names."""
    bert = families.HUGGINGFACE["bert"]
    toy = dataclasses.replace(
        bert,
        prefix="toy.",
        options={**bert.options, "hidden_dim": families.Option("width")},
        classes={"ToyForClassification": "classify"},
    )
    monkeypatch.setitem(families.HUGGINGFACE, "toy", toy)
    folder = copy_model("bert_classify", tmp_path / "toy")
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    change_config(
        folder,
        model_type="toy",
        architectures=["ToyForClassification"],
        width=width,
        hidden_size=...,
    )
    change_weights(
        folder,
        lambda arrays: {
            name.replace("bert.", "toy.", 1) if name.startswith("bert.") else name: array
            for name, array in arrays.items()
        },
    )
    arrays = expected("bert_classify")
    logits = answer(zoo.load(folder).model, arrays)
    np.testing.assert_allclose(logits, arrays["logits"], atol=2e-6)


def served_functions(bundle, folder) -> dict:
    """Exports, which replays the golden answers, and gives the signatures as functions."""
    return tf.saved_model.load(str(export_saved_model(bundle, folder))).signatures


def tiny(task, head=None):
    """A small seeded encoder with a head."""
    config = zoo.BertConfig(128, 16, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8)
    return zoo.build(config, task, head)


TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]


def test_a_task_is_a_head_and_a_text_model(tmp_path, monkeypatch):
    """One that gives a number, of its own name."""

    class Length(Regressor):
        task = "length"

    monkeypatch.setitem(build.HEADS, "length", Length)
    monkeypatch.setitem(TEXT_MODELS, "length", TextRegressor)
    monkeypatch.setattr(presets, "TEXT_TASKS", [*presets.TEXT_TASKS, "length"])
    bundle = zoo.save(tmp_path / "bundle", tiny("length"), zoo.WordPieceTokenizer(TOKENS))
    assert bundle.config.task == "length"
    predict = served_functions(zoo.load(tmp_path / "bundle"), tmp_path / "served")["predict"]
    served = predict(text=tf.constant(["a", "b c"]))["outputs"].numpy()
    np.testing.assert_array_equal(served, bundle.text_model.predict(["a", "b c"])["outputs"])


def test_a_signature_is_a_function_of_the_text_model(tmp_path, monkeypatch):
    class Counting(TextClassifier):
        @signature
        def count(self, text):
            return {"bytes": tf.strings.length(text)}

    monkeypatch.setitem(TEXT_MODELS, "classify", Counting)
    bundle = zoo.save(
        tmp_path / "bundle",
        tiny("classify", {"num_classes": 2}),
        zoo.WordPieceTokenizer(TOKENS),
        labels=("no", "yes"),
    )
    functions = served_functions(bundle, tmp_path / "served")
    assert functions["count"](text=tf.constant(["abc"]))["bytes"].numpy().tolist() == [3]
