"""Encoder-decoders of transformers: its logits, searches and ids of texts; the same files again."""

import functools
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from huggingface_cases import change_config, change_json, change_weights
from keras import ops

import zoo
from zoo.generation.beam_search import BeamOptions, beam_search
from zoo.generation.loop import SamplingOptions
from zoo.models.build import count_weights
from zoo.models.configs import EncoderDecoderConfig
from zoo.weights.encoder_decoders import ENCODER_DECODERS
from zoo.weights.huggingface.writing import model_type_of
from zoo.weights.safetensors_files import WeightFiles

FOLDER = Path(__file__).parent / "fixtures" / "encoder_decoders"
NAMES = sorted(path.name for path in FOLDER.iterdir())
numpy = ops.convert_to_numpy


@functools.cache
def loaded(name: str) -> zoo.Bundle:
    """The bundle of a fixture."""
    return zoo.load(FOLDER / name)


def expected(name: str) -> dict[str, np.ndarray]:
    """Inputs and outputs of transformers' model."""
    return dict(np.load(FOLDER / name / "expected.npz"))


def answers(name: str) -> dict[str, list]:
    """Texts, and their ids as transformers' tokenizer has them."""
    return json.loads((FOLDER / name / "answers.json").read_text())


def copy_of(name: str, folder: Path) -> Path:
    """A fixture that may be changed."""
    return shutil.copytree(FOLDER / name, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    """Each fixture; tests run one model after the other, so that each is compiled once."""
    return request.param


def inputs_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "token_ids": arrays["token_ids"],
        "padding_mask": arrays["mask"].astype(bool),
        "target_ids": arrays["target_ids"],
    }


def logits_of(model: keras.Model, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return numpy(model(inputs_of(arrays), training=False))


def decoder_of(name: str):
    """What writes targets for the sources of a fixture."""
    inputs = inputs_of(expected(name))
    return loaded(name).model.decoder(inputs["token_ids"], inputs["padding_mask"])


def test_there_is_a_fixture_of_each_family():
    kinds = {json.loads((FOLDER / n / "config.json").read_text())["model_type"] for n in NAMES}
    assert kinds == ENCODER_DECODERS.keys()


def test_logits_are_those_of_transformers(name):
    arrays, model = expected(name), loaded(name).model
    np.testing.assert_allclose(logits_of(model, arrays), arrays["logits"], rtol=0, atol=1e-4)
    assert model.count_params() == count_weights(model.backbone.config, model.task)


def test_cached_decoding_equals_the_forward_pass(name):
    """A prompt of four tokens, then single ones."""
    ids, decoder = expected(name)["target_ids"], decoder_of(name)
    whole = logits_of(loaded(name).model, expected(name))
    position = ops.zeros((4,), "int32")
    found, cache = decoder.decode(ids[:, :4], decoder.initial_cache(4, 11), position)
    np.testing.assert_allclose(numpy(found), whole[:, 3], rtol=0, atol=1e-5)
    for step in range(4, 11):
        position = ops.full((4,), step, "int32")
        found, cache = decoder.decode_token(ids[:, step], cache, position)
        np.testing.assert_allclose(numpy(found), whole[:, step], rtol=0, atol=1e-5)


def sampling(rows: int, steps: int) -> SamplingOptions:
    """Greedy."""
    values = {"max_new_tokens": steps, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    whole = ("max_new_tokens", "top_k", "seed")
    return SamplingOptions(
        **{
            name: ops.full((rows,), value, "int32" if name in whole else "float32")
            for name, value in values.items()
            if name in SamplingOptions._fields
        }
    )


def without_end(rows: np.ndarray, end: int) -> list[list[int]]:
    """Ids of transformers' targets, start token and all from the end on taken off."""
    found = []
    for row in rows[:, 1:].tolist():
        found.append(row[: row.index(end)] if end in row else row)
    return found


@pytest.mark.parametrize(
    ("search", "beams", "penalty"), [("greedy", 1, 1.0), ("beams", 4, 1.0), ("long", 3, 2.0)]
)
def test_searches_find_what_transformers_finds(name, search, beams, penalty):
    """The n best targets of four sources in one batch, in their order, and their scores."""
    arrays = expected(name)
    options = BeamOptions(
        sampling(4, 9), ops.full((4,), beams, "int32"), ops.full((4,), penalty, "float32")
    )
    end = int(arrays["end"])
    found = beam_search(decoder_of(name), [int(arrays["start"])], options, beams, 9, end_ids=[end])
    ids, lengths = numpy(found.token_ids), numpy(found.lengths)
    ours = [ids[i, k, : lengths[i, k]].tolist() for i in range(4) for k in range(beams)]
    assert ours == without_end(arrays[search], end)
    if beams > 1:  # of one, transformers gives no score
        scores = numpy(found.scores).reshape(-1)
        np.testing.assert_allclose(scores, arrays[f"{search}_scores"], rtol=0, atol=1e-4)


def test_ids_of_texts_are_transformers(name):
    found, model = answers(name), loaded(name).seq2seq
    assert model.sources(found["texts"]).to_list() == found["ids"]
    if "targets" in found:  # Marian has other pieces for them
        ours = loaded(name).tokenizer.encode_target(found["texts"]).to_list()
        assert [[*row, model.tokenizer.end_id] for row in ours] == found["targets"]
    whole = ["The quick brown fox.", "one.two...three", "the dog reads"]
    decoded = model.tokenizer.decode(model.tokenizer.encode(whole)).numpy()
    assert [text.decode() for text in decoded] == whole


def test_what_is_saved_is_what_was_read(name, tmp_path):
    bundle, theirs = loaded(name), FOLDER / name
    bundle.save_huggingface(tmp_path / "ours")
    zoo.save(tmp_path / "bundle", bundle.model, bundle.tokenizer, seq2seq=bundle.config.seq2seq)
    tensors, original = WeightFiles(tmp_path / "ours"), WeightFiles(theirs)
    tables = {n for n in original.names() if "embed_positions" in n}
    if bundle.model.backbone.config.positions == "learned":
        tables = set()
    assert {*tensors.names()} == {*original.names()} - tables
    for tensor in tensors.names():
        ours, expected_value = tensors.read(tensor), original.read(tensor)
        if "embed_positions" in tensor:  # two rows that no token uses
            ours, expected_value = ours[2:], expected_value[2:]
        np.testing.assert_array_equal(ours, expected_value, err_msg=tensor)
    arrays = expected(name)
    for folder in ("ours", "bundle"):
        again = zoo.load(tmp_path / folder, task=bundle.config.task if folder == "ours" else None)
        assert again.model.backbone.config == bundle.model.backbone.config
        assert again.config.seq2seq == bundle.config.seq2seq
        assert again.tokenizer.fingerprint == bundle.tokenizer.fingerprint
        np.testing.assert_array_equal(
            logits_of(again.model, arrays), logits_of(bundle.model, arrays)
        )


def test_transformers_reads_what_is_written(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    bundle, arrays = loaded(name), expected(name)
    folder = bundle.save_huggingface(tmp_path / "ours")
    model, loading = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, output_loading_info=True
    )
    # Tables of sines, which it makes itself.
    assert all(key.endswith("embed_positions.weight") for key in loading.pop("missing_keys"))
    assert not any(loading.values()), loading
    with torch.no_grad():
        logits = model.eval()(
            input_ids=torch.tensor(arrays["token_ids"]).long(),
            attention_mask=torch.tensor(arrays["mask"]),
            decoder_input_ids=torch.tensor(arrays["target_ids"]).long(),
        ).logits.numpy()
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-4)
    start = bundle.config.seq2seq.target_start
    generation = model.generation_config
    assert generation.decoder_start_token_id == start[0]
    assert generation.forced_bos_token_id == (start[1] if len(start) > 1 else None)
    if name == "marian":
        pytest.importorskip("sentencepiece")
    texts = answers(name)["texts"]
    ids = transformers.AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
    assert ids == answers(name)["ids"]


@pytest.mark.parametrize(
    ("name", "start", "around"),
    [
        ("t5", (0,), ((), (1,))),
        ("bart", (2, 0), ((0,), (2,))),
        ("mbart", (2, "ro_RO"), ((), (2, "en_XX"))),
        ("mbart50", (2, "zh_CN"), (("de_DE",), (2,))),
        ("pegasus", (0,), ((), (1,))),
    ],
)
def test_where_source_and_target_begin_and_end(name, start, around):
    bundle = loaded(name)
    ids = bundle.tokenizer.special_tokens
    named = [tuple(ids.get(x, x) for x in part) for part in (start, *around)]
    if name == "mbart":  # the language is the start
        named[0] = named[0][1:]
    seq2seq = bundle.config.seq2seq
    assert [seq2seq.target_start, seq2seq.source_start, seq2seq.source_end] == named


def test_default_tasks():
    tasks = {name: loaded(name).config.task for name in NAMES}
    translate = {name for name, task in tasks.items() if task == "translate"}
    assert translate == {"marian", "mbart", "mbart50"}
    assert zoo.load(FOLDER / "t5", task="translate").config.task == "translate"


def test_special_tokens_in_a_text_are_text():
    for name in ("t5", "mbart", "pegasus", "marian"):
        tokenizer = loaded(name).tokenizer
        text = " ".join([*tokenizer.special_tokens][:60])
        found = {*tokenizer.encode([text]).to_list()[0]}
        assert found & {*tokenizer.special_tokens.values()} <= {tokenizer.unknown_id}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t5", {"tie_word_embeddings": True}),
        ("t5_gated", {"tie_word_embeddings": True, "scale_decoder_outputs": False}),
    ],
)
def test_configs_of_transformers_4_and_5_say_the_same(name, options, tmp_path):
    folder = copy_of(name, tmp_path)
    change_config(folder, **{"scale_decoder_outputs": ..., **options})
    again = zoo.load(folder)
    assert again.model.backbone.config == loaded(name).model.backbone.config
    assert again.model.backbone.config.scale_logits == (name == "t5")
    assert again.model.backbone.config.tie_embeddings == (name == "t5")


def test_a_prefix_stands_before_each_source(tmp_path):
    folder = copy_of("t5", tmp_path)
    params = {"summarization": {"prefix": "summarize: "}}
    change_config(folder, task_specific_params=params)
    bundle = zoo.load(folder)
    assert bundle.config.seq2seq.prefix == "summarize: "
    plain = loaded("t5").seq2seq.sources(["summarize: the fox"]).to_list()
    assert bundle.seq2seq.sources(["the fox"]).to_list() == plain
    assert zoo.load(folder, task="translate").config.seq2seq.prefix == ""
    assert zoo.load(bundle.save_huggingface(tmp_path / "b")).config.seq2seq.prefix == "summarize: "


def test_no_bias_of_logits_and_copies_of_the_embedding(tmp_path):
    """Files that leave out what is zero, and have one weight under several names."""

    def change(tensors):
        shared = tensors["model.shared.weight"]
        copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
        tensors |= dict.fromkeys((*copies, "lm_head.weight"), shared)
        del tensors["final_logits_bias"], tensors["model.shared.weight"]
        return tensors

    folder = copy_of("bart", tmp_path)
    change_weights(folder, change)
    arrays, bias = expected("bart"), WeightFiles(FOLDER / "bart").read("final_logits_bias")
    bundle = zoo.load(folder)
    logits = logits_of(bundle.model, arrays)
    np.testing.assert_allclose(logits, arrays["logits"] - bias, rtol=0, atol=1e-4)
    again = zoo.load(bundle.save_huggingface(tmp_path / "again"))
    np.testing.assert_array_equal(logits_of(again.model, arrays), logits)


def refused(folder: Path, *parts: str):
    """Loading fails, and says each of `parts`."""
    with pytest.raises(zoo.BundleError) as error:
        zoo.load(folder)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "parts"),
    [
        ("t5", {"feed_forward_proj": "gated-relu"}, ["feed_forward_proj is 'gated-relu'"]),
        ("t5", {"is_gated_act": True}, ["is_gated_act is True", "feed_forward_proj is 'relu'"]),
        ("t5_gated", {"dense_act_fn": "gelu"}, ["dense_act_fn is 'gelu'", "'gelu_new'"]),
        ("t5", {"is_encoder_decoder": False}, ["is_encoder_decoder is False", "two stacks"]),
        ("t5", {"eos_token_id": 7}, ["eos_token_id is 7", "has id 1"]),
        ("t5", {"decoder_start_token_id": 9999}, ["ids must be in 0 to", "9999"]),
        ("t5", {"num_layers": 3}, ["the model that it describes has", "num_layers"]),
        ("t5", {"num_heads": 1}, ["the rows are (5, 5, 5) here"]),
        ("t5", {"architectures": ["T5EncoderModel"]}, ["T5EncoderModel", "T5ForCond"]),
        ("bart", {"activation_function": "tanh"}, ["activation_function is 'tanh'"]),
        ("bart", {"decoder_ffn_dim": 20}, ["decoder_ffn_dim is 20 and encoder_ffn_dim 18"]),
        (
            "bart",
            {"decoder_attention_heads": 3},
            ["decoder_attention_heads is 3 and encoder_attention_heads 2"],
        ),
        ("bart", {"normalize_before": True}, ["normalize_before is True"]),
        ("mbart", {"add_final_layer_norm": False}, ["add_final_layer_norm is False"]),
        ("marian", {"static_position_embeddings": False}, ["static_position_embeddings is False"]),
        (
            "marian",
            {"share_encoder_decoder_embeddings": False},
            ["share_encoder_decoder_embeddings is False", "one token embedding"],
        ),
        ("pegasus", {"tie_word_embeddings": False}, ["the model that it describes has"]),
    ],
)
def test_what_changes_numbers_is_read_or_refused(name, fields, parts, tmp_path):
    folder = copy_of(name, tmp_path)
    change_config(folder, **fields)
    refused(folder, *parts)


@pytest.mark.parametrize(
    ("name", "fields", "parts"),
    [
        ("mbart", {"tgt_lang": "xx_XX"}, ["tgt_lang is 'xx_XX'", "ar_AR, cs_CZ", "zh_CN"]),
        ("mbart", {"src_lang": "klingon"}, ["src_lang is 'klingon'", "en_XX"]),
        ("mbart", {"tgt_lang": None}, ["tgt_lang is None", "ro_RO"]),
        ("mbart50", {"tgt_lang": "german"}, ["tgt_lang is 'german'", "af_ZA, ar_AR"]),
        ("pegasus", {"offset": 0}, ["offset is 0", "103"]),
        ("t5", {"eos_token": "<end>"}, ["eos_token is '<end>'"]),
        ("t5", {"tokenizer_class": "AlbertTokenizer"}, ["'AlbertTokenizer'", "T5Tokenizer"]),
        ("marian", {"separate_vocabs": True}, ["separate_vocabs is True"]),
    ],
)
def test_tokenizers_that_are_not_known(name, fields, parts, tmp_path):
    folder = copy_of(name, tmp_path)
    change_json(folder / "tokenizer_config.json", **fields)
    refused(folder, *parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"normalizer": {"type": "NFC"}}, ["'NFC'", "no step of a SentencePiece"]),
        ({"pre_tokenizer": {"type": "Whitespace"}}, ["pre_tokenizer must be Metaspace"]),
        ({"model": {"type": "BPE"}}, ["type is 'BPE'", "Unigram"]),
        ({"model": {"type": "Unigram", "vocab": [["a", 0]]}}, ["unk_id is missing"]),
        ({"model": {"type": "Unigram", "vocab": ["a"]}}, ["vocab must be a list"]),
    ],
)
def test_a_tokenizer_json_that_is_no_sentencepiece(change, parts, tmp_path):
    folder = copy_of("t5_gated", tmp_path)
    change_json(folder / "tokenizer.json", **change)
    refused(folder, *parts)


def test_a_missing_tensor_is_named(tmp_path):
    for name, tensor in {
        "t5": "decoder.block.0.layer.1.EncDecAttention.v.weight",
        "marian": "model.decoder.layers.1.encoder_attn.k_proj.bias",
    }.items():
        folder = copy_of(name, tmp_path / name)
        change_weights(
            folder, lambda all, t=tensor: {k if k != t else f"other.{k}": v for k, v in all.items()}
        )
        refused(folder, "missing tensors", tensor.removeprefix("model."))


def test_a_model_of_ours_that_transformers_cannot_express():
    model = zoo.build(
        EncoderDecoderConfig(vocabulary_size=9, hidden_dim=8, num_heads=2), "translate"
    )
    with pytest.raises(ValueError, match=r"cannot express this model: .*positions is 'rotary'"):
        model_type_of(model, "sentencepiece")


@pytest.mark.tensorflow_only
@pytest.mark.usefixtures("eager_functions")
def test_a_folder_translates_and_scores():
    """From strings to strings: the best of four beams is at least as likely as the greedy one."""
    for name in ("marian", "mbart50"):
        model = loaded(name).seq2seq
        texts = ["The quick brown fox.", "a dog"]
        found = model.translate(texts, max_new_tokens=[6], num_beams=[4], length_penalty=[0.0])
        greedy = model.translate(texts, max_new_tokens=[6], length_penalty=[0.0])
        assert found["texts"].shape == (2, 4)
        assert (found["score"].numpy() >= greedy["score"].numpy() - 1e-5).all()
        scored = model.score(texts, ["Der Fuchs", ""])
        total, tokens = scored["log_likelihood"].numpy(), scored["tokens"].numpy().tolist()
        assert np.isfinite(total).all()
        found = scored["log_probabilities"].numpy()
        np.testing.assert_allclose(found.sum(axis=1), total, rtol=1e-5)
        assert [row.index(b"</s>") for row in tokens] == scored["token_count"].numpy().tolist()
        assert [b"".join(row) for row in tokens] == [b"Der Fuchs</s>", b"</s>"]
