"""A minGPT checkpoint through the exporter and a session: text in, sorted text out."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from mingpt_json import to_safetensors

import zoo
from export.golden.pairs import strings
from export.golden.replay import ask_servable
from export.saved_model import export_saved_model
from export.server import Servable
from zoo.weights import nanogpt

DATA = Path(os.environ.get("ZOO_DATA", "")) / "weights_gpt_nano_sort"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow_only,
    pytest.mark.skipif("ZOO_DATA" not in os.environ or not DATA.is_dir(), reason="needs ZOO_DATA"),
]


def test_the_served_model_sorts_every_input(tmp_path, monkeypatch):
    monkeypatch.setattr("export.saved_model.replay", lambda *_: [])
    source = to_safetensors(DATA / "gpt-nano-sort-model.json", tmp_path / "source")
    bundle = nanogpt.load(source, characters="ABC", activation="gelu_tanh")
    zoo.save(tmp_path / "run", bundle.model, bundle.tokenizer, bundle.config.start_id)
    path = export_saved_model(zoo.load(tmp_path / "run"), tmp_path / "served")
    inputs = ["".join(letters) for letters in itertools.product("ABC", repeat=6)]
    assert len(inputs) == 729
    servable = Servable("sort", 1, str(path))

    def ask(texts, signature="generate"):
        request = {"text": strings([text.encode() for text in texts])}
        if signature == "generate":
            request["max_new_tokens"] = np.array([6], np.int32)
        return ask_servable(servable, signature, request)

    try:
        answer = ask(inputs)
        completions = [text.decode() for text in answer["completion"]]
        assert completions == ["".join(sorted(text)) for text in inputs]
        assert {*answer["token_count"]} == {6}
        # Alone as in a batch, and the ids that letters have no use for have no probability.
        assert ask(["CABBAC"])["text"].tolist() == [b"CABBACAABBCC"]
        likeliest = ask(["CABBAC"], "next_token")
        assert likeliest["tokens"][0, 0] == b"A"
        special = np.char.startswith(likeliest["tokens"][0].astype(str), "<|")
        assert special.sum() == 2
        assert likeliest["probabilities"][0][special].tolist() == [0, 0]
    finally:
        servable.close()
