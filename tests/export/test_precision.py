"""Exports with fewer bits: size, answers, report, and the refusal of what moves too far."""

import gc
import json
import math
import re
import subprocess
import sys
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

import zoo
from export.golden.pairs import read_golden_pairs
from export.model_folder import CARD_FILE, GOLDEN_FILE, PRECISION_REPORT_FILE
from export.precision.reduce import SMALLEST, may_depend_on_batch, reduce_bundle
from export.precision.report import _markdown, compare_answers
from export.saved_model import ExportError, export_saved_model
from zoo.bundle import bundle_in_memory
from zoo.models.attention_options import RelativeAttention
from zoo.models.build import build
from zoo.tokenizers import WordPieceTokenizer

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnop",
    *map(str, range(60)),
]
SHAPE = {"context_length": 16, "hidden_dim": 64, "num_layers": 1}


def make(name, **options):
    keras.utils.set_random_seed(1)
    if name in ("gpt", "lstm"):
        config = {
            "gpt": zoo.GPTConfig(vocabulary_size=257, num_heads=2, **SHAPE),
            "lstm": zoo.LSTMConfig(vocabulary_size=257, **SHAPE),
        }[name]
        return bundle_in_memory(Path("memory"), build(config), zoo.ByteTokenizer())
    heads = {
        "classify": ({"num_classes": 2}, ("no", "yes")),
        "tag": ({"num_tags": 3}, ("O", "B-X", "I-X")),
        "span": ({}, ()),
        "mlm": ({}, ()),
        "embed": ({}, ()),
        "regress": ({}, ()),
    }
    head, labels = heads[name]
    config = zoo.BertConfig(vocabulary_size=len(VOCABULARY), num_heads=2, **SHAPE, **options)
    tokenizer = WordPieceTokenizer(VOCABULARY)
    return bundle_in_memory(Path("memory"), build(config, name, head), tokenizer, labels=labels)


CASES = [
    *((task, one) for task in ("gpt", "lstm") for one in ("int8", "bfloat16")),
    *(
        (task, one)
        for task in ("classify", "tag", "span", "mlm", "embed", "regress")
        for one in ("int8", "bfloat16")
    ),
]


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    """Nothing here looks at the times."""
    monkeypatch.setattr("export.precision.report._RUNS", 1)


def slow_but_one(case):
    return case if case == ("classify", "int8") else pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "precision"), map(slow_but_one, CASES))
def test_a_smaller_artifact_says_what_the_reduced_model_says(name, precision, tmp_path):
    """Which the exporter checks itself, by its golden pairs."""
    examples = tmp_path / "test.jsonl"
    examples.write_text('{"text": "a b", "label": "yes"}\n{"text": "c", "label": "no"}\n')
    bundles = [make(name)]
    model, alive = weakref.ref(bundles[0].model), {}

    def look(step):
        gc.collect()
        alive[step] = model() is not None

    path = export_saved_model(
        bundles.pop(),
        tmp_path / "m",
        precision=precision,
        eval_data=examples if name == "classify" else None,
        on_step=look,
        # It is about the mechanism: such random models are near ties everywhere.
        accept_deviation=name in ("tag", "span", "regress"),
    )
    assert [child.name for child in (tmp_path / "m").iterdir()] == ["1"]
    # The float32 weights go when they have answered, if nothing else is asked of them.
    assert alive["writing"] == (name == "classify")
    record = json.loads((path / PRECISION_REPORT_FILE).with_suffix(".json").read_text())
    float32, reduced = record["variable_bytes"]
    assert float32 / reduced > (1.7 if precision == "bfloat16" else 2.7)
    assert reduced == sum(file.stat().st_size for file in (path / "variables").iterdir())
    text = (path / PRECISION_REPORT_FILE).read_text()
    assert f"# {precision} beside float32" in text
    assert ("**Beyond the tolerance" in text) == (not record["accepted"])
    assert "**Beyond the tolerance" in _markdown({**record, "accepted": False})
    if name == "classify":
        assert f"| on 2 examples | float32 | {precision} | change |" in text
        assert set(record["metrics"]) == {"accuracy", "examples answered as by float32"}
        assert all(min(times) > 0 for times in record["milliseconds"].values())
    else:
        assert "neither the task's metric nor times were measured" in text
        assert record["milliseconds"] == {}
    assert f"| large weights | {precision} |" in (path / CARD_FILE).read_text()
    for pair in read_golden_pairs(path / GOLDEN_FILE):
        # What clients get: no bfloat16, which REST refuses.
        kinds = {value.dtype.name for value in pair.outputs.values()}
        assert kinds <= {"object", "float32", "int32"}
    assert_no_refused_op(path)


@pytest.mark.slow
def test_pairs_of_bfloat16_products_allow_for_their_rounding():
    bundle = make("classify")
    pairs, found = compare_answers(bundle, reduce_bundle(bundle, "bfloat16"), "bfloat16", False)
    assert found and all(one.passed for one in found)
    assert all(pair.atol for pair in pairs) and any(pair.changes for pair in pairs)
    # A language model has none of these products.
    assert may_depend_on_batch(bundle, "bfloat16")
    assert not may_depend_on_batch(make("lstm"), "bfloat16")


ENCODERS = {
    "modernbert": {
        "positions": "rotary",
        "norm_placement": "pre",
        "use_bias": False,
        "activation": "geglu",
        "use_pooler": False,
        "num_segments": 0,
        "embedding_norm": True,
        "head_transform": True,
        "sliding_window": 3,
        "local_rotary_base": 100.0,
    },
    "electra": {"embedding_dim": 32, "pooler_activation": "gelu"},
    "albert": {"embedding_dim": 32, "shared_layers": True},
    "deberta": {
        "positions": "none",
        "num_segments": 0,
        "pooler_activation": "gelu",
        "relative_attention": RelativeAttention(16, 8, norm=True),
    },
    "deberta_2": {"relative_attention": RelativeAttention(16, shared=False)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_int8_of_each_kind_of_encoder(name, tmp_path):
    path = export_saved_model(make("classify", **ENCODERS[name]), tmp_path, precision="int8")
    record = json.loads((path / PRECISION_REPORT_FILE).with_suffix(".json").read_text())
    float32, reduced = record["variable_bytes"]
    reduced -= (path / "variables" / "variables.index").stat().st_size  # float32 is without
    assert record["accepted"] and float32 / reduced > 2.5
    assert_no_refused_op(path)


def assert_no_refused_op(path):
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = graph.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    refused = re.compile(r"Xla|PyFunc|(?<!_)Quantize|Dequantize|ResourceGather")
    assert not {node.op for node in nodes if refused.search(node.op)}
    # The weights are small in the graph, too: no folded copy of them among its constants.
    kinds = (types_pb2.DT_FLOAT, types_pb2.DT_BFLOAT16, types_pb2.DT_INT8)
    values = (node.attr["value"].tensor for node in nodes if node.op == "Const")
    shapes = [[dim.size for dim in one.tensor_shape.dim] for one in values if one.dtype in kinds]
    assert max(map(math.prod, shapes)) < SMALLEST


def outliers():
    """A classifier with a channel of 1000 in every embedding, which its norms cut out again."""
    options = {"norm_placement": "pre", "norm": "rms_norm", "num_segments": 0}
    options["positions"] = "rotary"
    bundle = make("classify", **options)
    backbone = bundle.model.backbone
    table = backbone.token_embedding.embeddings.numpy()
    table[:, 0] = 1000
    backbone.token_embedding.embeddings.assign(table)
    gains = np.full(64, 1000 / 8 / 0.02, "float32")
    gains[0] = 0
    block = backbone.blocks[0]
    for norm in (block.attention_norm, block.feedforward_norm, backbone.final_norm):
        norm.scale.assign(gains)
    kernel = bundle.model.output_layer.kernel
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    return bundle


def test_answers_that_move_too_far_are_refused_unless_accepted(tmp_path):
    bundle = outliers()
    with pytest.raises(ExportError) as error:
        export_saved_model(bundle, tmp_path / "m", precision="int8")
    message = str(error.value)
    assert "--precision=int8 the golden answers move past the tolerance" in message
    assert re.search(r"predict\.scores: 0\.\d+ probability, tolerance 0\.05", message)
    assert "--accept_deviation" in message
    assert not (tmp_path / "m").exists()
    _, found = compare_answers(bundle, reduce_bundle(bundle, "int8"), "int8", True)
    assert not all(one.passed for one in found)


def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path):
    bundle = make("classify")
    for options, message in [
        ({"precision": "int4"}, r"--precision must be one of float32, bfloat16, int8"),
        ({"eval_data": "x.jsonl"}, r"--eval_data compares with float32: give --precision"),
        ({"precision": "int8", "eval_data": tmp_path / "x.jsonl"}, r"x\.jsonl: cannot be read"),
    ]:
        with pytest.raises(ExportError, match=message):
            export_saved_model(bundle, tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_is_left_when_the_measuring_fails(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.saved_model.write_report", full_disk)
    monkeypatch.setattr("export.saved_model.replay", lambda *_: [])
    with pytest.raises(ExportError, match="No space left on device"):
        export_saved_model(make("classify"), tmp_path / "m", precision="int8")
    assert list((tmp_path / "m").iterdir()) == []


def test_the_command_names_what_it_knows(tmp_path):
    command = [sys.executable, "-m", "export", "--workdir=x", f"--out={tmp_path}/m"]
    result = subprocess.run(
        [*command, "--precision=int4"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert "float32|bfloat16|int8" in result.stderr


def test_a_model_with_bfloat16_products_is_float32_outside_of_them():
    reduced = reduce_bundle(make("classify"), "bfloat16")
    graph = reduced.text_model.functions["predict"].get_concrete_function().graph
    kinds = {
        operation.type
        for operation in graph.get_operations()
        if any(output.dtype == tf.bfloat16 for output in operation.outputs)
    }
    assert kinds == {"Cast", "MatMul", "ReadVariableOp", "GatherV2"}
