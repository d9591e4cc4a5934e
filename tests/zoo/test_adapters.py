"""LoRA adapters of PEFT: its logits with our weights, ours for it, and what is refused."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_cases import FIXTURES, answer, change_json, copy_model

import zoo
from zoo.config import Fields
from zoo.models.lora import enable_lora, merge_lora
from zoo.weights.families import HUGGINGFACE
from zoo.weights.huggingface import adapters
from zoo.weights.huggingface.adapters import AdaptedFiles, base_of, write_adapter
from zoo.weights.huggingface.reading import read_model
from zoo.weights.huggingface.writing import tensors_of
from zoo.weights.safetensors_files import WeightFiles, write_weights

ADAPTERS = FIXTURES.parent / "adapters"
BASES = {
    "llama": "decoders/llama",
    "phi3": "decoders/phi3",
    "qwen2": "decoders/qwen2",
    "gpt2": "huggingface/gpt2_lm",
    "bert": "huggingface/bert_classify",
}
# One of each form: query, key and value apart and by head; turned matrices; a head of its own.
WRITTEN = ["decoders/llama", "decoders/gpt_neox", "huggingface/gpt2_lm"]
WRITTEN += ["huggingface/bert_classify"]
DECODERS = sorted(path.name for path in (FIXTURES.parent / "decoders").iterdir())
OTHERS = [f"decoders/{name}" for name in DECODERS]
OTHERS += [f"huggingface/{name}" for name in ("gpt2_untied", "roberta_classify")]
OTHERS += [f"huggingface/{name}" for name in ("distilbert_tag", "bert_span")]
OTHERS = [where for where in OTHERS if where not in WRITTEN]


def base(name: str) -> Path:
    """The folder of the model that a fixture is an adapter for."""
    return FIXTURES.parent / BASES[name]


def inputs_of(arrays: dict) -> dict:
    """Arrays of a decoder's fixture as the others have them."""
    ids = arrays.get("token_ids", arrays.get("input_ids"))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **arrays}


def test_there_is_a_base_for_each_fixture():
    assert {path.parent.name for path in ADAPTERS.glob("*/expected.npz")} == BASES.keys()


@pytest.mark.parametrize("name", BASES)
def test_logits_are_those_of_peft(name):
    arrays = dict(np.load(base(name) / "expected.npz"))
    expected = np.load(ADAPTERS / name / "expected.npz")["logits"]
    model = read_model(base(name), ADAPTERS / name)
    logits = answer(model, inputs_of(arrays))
    if name == "gpt2":
        logits, real = logits[..., ::8], arrays["attention_mask"] == 1
        logits, expected, arrays["logits"] = logits[real], expected[real], arrays["logits"][real]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.abs(arrays["logits"] - expected).max() > 0.01  # the base answers otherwise


@pytest.fixture
def folder(tmp_path):
    """GPT-2's adapter, with its base inside."""
    shutil.copytree(ADAPTERS / "gpt2", tmp_path / "adapter")
    copy_model("gpt2_lm", tmp_path / "adapter" / "base")
    return tmp_path / "adapter"


@pytest.mark.tensorflow_only
def test_an_adapter_loads_as_any_model(folder, tmp_path):
    bundle = zoo.load(folder)
    assert bundle.folder == folder
    zoo.save(tmp_path / "bundle", bundle.model, bundle.tokenizer)
    with pytest.raises(ValueError, match="holds a model of peft"):
        zoo.save(folder, bundle.model, bundle.tokenizer)
    shutil.move(folder / "base", tmp_path / "elsewhere")
    again = zoo.load(folder, base=tmp_path / "elsewhere")
    for ours, there in zip(again.model.weights, bundle.model.weights):
        np.testing.assert_array_equal(ours, there)
    for other in (tmp_path / "bundle", tmp_path / "nothing"):
        with pytest.raises(zoo.BundleError, match="no model of transformers"):
            zoo.load(folder, base=other)
        with pytest.raises(zoo.BundleError, match="no adapter of PEFT"):
            zoo.load(other, base=tmp_path / "elsewhere")


def test_the_base_may_be_on_the_hub(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(adapters, "locate", lambda name: asked.append(name) or base("gpt2"))
    for name, revision in (("owner/some.name", None), ("gpt2", "v1.0")):
        change_json(folder / "adapter_config.json", base_model_name_or_path=name, revision=revision)
        base_of(folder, None)
    assert asked == ["hf://owner/some.name", "hf://gpt2@v1.0"]


# --- out


def trained(where: str, rank: int = 2, alpha: float = 3.0):
    """A model with factors that are not zero, and a head that is not the base's."""
    model = read_model(FIXTURES.parent / where)
    enable_lora(model, rank, alpha)
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, 0.3, weight.shape))
    return model


def tokenizer_of(where: str) -> str:
    return "wordpiece" if "bert_" in where and "roberta" not in where else "bytepair"


@pytest.mark.parametrize(
    "where", [*WRITTEN, *(pytest.param(where, marks=pytest.mark.slow) for where in OTHERS)]
)
def test_what_is_written_adds_up_to_the_merged_model(where, tmp_path):
    model, source = trained(where), FIXTURES.parent / where
    write_adapter(tmp_path, model, tokenizer_of(where), str(source))
    assert merge_lora(model) == 4 * model.backbone.config.num_layers
    fields, files = Fields.read(source / "config.json"), WeightFiles(source)
    family = HUGGINGFACE[fields.text("model_type")]
    is_tied = fields.values.get("tie_word_embeddings") is not False
    adapted = AdaptedFiles(files, tmp_path, family, is_tied)
    tensors = dict(tensors_of(model, fields.text("model_type")))
    moved = 0
    for name, value in tensors.items():
        # RoBERTa's files have two more positions, which nothing reads.
        read, before = (one.read(name)[-len(value) :] for one in (adapted, files))
        np.testing.assert_allclose(read, value, rtol=0, atol=1e-6)
        moved += np.abs(before - value).max() > 0.1
    assert moved >= 4 * model.backbone.config.num_layers
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(source)
    assert (config["r"], config["lora_alpha"]) == (2, 3.0)


def test_only_for_what_peft_can_load(tmp_path):
    change_json(tmp_path / "config.json", format_version=2)
    model = read_model(FIXTURES / "gpt2_lm")
    cases = [
        (model, str(tmp_path), "is no model of transformers"),
        (model, "gs://bucket/run", "is no model of transformers"),
        (model, str(FIXTURES / "gpt2_untied"), "model.num_layers is 2, and 1 in"),
        (SimpleNamespace(task="mlm"), str(FIXTURES / "bert_mlm"), "no task 'mlm'"),
    ]
    for model, base, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            write_adapter(tmp_path / "adapter", model, "bytepair", base)
    assert not (tmp_path / "adapter").exists()


# --- of unknown origin


def change_weights(folder: Path, change) -> None:
    """Writes the factors anew: `change` gets name -> array, and may change it."""
    weights = WeightFiles(folder / "adapter_model.safetensors")
    tensors = {name: weights.read(name) for name in weights.names()}
    change(tensors)
    write_weights(folder, tensors.items(), "adapter_model.safetensors")


def refused(folder: Path, *parts: str):
    """Loading fails, and says each of `parts`."""
    with pytest.raises(zoo.BundleError) as error:
        read_model(base_of(folder, None), folder)
    for part in (str(folder), *parts):
        assert part in str(error.value)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"use_dora": True}, ["use_dora is True"]),
        ({"lora_bias": True}, ["lora_bias is True"]),
        ({"layer_replication": [[0, 1]]}, ["layer_replication is [[0, 1]]"]),
        ({"trainable_token_indices": [1]}, ["trainable_token_indices is [1]"]),
        ({"of_a_later_peft": "x"}, ["of_a_later_peft is 'x'"]),
        ({"peft_type": "IA3"}, ["peft_type is 'IA3'"]),
        ({"bias": "lora_only"}, ["bias is 'lora_only'"]),
        ({"init_lora_weights": "pissa_niter_4"}, ["init_lora_weights is 'pissa_niter_4'"]),
        ({"rank_pattern": {".*c_attn": 2}}, ["rank_pattern", "'.*c_attn' is a pattern"]),
        ({"alpha_pattern": {"c_attn": "2"}}, ["alpha_pattern: c_attn must be a number"]),
        ({"rank_pattern": [1]}, ["rank_pattern: not a JSON object"]),
        ({"r": 3}, ["h.0.attn.c_attn.weight", "'A': (2, 4)", "'A': (3, 4)"]),
        ({"r": 0}, ["r must be a whole number"]),
        ({"r": 10**9}, ["'A': (1000000000, 4)"]),
        ({"lora_alpha": "x"}, ["lora_alpha must be a number"]),
        ({"use_rslora": "yes"}, ["use_rslora must be true or false"]),
        ({"target_modules": ["c_attn", "c_fc"]}, ["h.0.mlp.c_fc.weight has factors {}"]),
        ({"base_model_name_or_path": "/etc"}, ["leads out of", "base=..."]),
        ({"base_model_name_or_path": "../elsewhere"}, ["leads out of", "base=..."]),
        ({"base_model_name_or_path": "a\0b"}, ["is no path", "base=..."]),
        ({"base_model_name_or_path": "not a name"}, ["nor a name on the Hub"]),
        ({"base_model_name_or_path": ...}, ["base_model_name_or_path is ''"]),
        ({"base_model_name_or_path": 3}, ["must be a string"]),
    ],
)
def test_configs_that_are_refused(fields, parts, folder):
    shutil.copytree(folder / "base", folder.parent / "elsewhere")
    change_json(folder / "adapter_config.json", **fields)
    refused(folder, *parts)


QKV = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"
A, B = QKV.format("A"), QKV.format("B")


def renamed(tensors: dict, old: str, new: str):
    tensors[new] = tensors.pop(old)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda x: x.pop(B), ["h.0.attn.c_attn.weight", "'B': (12, 2)"]),
        (lambda x: (x.pop(A), x.pop(B)), ["h.0.attn.c_attn.weight has factors {}"]),
        (lambda x: x.update({A: x[A].T}), ["'A': (4, 2)", "'A': (2, 4)"]),
        # Of a matrix that is turned in GPT-2: these factors would fit it as it lies there.
        (lambda x: x.update({A: np.ones((2, 12)), B: np.ones((4, 2))}), ["'A': (2, 12)"]),
        (lambda x: x.update({A: x[A][:1], B: x[B][:, :1]}), ["'A': (1, 4)"]),
        (lambda x: x.update({A: x[A][0], B: x[B]}), ["'A': (4,)"]),
        (lambda x: renamed(x, A, A.replace("h.0", "h.9")), ["takes no tensors", "h.9.attn"]),
        (lambda x: renamed(x, A, A[1:]), ["takes no tensors", "ase_model"]),
        (lambda x: renamed(x, A, A + ".x"), ["takes no tensors", ".weight.x"]),
        (lambda x: x.update({A.replace("transformer.", ""): x[A]}), ["takes no tensors"]),
        (lambda x: x.update({A.replace("h.0.attn.c_attn", "wte"): x[A]}), ["tensors", "wte.lora"]),
        (lambda x: x.update({A.replace("attn.c_attn", "ln_1"): x[A]}), ["h.0.ln_1.weight"]),
        # The output is the embedding, which an adapter of the output alone does not move.
        (lambda x: x.update({"base_model.model.lm_head.lora_A.weight": x[A]}), ["lm_head.lora"]),
        (
            lambda x: x.update({"base_model.model.transformer.wte.weight": np.ones((264, 4))}),
            ["takes no tensors", "wte.weight"],
        ),
        (
            lambda x: x.update({"base_model.model.transformer.ln_f.weight": np.ones(5)}),
            ["ln_f.weight has factors {'': (5,)}", "{'': (4,)}"],
        ),
        (lambda x: x.update({A: x[A].astype("int8")}), ["dtype I8"]),
    ],
)
def test_factors_that_do_not_fit(change, parts, folder):
    change_weights(folder, change)
    refused(folder, "adapter_model.safetensors", *parts)


def test_files_that_are_no_adapter(folder, tmp_path):
    weights, config = (folder / n for n in ("adapter_model.safetensors", "adapter_config.json"))
    content = weights.read_bytes()
    for damaged in (content[:-3], content[:20], b""):
        weights.write_bytes(damaged)
        refused(folder, "adapter_model.safetensors", "not a whole safetensors file")
    weights.rename(folder / "adapter_model.bin")
    refused(folder, "adapter_model.safetensors: no such file", "a PyTorch pickle")
    (folder / "adapter_model.bin").rename(tmp_path / "outside")
    os.symlink(tmp_path / "outside", weights)
    refused(folder, "adapter_model.safetensors", "a link to")
    weights.unlink()
    weights.write_bytes(content)
    assert base_of(folder, None) == folder / "base"
    shutil.move(folder / "base", tmp_path / "base")
    os.symlink(tmp_path / "base", folder / "base")
    refused(folder, "a link to")
    (folder / "base").unlink()
    for name in (".", "adapter_config.json"):
        change_json(config, base_model_name_or_path=name)
        refused(folder)
    config.write_text("[]")
    refused(folder, "adapter_config.json: not a JSON object")
    config.rename(tmp_path / "outside.json")
    os.symlink(tmp_path / "outside.json", config)
    refused(folder, "adapter_config.json", "a link to")


# --- PEFT itself


@pytest.mark.slow
@pytest.mark.parametrize("where", [*WRITTEN, *OTHERS])
def test_peft_loads_what_is_written(where, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    import torch

    model, source = trained(where), FIXTURES.parent / where
    write_adapter(tmp_path, model, tokenizer_of(where), str(source))
    merge_lora(model)
    class_name = json.loads((source / "config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, class_name).from_pretrained(source, attn_implementation="eager")
    with torch.no_grad():
        # Merged: PEFT's own model for questions forgets the segments.
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).merge_and_unload().eval()
        arrays = inputs_of(dict(np.load(source / "expected.npz")))
        names = ("input_ids", "attention_mask", "token_type_ids")
        outputs = theirs(**{n: torch.tensor(arrays[n]).long() for n in names if n in arrays})
    logits = answer(model, arrays)
    if model.task == "span":
        expected = np.stack([outputs["start_logits"], outputs["end_logits"]], axis=-1)
    else:
        expected = outputs.logits.numpy()
    if logits.ndim == 3:
        real = arrays["attention_mask"] == 1
        logits, expected = logits[real], expected[real]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
