"""minGPT and nanoGPT checkpoints: a published one's activations, own ones against numpy, errors."""

import json
import math
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from mingpt_json import read_tensors, to_safetensors
from scipy.special import erf

import zoo
from zoo.files import BundleError
from zoo.tokenizers import ByteTokenizer
from zoo.weights import nanogpt
from zoo.weights.assign import model_weights
from zoo.weights.nanogpt import add_special_ids, load_model

LAYERS, HEADS, WIDTH, BLOCK, VOCABULARY = 2, 2, 8, 7, 5
CONFIG = {
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_embd": WIDTH,
    "block_size": BLOCK,
    "vocab_size": VOCABULARY,
}
IDS = np.array([[0, 4, 2, 2, 1, 3, 0], [3, 3, 1, 0, 4, 4, 2]], "int32")


def checkpoint(bias=True, head=True, seed=0):
    """Random tensors by minGPT's names; large enough that every part shows in the logits."""
    draw = np.random.default_rng(seed)
    shapes = {
        "transformer.wte.weight": (VOCABULARY, WIDTH),
        "transformer.wpe.weight": (BLOCK, WIDTH),
    }
    for i in range(LAYERS):
        start = f"transformer.h.{i}"
        for norm in ("ln_1", "ln_2"):
            shapes[f"{start}.{norm}.weight"] = shapes[f"{start}.{norm}.bias"] = (WIDTH,)
        for layer, out, width in (
            ("attn.c_attn", 3 * WIDTH, WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", 4 * WIDTH, WIDTH),
            ("mlp.c_proj", WIDTH, 4 * WIDTH),
        ):
            shapes[f"{start}.{layer}.weight"] = (out, width)
            shapes[f"{start}.{layer}.bias"] = (out,)
    shapes["transformer.ln_f.weight"] = shapes["transformer.ln_f.bias"] = (WIDTH,)
    if head:
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    return {
        name: draw.normal(1.0 if "ln_" in name else 0.0, 0.6, shape).astype("float32")
        for name, shape in shapes.items()
        if bias or not name.endswith("bias")
    }


def reference(tensors, ids, tanh):
    """GPT-2's forward pass in numpy, float64: logits and the final norm's output."""

    def get(name):
        return np.asarray(tensors.get(name, 0.0), np.float64)

    def norm(x, name):
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * get(f"{name}.weight") + get(f"{name}.bias")

    def linear(x, name):
        return x @ get(f"{name}.weight").T + get(f"{name}.bias")

    def gelu(x):
        if tanh:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))

    rows, length = ids.shape
    x = get("transformer.wte.weight")[ids] + get("transformer.wpe.weight")[:length]
    for i in range(LAYERS):
        start = f"transformer.h.{i}"
        qkv = linear(norm(x, f"{start}.ln_1"), f"{start}.attn.c_attn")
        q, k, v = (
            part.reshape(rows, length, HEADS, -1).swapaxes(1, 2) for part in np.split(qkv, 3, -1)
        )
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(WIDTH // HEADS)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v).swapaxes(1, 2).reshape(rows, length, WIDTH)
        x = x + linear(mixed, f"{start}.attn.c_proj")
        inner = gelu(linear(norm(x, f"{start}.ln_2"), f"{start}.mlp.c_fc"))
        x = x + linear(inner, f"{start}.mlp.c_proj")
    x = norm(x, "transformer.ln_f")
    return x @ np.asarray(tensors.get("lm_head.weight", get("transformer.wte.weight"))).T, x


def write_safetensors(folder, tensors, config=None):
    path = Path(folder) / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    if config is not None:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def assert_logits(model, tensors, tanh):
    expected, hidden = reference(tensors, IDS, tanh)
    np.testing.assert_allclose(model.backbone(IDS), hidden, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(model(IDS), expected, rtol=2e-5, atol=5e-5)


# --- own checkpoints against numpy


def test_mingpt(tmp_path):
    tensors = {
        name: array.astype(("float32", "float64", "float16")[index % 3])
        for index, (name, array) in enumerate(checkpoint().items())
    }
    mask = np.tri(BLOCK, dtype="float32")[None, None]
    buffers = {f"transformer.h.{i}.attn.bias": mask for i in range(LAYERS)}
    drops = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "model_type": "gpt-x"}
    path = write_safetensors(tmp_path, tensors | buffers, CONFIG | drops)
    model = load_model(path, activation="gelu_tanh")
    assert model.backbone.config.dropout == 0.1
    assert model.backbone.config.activation == "gelu_tanh"
    assert not model.backbone.config.tie_embeddings
    assert_logits(model, tensors, tanh=True)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_logits(model, tensors, tanh=False)


@pytest.mark.parametrize("bias, head", [(True, True), (False, False)])
def test_nanogpt(tmp_path, bias, head):
    tensors = checkpoint(bias, head)
    write_safetensors(tmp_path, tensors, CONFIG | {"bias": bias, "dropout": 0.2})
    model = load_model(tmp_path)
    config = model.backbone.config
    assert (config.use_bias, config.tie_embeddings) == (bias, not head)
    assert config.dropout == 0.2
    assert_logits(model, tensors, tanh=False)


def test_config_is_read_off_the_shapes_and_compiled_names_are_known(tmp_path):
    tensors = {f"_orig_mod.{name}": array for name, array in checkpoint(head=False).items()}
    tensors["_orig_mod.transformer.h.0.attn.bias"] = np.ones((1, 1, BLOCK, BLOCK), "float32")
    # A head that is a copy of the token embedding is a tied one.
    tensors["_orig_mod.lm_head.weight"] = tensors["_orig_mod.transformer.wte.weight"].copy()
    model = load_model(write_safetensors(tmp_path, tensors), n_head=HEADS)
    config = model.backbone.config
    assert config.tie_embeddings
    assert (config.num_layers, config.hidden_dim, config.context_length) == (LAYERS, WIDTH, BLOCK)
    assert_logits(model, checkpoint(head=False), tanh=False)


def test_config_as_dict_and_as_file(tmp_path):
    path = write_safetensors(tmp_path, checkpoint())
    (tmp_path / "args.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for config in (CONFIG, tmp_path / "args.json"):
        assert load_model(path, config).backbone.config.num_heads == HEADS
    with pytest.raises(BundleError, match=r"n_head=4, but the config says 2"):
        load_model(path, CONFIG, n_head=4)


# --- room for special ids


@pytest.mark.parametrize("bias, head", [(True, True), (False, False)])
def test_special_ids_are_never_predicted_and_change_nothing(tmp_path, bias, head):
    tensors = checkpoint(bias, head)
    model = load_model(write_safetensors(tmp_path, tensors), n_head=HEADS)
    before = model.get_weights()
    order = [4, 0, 3, 1, 2]
    grown = add_special_ids(model, 2, order)
    assert grown.vocabulary_size == VOCABULARY + 2
    new_ids = (np.argsort(order)[IDS] + 2).astype("int32")
    logits = keras.ops.convert_to_numpy(grown(new_ids))
    expected, _ = reference(tensors, IDS, tanh=False)
    np.testing.assert_allclose(logits[..., 2:], expected[..., order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[..., :2], -1e4, rtol=1e-4)
    assert (keras.ops.convert_to_numpy(keras.ops.softmax(logits))[..., :2] == 0).all()
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_special_ids_need_layer_norms():
    model = zoo.build("gpt_char_cpu", vocabulary_size=4, hidden_dim=8)
    with pytest.raises(BundleError, match=r"only a GPT with norm='layer_norm'.*'rms_norm'"):
        add_special_ids(model, 2)


def test_special_ids_need_scales(tmp_path):
    tensors = checkpoint()
    tensors["transformer.ln_f.weight"][3] = 0
    model = load_model(write_safetensors(tmp_path, tensors), n_head=HEADS)
    with pytest.raises(BundleError, match="final_norm: a scale of exactly 0"):
        add_special_ids(model, 2)


# --- bundles


def test_a_bundle_of_characters(tmp_path):
    tensors = checkpoint(bias=False, head=False)
    characters = "d\nacb"  # ids in no order
    path = write_safetensors(tmp_path, tensors, CONFIG)
    bundle = nanogpt.load(path, characters=characters, start_text="\n")
    text = "abacd"
    ids = np.array([[characters.index(character) for character in "\n" + text]], "int32")
    logits, _ = reference(tensors, ids, tanh=False)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    score = bundle.lm.score([text])["log_likelihood"]
    expected = log_p[0, np.arange(len(text)), ids[0, 1:]].sum()
    np.testing.assert_allclose(score, [expected], rtol=1e-4)

    zoo.save(tmp_path / "run", bundle.model, bundle.tokenizer, bundle.config.start_id)
    lm = zoo.load(tmp_path / "run").lm
    # Beyond the context, too, and from nothing and what is no character of it.
    answer = lm.generate(["\n" + text, "", "?"], max_new_tokens=[1, 4, 20])["completion"].numpy()
    assert answer[0].decode() == characters[int(logits[0, -1].argmax())]
    assert [len(completion) for completion in answer] == [1, 4, 20]
    assert set(b"".join(answer)) <= set(characters.encode())


def test_a_bundle_with_a_tokenizer(tmp_path):
    tensors = checkpoint()
    draw = np.random.default_rng(1)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        tensors[name] = draw.normal(size=(272, WIDTH)).astype("float32")  # more than 257: padded
    path = write_safetensors(tmp_path, tensors, CONFIG | {"vocab_size": 272})
    bundle = nanogpt.load(path, ByteTokenizer())
    assert bundle.config.start_id == ByteTokenizer().end_id
    answer = bundle.lm.generate(["ab"], max_new_tokens=[5])
    assert answer["token_count"].numpy() <= 5


def test_load_refuses_what_does_not_fit(tmp_path):
    path = write_safetensors(tmp_path, checkpoint(), CONFIG)
    with pytest.raises(ValueError, match="either tokenizer= or characters="):
        nanogpt.load(path)
    with pytest.raises(ValueError, match="either tokenizer= or characters="):
        nanogpt.load(path, ByteTokenizer(), "abcde")
    with pytest.raises(ValueError, match="repeats vocabulary"):
        nanogpt.load(path, characters="aabcd")
    with pytest.raises(ValueError, match="5 ids, but 3 characters were given"):
        nanogpt.load(path, characters="abc")
    with pytest.raises(ValueError, match=r"start_text must be one known token. Received: '\?'"):
        nanogpt.load(path, characters="abcde", start_text="?")
    with pytest.raises(ValueError, match=r"the tokenizer has 257 ids but the model only 5"):
        nanogpt.load(path, ByteTokenizer())


# --- damaged files


@pytest.mark.parametrize(
    "config, message",
    [
        ({"n_layer": 3}, r"n_layer is 2 by the weights, but the config says 3"),
        ({"n_embd": 9}, r"n_embd is 8 by the weights, but the config says 9"),
        ({"block_size": 9}, r"block_size is 7 by the weights"),
        ({"vocab_size": 9}, r"vocab_size is 5 by the weights"),
        ({"bias": False}, r"bias is True by the weights, but the config says False"),
        ({"n_head": 3}, r"hidden_dim must be a multiple of num_heads"),
        ({"n_head": 0}, r"n_head must be a whole number from 1"),
        ({"n_head": "2"}, r"n_head"),
        ({"n_head": None}, r"cannot be read off the weights: pass n_head=..., or a config"),
        ({"rotary": True}, r"unknown field 'rotary': known are vocab_size, block_size"),
        ({"embd_pdrop": 0.1, "attn_pdrop": 0.2}, r"embd_pdrop, resid_pdrop, attn_pdrop differ"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, config, message):
    config = CONFIG | config
    with pytest.raises(BundleError, match=message):
        load_model(write_safetensors(tmp_path, checkpoint(), config))


def changed(name, value):
    tensors = checkpoint()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = np.ascontiguousarray(value(tensors.get(name)))
    return tensors


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("transformer.h.1.ln_2.bias", None, r": h.1.ln_2.bias is missing"),
        ("transformer.ln_f.weight", None, r": ln_f.weight is missing"),
        ("transformer.wte.weight", None, r"no matrix 'wte.weight'"),
        ("transformer.wpe.weight", lambda a: a[0], r"no matrix 'wpe.weight'"),
        ("transformer.h.0.attn.mystery", lambda _: np.ones(2, "f4"), r"attn.mystery is unknown"),
        ("transformer.h.3.ln_1.weight", lambda _: np.ones(8, "f4"), r"h.2.ln_1.weight is missing"),
        ("lm_head.bias", lambda _: np.ones(5, "f4"), r"lm_head.bias is unknown"),
        (
            "lm_head.weight",
            lambda a: a[:4],
            r"reverse_embeddings is \(8, 4\) there and \(8, 5\) here",
        ),
        (
            "transformer.h.0.attn.c_attn.weight",
            np.transpose,
            r"c_attn.weight has shape \[8, 24\] in place of \[24, 8\]; Hugging Face's GPT-2",
        ),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, name, value, message):
    tensors, config = changed(name, value), {"n_head": HEADS}
    path = write_safetensors(tmp_path, tensors, config)
    with pytest.raises(BundleError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_damaged_configs_and_pickles(tmp_path):
    path = write_safetensors(tmp_path, checkpoint())
    config = tmp_path / "config.json"
    for content, message in (("{", "not valid JSON"), ("[]", "not a JSON object")):
        config.write_text(content, encoding="utf-8")
        with pytest.raises(BundleError, match=rf"config\.json: {message}"):
            load_model(path)
    with pytest.raises(BundleError, match=r"gone\.json: no such file"):
        load_model(path, tmp_path / "gone.json")
    (tmp_path / "ckpt.pt").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"ckpt\.pt.*pickle"):
        load_model(tmp_path / "ckpt.pt", CONFIG)


# --- the published gpt-nano


DATA = Path(os.environ.get("ZOO_DATA", "")) / "weights_gpt_nano_sort"
needs_data = pytest.mark.skipif(
    "ZOO_DATA" not in os.environ or not DATA.is_dir(), reason="needs ZOO_DATA"
)


@needs_data
def test_published_activations(tmp_path):
    """The stored output of the embeddings, of every block, of ln_f and of the head."""
    _, partials = read_tensors(DATA / "gpt-nano-sort-t0-partials.json")
    source = to_safetensors(DATA / "gpt-nano-sort-model.json", tmp_path)
    model = load_model(source, activation="gelu_tanh")
    backbone = model.backbone
    ids = partials["idx"].astype("int32")
    positions = np.arange(ids.shape[1], dtype="int32")[None]
    x = backbone.token_embedding(ids) + backbone.position_embedding(positions)
    found = {"x": x}
    visible = np.tri(11, dtype=bool)
    for index, block in enumerate(backbone.blocks):
        found[f"block{index}"] = x = block(x, visible)
    found |= {"ln_f": backbone(ids), "lm_head": model(ids)}
    found["probs"] = keras.ops.softmax(found["lm_head"])
    for name, values in found.items():
        np.testing.assert_allclose(values, partials[name], rtol=1e-5, atol=1e-5, err_msg=name)


@needs_data
def test_published_model_with_special_ids(tmp_path):
    _, partials = read_tensors(DATA / "gpt-nano-sort-t0-partials.json")
    source = to_safetensors(DATA / "gpt-nano-sort-model.json", tmp_path)
    bundle = nanogpt.load(source, characters="ABC", activation="gelu_tanh")
    weights = model_weights(bundle.model)
    assert weights["token_embedding/embeddings"].shape == (5, 48)
    logits = keras.ops.convert_to_numpy(bundle.model(partials["idx"].astype("int32") + 2))
    np.testing.assert_allclose(logits[..., 2:], partials["lm_head"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits[..., :2], -1e4, rtol=1e-5)
