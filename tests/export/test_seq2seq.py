"""Signatures of encoder-decoders: exported, served over gRPC and REST, batched, in fewer bits."""

import itertools
import json
import sys
import urllib.request

import keras
import numpy as np
import pytest
from absl import flags

import zoo
from export.client import Client, RequestError
from export.client.__main__ import define_flags, run
from export.golden.pairs import read_golden_pairs
from export.model_folder import CARD_FILE, GOLDEN_FILE, WARMUP_FILE, read_saved_model
from export.precision.reduce import reduce_bundle
from export.saved_model import export_saved_model
from export.server import RestOptions, ServedModel, Server
from zoo.generation.options import SEQ2SEQ_OPTIONS
from zoo.tokenizers import BytePairTokenizer

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.timeout(600)]

TEXTS = ["To be, or not to be", "", "that \u6625\u7720 is", "the question. " * 30]
OPTIONS = {
    "max_new_tokens": [9, 6, 4, 9],
    "min_new_tokens": [0, 5, 2, 0],
    "num_beams": [3, 1, 2, 1],
    "length_penalty": [0.6, 1.0, 1.0, 1.0],
    "temperature": [0.0, 0.0, 0.0, 1.0],
    "seed": [0, 0, 0, 7],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    keras.utils.set_random_seed(0)
    tokenizer = BytePairTokenizer.train([" ".join(TEXTS)], 270)
    shape = {"context_length": 24, "num_layers": 1, "num_heads": 2, "hidden_dim": 16}
    config = zoo.EncoderDecoderConfig(
        tokenizer.vocabulary_size, **shape, initializer_range=0.5, positions="relative"
    )
    start = (tokenizer.end_id, 3)
    seq2seq = zoo.Seq2SeqConfig(
        prefix="say: ",
        source_end=(tokenizer.end_id,),
        target_start=start,
        max_source=20,
        search=zoo.SearchConfig(
            num_beams=2,
            early_stopping="never",
            no_repeat_ngram_size=3,
            forced_end=True,
            banned_ids=(5,),
            renormalize=True,
        ),
    )
    folder = tmp_path_factory.mktemp("seq2seq")
    return zoo.save(folder, zoo.build(config, "translate"), tokenizer, seq2seq=seq2seq)


@pytest.fixture(scope="module")
def served(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "words"
    export_saved_model(zoo.load(bundle.folder), folder)
    return folder


@pytest.fixture(scope="module")
def server(served):
    models = [ServedModel("words", str(served))]
    with Server(models, port=0, host="localhost", rest=RestOptions(port=0)) as server:
        yield server


def arrays(outputs):
    return {name: value.numpy() for name, value in outputs.items()}


def test_what_an_export_holds(served):
    folder = served / "1"
    pairs = read_golden_pairs(folder / GOLDEN_FILE)
    assert [(pair.signature, pair.rows) for pair in pairs] == [
        ("translate", 1), ("translate", 1), ("translate", 5), ("translate", 5), ("score", 5),
    ]  # fmt: skip
    assert (folder / WARMUP_FILE).stat().st_size > 0
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    assert "| `translate` | predict |" in card
    assert "`num_beams`" in card


def test_server_answers_as_keras(bundle, server):
    wanted = arrays(bundle.seq2seq.translate(TEXTS, **OPTIONS))
    inputs = {
        "text": np.array([text.encode() for text in TEXTS], object),
        **{name: SEQ2SEQ_OPTIONS[name].array(values) for name, values in OPTIONS.items()},
    }
    with Client(f"localhost:{server.port}") as client:
        answer = client.predict("words", inputs, "translate").outputs
        assert answer["texts"].tolist() == wanted["texts"].tolist()
        np.testing.assert_allclose(answer["scores"], wanted["scores"], atol=1e-4)
        assert answer["text"].tolist() == wanted["texts"][:, 0].tolist()
        long = client.predict("words", {"text": ["To be " * 17_000, "To be"]}).outputs
        assert long["truncated"].tolist() == [True, False]
        scored = client.predict("words", {"text": TEXTS, "target": TEXTS[::-1]}, "score").outputs
        expected = arrays(bundle.seq2seq.score(TEXTS, TEXTS[::-1]))
        np.testing.assert_allclose(scored["log_likelihood"], expected["log_likelihood"], rtol=1e-4)
        # What a request leaves out is as the model's files have it.
        alone = client.predict("words", {"text": TEXTS[:1]}).outputs
        assert (
            alone["texts"].tolist() == arrays(bundle.seq2seq.translate(TEXTS[:1]))["texts"].tolist()
        )
        assert len(alone["texts"][0]) == 2
        wrong = {"text": ["a"], "length_penalty": np.array([-9], np.float32)}
        with pytest.raises(RequestError, match="length_penalty must be -8 to 8"):
            client.predict("words", wrong, "translate")
        for name, value in [("num_beams", 0), ("num_beams", 1000), ("max_new_tokens", -1)]:
            with pytest.raises(RequestError, match=f"{name} must be"):
                wrong = {"text": ["a"], name: np.array([value], np.int32)}
                client.predict("words", wrong, "translate")
    row = {name: option.default for name, option in SEQ2SEQ_OPTIONS.items()}
    row |= {name: values[0] for name, values in OPTIONS.items()} | {"text": TEXTS[0]}
    body = json.dumps({"signature_name": "translate", "instances": [row]}).encode()
    url = f"http://localhost:{server.rest_port}/v1/models/words:predict"
    with urllib.request.urlopen(url, body) as response:
        prediction = json.loads(response.read().decode("utf-8", "replace"))["predictions"][0]
    assert prediction["texts"] == [text.decode("utf-8", "replace") for text in wanted["texts"][0]]


def test_the_other_task_writes_the_same(bundle):
    other = zoo.load(bundle.folder, task="summarize")
    assert other.config.seq2seq == bundle.config.seq2seq
    texts = [one.translate(TEXTS[:1]) if one is bundle.seq2seq else one.summarize(TEXTS[:1])
             for one in (bundle.seq2seq, other.seq2seq)]  # fmt: skip
    assert texts[0]["text"] == texts[1]["text"]


def test_a_row_does_not_depend_on_its_batch(bundle):
    together = arrays(bundle.seq2seq.translate(TEXTS, **OPTIONS))
    for row, text in enumerate(TEXTS):
        own = {name: [values[row]] for name, values in OPTIONS.items()}
        alone = arrays(bundle.seq2seq.translate([text], **own))
        width = own["num_beams"][0]
        assert alone["texts"][0].tolist() == together["texts"][row, :width].tolist()
        np.testing.assert_allclose(alone["scores"][0], together["scores"][row, :width], atol=1e-4)
        assert not any(together["texts"][row, width:]) and not together["scores"][row, width:].any()


def test_scores_are_the_log_probabilities_of_what_was_written():
    """Bytes spell a text in one way; ends are made likely, as one that is not written has none."""
    keras.utils.set_random_seed(0)
    tokenizer, shape = zoo.ByteTokenizer(), {"num_layers": 1, "num_heads": 2, "hidden_dim": 16}
    config = zoo.EncoderDecoderConfig(257, 24, **shape, initializer_range=0.5, logit_bias=True)
    model = zoo.build(config, "translate")
    model.backbone.logit_bias.assign(5.0 * (np.arange(257) == tokenizer.end_id))
    text_model = zoo.TextTranslator(tokenizer, model)
    written = arrays(text_model.translate(TEXTS, num_beams=[4, 1, 2, 1], length_penalty=[0.7]))
    count = written["token_count"]
    assert count.max() > 1 and count.max() < 24
    scored = arrays(text_model.score(TEXTS, written["text"]))
    np.testing.assert_array_equal(scored["token_count"], count)
    expected = scored["log_likelihood"] / (count + 1) ** 0.7
    np.testing.assert_allclose(written["score"], expected, atol=1e-4)


@pytest.mark.parametrize("penalty", [-8.0, -1.0, 0.0, 8.0])
def test_any_length_penalty_finds_all_beams(bundle, penalty):
    """Also of a score that is far below what marks a beam that there is not."""
    options = {"num_beams": [4], "max_new_tokens": [16], "length_penalty": [penalty]}
    found = arrays(bundle.seq2seq.translate(TEXTS[:1], **options))["scores"][0]
    assert (np.diff(found) <= 0).all() and (found < 0).all() and np.isfinite(found).all()


def test_long_sources_and_bad_ones(bundle):
    model = bundle.seq2seq
    long = "the question. " * 8000
    assert model.sources([long]).to_list()[0] == model.sources(["the question. " * 20]).to_list()[0]
    assert model.sources([""]).row_lengths().numpy() > 1  # the prefix
    answer = arrays(model.translate([long, b"\xff\xfe"], max_new_tokens=[5]))
    assert (answer["token_count"] <= 5).all() and answer["truncated"].tolist() == [True, False]
    cut = arrays(model.score([long, "a", "a"], ["b", long, "b"]))["truncated"]
    assert cut.tolist() == [True, True, False]
    # As many as are read, and one more.
    left = model.room - model.source_ids([""]).row_lengths().numpy()[0]
    cut = arrays(model.translate(["~" * left, "~" * (left + 1)], max_new_tokens=[1]))["truncated"]
    assert cut.tolist() == [False, True]
    assert model.translate([]).pop("texts").shape == (0, 2)
    with pytest.raises(TypeError, match="unknown option min_p; known: max_new_tokens, min_"):
        model.translate(["a"], min_p=[0.1])
    with pytest.raises(TypeError, match="missing a required argument: 'target'"):
        model.score(["a"])
    with pytest.raises(zoo.BundleError, match=r"continues no text; use `served`, which has trans"):
        bundle.lm  # noqa: B018
    with pytest.raises(zoo.BundleError, match="writes text: use `seq2seq`"):
        bundle.text_model  # noqa: B018
    for wrong in ({"target_start": (999,)}, {"source_end": (1,) * 24}):
        config = zoo.Seq2SeqConfig(**wrong)
        with pytest.raises(ValueError, match=r"seq2seq: "):
            zoo.TextTranslator(bundle.tokenizer, bundle.model, config)


def test_the_command_line_shows_beams(server, monkeypatch, capsys):
    values = flags.FlagValues()
    define_flags(values)
    values(
        ["client", f"--server=localhost:{server.port}", "--model=words", "--text=To be"]
        + ["--set=num_beams=2", "--set=max_new_tokens=4"]
    )
    monkeypatch.setattr(sys, "stdin", None)
    assert run(values) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3 and lines[-2].lstrip().startswith("-")


@pytest.mark.slow
def test_fewer_bits(bundle, tmp_path):
    """Exported in int8, whose single tokens are read by products of integers."""
    folder = export_saved_model(bundle, tmp_path / "words", precision="int8")
    operations = {node.op for node in _nodes(folder)}
    assert "_QuantizedMatMul" in operations
    reduced = reduce_bundle(bundle, "bfloat16")
    for one in (reduced, reduce_bundle(bundle, "int8")):
        scored = arrays(one.seq2seq.score(TEXTS[:1], ["To be"]))["log_likelihood"]
        exact = arrays(bundle.seq2seq.score(TEXTS[:1], ["To be"]))["log_likelihood"]
        np.testing.assert_allclose(scored, exact, rtol=0.02)
        assert scored != exact


def _nodes(folder):
    graph = read_saved_model(folder).meta_graphs[0].graph_def
    return itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
