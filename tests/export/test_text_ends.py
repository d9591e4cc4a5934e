"""Byte-level models whose completions end inside a character: what clients get is UTF-8."""

import http.client
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import zoo
from export.closure.check import check
from export.closure.history import SERVING_VERSIONS
from export.saved_model import export_saved_model
from export.server import RestOptions, ServedModel, Server
from zoo.generation.options import OPTIONS
from zoo.text.lm import TextLM
from zoo.tokenizers import BytePairTokenizer, SentencePieceTokenizer

pytestmark = pytest.mark.tensorflow_only

SENTENCEPIECE = Path(__file__).parents[1] / "zoo" / "fixtures" / "sentencepiece" / "bpe.model"
# Of 1, 2, 3 and 4 bytes, no byte in two of them.
CHARACTERS = ["a", "\u00e9", "\u4f60", "\U0001f600"]
SEEDS = range(40, 60)
ROWS = {
    "text": ["a"] * len(SEEDS),
    "max_new_tokens": np.int32([1 + seed % 5 for seed in SEEDS]),
    "temperature": np.float32([1] * len(SEEDS)),
    "seed": np.int32(SEEDS),
}


def chain(tokenizer, byte_id):
    """An LSTM of one layer that says whole characters at random, a byte a token."""
    size = tokenizer.vocabulary_size
    model = zoo.build(
        zoo.LSTMConfig(
            vocabulary_size=size,
            context_length=8,
            num_layers=1,
            hidden_dim=size,
            tie_embeddings=False,
        )
    )
    follows = np.zeros((size, size), "float32")
    characters = [[byte_id(byte) for byte in text.encode()] for text in CHARACTERS]
    ends = [ids[-1] for ids in characters] + [tokenizer.encode(["a"]).to_list()[0][-1]]
    for first, *rest in characters:
        follows[ends, first] = 1
        follows[[first, *rest[:-1]], rest] = 1
    embedding, cell = model.backbone.token_embedding, model.backbone.recurrent_layers[0].cell
    embedding.embeddings.assign(np.eye(size))
    cell.recurrent_kernel.assign(np.zeros((size, 4 * size)))
    # Input and output gate open, forget gate shut, so that h is tanh(tanh(9 follows)).
    kernel = np.zeros((size, 4 * size), "float32")
    kernel[:, 2 * size : 3 * size] = 9 * follows
    cell.kernel.assign(kernel)
    cell.bias.assign(np.repeat([9.0, -9.0, 0.0, 9.0], size))
    # No two logits are equal: rounding decides nothing.
    embedding.reverse_embeddings.assign(np.diag(40 + np.linspace(0, 1, size)))
    return model


def byte_model():
    return zoo.ByteTokenizer(), lambda byte: byte


def bytepair_model():
    tokenizer = BytePairTokenizer.train(["a"], vocabulary_size=257)
    pieces = tokenizer.pieces()
    return tokenizer, lambda byte: pieces.index(bytes([byte]))


def sentencepiece_model():
    tokenizer = SentencePieceTokenizer.from_file(SENTENCEPIECE)
    pieces = tokenizer.pieces()
    return tokenizer, lambda byte: pieces.index(bytes([byte]))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(byte_model, marks=pytest.mark.slow),
        bytepair_model,
        pytest.param(sentencepiece_model, marks=pytest.mark.slow),
    ],
)
def test_completions_are_whole_characters(kind):
    tokenizer, byte_id = kind()
    lm = TextLM(tokenizer, chain(tokenizer, byte_id))
    answer = {name: value.numpy().tolist() for name, value in lm.generate(**ROWS).items()}
    assert answer["token_count"] == ROWS["max_new_tokens"].tolist()
    for text, completion in zip(answer["text"], answer["completion"], strict=True):
        assert text.decode() == "a" + completion.decode()
        assert set(completion.decode()) <= set(CHARACTERS)
    missing = [
        count - len(completion)
        for count, completion in zip(answer["token_count"], answer["completion"], strict=True)
    ]
    assert set(missing) == {0, 1, 2, 3}  # bytes that were left out: all cases were met


def test_a_served_answer_is_json(tmp_path, monkeypatch):
    monkeypatch.setattr("export.saved_model.replay", lambda *_: [])  # it is asked below
    tokenizer, byte_id = bytepair_model()
    keras.utils.set_random_seed(0)
    bundle = zoo.save(tmp_path / "run", chain(tokenizer, byte_id), tokenizer)
    path = export_saved_model(bundle, tmp_path / "served")
    for release in SERVING_VERSIONS:
        assert [found for found in check(path, release) if found.blocks] == []
    options = {name: values.tolist() for name, values in ROWS.items() if name != "text"}
    left_out = {*OPTIONS} - {*options}
    inputs = {
        "text": ROWS["text"],
        **options,
        **{name: [OPTIONS[name].default] * 20 for name in left_out},
    }
    body = json.dumps({"signature_name": "generate", "inputs": inputs})
    with Server(
        [ServedModel("m", str(tmp_path / "served"))],
        port=0,
        rest=RestOptions(port=0),
        host="localhost",
    ) as server:
        connection = http.client.HTTPConnection("localhost", server.rest_port, timeout=60)
        connection.request("POST", "/v1/models/m:predict", body)
        answer = json.loads(connection.getresponse().read())["outputs"]
        connection.close()
    expected = bundle.lm.generate(**ROWS)
    for name in ("text", "completion"):
        assert answer[name] == [value.decode() for value in expected[name].numpy()]
    assert answer["token_count"] == ROWS["max_new_tokens"].tolist()
