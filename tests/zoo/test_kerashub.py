"""KerasHub presets: the same hidden states, vectors and ids as KerasHub's own classes."""

import json
import re
import shutil

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.utils import preset_utils

import zoo
from zoo.files import BundleError
from zoo.loading import outline
from zoo.tokenizers.bytepair.vocabulary import ALPHABET
from zoo.weights.kerashub import load_kerashub

pytestmark = pytest.mark.usefixtures("eager_functions")

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "##es", "jump"),
    *("##ed", ".", "!", "a", "caf", "##e", "##\u00e9", "\u6625", "\u7720", "The"),
]
MERGES = ["t h", "th e", "\u0120 the", "f o", "fo x", "\u0120 fox", "q u", "qu i", "c k", "qui ck"]
TEXTS = [
    "The quick foxes jumped!",
    "the caf\u00e9 \u6625\u7720 a.",
    "  fox\n\nfox  xyz [MASK]",
    "the quick the quick the quick the quick the quick fox",
    "",
    "it's 1234 \U0001f98a don't",
]
LENGTH = 12


def randomised(model, seed=0):
    """Weights so large that every one shows in the hidden states."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        mean = 1.0 if weight.name == "gamma" else 0.0
        weight.assign(draw.normal(mean, 0.5, weight.shape))
    return model


def make_bert(**changes):
    options = {
        "vocabulary_size": len(PIECES) + 3,  # padded, as some models are
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "max_sequence_length": LENGTH,
        "num_segments": 3,
    }
    return randomised(keras_hub.models.BertBackbone(**options | changes))


def make_bert_tokenizer(**changes):
    return keras_hub.models.BertTokenizer(PIECES, **{"lowercase": True} | changes)


def make_gpt2(**changes):
    options = {
        "vocabulary_size": 280,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "max_sequence_length": LENGTH,
    }
    return randomised(keras_hub.models.GPT2Backbone(**options | changes))


def make_gpt2_tokenizer():
    # As in GPT-2's own files: end of text comes last.
    pieces = [*ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return keras_hub.models.GPT2Tokenizer(vocabulary, MERGES)


def saved(folder, *parts):
    for part in parts:
        part.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Folder and KerasHub's backbone."""
    backbone = make_bert()
    return saved(tmp_path_factory.mktemp("bert"), backbone, make_bert_tokenizer()), backbone


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    backbone = make_gpt2()
    return saved(tmp_path_factory.mktemp("gpt2"), backbone, make_gpt2_tokenizer()), backbone


def batch(vocabulary_size, rows=3):
    draw = np.random.default_rng(7)
    ids = draw.integers(0, vocabulary_size, (rows, LENGTH)).astype("int32")
    segments = draw.integers(0, 3, (rows, LENGTH)).astype("int32")
    mask = np.arange(LENGTH) < np.array([[LENGTH], [6], [1]])
    return ids, segments, mask


def assert_same_hidden(bundle, backbone, tolerance=1e-4):
    """Equal where tokens are real; returns the largest difference."""
    ids, segments, mask = batch(backbone.vocabulary_size)
    inputs = {"token_ids": ids, "padding_mask": mask.astype("int32")}
    ours = bundle.model.backbone
    if bundle.config.family == "bert":
        expected = backbone(inputs | {"segment_ids": segments})
        hidden = ours(ids, padding_mask=mask, segment_ids=segments)
        if ours.pooler is not None:
            pooled = np.asarray(ours.pool(hidden))
            np.testing.assert_allclose(pooled, expected["pooled_output"], atol=tolerance)
        expected = expected["sequence_output"]
    else:
        expected, hidden = backbone(inputs), ours(ids)
    np.testing.assert_allclose(
        np.asarray(hidden)[mask], np.asarray(expected)[mask], rtol=tolerance, atol=tolerance
    )
    return np.abs(np.asarray(hidden) - np.asarray(expected))[mask].max()


def assert_same_ids(bundle, tokenizer, texts=TEXTS):
    expected = [np.asarray(tokenizer(text)).tolist() for text in texts]
    assert bundle.tokenizer.encode(texts).to_list() == expected


# --- BERT


def test_bert(bert):
    folder, backbone = bert
    bundle = zoo.load(folder)  # its config.json says what it is
    config = bundle.model.backbone.config
    assert (config.num_segments, config.context_length, config.feedforward_dim) == (3, LENGTH, 12)
    assert outline(folder) == ("embed", config)
    assert_same_hidden(bundle, backbone)
    plain = [text.replace("[MASK]", "") for text in TEXTS]  # KerasHub takes it for text
    assert_same_ids(bundle, make_bert_tokenizer(), plain)
    assert bundle.tokenizer.encode(["[MASK]"]).to_list() == [[PIECES.index("[MASK]")]]


@pytest.mark.parametrize(
    "options", [{"lowercase": False}, {"strip_accents": True}, {"special_tokens_in_strings": True}]
)
def test_wordpiece_options(bert, tmp_path, options):
    folder, _ = bert
    shutil.copytree(folder, tmp_path / "preset")
    tokenizer = make_bert_tokenizer(**options)
    saved(tmp_path / "preset", tokenizer)
    bundle = zoo.load(f"kerashub://{tmp_path / 'preset'}")
    texts = TEXTS if options.get("special_tokens_in_strings") else TEXTS[:2]
    assert_same_ids(bundle, tokenizer, texts)


@pytest.mark.parametrize("pooling, normalize", [("mean", True), ("cls", False), ("max", True)])
def test_sentence_vectors(bert, tmp_path, pooling, normalize):
    _, backbone = bert
    tokenizer = make_bert_tokenizer()
    preprocessor = keras_hub.models.BertTextEmbedderPreprocessor(tokenizer, sequence_length=LENGTH)
    embedder = keras_hub.models.BertTextEmbedder(
        backbone, preprocessor, pooling_mode=pooling, normalize=normalize
    )
    bundle = load_kerashub(saved(tmp_path, embedder))
    assert bundle.config.task == "embed"
    texts = TEXTS[:2]  # longer ones KerasHub cuts and we read in windows
    expected = embedder(preprocessor(texts))
    vectors = bundle.text_model.embed(texts)["embedding"]
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


# --- GPT-2


def test_gpt2(gpt2):
    folder, backbone = gpt2
    bundle = load_kerashub(f"kerashub://{folder}")
    assert bundle.config.task == "lm"
    assert_same_hidden(bundle, backbone)
    assert_same_ids(bundle, make_gpt2_tokenizer())
    ids, _, _ = batch(280)
    hidden = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    expected = backbone.token_embedding(hidden, reverse=True)
    np.testing.assert_allclose(bundle.model(ids), expected, rtol=1e-4, atol=1e-4)
    assert bundle.config.start_id == bundle.tokenizer.special_tokens["<|endoftext|>"]
    assert outline(f"kerashub://{folder}") == ("lm", bundle.model.backbone.config)


def test_gpt2_as_our_bundle(gpt2, tmp_path):
    folder, backbone = gpt2
    bundle = zoo.load(folder)
    zoo.save(tmp_path / "run", bundle.model, bundle.tokenizer)
    bundle = zoo.load(tmp_path / "run")
    assert_same_hidden(bundle, backbone)
    assert_same_ids(bundle, make_gpt2_tokenizer())


# --- other forms of the files


def test_half_precision(tmp_path):
    backbone = make_bert(dtype="float16")
    bundle = load_kerashub(saved(tmp_path, backbone, make_bert_tokenizer()))
    assert {weight.dtype for weight in bundle.model.weights} == {"float32"}
    full = make_bert()
    for weight, half in zip(full.weights, backbone.weights):
        weight.assign(keras.ops.cast(half, "float32"))
    assert_same_hidden(bundle, full)


def test_sharded_weights(gpt2, tmp_path):
    _, backbone = gpt2
    backbone.save_to_preset(str(tmp_path), max_shard_size=1e-5)
    make_gpt2_tokenizer().save_to_preset(str(tmp_path))
    assert len(list(tmp_path.glob("model_0*.weights.h5"))) > 1
    assert_same_hidden(load_kerashub(tmp_path), backbone)


def test_a_trained_head_is_not_read(bert, tmp_path, caplog):
    _, backbone = bert
    task = keras_hub.models.BertTextClassifier(backbone, 2)
    bundle = load_kerashub(saved(tmp_path, task, make_bert_tokenizer()))
    assert "the trained head in task.weights.h5 is not read" in caplog.text
    assert_same_hidden(bundle, backbone)


def test_a_preset_by_name_is_downloaded_file_by_file(gpt2, tmp_path, monkeypatch):
    folder, backbone = gpt2
    asked = []

    def download(handle, file):
        asked.append(file)
        if not (folder / file).exists():
            raise ValueError(f"{file} is not present in the model files")
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(folder / file, target)

    monkeypatch.setattr(preset_utils.kagglehub, "model_download", download)
    bundle = zoo.load("kerashub://gpt2_base_en")
    assert_same_hidden(bundle, backbone)
    assert_same_ids(bundle, make_gpt2_tokenizer())
    assert asked[0] == "config.json" and "task.weights.h5" not in asked


# --- what is refused


def edited(folder, copy, file, **changes):
    """A copy of a preset with settings changed; None takes one out."""
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text(encoding="utf-8"))
    content["config"] |= changes.pop("config", {})
    (copy / file).write_text(json.dumps(content | changes), encoding="utf-8")
    return copy


def refusal(preset):
    with pytest.raises(BundleError) as error:
        load_kerashub(preset)
    assert str(preset) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "file, changes, message",
    [
        ("config.json", {"class_name": "LlamaBackbone"}, "class 'LlamaBackbone' is not known here"),
        ("config.json", {"config": {"num_layers": 3}}, "the model that it describes has "),
        ("config.json", {"config": {"hidden_dim": 16}}, "the model that it describes has"),
        ("config.json", {"config": {"num_heads": "x"}}, "num_heads must be a whole number"),
        ("config.json", {"config": {"rope": True}}, "unknown field 'rope'"),
        (
            "tokenizer.json",
            {"class_name": "GemmaTokenizer"},
            "class 'GemmaTokenizer' is not known here",
        ),
        ("tokenizer.json", {"config": {"split": False}}, "split is False"),
        ("tokenizer.json", {"config": {"oov_token": "a"}}, "oov_token is 'a'"),
        ("config.json", {"model_type": "bert"}, "a Hugging Face model, no KerasHub preset"),
        ("config.json", {"config": {"dropout": 1.5}}, "dropout must be below 1"),
    ],
)
def test_settings_that_do_not_fit(bert, tmp_path, file, changes, message):
    assert message in refusal(edited(bert[0], tmp_path / "preset", file, **changes))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.weights.h5"])
def test_missing_and_damaged_files(bert, tmp_path, file):
    preset = tmp_path / "preset"
    shutil.copytree(bert[0], preset)
    whole = (preset / file).read_bytes()
    (preset / file).write_bytes(whole[: len(whole) // 2])
    refusal(preset)
    (preset / file).unlink()
    assert f"{file}: no such file" in refusal(preset)


def test_a_missing_vocabulary(bert, tmp_path):
    preset = tmp_path / "preset"
    shutil.copytree(bert[0], preset)
    (preset / "assets" / "tokenizer" / "vocabulary.txt").unlink()
    assert "vocabulary.txt" in refusal(preset)


def test_a_vocabulary_larger_than_the_model(tmp_path):
    preset = saved(tmp_path, make_bert(vocabulary_size=9), make_bert_tokenizer())
    assert "the tokenizer has 21 ids but the model only 9" in refusal(preset)


def test_names(tmp_path, monkeypatch):
    assert (
        "no KerasHub preset of Bert, Albert, Roberta, DebertaV3, GPT2, T5. These are: albert_base"
        in refusal("llama3_8b_en")
    )
    assert "no such folder, and no KerasHub preset" in refusal(str(tmp_path / "gone"))
    # A proxy that is not there, and a cache with nothing in it: as without network.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    for name in ("bert_tiny_en_uncased", "kaggle://keras/gpt2/keras/gpt2_base_en/2"):
        message = refusal(name)
        assert re.search(r"KerasHub cannot download this preset.*api\.kaggle\.com", message)
        assert "save it to a folder where there is one" in message


# --- full size


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_base_models(tmp_path, family):
    """BERT base and GPT-2 (124 M), random weights."""
    size = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
    if family == "bert":
        backbone = keras_hub.models.BertBackbone(30522, num_segments=3, **size)
        tokenizer = make_bert_tokenizer()
    else:
        backbone = keras_hub.models.GPT2Backbone(50257, **size)
        tokenizer = make_gpt2_tokenizer()
    draw = np.random.default_rng(0)
    for weight in backbone.weights:
        if len(weight.shape) == 1:  # norms and biases begin as ones and zeros, which show nothing
            weight.assign(keras.ops.convert_to_numpy(weight) + draw.normal(0, 0.1, weight.shape))
    bundle = load_kerashub(saved(tmp_path, backbone, tokenizer))
    assert bundle.model.count_params() == backbone.count_params()
    print(family, "largest difference", assert_same_hidden(bundle, backbone))
