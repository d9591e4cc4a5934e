"""What sets younger encoders apart: configs of two versions, ids of any text, what is refused.

Their numbers and files are in `test_huggingface_models.py`, as BERT's.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from huggingface_cases import (
    FIXTURES,
    NAMES,
    answer,
    change_config,
    change_json,
    change_weights,
    copy_model,
    expected,
)

import zoo
from zoo.weights.encoders import ENCODERS
from zoo.weights.huggingface.tokenizer_files import read_tokenizer

KINDS = ("model", "mlm", "classify", "tag", "span")
# Latin, Greek and Cyrillic with accents, composed and apart; Chinese, Korean, Devanagari, signs.
_PARTS = [
    *("abc", "the", "cat", "Sat", "un", "able", "dogs", "s", "ed", "1", "23", "!", ",", "'", '"'),
    *("``", "''", "(", ")", "-", "_", "/", "\\", "<s>", "[", "]", "##s", ".", "?"),
    *(
        "\u00e9",
        "e\u0301",
        "\u00dc",
        "u\u0308",
        "\u1ec7",
        "e\u0302\u0323",
        "\u00df",
        "\u0130",
        "\ufb01",
    ),
    *("\u03b1\u03ac", "\u0391\u0301", "\u0436", "\u0439", "\u0438\u0306", "\u0416\u041c"),
    *("\u6625\u7720", "\uff21", "\u3002", "\ud55c\uad6d", "\u1112\u1161\u11ab", "\uff76\uff9e"),
    *(
        "\u0928\u092e\u0938\u094d\u0924\u0947",
        "\u0958",
        "\u0e01\u0e33",
        "\U0001f98a",
        "\u200d",
        "\ufeff",
    ),
    *(" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2003", "\r\n", "\u0000", "\u00ad", "\ufffd"),
]


def texts(count: int, seed: int, more: tuple[str, ...] = ()) -> list[str]:
    """Random texts of several scripts."""
    draw = np.random.default_rng(seed)
    parts = [*_PARTS, *more]
    return ["".join(draw.choice(parts, draw.integers(0, 14))) for _ in range(count)]


def refused(folder: Path, *parts: str):
    """Loading fails, and says each of `parts`."""
    with pytest.raises(zoo.BundleError) as error:
        zoo.load(folder)
    for part in parts:
        assert part in str(error.value)


def test_there_is_a_fixture_of_each_family_and_head():
    wanted = {f"{kind}_{task}" for kind in ENCODERS for task in KINDS}
    assert wanted <= {*NAMES}


# --- ids of texts


def test_ids_of_byte_pairs_are_those_of_tokenizers():
    """Special tokens, tokens of blanks and a mask that takes in a blank, too."""
    path = FIXTURES / "modernbert"
    theirs = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    ours = read_tokenizer(path, "modernbert")
    more = ("[MASK]", " [MASK]", "[SEP]", "|||IP_ADDRESS|||", "[unused0]", "   ", "<|endoftext|>")
    some = texts(1500, 0, more)
    wanted = [theirs.encode(text, add_special_tokens=False) for text in some]
    found = ours.encode_with_offsets(some)
    assert found.ids.to_list() == [one.ids for one in wanted]
    # Where NFC changes nothing, pieces stand where they stand there, spaces around them taken off.
    for text, one, *places in zip(some, wanted, found.starts.to_list(), found.ends.to_list()):
        if text.isascii() and "[MASK]" not in text and "  " not in text:
            spans = []
            for start, end in one.offsets:
                piece = text[start:end]
                start = min(start + len(piece) - len(piece.lstrip(" ")), end)
                spans.append((start, max(end - len(piece) + len(piece.rstrip(" ")), start)))
            assert [*zip(*places)] == spans, text


def test_pieces_of_what_nfc_composes_stand_where_it_stood():
    ours = read_tokenizer(FIXTURES / "modernbert", "modernbert")
    for apart, whole in (
        ("cafe\u0301s sat", "caf\u00e9s sat"),
        ("\u1112\u1161\u11ab !", "\ud55c !"),
    ):
        found = [ours.encode_with_offsets([text]) for text in (apart, whole)]
        assert found[0].ids.to_list() == found[1].ids.to_list()
        spans = []
        for text, encoded in zip((apart, whole), found):
            data = text.encode()
            pairs = zip(encoded.starts.to_list()[0], encoded.ends.to_list()[0])
            spans.append([data[start:end].decode() for start, end in pairs])
        assert "".join(dict.fromkeys(spans[0])) == apart.replace(" ", "")
        assert len(spans[0]) == len(spans[1])


# --- config.json


def test_configs_of_transformers_4_and_5_say_the_same(tmp_path):
    folder = copy_model("modernbert_model", tmp_path)
    wanted = zoo.load(folder).model.backbone.config
    assert wanted.layer_types == ("full_attention", "sliding_attention", "sliding_attention")
    assert (wanted.sliding_window, wanted.rotary_base, wanted.local_rotary_base) == (
        3,
        160000,
        10000,
    )
    change_config(folder, rope_parameters=..., layer_types=..., global_attn_every_n_layers=3)
    change_config(folder, global_rope_theta=160000.0, local_rope_theta=10000.0)
    assert zoo.load(folder).model.backbone.config == wanted
    # Another pattern, and other bases, in both ways of saying so.
    change_config(folder, global_attn_every_n_layers=2, local_rope_theta=500, local_attention=7)
    older = zoo.load(folder).model.backbone.config
    assert older.layer_type(2) == "full_attention"
    assert (older.sliding_window, older.local_rotary_base) == (4, 500)
    parts = {"full_attention": {"rope_type": "default", "rope_theta": 160000.0}}
    parts["sliding_attention"] = {"rope_type": "default", "rope_theta": 500.0}
    types = ["full_attention", "sliding_attention", "full_attention"]
    change_config(folder, global_attn_every_n_layers=..., layer_types=types, rope_parameters=parts)
    change_config(folder, global_rope_theta=..., local_rope_theta=...)
    found = zoo.load(folder)
    assert found.model.backbone.config.attention_options(1) == older.attention_options(1)
    again = zoo.load(found.save_huggingface(tmp_path / "again"))
    assert again.model.backbone.config == found.model.backbone.config


def test_a_modernbert_without_windows(tmp_path):
    folder = copy_model("modernbert_model", tmp_path / "a")
    change_config(folder, layer_types=["full_attention"] * 3)
    bundle = zoo.load(folder)
    assert bundle.model.backbone.config.sliding_window is None
    again = zoo.load(bundle.save_huggingface(tmp_path / "b"))
    assert again.model.backbone.config == bundle.model.backbone.config
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["global_attn_every_n_layers"] == 1


def test_electra_without_a_dense_layer_for_its_embeddings(tmp_path):
    """As those of base and large: saved for what computes the same."""
    for name, saved in (("bert_tag", "bert"), ("bert_model", "bert")):
        folder = copy_model(name, tmp_path / name)
        bundle = zoo.load(folder)
        change_config(
            folder,
            model_type="electra",
            embedding_size=bundle.model.backbone.config.hidden_dim,
            architectures=[
                "ElectraModel" if name == "bert_model" else "ElectraForTokenClassification"
            ],
        )
        if name == "bert_model":  # it has no pooler
            change_weights(folder, lambda all: {k: v for k, v in all.items() if "pooler" not in k})
        else:
            change_weights(
                folder,
                lambda all: {
                    f"electra.{k[5:]}" if k.startswith("bert.") else k: v for k, v in all.items()
                },
            )
        found = zoo.load(folder)
        assert found.model.backbone.config.embedding_dim is None
        assert found.config.task == bundle.config.task
        if name == "bert_tag":
            arrays = expected(name)
            np.testing.assert_array_equal(answer(found.model, arrays), answer(bundle.model, arrays))
        files = found.save_huggingface(tmp_path / f"{name}_saved")
        assert json.loads((files / "config.json").read_text())["model_type"] == saved


def test_a_discriminator_embeds(tmp_path):
    folder = copy_model("electra_model", tmp_path)

    def with_its_head(tensors):
        head = {"dense.weight": np.ones((4, 4)), "dense_prediction.weight": np.ones((1, 4))}
        more = {f"discriminator_predictions.{n}": v.astype("float32") for n, v in head.items()}
        return {f"electra.{name}": value for name, value in tensors.items()} | more

    change_config(folder, architectures=["ElectraForPreTraining"])
    change_weights(folder, with_its_head)
    bundle, arrays = zoo.load(folder), expected("electra_model")
    assert bundle.config.task == "embed"
    whole = zoo.load(copy_model("electra_model", tmp_path / "whole"))
    np.testing.assert_array_equal(answer(bundle.model, arrays), answer(whole.model, arrays))


@pytest.mark.parametrize(
    ("name", "fields", "parts"),
    [
        ("modernbert_model", {"attention_bias": True}, ["attention_bias is True"]),
        ("modernbert_model", {"norm_bias": True}, ["norm_bias is True"]),
        ("modernbert_model", {"mlp_bias": True}, ["mlp_bias is True"]),
        ("modernbert_model", {"hidden_activation": "tanh"}, ["hidden_activation is 'tanh'"]),
        ("modernbert_model", {"sliding_window": 4}, ["sliding_window is 4", "local_attention"]),
        (
            "modernbert_model",
            {"local_attention": "all"},
            ["local_attention must be a whole number"],
        ),
        ("modernbert_model", {"layer_types": ["full_attention"]}, ["layer_types must be one of"]),
        ("modernbert_model", {"layer_types": ["chunked"] * 3}, ["layer_types", "'chunked'"]),
        ("modernbert_model", {"rope_scaling": {"rope_type": "yarn"}}, ["rope_scaling", "'yarn'"]),
        ("modernbert_model", {"num_attention_heads": 3}, ["hidden_dim must be a multiple"]),
        ("modernbert_model", {"num_hidden_layers": 2}, ["layer_types", "each of the 2 layers"]),
        ("modernbert_model", {"intermediate_size": 9}, ["feedforward/expand/kernel is (8, 20)"]),
        ("modernbert_mlm", {"decoder_bias": False}, ["decoder_bias is False"]),
        ("modernbert_classify", {"classifier_pooling": "max"}, ["classifier_pooling is 'max'"]),
        ("modernbert_classify", {"classifier_bias": True}, ["classifier_bias is True"]),
        ("modernbert_classify", {"classifier_activation": "silu"}, ["classifier_activation is"]),
        ("electra_model", {"position_embedding_type": "relative_key"}, ["position_embedding_type"]),
        ("electra_model", {"embedding_size": 5}, ["token_embedding/embeddings is (24, 6) there"]),
        (
            "electra_mlm",
            {"hidden_act": "gelu_new"},
            ["hidden_act must be 'gelu'", "electra's head"],
        ),
        ("electra_model", {"model_type": "new"}, ["model_type 'new' is not supported", "electra"]),
    ],
)
def test_what_changes_numbers_is_read_or_refused(name, fields, parts, tmp_path):
    folder = copy_model(name, tmp_path)
    change_config(folder, **fields)
    refused(folder, *parts)


def test_a_tokenizer_of_other_rules_is_refused(tmp_path):
    folder = copy_model("modernbert_model", tmp_path)
    change_json(folder / "tokenizer_config.json", mask_token="<mask>")
    refused(folder, "mask_token is '<mask>'", "[MASK]")
