"""KerasHub presets of ALBERT, RoBERTa and DeBERTa 3: its own hidden states, and its ids."""

import json
from pathlib import Path

import keras_hub
import numpy as np
import pytest
from keras import ops

import zoo
from zoo.tokenizers.bytepair.vocabulary import ALPHABET

pytestmark = pytest.mark.usefixtures("eager_functions")
FIXTURES = Path(__file__).parent / "fixtures" / "huggingface"
OPTIONS = {
    "vocabulary_size": 290,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": 14,
}
TEXTS = ["the cat sat on the mat.", "  быстрая  лиса", "", "春眠不觉晓 fox"]


def roberta_tokenizer():
    merges = ["t h", "th e", "\u0120 the", "c a", "ca t", "\u0120 cat"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *ALPHABET, *(m.replace(" ", "") for m in merges)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<mask>"])}
    return keras_hub.models.RobertaTokenizer(vocabulary, merges)


def unigram_tokenizer(kind: str, file: str):
    return getattr(keras_hub.models, kind)(str(FIXTURES / file))


CASES = {
    "Roberta": ({}, roberta_tokenizer),
    "Albert": (
        {"embedding_dim": 6, "num_segments": 2},
        lambda: unigram_tokenizer("AlbertTokenizer", "albert/spiece.model"),
    ),
    "DebertaV3": (
        {"bucket_size": 4},
        lambda: unigram_tokenizer("DebertaV3Tokenizer", "deberta-v2/spm.model"),
    ),
}


def preset(folder: Path, name: str, **changes):
    """A random backbone of KerasHub with its tokenizer, in a folder."""
    own, make_tokenizer = CASES[name]
    options = {**OPTIONS, **own, **changes}
    backbone = getattr(keras_hub.models, f"{name}Backbone")(**options)
    draw = np.random.default_rng(0)
    for weight in backbone.weights:
        weight.assign(draw.normal(float(weight.name == "gamma"), 0.5, weight.shape))
    tokenizer = make_tokenizer()
    backbone.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    return backbone, tokenizer


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_and_ids_are_kerashubs(name, tmp_path):
    backbone, tokenizer = preset(tmp_path, name)
    bundle = zoo.load(tmp_path)
    assert bundle.config.task == "embed"
    assert bundle.tokenizer.encode(TEXTS).to_list() == [
        np.asarray(tokenizer(text)).tolist() for text in TEXTS
    ]
    draw = np.random.default_rng(7)
    ids = draw.integers(0, OPTIONS["vocabulary_size"], (3, 12)).astype("int32")
    mask = np.arange(12) < np.array([[12], [6], [1]])
    segments = draw.integers(0, 2, (3, 12)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": mask.astype("int32")}
    expected = backbone(inputs | ({"segment_ids": segments} if name == "Albert" else {}))
    hidden = bundle.model.backbone(ids, padding_mask=mask, segment_ids=segments)
    if name == "Albert":
        pooled = ops.convert_to_numpy(bundle.model.backbone.pool(hidden))
        np.testing.assert_allclose(pooled, expected["pooled_output"], rtol=0, atol=1e-4)
        expected = expected["sequence_output"]
    hidden, expected = ops.convert_to_numpy(hidden), ops.convert_to_numpy(expected)
    np.testing.assert_allclose(hidden[mask], expected[mask], rtol=0, atol=1e-4)


def test_groups_of_layers_are_refused(tmp_path):
    preset(tmp_path, "Albert")
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["config"]["num_groups"] = 2
    path.write_text(json.dumps(values))
    with pytest.raises(zoo.BundleError, match=r"num_groups is 2.*the same weights"):
        zoo.load(tmp_path)
