"""A minGPT checkpoint through the exporter and the server: text in, sorted text out."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from mingpt_json import to_safetensors

import zoo
from export.client import Client
from export.saved_model import export_saved_model
from export.server import ServedModel, Server
from zoo.weights import nanogpt

DATA = Path(os.environ.get("ZOO_DATA", "")) / "weights_gpt_nano_sort"

pytestmark = [
    pytest.mark.tensorflow_only,
    pytest.mark.skipif("ZOO_DATA" not in os.environ or not DATA.is_dir(), reason="needs ZOO_DATA"),
]


def test_the_served_model_sorts_every_input(tmp_path):
    source = to_safetensors(DATA / "gpt-nano-sort-model.json", tmp_path / "source")
    bundle = nanogpt.load(source, characters="ABC", activation="gelu_tanh")
    zoo.save(tmp_path / "run", bundle.model, bundle.tokenizer, bundle.config.start_id)
    export_saved_model(zoo.load(tmp_path / "run"), tmp_path / "served")
    inputs = ["".join(letters) for letters in itertools.product("ABC", repeat=6)]
    assert len(inputs) == 729
    with (
        Server([ServedModel("sort", str(tmp_path / "served"))], port=0, host="localhost") as server,
        Client(f"localhost:{server.port}") as client,
    ):

        def ask(texts, signature=""):
            request = {"text": np.array(texts, object)}
            if not signature:
                request["max_new_tokens"] = np.array([6], np.int32)
            return client.predict("sort", request, signature).outputs

        answers = [ask(inputs[start : start + 100]) for start in range(0, len(inputs), 100)]
        completions = [text.decode() for answer in answers for text in answer["completion"]]
        assert completions == ["".join(sorted(text)) for text in inputs]
        assert {count for answer in answers for count in answer["token_count"]} == {6}
        # Alone as in a batch, and the ids that letters have no use for have no probability.
        assert ask(["CABBAC"])["text"].tolist() == [b"CABBACAABBCC"]
        likeliest = ask(["CABBAC"], "next_token")
        assert likeliest["tokens"][0, 0] == b"A"
        special = np.char.startswith(likeliest["tokens"][0].astype(str), "<|")
        assert special.sum() == 2
        assert likeliest["probabilities"][0][special].tolist() == [0, 0]
