"""Folders that anybody may have written: they load, or BundleError says what is wrong.

No file names anything outside its folder, and no config asks for more than the weights hold.
"""

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil

import h5py
import keras_hub
import numpy as np
import pytest
import safetensors
from huggingface_cases import change_json, copy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import ENCODER_CONFIGS

import zoo
from zoo.models.build import count_weights
from zoo.presets import tasks_for
from zoo.tokenizers import TOKENIZERS
from zoo.tokenizers.bytepair.vocabulary import ALPHABET
from zoo.weights.safetensors_files import write_weights

KINDS = ("gpt", "bert", "lstm", "hf_classify", "hf_embed", "hf_gpt2", "hf_roberta", "kerashub")
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcde", *("##" + c for c in "abcde")]
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
# More of memory than any of these small models needs.
ROOM = 2 << 30


def _write(kind, folder):
    if kind == "gpt":
        tokenizer = zoo.BytePairTokenizer.train(["low lower"] * 3, 262)
        config = zoo.GPTConfig(vocabulary_size=262, context_length=16, **SIZES)
        zoo.save(folder, zoo.build(config), tokenizer)
    elif kind == "bert":
        config = zoo.BertConfig(vocabulary_size=len(PIECES), context_length=16, **SIZES)
        model = zoo.build(config, "classify", {"num_classes": 2})
        text = zoo.TextConfig(max_length=16)
        zoo.save(folder, model, zoo.WordPieceTokenizer(PIECES), labels=("a", "b"), text=text)
    elif kind == "lstm":
        config = zoo.LSTMConfig(vocabulary_size=5, context_length=16, num_layers=1, hidden_dim=8)
        zoo.save(folder, zoo.build(config), zoo.CharacterTokenizer("abc"))
    elif kind == "kerashub":
        sizes = {"vocabulary_size": 260, "max_sequence_length": 16, **SIZES}
        backbone = keras_hub.models.GPT2Backbone(**sizes)
        backbone.save_to_preset(str(folder), max_shard_size=1e-5)
        ids = {piece: index for index, piece in enumerate([*ALPHABET, "ab", "<|endoftext|>"])}
        keras_hub.models.GPT2Tokenizer(ids, ["a b"]).save_to_preset(str(folder))
    else:
        name = {"hf_classify": "bert_classify", "hf_gpt2": "gpt2_lm", "hf_embed": "bert_model"}
        copy_model(name.get(kind, "roberta_model"), folder)
        (folder / "expected.npz").unlink(missing_ok=True)
        if kind == "hf_embed":
            _add_modules(folder)
        if kind == "hf_classify":
            (folder / "tokenizer.json").unlink()
            change_json(folder / "special_tokens_map.json", additional_special_tokens=["cat"])


def _add_modules(folder, pooling="1_Pooling"):
    kinds = {"": "Transformer", pooling: "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / pooling).mkdir(exist_ok=True)
    (folder / pooling / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One small valid folder of each kind."""
    made = {}
    for kind in KINDS:
        made[kind] = tmp_path_factory.mktemp(kind)
        _write(kind, made[kind])
    return made


@contextlib.contextmanager
def limited_memory():
    """Less than 2 GiB more than now: what asks for more fails."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def sign(folder):
    """Fingerprint and checksum of what is there, as whoever changes a bundle would write them."""
    config = json.loads((folder / "config.json").read_text())
    if not isinstance(config, dict) or "format_version" not in config:
        return
    path = folder / "tokenizer" / "tokenizer.json"
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        content = json.loads(path.read_text())
        tokenizer = TOKENIZERS[content["kind"]].from_config(content)
        content["fingerprint"] = config["tokenizer_fingerprint"] = tokenizer.fingerprint
        path.write_text(json.dumps(content))
    weights = folder / "model.weights.h5"
    config["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def load(folder):
    """A bundle, or the message of a BundleError, which names something in the folder."""
    with limited_memory():
        try:
            return zoo.load(folder)
        except zoo.BundleError as error:
            assert str(folder) in str(error)
            assert len(str(error)) < 3000
            return str(error)


def test_every_kind_is_read_as_it_stands(folders):
    for kind, folder in folders.items():
        bundle = load(folder)
        assert not isinstance(bundle, str), (kind, bundle)


ODD = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, -1, 1, 3, 2**31, 10**6, 10**15, 10**400, 0.5, -1e308),
            *("", "x", "../outside", "/etc/passwd", "\ud800", "a\0b", "relu", "float16"),
            *([], {}, [[]], [1, "a"], {"a": 1}, {"class_name": "Lambda", "config": {}}),
        ]
    ),
    st.just("deep"),
)


def _places(value, path=()):
    """Where something can be changed in a JSON value; of long lists the first few."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items)[:12]:
        if isinstance(item, dict | list):
            yield from _places(item, (*path, key))
        else:
            yield (*path, key)


def _changed(value, path, odd, action):
    if not path:
        return odd
    key, *rest = path
    if rest:
        value[key] = _changed(value[key], rest, odd, action)
    elif action == "remove":
        del value[key]
    elif action == "add" and isinstance(value, dict):
        value[str(odd)[:20]] = odd
    else:
        value[key] = odd
    return value


def _change_a_json(folder, data):
    files = sorted(path for path in folder.rglob("*.json"))
    file = data.draw(st.sampled_from(files))
    content = json.loads(file.read_text())
    path = data.draw(st.sampled_from(sorted(_places(content), key=str)))
    action = data.draw(st.sampled_from(["set", "set", "set", "remove", "add"]))
    content = _changed(content, path, data.draw(ODD), action)
    text = json.dumps(content)
    depth = data.draw(st.sampled_from([70, 900, 100_000]))
    file.write_text(text.replace('"deep"', "[" * depth + "]" * depth))


def _change_a_file(folder, data):
    names = ("*.h5", "*.safetensors", "*.txt", "tokenizer.json")
    file = data.draw(st.sampled_from(sorted(p for name in names for p in folder.rglob(name))))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, min(len(content), 4000) - 1))
    content[place] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.sampled_from([None, None, place]))])


@settings(max_examples=int(os.environ.get("ZOO_UNTRUSTED_EXAMPLES", 30)))
@given(data=st.data())
def test_changed_files_load_or_say_what_is_wrong(folders, tmp_path_factory, data):
    kind = data.draw(st.sampled_from(KINDS))
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(folders[kind], folder, dirs_exist_ok=True)
    change = data.draw(st.sampled_from([_change_a_json, _change_a_json, _change_a_file]))
    change(folder, data)
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        sign(folder)
    try:
        load(folder)
    finally:
        shutil.rmtree(folder)


def copied(folders, kind, tmp_path):
    return shutil.copytree(folders[kind], tmp_path / "model")


def refused(folder, *parts):
    message = load(folder)
    assert isinstance(message, str), "it loaded"
    for part in parts:
        assert str(part) in message


# --- sizes


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt", {"num_layers": 10**6}),
        ("gpt", {"vocabulary_size": 10**15}),
        ("gpt", {"vocabulary_size": 10**9}),
        ("bert", {"context_length": 10**9}),
        ("bert", {"num_segments": 10**9}),
        ("bert", {"hidden_dim": 2**24}),
        ("lstm", {"num_layers": 10**8}),
        ("lstm", {"embedding_dim": 10**9}),
        ("hf_classify", {"num_hidden_layers": 10**6}),
        ("hf_classify", {"vocab_size": 10**15}),
        ("hf_classify", {"vocab_size": 10**9}),
        ("hf_classify", {"intermediate_size": 10**9}),
        ("hf_classify", {"num_labels": 10**9, "id2label": ...}),
        ("hf_gpt2", {"n_positions": 10**9}),
        ("hf_gpt2", {"n_layer": 10**6}),
        ("hf_roberta", {"max_position_embeddings": 10**9}),
        ("kerashub", {"num_layers": 10**6}),
        ("kerashub", {"vocabulary_size": 10**9}),
        ("kerashub", {"max_sequence_length": 10**9}),
    ],
)
def test_configs_that_ask_for_more_than_the_weights_hold(kind, fields, folders, tmp_path):
    folder = copied(folders, kind, tmp_path)
    name = next(iter(fields))
    part = {"kerashub": "config"}.get(kind, None if kind.startswith("hf_") else "model")
    if part is not None:
        config = json.loads((folder / "config.json").read_text())
        fields = {part: {**config[part], **fields}}
    change_json(folder / "config.json", **fields)
    refused(folder, folder / "config.json", name)


def test_heads_that_are_larger_than_the_weights(folders, tmp_path):
    folder = copied(folders, "bert", tmp_path)
    change_json(folder / "config.json", head={"num_classes": 10**10})
    refused(folder, folder / "config.json", "has 8")  # how many weights it would have
    folder = shutil.copytree(folders["hf_embed"], tmp_path / "embed")
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    write_weights(folder / "2_Dense", [("linear.weight", np.ones((3, 4), "float32"))])
    options = {"out_features": 10**9, "bias": False}
    change_json(folder / "2_Dense" / "config.json", **options)
    refused(folder, folder / "2_Dense" / "config.json", "out_features is 1000000000")


def test_hdf5_that_is_larger_once_it_is_read(folders, tmp_path):
    """96 kB in the file, and gigabytes in memory."""
    folder = copied(folders, "gpt", tmp_path)
    weights = folder / "model.weights.h5"
    with h5py.File(weights, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
        name = next(name for name in names if "embedding" in name)
        del file[name]
        file.create_dataset(name, shape=(300_000_000, 8), dtype="float32", chunks=(1000, 8))
    config = json.loads((folder / "config.json").read_text())
    config["model"]["vocabulary_size"] = 300_000_000
    (folder / "config.json").write_text(json.dumps(config))
    sign(folder)
    assert weights.stat().st_size < 1 << 20
    refused(folder, weights, name, "compressed or unwritten")


@pytest.mark.parametrize("kind", ["gpt", "kerashub"])
@pytest.mark.parametrize("form", ["compressed", "link", "other file", "cycle", "text", "shape"])
def test_hdf5_of_another_form(kind, form, folders, tmp_path):
    folder = copied(folders, kind, tmp_path)
    weights = sorted(folder.glob("model*.h5"))[0]
    outside = shutil.copy(weights, tmp_path / "outside.h5")
    with h5py.File(weights, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
        name = next(name for name in names if "embedding" in name)
        value = file[name][()]
        del file[name]
        if form == "compressed":
            file.create_dataset(name, data=np.zeros_like(value), compression="gzip")
        elif form == "link":
            file[name] = h5py.ExternalLink(str(outside), name)
        elif form == "other file":
            places = [(str(tmp_path / "outside.h5"), 0, value.nbytes)]
            file.create_dataset(name, shape=value.shape, dtype="float32", external=places)
        elif form == "cycle":
            file[name] = value
            file["again"] = file["/"]
        elif form == "text":
            file.create_dataset(name, data="text")
        else:
            file[name] = value.reshape(-1)
    sign(folder)
    refused(folder, weights if form != "shape" or kind == "gpt" else folder)


# --- paths


@pytest.mark.parametrize("path", ["../outside", "1_Pooling/../../outside", "absolute", "link"])
def test_modules_stay_in_their_folder(path, folders, tmp_path):
    folder = copied(folders, "hf_embed", tmp_path)
    outside = shutil.copytree(folder / "1_Pooling", tmp_path / "outside")
    if path == "link":
        os.symlink(outside, folder / "link")
    path = str(outside) if path == "absolute" else path
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "out of", "its own folder only")


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("gpt", ["config.json", "model.weights.h5", "tokenizer"]),
        ("bert", ["tokenizer/tokenizer.json"]),
        (
            "hf_classify",
            ["config.json", "model.safetensors", "vocab.txt", "special_tokens_map.json"],
        ),
        ("hf_gpt2", ["tokenizer.json", "tokenizer_config.json"]),
        ("hf_embed", ["modules.json", "1_Pooling/config.json"]),
        ("kerashub", ["tokenizer.json", "model.weights.json", "assets"]),
    ],
)
def test_links_stay_in_their_folder(kind, files, folders, tmp_path):
    folder = copied(folders, kind, tmp_path)
    for index, file in enumerate(files):
        if not (folder / file).exists():
            (folder / file).write_text("{}")
        os.replace(folder / file, tmp_path / "outside")
        os.symlink(tmp_path / "outside", folder / file)
        refused(folder, folder / file, "a link to")
        (folder / file).unlink()
        os.replace(tmp_path / "outside", folder / f"inner{index}")
        os.symlink(folder / f"inner{index}", folder / file)
    # Within the folder a link is as good as a file.
    assert not isinstance(load(folder), str)


@pytest.mark.parametrize("file", ["config.json", "tokenizer/tokenizer.json", "model.weights.h5"])
def test_pipes_are_no_files(file, folders, tmp_path):
    """Opening one waits for ever for whoever writes to it."""
    folder = copied(folders, "gpt", tmp_path)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(zoo.BundleError, match=re.escape(file)):
        zoo.load(folder)


def test_index_names_stay_in_their_folder(folders, tmp_path):
    folder = copied(folders, "hf_classify", tmp_path)
    weights = tmp_path / "outside.safetensors"
    os.replace(folder / "model.safetensors", weights)
    with safetensors.safe_open(weights, framework="np") as file:
        names = list(file.keys())
    for name in ("../outside.safetensors", str(weights), "link.safetensors"):
        index = {"weight_map": dict.fromkeys(names, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        if name.startswith("link"):
            os.symlink(weights, folder / name)
        refused(folder, folder)
    folder = shutil.copytree(folders["kerashub"], tmp_path / "kerashub")
    change_json(folder / "model.weights.json", weight_map={"/x": "../outside.safetensors"})
    refused(folder, folder / "model.weights.json", "the names of files beside it")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"registered_name": "keras>Lambda"}, "registered_name is 'keras>Lambda'"),
        ("config.json", {"module": "os"}, "module is 'os'"),
        ("config.json", {"compile_config": {}}, "unknown field 'compile_config'"),
        ("config.json", {"config": {"dtype": {"class_name": "Lambda"}}}, "class_name is 'Lambda'"),
        ("tokenizer.json", {"config": {"vocabulary": "/etc/passwd"}}, "vocabulary is '/etc/pas"),
        ("tokenizer.json", {"config": {"config_file": "../x.json"}}, "config_file is '../x.json'"),
        ("tokenizer.json", {"config": {"x": {"class_name": "Lambda"}}}, "'x' is an object"),
    ],
)
def test_kerashub_makes_no_other_objects(file, changes, message, folders, tmp_path):
    folder = copied(folders, "kerashub", tmp_path)
    content = json.loads((folder / file).read_text())
    if "config" in changes:
        changes = {"config": {**content["config"], **changes["config"]}}
    change_json(folder / file, **changes)
    refused(folder, folder / file, message)


def test_a_cached_download_is_links_to_its_blobs(folders, tmp_path):
    """The Hub's cache keeps blobs by hash, and snapshots of links to them."""
    folder = tmp_path / "models--owner--name" / "snapshots" / "main"
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    for source in folders["hf_embed"].rglob("*"):
        if source.is_file():
            target = folder / source.relative_to(folders["hf_embed"])
            target.parent.mkdir(parents=True, exist_ok=True)
            blob = blobs / hashlib.sha256(str(source).encode()).hexdigest()
            shutil.copy(source, blob)
            os.symlink(os.path.relpath(blob, target.parent), target)
    assert not isinstance(load(folder), str)


def test_counts_are_those_of_the_models():
    """What a config asks for is known without building it."""
    sizes = {"vocabulary_size": 9, "num_layers": 2, "hidden_dim": 8}
    heads = {"classify": {"num_classes": 3}, "pair": {"num_classes": 3}, "tag": {"num_tags": 4}}
    old = {"positions": "learned", "norm": "layer_norm", "use_bias": True, "qk_norm": False}
    new = {"norm_placement": "pre", "norm": "rms_norm", "positions": "rotary", "qk_norm": True}
    configs = [
        zoo.GPTConfig(**sizes, num_heads=2, num_kv_heads=1, token_shift=2),
        zoo.GPTConfig(**sizes, **old, tie_embeddings=False, activation="swiglu"),
        zoo.BertConfig(**sizes, intermediate_dim=6),
        zoo.BertConfig(**sizes, **new, use_bias=False, use_pooler=False, num_segments=0),
        *ENCODER_CONFIGS.values(),
        zoo.LSTMConfig(**sizes),
        zoo.LSTMConfig(**sizes, embedding_dim=4, tie_embeddings=False),
        zoo.LSTMConfig(**sizes, embedding_dim=4, bidirectional=True),
    ]
    for config in configs:
        every = config is configs[2] or getattr(config, "head_transform", False)
        for task in tasks_for(config)[: None if every else 1]:
            head = heads.get(task, {"embedding_dim": 3} if task == "embed" else {})
            model = zoo.build(config, task, head)
            assert count_weights(config, task, head) == model.count_params(), (config, task)
