"""What sentence-transformers puts beside a model is read, or refused by name."""

import json

import numpy as np
import pytest
from huggingface_cases import change_json, copy_model, expected, model_inputs

import zoo
from zoo.weights.huggingface.sentence_modules import read_sentence_modules
from zoo.weights.safetensors_files import write_weights


def add_modules(folder, pooling, *further, **settings):
    """A modules.json as sentence-transformers writes it, and what it names."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), *further]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{kind}"}
        for index, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    change_json(folder / "sentence_bert_config.json", **settings)
    return folder


def flags(**modes):
    """1_Pooling/config.json with one flag a mode."""
    every = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    return {f"pooling_mode_{mode}": modes.get(mode, False) for mode in every}


@pytest.mark.parametrize("mode", ["cls_token", "mean_tokens", "max_tokens"])
def test_embeddings_are_those_of_sentence_transformers(mode, tmp_path):
    folder = copy_model("bert_model", tmp_path)
    add_modules(folder, flags(**{mode: True}), ("Normalize", "2_Normalize"), max_seq_length=9)
    bundle = zoo.load(folder)
    assert bundle.config.text.max_length == 9
    arrays = expected("bert_model")
    rows = []
    for states, real in zip(arrays["last_hidden_state"], arrays["attention_mask"] == 1):
        pooled = {
            "cls_token": states[0],  # and not BERT's pooler of it
            "mean_tokens": states[real].mean(axis=0),
            "max_tokens": states[real].max(axis=0),
        }[mode]
        rows.append(pooled / np.linalg.norm(pooled))
    np.testing.assert_allclose(bundle.model(model_inputs(arrays)), rows, atol=1e-5)


def test_a_projection_without_normalisation(tmp_path):
    folder = copy_model("distilbert_model", tmp_path)
    add_modules(folder, {"pooling_mode": "mean"}, ("Dense", "2_Dense"))
    kernel = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
    write_weights(folder / "2_Dense", [("linear.weight", kernel)])
    dense = {"in_features": 4, "out_features": 3, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    change_json(folder / "2_Dense" / "config.json", **dense)
    bundle = zoo.load(folder)
    assert bundle.config.head == {"pooling": "mean", "embedding_dim": 3, "normalize": False}
    arrays = expected("distilbert_model")
    real = arrays["attention_mask"][..., None]
    mean = (arrays["last_hidden_state"] * real).sum(axis=1) / real.sum(axis=1)
    np.testing.assert_allclose(bundle.model(model_inputs(arrays)), mean @ kernel.T, atol=1e-5)
    change_json(folder / "2_Dense" / "config.json", bias=True)
    with pytest.raises(zoo.BundleError, match=r"2_Dense/config.json: bias is True"):
        zoo.load(folder)
    change_json(
        folder / "2_Dense" / "config.json",
        bias=False,
        activation_function="torch.nn.modules.activation.Tanh",
    )
    with pytest.raises(zoo.BundleError, match=r"activation_function is .*Tanh"):
        zoo.load(folder)


def test_lowercase_before_the_tokenizer(tmp_path):
    folder = copy_model("bert_model", tmp_path)
    change_json(folder / "tokenizer_config.json", do_lower_case=False)
    add_modules(folder, flags(mean_tokens=True), do_lower_case=True)
    tokenizer = zoo.load(folder).tokenizer
    assert (tokenizer.lowercase, tokenizer.strip_accents) == (True, False)


def test_prompts_there_and_back(tmp_path):
    folder = copy_model("bert_model", tmp_path / "theirs")
    add_modules(folder, flags(mean_tokens=True), ("Normalize", "2_Normalize"), max_seq_length=9)
    prompts = {"query": "the cat ", "document": ""}
    path = folder / "config_sentence_transformers.json"
    change_json(path, prompts=prompts, default_prompt_name="query")
    bundle = zoo.load(folder)
    assert bundle.config.text.prompts == prompts
    found = bundle.text_model.embed(["sat!"])["embedding"]
    wanted = bundle.text_model.embed(["the cat sat!"], prompt=["document"])["embedding"]
    np.testing.assert_array_equal(found, wanted)
    again = zoo.load(bundle.save_huggingface(tmp_path / "ours"))
    assert again.config == bundle.config
    written = json.loads((tmp_path / "ours" / path.name).read_text())
    assert written == {"prompts": prompts, "default_prompt_name": "query"}
    # What newer versions write for a model that has none.
    change_json(path, prompts={"query": "", "document": ""}, default_prompt_name=None)
    assert zoo.load(folder).config.text.prompts == {}


@pytest.mark.parametrize(
    ("fields", "pooling", "message"),
    [
        ({"default_prompt_name": "query"}, {}, "default_prompt_name is 'query'.*no prompts"),
        (
            {"prompts": {"query": "q: "}, "default_prompt_name": "passage"},
            {},
            "default_prompt_name is 'passage', and only None, 'query' is supported",
        ),
        ({"prompts": {"query": 3}}, {}, "prompts: 'query' must be text"),
        ({"prompts": ["query: "]}, {}, "prompts: not a JSON object"),
        (
            {"prompts": {"query": "q: "}},
            {"include_prompt": False},
            "1_Pooling/config.json: include_prompt is False",
        ),
    ],
)
def test_prompts_that_are_refused(fields, pooling, message, tmp_path):
    add_modules(tmp_path, flags(mean_tokens=True) | pooling)
    change_json(tmp_path / "config_sentence_transformers.json", **fields)
    with pytest.raises(zoo.BundleError, match=message):
        read_sentence_modules(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "further", "message"),
    [
        (flags(mean_sqrt_len_tokens=True), [], "pooling_mode mean_sqrt_len_tokens; supported"),
        (flags(lasttoken=True), [], "pooling_mode lasttoken"),
        (flags(cls_token=True, mean_tokens=True), [], "cls_token and mean_tokens"),
        ({"pooling_mode": "weightedmean"}, [], "pooling_mode weightedmean"),
        (flags(mean_tokens=True), [("LSTM", "2_LSTM")], "modules Transformer, Pooling, LSTM"),
        (
            flags(mean_tokens=True),
            [("Normalize", "2_Normalize"), ("Dense", "3_Dense")],
            "Normalize, Dense; supported",
        ),
    ],
)
def test_modules_that_are_refused(pooling, further, message, tmp_path):
    add_modules(tmp_path, pooling, *further)
    with pytest.raises(zoo.BundleError, match=message):
        read_sentence_modules(tmp_path)


def test_other_files_that_are_refused(tmp_path):
    assert read_sentence_modules(tmp_path) is None
    add_modules(tmp_path, flags(mean_tokens=True), max_seq_length=0)
    with pytest.raises(zoo.BundleError, match=r"sentence_bert_config.json: max_seq_length"):
        read_sentence_modules(tmp_path)
    add_modules(tmp_path, flags(mean_tokens=True), max_seq_length=None)
    assert read_sentence_modules(tmp_path).max_length is None
    for limit, length in ((10, 10), (1e30, None), (10**30, None)):
        change_json(tmp_path / "tokenizer_config.json", model_max_length=limit)
        assert read_sentence_modules(tmp_path).max_length == length
    change_json(tmp_path / "config_sentence_transformers.json", default_prompt_name="query")
    with pytest.raises(zoo.BundleError, match="default_prompt_name is 'query'"):
        read_sentence_modules(tmp_path)
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(zoo.BundleError, match=r"modules.json: not a list"):
        read_sentence_modules(tmp_path)
