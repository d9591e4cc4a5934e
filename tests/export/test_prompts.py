"""Prompts of a sentence encoder: an optional input of its signature, in Python and served."""

import json
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import make_bundle

import zoo
from export.client import Client
from export.golden.pairs import read_golden_pairs
from export.golden.replay import problems_of, replay_remotely
from export.model_folder import GOLDEN_FILE, read_saved_model
from export.saved_model import export_saved_model
from export.server import RestOptions, ServedModel, Server
from zoo.text.config import CleaningConfig, TextConfig

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.timeout(300)]

PROMPTS = {"query": "ask: ", "passage": "text of "}
TEXTS = ["the Ada", "", "<b>wrote</b>"]
CLEANING = CleaningConfig(html=True, whitespace=True)


def bundle_with(folder, default):
    """A tiny encoder with PROMPTS, and the same one without."""
    plain = make_bundle(folder / "plain", "embed", "bert", "sentencepiece")
    model, text = plain.model, TextConfig(max_length=16, cleaning=CLEANING)
    without = zoo.save(folder / "without", model, plain.tokenizer, text=text)
    text = TextConfig(16, cleaning=CLEANING, prompts=PROMPTS, default_prompt=default)
    return zoo.save(folder / "prompts", model, plain.tokenizer, text=text), without


def embed(bundle, texts, **options):
    return bundle.text_model.embed(texts, **options)["embedding"].numpy()


@pytest.mark.parametrize("default", [None, "passage"])
def test_a_prompt_stands_before_the_cleaned_text(default, tmp_path):
    bundle, without = bundle_with(tmp_path, default)
    cleaned = ["the Ada", "", "wrote"]
    for name, prompt in {"": "", **PROMPTS}.items():
        # In front of what cleaning left, with its own blanks.
        wanted = without.text_model.tokenizer.encode([prompt + text for text in cleaned])
        packed = without.text_model.pack(wanted)
        wanted = without.text_model.forward(packed).numpy()
        np.testing.assert_allclose(embed(bundle, TEXTS, prompt=[name]), wanted, atol=1e-6)
    by_default = embed(bundle, TEXTS, prompt=default or "")
    np.testing.assert_array_equal(embed(bundle, TEXTS), by_default)
    mixed = embed(bundle, TEXTS, prompt=["query", "", "passage"])
    each = [embed(bundle, TEXTS, prompt=name) for name in ("query", "", "passage")]
    np.testing.assert_allclose(mixed, [rows[i] for i, rows in enumerate(each)], atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="one of query, passage, or empty for"):
        embed(bundle, TEXTS, prompt=["query", "Query", "query"])
    with pytest.raises(TypeError, match="unknown option prompt"):
        embed(without, TEXTS, prompt="query")
    again = zoo.load(tmp_path / "prompts")
    assert again.config.text == bundle.config.text


def test_served(tmp_path):
    bundle, _ = bundle_with(tmp_path, "query")
    steps = []
    path = export_saved_model(bundle, tmp_path / "served", on_step=steps.append)
    assert [step.split()[0] for step in steps] == ["golden", "writing", "operations", "the"]
    (signature,) = (graph.signature_def["embed"] for graph in read_saved_model(path).meta_graphs)
    assert tf.make_ndarray(signature.defaults["prompt"]).tolist() == [b"query"]
    assert {pair.rows for pair in read_golden_pairs(path / GOLDEN_FILE)} == {1, 9}
    models = [ServedModel("m", str(path.parent))]
    with (
        Server(models, port=0, host="localhost", rest=RestOptions(0)) as server,
        Client(f"localhost:{server.port}") as client,
    ):
        assert problems_of(replay_remotely(path, client, "m")) == []
        for name in ("", "query", "passage", None):
            inputs = {"text": TEXTS} | ({} if name is None else {"prompt": [name]})
            found = client.predict("m", inputs, "embed").outputs["embedding"]
            wanted = embed(bundle, TEXTS, prompt="query" if name is None else name)
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        with pytest.raises(grpc.RpcError, match="one of query, passage") as error:
            client.predict("m", {"text": TEXTS, "prompt": ["other"]}, "embed")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        body = {"inputs": {"text": TEXTS, "prompt": ["passage"]}, "signature_name": "embed"}
        request = urllib.request.Request(
            f"http://localhost:{server.rest_port}/v1/models/m:predict", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)["outputs"]
        np.testing.assert_allclose(found, embed(bundle, TEXTS, prompt="passage"), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"default_prompt": "query"}, "text.default_prompt must name one of text.prompts, none"),
        ({"prompts": {"a": "b"}, "default_prompt": "q"}, "one of text.prompts, a. Received: 'q'"),
        ({"prompts": {"": "query: "}}, "text.prompts: a prompt needs a name"),
        ({"prompts": {"query": 1}}, "prompts.query"),
    ],
)
def test_prompts_that_are_refused(fields, message):
    with pytest.raises(zoo.ConfigError, match=message):
        TextConfig(**fields)
