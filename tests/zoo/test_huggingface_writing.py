"""Bundles as folders of transformers: what can be said there, and what cannot."""

import json

import numpy as np
import pytest
from huggingface_cases import answer, copy_model, expected, tokenizer_folder

import zoo
from zoo.bundle import Bundle, bundle_in_memory
from zoo.text.config import TextConfig
from zoo.weights.huggingface.tokenizer_files import read_tokenizer

LIKE_BERT = {"context_length": 16, "num_layers": 1, "num_heads": 1, "hidden_dim": 4}
LIKE_GPT2 = {
    **LIKE_BERT,
    "positions": "learned",
    "norm": "layer_norm",
    "qk_norm": False,
    "activation": "gelu_tanh",
    "use_bias": True,
}


def bundle_of(task="embed", head=None, family="bert", tokenizer="wordpiece", **changes) -> Bundle:
    """A bundle of a small model that transformers can express, but for `changes`."""
    model_type = {"wordpiece": "bert"}.get(tokenizer, tokenizer)
    found = read_tokenizer(tokenizer_folder(model_type), model_type)
    config = {"bert": zoo.BertConfig, "gpt": zoo.GPTConfig, "lstm": zoo.LSTMConfig}[family]
    base = LIKE_BERT if family == "bert" else LIKE_GPT2
    fields = {"context_length": 16, "hidden_dim": 4} if family == "lstm" else base
    model = zoo.build(
        config(vocabulary_size=found.vocabulary_size, **{**fields, **changes}), task, head
    )
    labels = ["a", "b"] if task in ("classify", "pair", "tag") else ()
    text = None if task == "lm" else TextConfig(max_length=12)
    return bundle_in_memory("", model, found, labels=labels, text=text)


@pytest.mark.parametrize("name", ["bert_classify", "roberta_mlm", "gpt2_untied"])
def test_there_and_back_the_bits_are_the_same(name, tmp_path):
    first = zoo.load(copy_model(name, tmp_path / "theirs"))
    second = zoo.load(first.save_huggingface(tmp_path / "ours"))
    arrays = expected(name)
    np.testing.assert_array_equal(answer(second.model, arrays), answer(first.model, arrays))
    assert second.config == first.config
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"norm_placement": "pre"}, ["model.norm_placement is 'pre', not 'post'"]),
        ({"norm": "rms_norm"}, ["model.norm is 'rms_norm'"]),
        ({"positions": "rotary"}, ["model.positions is 'rotary', not 'learned'"]),
        ({"activation": "swiglu"}, ["model.activation is 'swiglu'"]),
        ({"qk_norm": True}, ["model.qk_norm"]),
        ({"use_bias": False, "qk_norm": True}, ["model.use_bias is False", "model.qk_norm"]),
        ({"num_segments": 0, "norm_epsilon": 1e-5}, ["distilbert", "model.norm_epsilon"]),
        ({"tokenizer": "roberta"}, ["transformers' bert", "tokenizer is 'bytepair'"]),
        ({"head": {"embedding_dim": 2}}, ["head.embedding_dim is 2"]),
        ({"head": {"pooling": "cls"}}, ["model.use_pooler is True"]),
        (
            {"task": "regress", "pooler_activation": "relu"},
            ["model.pooler_activation is 'relu', not 'tanh'"],
        ),
        (
            {"task": "classify", "head": {"num_classes": 2, "pooling": "mean"}},
            ["head.pooling is 'mean', not 'cls'"],
        ),
        ({"task": "classify", "head": {"num_classes": 2, "ngrams": 3}}, ["head.ngrams is 3"]),
        (
            {"task": "regress", "use_pooler": False},
            ["model.use_pooler is False, not True"],
        ),
        (
            {"task": "regress", "num_segments": 0},
            ["distilbert", "model.pooler_activation is 'tanh', not 'relu'"],
        ),
        (
            {"task": "mlm", "tokenizer": "roberta", "num_segments": 1, "activation": "gelu_tanh"},
            ["roberta", "model.activation is 'gelu_tanh', not 'gelu'"],
        ),
        (
            {"family": "gpt", "task": "lm", "tokenizer": "gpt2", "num_heads": 2, "num_kv_heads": 1},
            ["gpt2", "model.num_kv_heads is 1, not 2"],
        ),
        (
            {"family": "gpt", "task": "lm", "tokenizer": "gpt2", "token_shift": 2},
            ["gpt2", "model.token_shift is 2, not 0"],
        ),
        ({"family": "lstm", "bidirectional": True}, ["model.family is 'lstm'"]),
    ],
)
def test_fields_that_transformers_cannot_express(options, fields, tmp_path):
    folder = tmp_path / "saved"
    with pytest.raises(ValueError, match="transformers") as error:
        bundle_of(**options).save_huggingface(folder)
    for field in fields:
        assert field in str(error.value)
    assert not folder.exists()


def test_a_pair_classifier_is_read_back_as_one(tmp_path):
    bundle = bundle_of("pair", {"num_classes": 2})
    folder = bundle.save_huggingface(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "a", "1": "b"}
    again = zoo.load(folder, task="pair")
    assert again.config.head == bundle.config.head
    np.testing.assert_array_equal(again.model.output_layer.kernel, bundle.model.output_layer.kernel)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_an_embedder_is_one_for_sentence_transformers(pooling, tmp_path):
    head = {"pooling": pooling, "normalize": pooling == "mean"}
    bundle = bundle_of(head=head, num_segments=0, use_pooler=False)
    folder = bundle.save_huggingface(tmp_path)
    flags = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert flags.pop("word_embedding_dimension") == 4
    assert [name for name, value in flags.items() if value] == [
        {"mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}.get(
            pooling, "pooling_mode_cls_token"
        )
    ]
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert [name.rsplit(".", 1)[1] for name in types] == ["Transformer", "Pooling"] + (
        ["Normalize"] * head["normalize"]
    )
    again = zoo.load(folder)
    assert again.config.head == bundle.config.head
    assert again.config.text == bundle.config.text


def test_a_bundle_is_not_overwritten(tmp_path):
    bundle = bundle_of()
    saved = zoo.save(tmp_path, bundle.model, bundle.tokenizer)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a bundle"):
        saved.save_huggingface(tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        bundle_of().save_huggingface(tmp_path / "file" / "folder")
