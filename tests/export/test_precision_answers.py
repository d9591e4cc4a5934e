"""How answers are compared, and what a user's own examples tell."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import zoo
from export.golden import examples as golden_examples
from export.golden.compare import deviations, differences, loosened
from export.golden.examples import Examples, evaluate, read_examples
from export.golden.pairs import GoldenPair, read_golden_pairs, strings, write_golden_pairs
from export.precision.language import language_deviations
from zoo.bundle import bundle_in_memory
from zoo.models.build import build

pytestmark = pytest.mark.tensorflow_only

TEXTS = {"text": strings([b"a", b"b"])}


def pair(signature, inputs=None, **outputs):
    return GoldenPair(signature, TEXTS if inputs is None else inputs, outputs)


def judged(before, after):
    return {one.output: one for one in deviations([before], [after])}


def f32(*values):
    return np.array(values, np.float32)


def test_equal_answers_have_no_deviation():
    same = pair("predict", scores=f32([0.2, 0.8], [1, 0]), label=strings([b"x", b"y"]))
    assert [one.value for one in deviations([same], [same])] == [0, 0]


def test_probabilities_are_judged_and_labels_told():
    before = pair("predict", scores=f32([0.49, 0.51], [1, 0]), label=strings([b"x", b"y"]))
    after = pair("predict", scores=f32([0.51, 0.49], [1, 0]), label=strings([b"y", b"y"]))
    found = judged(before, after)
    assert found["predict.scores"].value == pytest.approx(0.02)
    assert found["predict.scores"].passed
    assert found["predict.label"].value == 0.5
    assert found["predict.label"].passed  # told, not judged
    after.outputs["scores"][0] = [0.6, 0.4]
    assert not judged(before, after)["predict.scores"].passed
    after.outputs["scores"][0] = np.nan
    assert not judged(before, after)["predict.scores"].passed


def test_log_likelihoods_by_their_own_size_and_tokens_by_the_mean():
    def scored(total, *tokens):
        texts = np.array([[b"a", b"b"], [b"", b""]], object)
        of_tokens = {"tokens": texts, "log_probabilities": f32(tokens, [0, 0])}
        return pair("score", log_likelihood=f32(*total), token_count=np.int32([10, 0]), **of_tokens)

    before, after = scored((-100, 0), -90, -10), scored((-101, 0.005), -91, -10.5)
    found = judged(before, after)
    assert found["score.log_likelihood"].value == pytest.approx(0.01)
    assert found["score.log_probabilities"].value == pytest.approx(0.75)  # padding is no token
    assert all(one.tolerance is None for one in found.values())
    after.outputs["log_likelihood"][1] = np.nan
    after.outputs["log_probabilities"][0, 1] = np.nan
    assert all(np.isnan(one.value) for one in judged(before, after).values())


def test_generated_texts_and_the_likelihood_of_equal_ones():
    text, count = strings([b"ab", b"bc"]), np.int32([1, 1])
    before = pair("generate", text=text, log_probability=f32(-1, -2), token_count=count)
    other = strings([b"ab", b"bx"])
    after = pair("generate", text=other, log_probability=f32(-1, -9), token_count=count)
    found = judged(before, after)
    assert found["generate.text"].value == 0.5
    assert found["generate.log_probability"].value == 0
    after.outputs["log_probability"][0] = -2
    assert judged(before, after)["generate.log_probability"].value == pytest.approx(0.5)


def scaled(bundle, factor):
    """The same language model with `factor` times the logits."""
    model = type(bundle.model).from_config(bundle.model.get_config())
    model.set_weights(bundle.model.get_weights())
    norm = model.backbone.final_norm
    for weight in norm.weights:
        weight.assign(factor * weight)
    return bundle_in_memory(Path("memory"), model, bundle.tokenizer)


def test_language_models_by_kl_and_perplexity_on_fixed_texts(monkeypatch):
    model = build(zoo.GPTConfig(vocabulary_size=257, hidden_dim=32, num_layers=1, num_heads=2))
    bundle = bundle_in_memory(Path("memory"), model, zoo.ByteTokenizer())
    table = model.backbone.token_embedding.embeddings
    table.assign(0.3 * np.random.default_rng(0).normal(size=table.shape))
    assert [one.value for one in language_deviations(bundle, bundle)] == [0, 0]
    near, far = (language_deviations(bundle, scaled(bundle, by)) for by in (1.001, 3.0))
    assert all(one.passed for one in near)
    assert not any(one.passed for one in far)
    # The same by hand, of one text.
    monkeypatch.setattr("export.precision.language._TEXTS", ("Is it so?",))
    found = [one.value for one in language_deviations(bundle, scaled(bundle, 3.0))]
    ids = np.frombuffer(b"Is it so?", np.uint8)
    logits = np.asarray(model(np.array([[bundle.lm.start_id, *ids]])), np.float64)[0, :-1]
    old, new = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (logits, 3 * logits))
    places = np.arange(len(ids)), ids
    ratio = np.exp(np.mean(old[places] - new[places]))
    kl = np.mean(np.sum(np.exp(old) * (old - new), axis=-1))
    np.testing.assert_allclose(found, [kl, abs(ratio - 1)], rtol=1e-4)


@pytest.mark.parametrize("signature", ["next_token", "fill_mask"])
def test_candidates_are_compared_by_token(signature):
    def answer(tokens, *p):
        shape = (1, 3) if signature == "next_token" else (1, 1, 3)
        tokens = strings([one.encode() for one in tokens]).reshape(shape)
        return pair(signature, tokens=tokens, probabilities=f32(*p).reshape(shape))

    before = answer("abc", 0.5, 0.3, 0.1)
    swapped = judged(before, answer("bac", 0.41, 0.39, 0.1))
    assert swapped[f"{signature}.probabilities"].value == pytest.approx(0.11)
    assert swapped[f"{signature}.tokens"].value == 1
    # "a" left the list: it has at most the last one's probability.
    gone = judged(before, answer("bcd", 0.5, 0.3, 0.1))
    assert gone[f"{signature}.probabilities"].value == pytest.approx(0.4)
    empty = pair("fill_mask", tokens=strings([]).reshape(1, 0, 3), probabilities=np.ones((1, 0, 3)))
    assert all(one.passed for one in deviations([empty], [empty]))


@pytest.mark.parametrize(
    ("signature", "choice", "probability"),
    [("tag", "tags", "scores"), ("answer", "answer", "score")],
)
def test_another_choice_counts_unless_it_was_near_a_tie(signature, choice, probability):
    def answer(tag, p):
        return pair(signature, **{choice: strings([tag, b"O"]), probability: f32(p, 0.9)})

    name = f"{signature}.{probability}"
    sure = judged(answer(b"A", 0.9), answer(b"B", 0.9))[name]
    assert sure.value == pytest.approx(0.8)
    assert not sure.passed
    assert judged(answer(b"A", 0.51), answer(b"B", 0.5))[name].passed


def test_vectors_by_cosine_and_numbers_by_their_range():
    before = pair("embed", embedding=f32([1, 0], [0, 0]))
    assert judged(before, before)["embed.embedding"].value == 0
    turned = judged(before, pair("embed", embedding=f32([0.8, 0.6], [0, 0])))["embed.embedding"]
    assert turned.value == pytest.approx(0.2)
    assert not judged(before, pair("embed", embedding=f32([1, 0], [0, 1])))[
        "embed.embedding"
    ].passed
    numbers = pair("predict", outputs=f32(10, 30))
    moved = judged(numbers, pair("predict", outputs=f32(10, 30.5)))["predict.outputs"]
    assert moved.value == pytest.approx(0.025)
    assert not judged(numbers, pair("predict", outputs=f32(10, 32)))["predict.outputs"].passed


def test_the_worst_request_stays():
    good = pair("embed", embedding=f32([1, 0]))
    bad = pair("embed", embedding=f32([np.nan, 0]))
    for order in ([good, bad], [bad, good]):
        (found,) = deviations([good, good], order)
        assert not found.passed


def test_loosened_pairs_allow_twice_the_distance_and_keep_it_in_their_file(tmp_path):
    before = pair("predict", scores=f32(0.5, 0.9), label=strings([b"x", b"y"]))
    after = pair("predict", scores=f32(0.51, 0.9), label=strings([b"x", b"y"]))
    (loose,) = loosened([before], [after])
    assert loose.atol == {"scores": pytest.approx(0.02, abs=1e-6)}
    assert loose.changes == {"label": 1}
    write_golden_pairs([after, loose], tmp_path / "golden.jsonl")
    tight, again = read_golden_pairs(tmp_path / "golden.jsonl")
    assert (again.atol, again.changes) == (loose.atol, loose.changes)
    assert (tight.atol, tight.changes) == ({}, {})
    got = {"scores": f32(0.529, 0.9), "label": strings([b"x", b"z"])}
    assert differences(again, got) == ([], pytest.approx(0.95, abs=0.05))
    assert len(differences(tight, got)[0]) == 2
    assert len(differences(again, {**got, "label": strings([b"z", b"z"])})[0]) == 2
    assert len(differences(again, {**got, "scores": f32(0.54, 0.9)})[0]) == 1
    assert again.part(1, 2).atol == loose.atol


@functools.cache
def lm_bundle():
    config = zoo.GPTConfig(vocabulary_size=257, hidden_dim=8, num_layers=1, num_heads=2)
    return bundle_in_memory(Path("memory"), zoo.build(config), zoo.ByteTokenizer())


@functools.cache
def classifier():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    config = zoo.BertConfig(vocabulary_size=6, hidden_dim=8, num_layers=1, num_heads=2)
    model = zoo.build(config, "classify", {"num_classes": 2})
    return bundle_in_memory(
        Path("memory"), model, zoo.tokenizers.WordPieceTokenizer(vocabulary), labels=("no", "yes")
    )


def test_examples_are_read(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(
        '{"text": "a\\u00e9", "label": "yes", "id": 1}\n\n{"text": "", "label": "no"}\n'
    )
    examples = read_examples(path, classifier())
    assert examples.signature == "predict"
    assert examples.inputs["text"].tolist() == ["a\u00e9".encode(), b""]
    assert examples.expected == ["yes", "no"]
    texts = read_examples(path, lm_bundle())
    assert (texts.signature, texts.expected) == ("score", None)


def test_examples_that_are_no_good_are_named_by_line(tmp_path):
    path = tmp_path / "test.jsonl"
    labels = "field 'label': Input should be 'no' or 'yes'"
    for content, message in [
        ("", "no examples in it"),
        ("{", r"test.jsonl:1: Invalid JSON"),
        ("[1]", r":1: Input should be an object"),
        ('{"text": "a"}\n{"txt": "a"}', r":2: field 'text': Field required"),
        ('{"text": "a", "label": "maybe"}', f":1: {labels}"),
        ('{"text": "a", "label": 1}', f":1: {labels}"),
        ('{"text": "a", "label": "no"}\n{"text": "a"}', r":2: 'label' must be in all lines"),
        ('{"text": "a"}\n{"text": "a", "label": "no"}', r":2: 'label' must be in all lines"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_examples(path, classifier())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.jsonl: cannot be read"):
        read_examples(tmp_path / "nothing.jsonl", lm_bundle())
    (tmp_path / "latin.jsonl").write_bytes(json.dumps({"text": "\u00e9"}).encode() + b"\xe9")
    with pytest.raises(ValueError, match=r"latin\.jsonl: cannot be read as text"):
        read_examples(tmp_path / "latin.jsonl", lm_bundle())


def measured(task, expected, before, after, count=2):
    """`evaluate` of two models that give these outputs, a row for each example."""
    examples = Examples(task, "s", {"text": strings([b"t"] * count)}, expected)

    def ask(outputs):
        starts = iter(range(0, count, golden_examples.BATCH_SIZE))

        def answer(signature, inputs):
            first = next(starts)
            size = len(inputs["text"])
            return {name: value[first : first + size] for name, value in outputs.items()}

        return answer

    return evaluate(examples, ask(after), ask(before))


def test_metrics_of_every_task(monkeypatch):
    monkeypatch.setattr(golden_examples, "BATCH_SIZE", 1)
    lm = {"log_likelihood": f32(-3, -1), "token_count": np.int32([3, 1])}
    worse = {**lm, "log_likelihood": f32(-6, -2)}
    assert measured("lm", None, lm, worse) == {
        "perplexity": (pytest.approx(np.e), pytest.approx(np.e**2))
    }
    labels = {"label": strings([b"no", b"yes"])}, {"label": strings([b"no", b"no"])}
    same = "examples answered as by float32"
    assert measured("classify", ["no", "yes"], *labels) == {"accuracy": (1, 0.5), same: (1, 0.5)}
    assert measured("pair", None, *labels) == {same: (1, 0.5)}
    numbers = {"outputs": f32(1, 3)}, {"outputs": f32(1, 5)}
    assert measured("regress", [1, 3], *numbers) == {
        "mean squared error": (0, 2),
        "Pearson correlation": (pytest.approx(1), pytest.approx(1)),
        "mean distance to float32": (0, 1),
    }
    vectors = {"embedding": f32([1, 0], [0, 1])}, {"embedding": f32([1, 0], [1, 0])}
    assert measured("embed", None, *vectors) == {
        "mean cosine to float32": (1, 0.5),
        "lowest cosine to float32": (1, 0),
    }
    answers = {"answer": strings([b"Ada ", b""])}, {"answer": strings([b"ada", b"x"])}
    assert measured("span", [["ADA", "she"], ""], *answers) == {
        "exact match": (1, 0.5),
        same: (1, 0),
    }
    tags = (
        {"tags": strings([b"A", b"O", b"B", b""]).reshape(2, 2)},
        {"tags": strings([b"A", b"A", b"B", b""]).reshape(2, 2)},
    )
    assert measured("tag", [["A", "O"], ["B"]], *tags) == {
        "tags that are right": (1, pytest.approx(2 / 3)),
        same: (1, 0.5),
    }
    tokens = strings([b"a", b"b", b"c", b"d"]).reshape(2, 1, 2)
    assert measured("mlm", [["a"], ["x"]], {"tokens": tokens}, {"tokens": tokens[:, :, ::-1]}) == {
        "masks filled right": (0.5, 0),
        same: (1, 0),
    }


def test_examples_go_in_batches():
    count = 2 * golden_examples.BATCH_SIZE + 3
    labels = strings([b"no", b"yes"] * count)[:count]
    expected = [label.decode() for label in labels]
    metrics = measured("classify", expected, {"label": labels}, {"label": labels}, count)
    assert metrics["accuracy"] == (1, 1)
