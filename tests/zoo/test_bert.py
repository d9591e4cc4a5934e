"""BERT and the LSTM encoders as backbones: what a hidden state may depend on; BERT's equations."""

import dataclasses
import functools
import math

import keras
import numpy as np
import pytest
from keras import ops
from model_cases import ENCODER_CONFIGS, VOCABULARY_SIZE, cases, compiled, encode, make_encoder

from zoo.models.bert import BertBackbone
from zoo.models.build import build, count_backbone_weights
from zoo.models.configs import BertConfig
from zoo.presets import preset_config

numpy = ops.convert_to_numpy
LENGTHS = np.array([7, 1, 4])


@functools.cache
def make_backbone(name):
    """Built as a part of a model, without running it: JAX would compile each operation."""
    return make_encoder(name, "tag", {"num_tags": 2}).backbone


def random_ids(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY_SIZE, (rows, length), "int32")


def padded(length):
    """Three texts of LENGTHS tokens, padded to `length` with tokens that are not zero."""
    ids = np.full((3, length), 5, "int32")
    ids[:, :7] = random_ids(3, 7)
    return ids, np.arange(length) < LENGTHS[:, None]


@pytest.mark.parametrize(
    "name", cases(ENCODER_CONFIGS, ["bert_published", "bert_modern", "bilstm_projected"])
)
def test_padding_and_neighbours_change_nothing(name):
    backbone = make_backbone(name)
    ids, mask = padded(7)
    short = numpy(encode(backbone)(ids, mask))
    assert short.shape == (3, 7, backbone.output_dim)
    long_ids, long_mask = padded(12)
    longer = numpy(encode(backbone)(long_ids, long_mask))
    garbage = np.where(mask, ids, (ids + 3) % VOCABULARY_SIZE).astype("int32")
    other_padding = numpy(encode(backbone)(garbage, mask))
    for row, length in enumerate(LENGTHS):
        alone = numpy(encode(backbone)(ids[row : row + 1, :length]))[0]  # no padding, no mask
        for batch in (short, longer, other_padding):
            np.testing.assert_allclose(batch[row, :length], alone, atol=1e-5)


@pytest.mark.parametrize("name", ENCODER_CONFIGS)
def test_every_token_sees_what_it_should(name):
    """All tokens of an encoder see the last one; read forwards, only the last itself does."""
    backbone = make_backbone(name)
    ids = random_ids(1, 6)
    changed = ids.copy()
    changed[0, 5] = (changed[0, 5] + 1) % VOCABULARY_SIZE
    moved = np.abs(numpy(encode(backbone)(ids)) - numpy(encode(backbone)(changed))).max(axis=-1)[0]
    assert moved[5] > 1e-3
    if backbone.is_causal:
        assert moved[:5].max() == 0
    else:
        assert moved.min() > 1e-5


def test_windows_reach_in_both_directions():
    """One layer with a window of three: two tokens to each side."""
    config = dataclasses.replace(
        ENCODER_CONFIGS["bert_windows"], num_layers=1, layer_types=("sliding_attention",)
    )
    backbone = build(config, "tag", {"num_tags": 2}).backbone
    ids = random_ids(1, 9)
    changed = ids.copy()
    changed[0, 4] = (changed[0, 4] + 1) % VOCABULARY_SIZE
    moved = np.abs(numpy(encode(backbone)(ids)) - numpy(encode(backbone)(changed))).max(axis=-1)[0]
    assert moved[2:7].min() > 1e-5
    assert max(moved[:2].max(), moved[7:].max()) == 0


@pytest.mark.parametrize("name", ["bert_published", "bert_modern", "bilstm"])
def test_empty_rows_give_finite_numbers(name):
    ids = random_ids(2, 4)
    mask = np.array([[True] * 4, [False] * 4])
    assert np.isfinite(numpy(encode(make_backbone(name))(ids, mask))).all()


def test_segments_change_the_result_and_default_to_zero():
    backbone, ids = make_backbone("bert_published"), random_ids(2, 6)
    zeros = numpy(encode(backbone)(ids, None, np.zeros((2, 6), "int32")))
    np.testing.assert_array_equal(numpy(encode(backbone)(ids)), zeros)
    ones = numpy(encode(backbone)(ids, None, np.ones((2, 6), "int32")))
    assert np.abs(ones - zeros).max() > 1e-3


def test_more_tokens_than_learned_positions():
    with pytest.raises(ValueError, match="13 tokens are more than the 12 positions"):
        make_backbone("bert_published")(random_ids(1, 13))
    # Rotary positions have no table to run out of.
    assert encode(make_backbone("bert_modern"))(random_ids(1, 13)).shape == (1, 13, 8)


def test_bert_equals_the_equations():
    """One post-norm layer and the pooler, written out in numpy from Devlin et al. (2018)."""
    keras.utils.set_random_seed(0)
    config = BertConfig(9, context_length=6, num_layers=1, num_heads=2, hidden_dim=8, dropout=0.0)
    backbone = build(config, "classify", {"num_classes": 2}).backbone
    ids, segments = random_ids(2, 5) % 9, np.array([[0, 0, 1, 1, 1]] * 2, "int32")
    rng = np.random.default_rng(0)
    for weight in backbone.weights:  # large enough that every term matters
        weight.assign(rng.normal(0, 0.5, weight.shape))
    w = {"/".join(x.path.split("/")[-3:]): numpy(x) for x in backbone.weights}
    w = {path.removeprefix(f"{backbone.name}/"): value for path, value in w.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def heads(x):
        return x.reshape(2, 5, 2, 4).swapaxes(1, 2)

    erf = np.vectorize(math.erf)
    x = w["token_embedding/embeddings"][ids] + w["position_embedding/embeddings"][:5]
    x = norm(x + w["segment_embedding/embeddings"][segments], "embedding_norm")
    query, key, value = map(heads, np.split(dense(x, "block_0/attention/qkv"[8:]), 3, axis=-1))
    scores = np.exp(query @ key.swapaxes(2, 3) / 2.0)
    mixed = (scores / scores.sum(-1, keepdims=True)) @ value
    mixed = mixed.swapaxes(1, 2).reshape(2, 5, 8)
    x = norm(x + dense(mixed, "attention/output"), "block_0/attention_norm")
    inner = dense(x, "feedforward/expand")
    inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
    x = norm(x + dense(inner, "feedforward/contract"), "block_0/feedforward_norm")
    hidden = compiled(lambda: backbone(ids, None, segments))()
    np.testing.assert_allclose(numpy(hidden), x, atol=1e-4)
    pooled = np.tanh(dense(x[:, 0], "pooler"))
    np.testing.assert_allclose(numpy(backbone.pool(hidden)), pooled, atol=1e-4)


def test_presets_have_the_published_parameters():
    published = {"bert_base": 109_482_240, "distilbert": 66_362_880, "minilm_l6": 22_713_216}
    for preset, count in published.items():
        assert count_backbone_weights(preset_config(preset)) == count


def test_config_round_trip_and_unknown_keys():
    backbone = make_backbone("bert_modern")
    values = backbone.get_config()
    assert BertBackbone.from_config(values).config == backbone.config
    values["config"]["depth"] = 3
    with pytest.raises(ValueError, match="BertBackbone: unknown key 'depth'; known keys: vocab"):
        BertBackbone.from_config(values)
