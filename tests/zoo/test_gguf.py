"""GGUF files as llama.cpp has them, of the fixtures of decoders: logits, ids, refusals."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from huggingface_cases import change_config
from model_cases import forward
from test_decoder_families import copy_of, expected, numpy

import zoo
from zoo.loading import outline
from zoo.tokenizers.bytepair.vocabulary import ALPHABET
from zoo.weights.gguf.files import GGUFFile
from zoo.weights.gguf.reading import ARCHITECTURES
from zoo.weights.huggingface.reading import read_model
from zoo.weights.safetensors_files import WeightFiles, write_weights

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Q8_0 = gguf.GGMLQuantizationType.Q8_0
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
PIECES = [*SPECIAL, *ALPHABET, "Ġt", "he", "the", "Ġthe", "<b>", "[PAD264]"]
MERGES = ["Ġ t", "h e", "t he", "Ġt he"]
KINDS = {**dict.fromkeys(SPECIAL, CONTROL), "<b>": USER_DEFINED, "[PAD264]": UNUSED}
ROWS = 272
# Of a fixture what llama.cpp's metadata cannot say.
UNSAID = {
    "qwen2": {"use_sliding_window": False},
    "gemma2": {"query_pre_attn_scalar": 6},
    "gemma3_text": {"query_pre_attn_scalar": 6},
}


def byte_pairs(pre: str = "smollm", **changes) -> dict:
    """The metadata of a byte-level tokenizer."""
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": PIECES,
        "token_type": [KINDS.get(piece, NORMAL) for piece in PIECES],
        "merges": MERGES,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "add_bos_token": False,
    } | changes


def sentence_pieces(**changes) -> dict:
    """The metadata of a tokenizer of SentencePiece's, with scores."""
    pieces = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    pieces |= {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    words = ["▁", "t", "h", "e", "▁t", "he", "the", "▁the"]
    pieces |= dict.fromkeys(words, NORMAL) | {"  ": USER_DEFINED, "<end_of_turn>": CONTROL}
    scores = [0.0] * 259 + [-9.0] * 4 + [-1.0, -2.0, -4.0, -3.0] + [-1000.0] * 2
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [*pieces],
        "token_type": [*pieces.values()],
        "scores": scores,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as the converter orders them for "llama"."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def converted(folder: Path) -> tuple[str, dict, dict]:
    """Architecture, metadata and tensors of a folder of transformers."""
    config = json.loads((folder / "config.json").read_text())
    architecture = {v: k for k, v in ARCHITECTURES.items()}[config["model_type"]]
    heads, width = config["num_attention_heads"], config["hidden_size"]
    groups, size = config["num_key_value_heads"], config.get("head_dim") or width // heads
    metadata = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": width,
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": groups,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.dimension_count": int(size * config.get("partial_rotary_factor", 1)),
        "rope.freq_base": config.get("rope_theta", 10000.0),
    }
    if architecture in ("phi3", "gemma2", "gemma3"):
        metadata["attention.sliding_window"] = config["sliding_window"]
    if architecture == "gemma2":
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        metadata |= {name: config[name] for name in caps}
    if architecture == "gemma3":
        metadata |= {"rope.freq_base_swa": 50.0, "attention.sliding_window_pattern": 2}
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    files, tensors = WeightFiles(folder), {}
    for name in files.names():
        array, stored = files.read(name), table.get_name(name, (".weight", ".bias"))
        if architecture in ("llama", "smollm3") and ".attn_q." in stored:
            array = in_pairs(array, heads)
        if architecture in ("llama", "smollm3") and ".attn_k." in stored:
            array = in_pairs(array, groups)
        if architecture.startswith("gemma") and "norm" in stored:
            array = array + np.float32(1)
        if stored in ("token_embd.weight", "output.weight"):
            array = np.pad(array, ((0, ROWS - len(array)), (0, 0)))
        tensors[stored] = array
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling["factor"]}
    elif scaling:
        metadata["rope.scaling.original_context_length"] = 32
        tensors["rope_freqs.weight"] = slowness(config["rope_theta"], size, **scaling)
    return architecture, metadata, tensors


def slowness(base: float, size: int, factor: float, **scaling) -> np.ndarray:
    """By how much each pair of channels turns slower, as transformers computes it for Llama 3."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, found = scaling["original_max_position_embeddings"], []
    for length in 2 * np.pi * base ** (np.arange(0, size, 2) / size):
        smooth = min(max((original / length - low) / (high - low), 0), 1)
        found.append(1 / ((1 - smooth) / factor + smooth))
    return np.float32(found)


def write(path: Path, architecture: str, metadata: dict, tensors: dict, tokenizer: dict) -> Path:
    """A file of llama.cpp's own writer; uint8 arrays are Q8_0."""
    writer = gguf.GGUFWriter(path, architecture)
    named = {f"{architecture}.{key}": value for key, value in metadata.items()}
    named |= {f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()}
    for key, value in named.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
            kinds.get(type(value), writer.add_string)(key, value)
    writer.add_chat_template(TEMPLATE)
    for name, array in tensors.items():
        writer.add_tensor(name, array, raw_dtype=Q8_0 if array.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model, ids: np.ndarray) -> np.ndarray:
    return numpy(forward(model)(ids))


QUICK = ("llama", "qwen2", "gemma3_text")
FIXTURES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in (*ARCHITECTURES.values(), "llama_linear")
]


@pytest.mark.parametrize("name", FIXTURES)
def test_logits_are_those_of_the_folder_it_was_made_of(name, tmp_path):
    folder, ids = copy_of(name, tmp_path / name), expected(name)["token_ids"]
    shutil.move(folder / "config_4.json", folder / "config.json")
    change_config(folder, **UNSAID.get(name, {}))
    bundle = zoo.load(write(tmp_path / "model.gguf", *converted(folder), byte_pairs()))
    assert outline(bundle.folder) == ("lm", bundle.model.backbone.config)
    wanted = logits(read_model(folder), ids)
    np.testing.assert_allclose(logits(bundle.model, ids)[..., :40], wanted, rtol=0, atol=2e-6)
    if name not in UNSAID:  # transformers' own answer
        np.testing.assert_allclose(wanted, expected(name)["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_eight_bits_and_the_way_to_transformers_and_back(name, tmp_path):
    tokenizer = zoo.load(write(tmp_path / "a.gguf", *plain("llama", tmp_path))).tokenizer
    config = zoo.GPTConfig(
        *(ROWS, 64, 2, 4, 32),
        intermediate_dim=64,
        num_kv_heads=2,
        activation="swiglu",
        norm="rms_norm",
        qk_norm=False,
        positions="rotary",
        tie_embeddings=False,
        use_bias="qkv" if name == "qwen2" else False,
        initializer_range=0.3,
    )
    folder = tmp_path / "folder"
    zoo.save(tmp_path / "own", zoo.build(config), tokenizer).save_huggingface(folder)
    architecture, metadata, tensors = converted(folder)
    assert architecture == name
    files = WeightFiles(folder)
    rounded, stored = {n: files.read(n) for n in files.names()}, {}
    for key, array in tensors.items():
        stored[key] = gguf.quants.quantize(array, Q8_0) if array.ndim == 2 else array
    for key, array in rounded.items():
        if array.ndim == 2:  # rows are rounded on their own, in whatever order they are
            rounded[key] = gguf.dequantize(gguf.quants.quantize(array, Q8_0), Q8_0)
    write_weights(folder, rounded.items())
    found = zoo.load(write(tmp_path / "b.gguf", architecture, metadata, stored, byte_pairs()))
    wanted = zoo.load(folder)
    assert found.tokenizer.fingerprint == wanted.tokenizer.fingerprint
    unsaid = {"initializer_range": 0.3}  # the file does not tell how training began
    assert found.config.model | unsaid == wanted.config.model
    for one, other in zip(found.model.get_weights(), wanted.model.get_weights()):
        np.testing.assert_array_equal(one, other)


def plain(name: str, tmp_path: Path, **tokenizer) -> tuple[str, dict, dict, dict]:
    """What `write` takes, of a fixture."""
    folder = copy_of(name, tmp_path / f"{name}_fixture")
    shutil.copy(folder / "config_4.json", folder / "config.json")
    return *converted(folder), byte_pairs(**tokenizer)


def test_byte_pairs_are_those_of_the_metadata(tmp_path):
    path = write(tmp_path / "model.gguf", *plain("llama", tmp_path, eot_token_id=2))
    bundle = zoo.load(path)
    tokenizer = bundle.tokenizer
    assert tokenizer.vocabulary == PIECES[:-1]
    assert (tokenizer.pattern, tokenizer.start) == ("smollm", None)
    assert tokenizer.end_ids == (0, 2)
    assert tokenizer.added_tokens == {"<b>": []}
    ids = tokenizer.encode(["the the<|im_end|> <b>12"]).to_list()[0]
    names = [PIECES[index] for index in ids]
    assert names == ["the", "Ġthe", "<|im_end|>", "Ġ", "<b>", "1", "2"]
    assert bundle.config.chat.joint("user", "assistant").text == ""


def test_rules_of_llama_3_and_qwen(tmp_path):
    llama = plain("llama", tmp_path, pre="llama-bpe", add_bos_token=True)
    tokenizer = zoo.load(write(tmp_path / "a.gguf", *llama)).tokenizer
    assert (tokenizer.pattern, tokenizer.ignore_merges) == ("llama3", True)
    assert tokenizer.start == "<|im_start|>"
    # A turn's end ends an answer though no key names it.
    assert tokenizer.end_ids == (0, 2)
    qwen = plain("qwen2", tmp_path, pre="qwen2")
    tokenizer = zoo.load(write(tmp_path / "b.gguf", *qwen)).tokenizer
    assert (tokenizer.pattern, tokenizer.nfc, tokenizer.ignore_merges) == ("qwen2", True, False)


def test_scores_become_merges_and_the_folder_says_the_same(tmp_path):
    *model, _ = plain("llama", tmp_path)
    bundle = zoo.load(write(tmp_path / "model.gguf", *model, sentence_pieces()))
    tokenizer = bundle.tokenizer
    assert (tokenizer.prefix, tokenizer.start, tokenizer.end_ids) == ("prepend", "<s>", (2, 268))
    assert tokenizer.merges[0] == "▁ ▁"
    ids = tokenizer.encode(["the the é"]).to_list()[0]
    pieces = tokenizer.vocabulary
    names = ["▁the", "▁the", "▁", "<0xC3>", "<0xA9>"]
    assert [pieces[index] for index in ids] == names
    folder = bundle.save_huggingface(tmp_path / "saved")
    again = zoo.load(folder)
    assert again.tokenizer.fingerprint == tokenizer.fingerprint
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 268]
    assert again.lm.start_id == 1


@pytest.mark.parametrize("prefix", ["never", "first", "always", "prepend"])
def test_byte_fallback_is_written_as_the_library_reads_it(prefix, tmp_path):
    reference = pytest.importorskip("tokenizers").Tokenizer
    *model, _ = plain("llama", tmp_path)
    path = write(tmp_path / "model.gguf", *model, sentence_pieces())
    kept = zoo.load(path).tokenizer.get_config()
    kept |= {"prefix": prefix, "added_tokens": {"<end_of_turn>": ["rstrip"], "▁▁": []}}
    tokenizer = zoo.tokenizers.ByteFallbackTokenizer.from_config(kept)
    tokenizer.write_files(tmp_path)
    theirs = reference.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("the the", " the\n", "t<end_of_turn>  he é", "", "  <s> the"):
        wanted = theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode([text]).to_list()[0] == wanted
    again = zoo.tokenizers.ByteFallbackTokenizer.from_tokenizer_json(
        tmp_path / "tokenizer.json", parse_special=True, ends=kept.get("ends", ())
    )
    assert again.fingerprint == tokenizer.fingerprint


def refused(path: Path, *parts: str) -> None:
    """Loading fails, and says each of `parts`, and the file."""
    with pytest.raises(zoo.BundleError) as error:
        zoo.load(path)
    for part in (path.name, *parts):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"experts": 1}, ["unknown field 'experts'"]),
        ({"expert_count": 8}, ["expert_count is 8"]),
        ({"block_count": 2**31}, ["block_count must be a whole number"]),
        ({"block_count": "2"}, ["block_count must be a whole number"]),
        ({"block_count": 2**31 - 1}, ["the model that it describes has"]),
        ({"embedding_length": 2**20}, ["the model that it describes has"]),
        ({"block_count": None}, ["block_count missing"]),
        ({"attention.value_length": 4}, ["attention.value_length is 4", "8"]),
        ({"attention.sliding_window": 4}, ["unknown field 'attention.sliding_window'"]),
        ({"rope.scaling.type": "yarn"}, ["rope_type is 'yarn'"]),
        ({"rope.scaling.original_context_length": 64}, ["rope_freqs.weight is not what"]),
        ({"rope.dimension_count": 4}, ["partial_rotary_factor is 0.5"]),
    ],
)
def test_metadata_that_change_numbers_are_read_or_refused(changes, parts, tmp_path):
    architecture, metadata, tensors, tokenizer = plain("llama", tmp_path)
    metadata = {key: value for key, value in (metadata | changes).items() if value is not None}
    refused(write(tmp_path / "m.gguf", architecture, metadata, tensors, tokenizer), *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model": "bert"}, ["model is 'bert'"]),
        ({"pre": "tekken"}, ["pre is 'tekken'", "smollm", "qwen2"]),
        ({"eos_token_id": 999}, ["eos_token_id must be"]),
        ({"add_eos_token": True}, ["add_eos_token is True"]),
        ({"token_type": [1]}, ["1 values of token_type"]),
        ({"tokens": [1]}, ["tokens must be a list of strings"]),
        ({"merges": ["Ġ zz"]}, ["is not in the vocabulary"]),
    ],
)
def test_tokenizers_that_are_not_known(changes, parts, tmp_path):
    refused(write(tmp_path / "m.gguf", *plain("llama", tmp_path, **changes)), *parts)


def test_scores_are_needed_and_ids_have_rows(tmp_path):
    *model, _ = plain("llama", tmp_path)
    scores = [0.0] * 5
    refused(write(tmp_path / "a.gguf", *model, sentence_pieces(scores=scores)), "scores must be")
    more = [*PIECES[:-1], *(f"<x{i}>" for i in range(20))]
    kinds = [KINDS.get(piece, NORMAL) for piece in more]
    tokenizer = byte_pairs(tokens=more, token_type=kinds)
    refused(write(tmp_path / "b.gguf", *model, tokenizer), "the embedding only 272 rows")


def test_tensors_that_are_missing_or_too_many(tmp_path):
    architecture, metadata, tensors, tokenizer = plain("llama", tmp_path)
    other = dict(tensors)
    other["blk.0.other.weight"] = other.pop("blk.0.ffn_up.weight")
    path = write(tmp_path / "a.gguf", architecture, metadata, other, tokenizer)
    refused(path, "missing tensors", "layers.0.mlp.up_proj.weight")
    more = tensors | {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    path = write(tmp_path / "b.gguf", architecture, metadata, more, tokenizer)
    refused(path, "does not have: blk.0.attn_sinks.weight")
    refused(write(tmp_path / "c.gguf", "mamba", {}, {}, tokenizer), "'mamba'", "gemma3")
    whole = tensors | {"output_norm.weight": np.ones(16, np.int32)}
    path = write(tmp_path / "d.gguf", architecture, metadata, whole, tokenizer)
    refused(path, "'output_norm.weight' has type I32", "Q8_0")


@pytest.fixture
def whole(tmp_path) -> bytes:
    return write(tmp_path / "whole.gguf", *plain("llama", tmp_path)).read_bytes()


@pytest.mark.parametrize("kept", [0, 3, 23, 60, 2000, 9000, -32])
def test_truncated_files(kept, whole, tmp_path):
    path = tmp_path / "part.gguf"
    path.write_bytes(whole[:kept])
    refused(path, "truncated" if kept not in (0, 3, 23) else "not a GGUF file")


def test_files_of_other_kinds(whole, tmp_path):
    path = tmp_path / "other.gguf"
    for start, content, part in (
        (4, (3).to_bytes(4, "big"), "big-endian"),
        (4, (1).to_bytes(4, "little"), "GGUF version 1"),
        (0, b"GGML", "not a GGUF file"),
        (8, (2**60).to_bytes(8, "little"), "tensor ''"),
        (16, (2**60).to_bytes(8, "little"), ""),
    ):
        path.write_bytes(whole[:start] + content + whole[start + len(content) :])
        refused(path, part)
    # An unknown type of tensors, and a size that no file has.
    at = whole.index(b"output_norm.weight") + len("output_norm.weight")
    path.write_bytes(whole[: at + 12] + (777).to_bytes(4, "little") + whole[at + 16 :])
    refused(path, "'output_norm.weight' has type 777", "Q8_0")
    path.write_bytes(whole[: at + 4] + (2**62).to_bytes(8, "little") + whole[at + 12 :])
    refused(path, "truncated: tensor 'output_norm.weight'")


def test_one_of_several_files(tmp_path):
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(path, "3 files of one model")


def test_all_types_of_metadata_are_read(tmp_path):
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values = {"uint8": 200, "int8": -3, "uint16": 9, "int16": -9, "uint32": 2**31, "int32": -5}
    values |= {"uint64": 2**40, "int64": -(2**40), "float32": 0.5, "float64": 1e-9, "bool": True}
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_array("x.flags", [True, False])
    writer.add_array("x.names", ["a", "é"])
    writer.add_array("x.numbers", [1.5, 2.5])
    writer.add_tensor("half", np.float16([[1, 2]]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    lists = {"x.flags": [True, False], "x.names": ["a", "é"], "x.numbers": [1.5, 2.5]}
    named = {f"x.{kind}": value for kind, value in values.items()}
    assert file.metadata == {"general.architecture": "llama", **named, **lists}
    np.testing.assert_array_equal(file.read("half"), np.float32([[1, 2]]))
    with pytest.raises(zoo.BundleError, match="no tensor 'other'"):
        file.read("other")
