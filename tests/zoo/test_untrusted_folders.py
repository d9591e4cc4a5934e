"""Folders that anybody may have written: they load, or BundleError says what is wrong.

No file names anything outside its folder, and no config asks for more than the weights hold.
"""

import contextlib
import hashlib
import json
import os
import resource
import shutil

import h5py
import keras_hub
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from huggingface_cases import change_json, copy_model

import zoo
from zoo.tokenizers import TOKENIZERS
from zoo.tokenizers.bytepair_alphabet import ALPHABET

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


@settings(max_examples=int(os.environ.get("ZOO_UNTRUSTED_EXAMPLES", 60)))
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
