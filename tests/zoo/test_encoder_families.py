"""What sets younger encoders apart: configs of two versions, ids of any text, what is refused.

Their numbers and files are in `test_huggingface_models.py`, as BERT's.
"""

import json
import unicodedata
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
from tokenizers import models, normalizers, pre_tokenizers

import zoo
from zoo.models.attention_options import RelativeAttention
from zoo.tokenizers import charsmap
from zoo.tokenizers import sentencepiece_model as spm
from zoo.weights.encoders import ENCODERS
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.huggingface.writing import write_tokenizer

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


# Of no class of marks, and part of the letter before all the same.
_JOINED = "\u200d\uff9e\uff9f"


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


def unigram_reference(name: str, normalizer: list) -> tokenizers.Tokenizer:
    """What transformers 4 makes of a fixture's SentencePiece model, of steps before its table."""
    path = next((FIXTURES / name).glob("*.model"))
    pieces, charsmap = spm.read_unigram_model(path.read_bytes())
    special = [text for text, _, kind in pieces if kind in (spm.CONTROL, spm.UNKNOWN)]
    special += ["[MASK]"] if "[MASK]" not in special else []
    ids = [text for text, _, _ in pieces]
    made = tokenizers.Tokenizer(
        models.Unigram([(text, score) for text, score, _ in pieces], unk_id=kinds_of(pieces))
    )
    double = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    steps = [*normalizer, normalizers.Precompiled(charsmap), double]
    made.normalizer = normalizers.Sequence(steps)
    space = pre_tokenizers.Metaspace(replacement=spm.SPACE, prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    made.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    made.add_special_tokens(
        [tokenizers.AddedToken(text, lstrip=text == "[MASK]", normalized=False) for text in special]
    )
    around = [("[CLS]", ids.index("[CLS]")), ("[SEP]", ids.index("[SEP]"))]
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    return made


def kinds_of(pieces: list) -> int:
    """The id of the unknown piece."""
    return [kind for _, _, kind in pieces].index(spm.UNKNOWN)


def is_replaced_alike(text: str, rules: dict[str, str]) -> bool:
    """Whether that library replaces what SentencePiece does: no mark behind what is replaced, no
    two marks.
    """
    joins = [unicodedata.category(c)[0] == "M" or c in _JOINED for c in text]
    return not any(
        joins[place] and (joins[place - 1] or text[place - 1] in rules)
        for place in range(1, len(text))
    )


def albert_steps() -> list:
    """What ALBERT's class does before."""
    quotes = [normalizers.Replace(source, '"') for source in ("``", "''")]
    return [*quotes, normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]


@pytest.mark.parametrize(("name", "steps"), [("albert", albert_steps), ("deberta-v2", list)])
def test_ids_of_unigram_models_are_those_of_tokenizers(name, steps, tmp_path):
    """From the model's own file, from a tokenizer.json, and from the one that we write."""
    reference = unigram_reference(name, steps())
    ours = read_tokenizer(FIXTURES / name, name)
    rules = charsmap.read_charsmap(spm.read_unigram_model(ours.model)[1])
    some = texts(2000, 1, ("[MASK]", " [MASK]", "[SEP]", "[CLS]", "fi\u0301", "\u0301"))
    wanted = [reference.encode(text, add_special_tokens=False).ids for text in some]
    found = ours.encode(some).to_list()
    same = [is_replaced_alike(text, rules) for text in some]
    assert sum(same) > 1200
    # ALBERT's reference has no accents left when it comes to its table.
    compared = same if name == "deberta-v2" else [True] * len(some)
    for text, ids, other, alike in zip(some, found, wanted, compared):
        assert ids == other or not alike, ascii(text)
    reference.save(str(tmp_path / "tokenizer.json"))
    fields = json.loads((FIXTURES / name / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    read = read_tokenizer(tmp_path, name)
    assert read.fingerprint == ours.fingerprint
    write_tokenizer(ours, tmp_path / "written", name, 16)
    assert read_tokenizer(tmp_path / "written", name).fingerprint == ours.fingerprint
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "written" / "tokenizer.json"))
    for text, ids, alike in zip(some, found, same):
        assert theirs.encode(text, add_special_tokens=False).ids == ids or not alike, ascii(text)
    assert theirs.encode("a", "b").type_ids == reference.encode("a", "b").type_ids


def test_the_table_of_characters_is_read_and_written():
    path = FIXTURES / "albert" / "spiece.model"
    _, content = spm.read_unigram_model(path.read_bytes())
    rules = charsmap.read_charsmap(content)
    assert rules["\ufb01"] == "fi"
    assert charsmap.read_charsmap(charsmap.write_charsmap(rules)) == rules
    joined = charsmap.joined_rules(rules, True, True, charsmap.QUOTES)
    found = [joined[c] for c in ("\u00c9", "\u0301", "\u0130", "``", "\uff21")]
    assert found == ["e", "", "i", '"', "a"]
    written = charsmap.write_charsmap(joined)
    assert charsmap.read_charsmap(written) == joined
    # Once more changes nothing.
    assert charsmap.with_rules_before(written, True, True, charsmap.QUOTES) == written
    for damaged in (b"abc", b"\x04\0\0\0", written[:-3], written[:50], b"\xff" * 40):
        with pytest.raises(ValueError, match="precompiled_charsmap"):
            charsmap.read_charsmap(damaged)


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


def test_the_head_of_debertas_first_training_has_two_names(tmp_path):
    """That of version 3 (`legacy` is false): the same numbers, and no head of a bare model."""
    whole = zoo.load(copy_model("deberta-v2_mlm", tmp_path / "whole"))
    folder = copy_model("deberta-v2_mlm", tmp_path / "renamed")

    def renamed(tensors):
        return {
            name.replace("cls.predictions.transform.", "lm_predictions.lm_head.").replace(
                "cls.predictions.bias", "lm_predictions.lm_head.bias"
            ): value
            for name, value in tensors.items()
        } | {"mask_predictions.dense.weight": np.ones((2, 2), "float32")}

    change_config(folder, legacy=False)
    change_weights(folder, renamed)
    found, arrays = zoo.load(folder), expected("deberta-v2_mlm")
    np.testing.assert_array_equal(answer(found.model, arrays), answer(whole.model, arrays))
    change_config(folder, architectures=...)  # as Microsoft's own
    assert zoo.load(folder).config.task == "embed"


def test_deberta_says_its_positions_in_several_ways(tmp_path):
    folder = copy_model("deberta-v2_model", tmp_path)
    config = zoo.load(folder).model.backbone.config
    assert config.relative_attention == RelativeAttention(8, 4, norm=True)
    change_config(folder, pos_att_type=["P2C", "c2p"][1:] + ["p2c"])
    assert zoo.load(folder).model.backbone.config == config
    change_config(folder, max_relative_positions=-1)  # as many as positions
    assert zoo.load(folder).model.backbone.config.relative_attention.distance == 16


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
        ("albert_model", {"num_hidden_groups": 2}, ["num_hidden_groups is 2", "the same weights"]),
        ("albert_model", {"inner_group_num": 2}, ["inner_group_num is 2"]),
        ("albert_model", {"embedding_size": 5}, ["token_embedding/embeddings is", "6) there"]),
        ("albert_model", {"position_embedding_type": "relative_key"}, ["position_embedding_type"]),
        ("albert_model", {"type_vocab_size": 3}, ["segment_embedding/embeddings is (2, 6) there"]),
        ("deberta-v2_model", {"relative_attention": False}, ["relative_attention must be true"]),
        ("deberta-v2_model", {"pos_att_type": "c2p|p2p"}, ["pos_att_type is 'c2p|p2p'", "p2c"]),
        ("deberta-v2_model", {"pos_att_type": None}, ["pos_att_type is None", "c2p, p2c"]),
        ("deberta-v2_model", {"pos_att_type": 7}, ["pos_att_type is 7"]),
        ("deberta-v2_model", {"conv_kernel_size": 3}, ["conv_kernel_size is 3", "convolution"]),
        ("deberta-v2_model", {"norm_rel_ebd": "batch_norm"}, ["norm_rel_ebd is 'batch_norm'"]),
        ("deberta-v2_model", {"embedding_size": 6}, ["embedding_size is 6", "as wide as"]),
        ("deberta-v2_model", {"attention_head_size": 3}, ["attention_head_size is 3"]),
        ("deberta-v2_model", {"position_buckets": 3}, ["buckets must be at least 4"]),
        (
            "deberta-v2_model",
            {"position_buckets": 6},
            ["the model that it describes has"],
        ),
        ("deberta-v2_model", {"max_relative_positions": 3}, ["distance must be above half"]),
        ("deberta-v2_model", {"share_att_key": False}, ["the model that it describes has"]),
        ("deberta-v2_model", {"position_biased_input": True}, ["the model that it describes has"]),
        ("deberta-v2_span", {"share_att_key": True}, ["does not have", "pos_key_proj"]),
        ("deberta-v2_classify", {"pooler_hidden_act": "tanh"}, ["pooler_hidden_act is 'tanh'"]),
        ("electra_model", {"model_type": "new"}, ["model_type 'new' is not supported", "electra"]),
    ],
)
def test_what_changes_numbers_is_read_or_refused(name, fields, parts, tmp_path):
    folder = copy_model(name, tmp_path)
    change_config(folder, **fields)
    refused(folder, *parts)


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ([normalizers.NFC()], ["'NFC'", "no step of a SentencePiece"]),
        ([normalizers.Lowercase(), normalizers.NFKD()], ["NFKD stands in another order"]),
        ([normalizers.NFKD(), normalizers.Lowercase()], ["Lowercase stands in another order"]),
        ([normalizers.StripAccents()], ["StripAccents stands in another order"]),
        ([normalizers.Replace("`", "'")], ["is no step of a SentencePiece"]),
    ],
)
def test_rules_before_a_table_that_are_not_known(steps, parts, tmp_path):
    folder = copy_model("albert_model", tmp_path)
    unigram_reference("albert", steps).save(str(folder / "tokenizer.json"))
    refused(folder, *parts)


@pytest.mark.parametrize("field", ["do_lower_case", "split_by_punct"])
def test_rules_of_debertas_class_that_are_not_known(field, tmp_path):
    folder = copy_model("deberta-v2_model", tmp_path)
    change_json(folder / "tokenizer_config.json", **{field: True})
    refused(folder, f"{field} is True")


def test_a_tokenizer_of_other_rules_is_refused(tmp_path):
    folder = copy_model("modernbert_model", tmp_path)
    change_json(folder / "tokenizer_config.json", mask_token="<mask>")
    refused(folder, "mask_token is '<mask>'", "[MASK]")
