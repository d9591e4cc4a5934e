"""KerasHub presets of T5: the logits of its own language model, and its ids."""

import json
from pathlib import Path

import keras_hub
import numpy as np
import pytest
from keras import ops

import zoo

pytestmark = pytest.mark.usefixtures("eager_functions")
MODEL = Path(__file__).parent / "fixtures" / "encoder_decoders" / "t5" / "spiece.model"
OPTIONS = {
    "vocabulary_size": 144,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "key_value_dim": 3,
}


def preset(folder: Path, **changes):
    """A random T5 of KerasHub with its tokenizer, in a folder."""
    backbone = keras_hub.models.T5Backbone(**OPTIONS | changes)
    draw = np.random.default_rng(0)
    for weight in backbone.weights:
        weight.assign(draw.normal(float("norm" in weight.path), 0.5, weight.shape))
    tokenizer = keras_hub.models.T5Tokenizer(str(MODEL))
    backbone.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    return backbone, tokenizer


@pytest.mark.parametrize(
    "options",
    [
        {"use_gated_activation": False},
        {"activation": "gelu", "tie_embedding_weights": False},
    ],
)
def test_logits_are_kerashubs(options, tmp_path):
    backbone, tokenizer = preset(tmp_path, **options)
    bundle = zoo.load(tmp_path)
    assert bundle.config.task == "summarize"
    texts = ["The quick brown fox.", "der Hund liest"]
    rows = [[*row, 1] for row in bundle.tokenizer.encode(texts).to_list()]
    assert rows == [[*row, 1] for row in tokenizer(texts)]
    assert bundle.seq2seq.sources(texts).to_list() == rows
    ids = bundle.seq2seq.sources(texts).to_tensor().numpy()
    draw = np.random.default_rng(1)
    targets = draw.integers(3, 144, (2, 6), "int32")
    mask = np.arange(ids.shape[1]) < np.array([len(row) for row in rows])[:, None]
    hidden = backbone(
        {
            "encoder_token_ids": ids,
            "encoder_padding_mask": mask.astype("int32"),
            "decoder_token_ids": targets,
            "decoder_padding_mask": np.ones_like(targets),
        }
    )["decoder_sequence_output"]
    # What its T5Seq2SeqLM makes of them.
    if options.get("tie_embedding_weights", True):
        hidden = hidden * 8**-0.5
    expected = ops.convert_to_numpy(backbone.token_embedding(hidden, reverse=True))
    given = {"token_ids": ids, "padding_mask": mask, "target_ids": targets}
    ours = ops.convert_to_numpy(bundle.model(given))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_an_unknown_activation_is_named(tmp_path):
    preset(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["config"]["activation"] = "tanh"
    path.write_text(json.dumps(content))
    with pytest.raises(zoo.BundleError, match="activation and use_gated_activation are 'tanh'"):
        zoo.load(tmp_path)
