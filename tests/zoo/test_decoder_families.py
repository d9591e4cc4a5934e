"""Today's decoders of transformers: its logits, with a cache and without; the same files again."""

import functools
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from huggingface_cases import FIXTURES, change_config, change_json, change_weights
from keras import ops
from model_cases import decode, forward

import zoo
from zoo.config import Fields
from zoo.models.attention import rotary_table, rotate
from zoo.models.attention_options import Rotary
from zoo.models.build import count_weights
from zoo.models.configs import GPTConfig, RotaryScaling
from zoo.weights.decoders import DECODERS
from zoo.weights.huggingface.reading import read_model
from zoo.weights.huggingface.writing import config_of, model_type_of, tensors_of
from zoo.weights.safetensors_files import WeightFiles, write_weights

DECODER_FIXTURES = Path(__file__).parent / "fixtures" / "decoders"
NAMES = sorted(path.name for path in DECODER_FIXTURES.iterdir())
numpy = ops.convert_to_numpy


@functools.cache
def loaded(name: str) -> keras.Model:
    """The model of a fixture."""
    return read_model(DECODER_FIXTURES / name)


def expected(name: str) -> dict[str, np.ndarray]:
    """Token ids, and the logits of transformers."""
    return dict(np.load(DECODER_FIXTURES / name / "expected.npz"))


def copy_of(name: str, folder: Path) -> Path:
    """A fixture that may be changed."""
    return shutil.copytree(DECODER_FIXTURES / name, folder, dirs_exist_ok=True)


def saved(model: keras.Model, folder: Path) -> Path:
    """The model as transformers has it, without a tokenizer."""
    folder.mkdir()
    model_type = model_type_of(model, "bytepair")
    write_weights(folder, tensors_of(model, model_type))
    (folder / "config.json").write_text(json.dumps(config_of(model, model_type)))
    return folder


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    """Each fixture; tests run one model after the other, so that each is compiled once."""
    return request.param


def int32(values):
    return ops.convert_to_tensor(np.asarray(values, "int32"))


def test_there_is_a_fixture_of_each_family():
    assert {json.loads(path.read_text())["model_type"] for path in configs()} == DECODERS.keys()


def configs() -> list[Path]:
    return [DECODER_FIXTURES / name / "config.json" for name in NAMES]


def test_logits_are_those_of_transformers(name):
    arrays, model = expected(name), loaded(name)
    logits = numpy(forward(model)(arrays["token_ids"]))
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-4)
    assert model.count_params() == count_weights(model.backbone.config)


def test_configs_of_transformers_4_and_5_say_the_same(name):
    newer = loaded(name).backbone.config
    family = DECODERS[model_type_of(loaded(name), "bytepair")]
    older = family.config(
        **family.read_options(Fields.read(DECODER_FIXTURES / name / "config_4.json"))
    )
    layers = range(newer.num_layers)
    assert [*map(older.attention_options, layers)] == [*map(newer.attention_options, layers)]
    same = {"layer_types": newer.layer_types, "rotary_layers": newer.rotary_layers}
    assert zoo.config.to_dict(older) | same == zoo.config.to_dict(newer)


def test_cached_decoding_equals_the_forward_pass(name):
    """Rows of different length, then single tokens: beyond the windows of 4 to 6 tokens."""
    arrays, model = expected(name), loaded(name)
    ids, logits = arrays["token_ids"], arrays["logits"]
    lengths, rows = np.int32([5, 2]), np.arange(2)
    prompt = np.where(np.arange(5) < lengths[:, None], ids[:, :5], 7)
    found, cache = decode(model)(
        int32(prompt), model.initial_cache(2, 12), int32([0, 0]), int32(lengths)
    )
    whole = numpy(forward(model)(ids))
    np.testing.assert_allclose(whole, logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(numpy(found), whole[rows, lengths - 1], rtol=0, atol=1e-5)
    position = lengths
    for _ in range(7):
        tokens = ids[rows, position][:, None]
        found, cache = decode(model)(int32(tokens), cache, int32(position))
        position = position + 1
        np.testing.assert_allclose(numpy(found), whole[rows, position - 1], rtol=0, atol=1e-5)


def test_what_is_saved_is_what_was_read(name, tmp_path):
    folder = saved(loaded(name), tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    original = json.loads((DECODER_FIXTURES / name / "config.json").read_text())
    assert config["model_type"] == original["model_type"]
    assert config["architectures"] == original["architectures"]
    ours, theirs = WeightFiles(folder), WeightFiles(DECODER_FIXTURES / name)
    assert ours.names() == theirs.names()
    for tensor in theirs.names():
        np.testing.assert_array_equal(ours.read(tensor), theirs.read(tensor), err_msg=tensor)
    ids = expected(name)["token_ids"]
    again = numpy(forward(read_model(folder))(ids))
    np.testing.assert_array_equal(again, numpy(forward(loaded(name))(ids)))


@pytest.mark.tensorflow_only
@pytest.mark.usefixtures("eager_functions")
def test_a_folder_with_its_tokenizer_generates(tmp_path):
    """From `zoo.load` to strings and back to a folder, with GPT-2's kind of tokenizer.json."""
    folder = copy_of("gemma3_text", tmp_path / "theirs")
    shutil.copy(FIXTURES / "gpt2" / "tokenizer.json", folder)
    change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    change_config(folder, vocab_size=265, eos_token_id=...)  # the tokenizer knows its own
    table = "model.embed_tokens.weight"
    change_weights(folder, lambda tensors: {**tensors, table: np.resize(tensors[table], (265, 16))})
    bundle = zoo.load(folder)
    ids = bundle.tokenizer.encode(["The cat"]).to_tensor()
    text = bundle.lm.generate(["The cat"], max_new_tokens=[12])["text"][0].numpy()
    for _ in range(12):  # the same without a cache
        following = numpy(bundle.model(ids))[:, -1:].argmax(-1).astype("int32")
        ids = ops.concatenate([ids, following], axis=1)
    assert text == bundle.tokenizer.decode(ids).numpy()[0]
    zoo.save(tmp_path / "bundle", bundle.model, bundle.tokenizer)
    bundle.save_huggingface(tmp_path / "ours")
    for saved in (zoo.load(tmp_path / "ours"), zoo.load(tmp_path / "bundle")):
        assert saved.model.backbone.config == bundle.model.backbone.config
        assert saved.tokenizer.fingerprint == bundle.tokenizer.fingerprint
        np.testing.assert_array_equal(numpy(saved.model(ids)), numpy(bundle.model(ids)))


def refused(folder: Path, *parts: str):
    """Loading fails, and says each of `parts`."""
    with pytest.raises(zoo.BundleError) as error:
        read_model(folder)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "parts"),
    [
        ("llama", {"model_type": "llama4"}, ["'llama4'", "gpt2, llama, mistral", "gemma3_text"]),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            ["rope_type is 'yarn'", "'default', 'linear', 'llama3'"],
        ),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, ["type is 'longrope'", "'default'"]),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, ["factor missing", "'linear'"]),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            ["low_freq_factor, high_freq_factor missing"],
        ),
        ("llama", {"rope_parameters": {"mrope_section": [1]}}, ["unknown field 'mrope_section'"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor is 0.5"]),
        ("llama", {"hidden_act": "relu"}, ["hidden_act is 'relu'", "'silu'"]),
        ("llama", {"num_key_value_heads": 3}, ["num_heads must be a multiple of num_kv_heads"]),
        ("llama", {"head_dim": 7}, ["must be even. Received: 7"]),
        ("llama", {"hidden_size": 2**20}, ["the model that it describes has", "hidden_size"]),
        ("llama", {"num_hidden_layers": 2**31 - 1}, ["the model that it describes has"]),
        ("qwen2", {"layer_types": ["full_attention"]}, ["layer_types must be one of"]),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, ["layer_types must be one of"]),
        (
            "qwen2",
            {"layer_types": ..., "num_hidden_layers": 2**31 - 1},
            ["more than 10000 layers, with a window in some"],
        ),
        ("smollm3", {"no_rope_layers": [1, 1, 0]}, ["no_rope_layers must be 0 or 1"]),
        ("gpt_neox", {"attention_bias": False}, ["attention_bias is False"]),
        ("gemma2", {"use_bidirectional_attention": True}, ["use_bidirectional_attention is True"]),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_theta": 1e4}},
            ["unknown field 'rope_theta'"],
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"factor": 2}}},
            ["unknown field 'factor'", "plain positions"],
        ),
        ("mistral", {"architectures": ["MistralForSequenceClassification"]}, ["MistralForCausal"]),
    ],
)
def test_what_changes_numbers_is_read_or_refused(name, fields, parts, tmp_path):
    folder = copy_of(name, tmp_path)
    change_config(folder, **fields)
    refused(folder, *parts)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gemma3_text", "model.layers.1.self_attn.q_norm.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
        ("phi3", "lm_head.weight"),
    ],
)
def test_a_missing_tensor_is_named(name, tensor, tmp_path):
    folder = copy_of(name, tmp_path)
    gone = {tensor, "model.norm.weight"} if name == "phi3" else {tensor}
    change_weights(
        folder,
        lambda tensors: {
            # As many numbers as before, so that it is the name that is missed.
            (key if key not in gone else f"other.{key}"): value
            for key, value in tensors.items()
        },
    )
    refused(folder, "missing tensors", tensor.removeprefix("model."))


def test_tensors_of_other_shapes_that_would_fit_together(tmp_path):
    folder = copy_of("llama", tmp_path)
    query, key = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")
    change_weights(folder, lambda all: {**all, query: all[key], key: all[query]})
    refused(folder, f"{query.removeprefix('model.')} is (16, 16)", "the rows are (32, 16, 16) here")


def test_the_nearest_model_of_transformers_is_named():
    tiny = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "activation": "swiglu"}
    plain = GPTConfig(9, 8, **tiny, qk_norm=False)
    assert model_type_of(zoo.build(plain), "bytepair") == "llama"
    odd = GPTConfig(9, 8, **tiny, qk_norm=False, token_shift=2)
    with pytest.raises(ValueError, match=r"llama cannot .* model.token_shift is 2, not 0"):
        model_type_of(zoo.build(odd), "bytepair")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sliding_window": 4, "layer_types": ("full_attention",)}, "give both or none"),
        ({"layer_types": ("sliding_attention",)}, "give both or none"),
        ({"rotary_layers": ()}, "rotary_layers"),
        ({"rotary_fraction": 0.1}, "must be even. Received: 3"),
        ({"use_bias": "output"}, "use_bias"),
        ({"norm_placement": "post"}, "norm_placement"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(zoo.ConfigError, match=message):
        GPTConfig(9, **options)


def test_patterns_of_layers_begin_anew():
    config = GPTConfig(
        9,
        num_layers=5,
        sliding_window=3,
        layer_types=("sliding_attention", "full_attention"),
        rotary_layers=(True, True, False),
    )
    options = [config.attention_options(layer) for layer in range(5)]
    assert [option.window for option in options] == [3, None, 3, None, 3]
    assert [option.rotary is None for option in options] == [False, False, True, False, False]
    again = zoo.config.from_dict(GPTConfig, json.loads(json.dumps(zoo.config.to_dict(config))))
    assert again == config


def test_a_window_hides_what_lies_before_it():
    """Two layers of 3 tokens see 5 back: a change further back changes nothing."""
    config = GPTConfig(9, 16, 2, 2, 8, initializer_range=0.5, sliding_window=3)
    model = zoo.build(config)
    ids = np.random.default_rng(0).integers(0, 8, (1, 12), "int32")
    changed = ids.copy()
    changed[0, 2] += 1
    before, after = (numpy(forward(model)(x))[0] for x in (ids, changed))
    differs = np.abs(after - before).max(axis=-1) > 1e-5
    assert differs.tolist() == [2 <= position <= 6 for position in range(12)]


def test_linear_scaling_is_a_slower_clock():
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(1, 1, 1, 8)).astype("float32"))
    kind = Rotary(100.0, 8)
    slowed = kind._replace(scaling=RotaryScaling("linear", 4.0))
    slow = rotate(x, *rotary_table(int32([[12]]), slowed))
    usual = rotate(x, *rotary_table(int32([[3]]), kind))
    np.testing.assert_allclose(numpy(slow), numpy(usual), atol=1e-6)
