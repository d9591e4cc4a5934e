"""Models of transformers that cannot be read: the message names file, field or tensor."""

import json

import numpy as np
import pytest
from huggingface_cases import change_config, change_json, change_weights, copy_model

import zoo


def refused(folder, *parts, task=None):
    """Loading fails, and says each of `parts`."""
    with pytest.raises(zoo.BundleError) as error:
        zoo.load(folder, task=task)
    for part in parts:
        assert str(part) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "parts"),
    [
        (
            "bert_model",
            {"model_type": "xlnet"},
            ["'xlnet'", "bert, distilbert, roberta, xlm-roberta, modernbert"],
        ),
        ("bert_model", {"architectures": ["BertForMultipleChoice"]}, ["BertForTokenClass"]),
        ("bert_model", {"architectures": ["GPT2LMHeadModel"]}, ["'GPT2LMHeadModel'"]),
        ("bert_model", {"architectures": "BertModel"}, ["architectures must be a list"]),
        ("bert_model", {"hidden_act": "relu"}, ["hidden_act is 'relu'", "gelu_new"]),
        ("bert_model", {"position_embedding_type": "relative_key"}, ["position_embedding_type"]),
        ("bert_model", {"is_decoder": True}, ["is_decoder is True"]),
        ("bert_model", {"add_cross_attention": True}, ["add_cross_attention"]),
        ("bert_model", {"quantization_config": {"bits": 8}}, ["quantization_config"]),
        ("bert_model", {"pruned_heads": {"0": [1]}}, ["pruned_heads"]),
        ("bert_model", {"hidden_size": "4"}, ["hidden_size must be a whole number", "'4'"]),
        ("bert_model", {"hidden_size": 0}, ["hidden_size must be a whole number from 1 to 2147"]),
        ("bert_model", {"num_hidden_layers": True}, ["num_hidden_layers"]),
        ("bert_model", {"num_attention_heads": 3}, ["hidden_dim must be a multiple"]),
        ("bert_model", {"hidden_dropout_prob": 1.5}, ["dropout must be below 1"]),
        ("bert_model", {"max_position_embeddings": 4}, ["max_length must be at least 8"]),
        ("bert_mlm", {"tie_word_embeddings": False}, ["tie_word_embeddings is False"]),
        ("roberta_mlm", {"hidden_act": "gelu_new"}, ["hidden_act must be 'gelu'"]),
        ("roberta_model", {"type_vocab_size": 2}, ["type_vocab_size is 2"]),
        ("distilbert_model", {"activation": "relu"}, ["activation is 'relu'"]),
        ("gpt2_lm", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse"]),
        ("gpt2_lm", {"scale_attn_weights": False}, ["scale_attn_weights is False"]),
        ("gpt2_lm", {"reorder_and_upcast_attn": True}, ["reorder_and_upcast_attn"]),
        ("gpt2_lm", {"activation_function": "silu"}, ["activation_function is 'silu'"]),
        (
            "bert_classify",
            {"problem_type": "multi_label_classification"},
            ["problem_type", "a probability of its own", "task='embed'"],
        ),
        ("bert_classify", {"problem_type": "regression"}, ["3 outputs"]),
        ("bert_classify", {"problem_type": "ranking"}, ["problem_type is 'ranking'"]),
        ("bert_classify", {"id2label": {"0": "a", "2": "b"}}, ["id2label must give ids 0, 1"]),
        (
            "bert_classify",
            {"id2label": {"0": "a", "1": 7}},
            ["id2label must give ids 0, 1, 2... a name each", "7"],
        ),
    ],
)
def test_settings_that_change_numbers(name, fields, parts, tmp_path):
    folder = copy_model(name, tmp_path)
    change_config(folder, **fields)
    refused(folder, folder / "config.json", *parts)


def test_an_unknown_task(tmp_path):
    refused(copy_model("bert_model", tmp_path), "cannot do task 'lm'", task="lm")
    refused(tmp_path, "unknown task 'song'", task="song")


def test_config_that_is_no_json(tmp_path):
    folder = copy_model("bert_model", tmp_path)
    (folder / "config.json").write_text("{")
    refused(folder, folder / "config.json", "not valid JSON")


def _without(*names):
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


def test_missing_extra_and_wrong_tensors(tmp_path):
    gone = "bert.encoder.layer.0.attention.self.key.weight"
    folder = copy_model("bert_classify", tmp_path)
    change_weights(folder, _without(gone, "classifier.bias"))
    where = folder / "model.safetensors"
    refused(folder, where, "missing", gone.removeprefix("bert."), "classifier.bias")

    copy_model("bert_classify", folder)
    change_weights(folder, lambda tensors: {**tensors, "bert.adapter.weight": np.zeros(3)})
    refused(folder, where, "does not have: bert.adapter.weight")

    copy_model("bert_classify", folder)
    change_weights(folder, lambda tensors: {**tensors, "classifier.weight": np.zeros((2, 4))})
    refused(folder, where, "output/kernel is (4, 2) there and (4, 3) here")

    copy_model("bert_classify", folder)
    change_config(folder, num_hidden_layers=2)
    refused(folder, where, "config.json: the model that it describes has", "num_hidden_layers")

    copy_model("bert_model", folder)
    change_config(folder, num_hidden_layers=1)
    refused(folder, where, "does not have: encoder.layer.1.")


def test_one_weight_under_two_names(tmp_path):
    folder = copy_model("gpt2_lm", tmp_path)
    change_weights(folder, lambda tensors: {**tensors, "lm_head.weight": np.ones((265, 4))})
    refused(folder, "'lm_head.weight' differs from 'transformer.wte.weight'", "tie_word_emb")
    copy_model("gpt2_lm", folder)
    change_weights(folder, lambda tensors: {**tensors, "wpe.weight": np.ones((16, 4))})
    refused(folder, "'transformer.wpe.weight' and 'wpe.weight' are the same weight")


def test_a_head_that_is_not_there(tmp_path):
    """config.json says what it is not: a classifier without its classifier."""
    folder = copy_model("bert_model", tmp_path)
    change_config(folder, architectures=["BertForSequenceClassification"])
    refused(folder, "classifier.weight, classifier.bias")


def test_weights_that_are_cut_off_or_missing(tmp_path):
    folder = copy_model("bert_model", tmp_path)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    refused(folder, file, "not a whole safetensors file")
    file.unlink()
    refused(folder, folder, "no model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"")
    message = refused(folder, "pytorch_model.bin is a PyTorch pickle", "runs whatever code")
    assert "from_pretrained" in message


def test_a_tokenizer_with_more_ids_than_rows(tmp_path):
    folder = copy_model("bert_model", tmp_path)
    change_config(folder, vocab_size=20)
    cut = {"embeddings.word_embeddings.weight": np.zeros((20, 4))}
    change_weights(folder, lambda tensors: {**tensors, **cut})
    refused(folder, "21 ids", "20 rows", "vocab_size")


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("bert_model", {"tokenizer_class": "BertJapaneseTokenizer"}, ["BertJapaneseTokenizer"]),
        ("bert_model", {"unk_token": "<unk>"}, ["unk_token is '<unk>'"]),
        ("bert_model", {"do_lower_case": "no"}, ["do_lower_case must be true or false"]),
        ("roberta_model", {"tokenizer_class": "BertTokenizer"}, ["'BertTokenizer'"]),
        ("roberta_model", {"mask_token": {"content": "[MASK]"}}, ["mask_token is '[MASK]'"]),
    ],
)
def test_tokenizers_of_another_kind(name, change, parts, tmp_path):
    folder = copy_model(name, tmp_path)
    change_json(folder / "tokenizer_config.json", **change)
    refused(folder, folder / "tokenizer_config.json", *parts)


def test_tokenizer_files_that_do_not_fit(tmp_path):
    folder = copy_model("bert_model", tmp_path)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())

    def edit(part, **fields):
        path.write_text(json.dumps({**content, part: {**content[part], **fields}}))

    edit("model", type="Unigram")
    refused(folder, f"{path}: model: type is 'Unigram'")
    edit("model", vocab={"[PAD]": 0, "a": 2})
    refused(folder, f"{path}: model.vocab")
    edit("normalizer", type="NFKC")
    refused(folder, f"{path}: normalizer: type is 'NFKC'")
    edit("pre_tokenizer", type="Whitespace")
    refused(folder, f"{path}: pre_tokenizer: type is 'Whitespace'")
    path.unlink()
    (folder / "vocab.txt").unlink()
    refused(folder, "no tokenizer.json and no vocab.txt")

    folder = copy_model("gpt2_lm", tmp_path / "gpt2")
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").unlink()
    refused(folder, "no tokenizer.json, and no merges.txt")


def test_what_is_no_model_at_all(tmp_path):
    refused(tmp_path, "no such file. Give the --workdir")
    refused(tmp_path / "nowhere", "no such folder")
    for content, message in (("[]", "not a JSON object"), ("{}", "missing key 'format_version'")):
        (tmp_path / "config.json").write_text(content)
        refused(tmp_path, tmp_path / "config.json", message)
