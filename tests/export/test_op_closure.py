"""Op closure: every op of every function against the ops of a TensorFlow Serving release."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice
from tensorflow.core.framework import kernel_def_pb2, op_def_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from export import saved_model
from export.closure import history
from export.closure.__main__ import main
from export.closure.check import check
from export.closure.history import SERVING_VERSIONS, registry_of
from export.saved_model import ExportError, export_saved_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDED = pathlib.Path(os.environ.get("ZOO_SERVING", ROOT.parent / "shared" / "serving"))
FLOATS = tf.TensorSpec([None], tf.float32, name="x")
STRINGS = tf.TensorSpec([None], tf.string, name="x")


def save(folder, body, spec=FLOATS, debug=False, **functions):
    """A SavedModel whose signature `f` is `body`; returns its folder."""
    module = tf.Module()
    module.f = tf.function(body, input_signature=[spec], autograph=False)
    module.tracked = functions.pop("tracked", None)
    tf.saved_model.save(
        module,
        str(folder),
        signatures={"f": module.f},
        options=tf.saved_model.SaveOptions(save_debug_info=debug),
    )
    return folder


def edited(folder, edit):
    """The same SavedModel, after `edit` has changed its MetaGraph."""
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    edit(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())
    return folder


def with_node(folder, op, **attributes):
    """The SavedModel with one more node, in the function that its signature calls in the end."""

    def edit(meta_graph):
        functions = meta_graph.graph_def.library.function
        (function,) = (f for f in functions if f.signature.name.startswith("__inference_<lambda>"))
        node = function.node_def.add(name="layer/odd", op=op)
        for name, value in attributes.items():
            if isinstance(value, bytes):
                node.attr[name].s = value
            else:
                node.attr[name].type = value

    return edited(folder, edit)


@pytest.fixture
def plain(tmp_path):
    return save(tmp_path / "plain", lambda x: {"y": x * 2})


def only(findings):
    (finding,) = findings
    return finding


def run_in_a_session(folder, **inputs):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
        signature = graph.signature_def["f"]
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return session.run(signature.outputs["y"].name, feeds)


def test_a_model_of_plain_ops_has_no_findings(plain):
    for version in (*SERVING_VERSIONS, "2.16", "2.21"):
        assert check(plain, version) == []


def test_an_unknown_release_is_refused_with_those_that_are_known(plain):
    for version in ("2.15", "2.19.7", "3", "", "latest"):
        with pytest.raises(ValueError, match=r"one of 2\.16\.1, .*2\.21\.0, or the first two"):
            check(plain, version)


def test_registries_are_those_of_the_releases():
    names = {version: registry_of(version) for version in ("2.16.1", "2.18", "2.19.1", "2.20.0")}
    assert {n: r.tensorflow_text for n, r in names.items()} == {
        **dict.fromkeys(("2.16.1", "2.18", "2.19.1"), "2.12.1"),
        "2.20.0": "2.20.0",
    }
    new_text = {"TFText>RoundRobinTrim", "TFText>RoundRobinGenerateMasks", "TFText>Utf8Binarize"}
    assert not new_text & names["2.19.1"].ops
    assert new_text <= names["2.20.0"].ops
    always = {"MatMul", "FastWordpieceTokenizeWithOffsets", "SentencepieceOp", "NormalizeUTF8"}
    for registry in names.values():
        assert always | {"CaseFoldUTF8", "SimpleMLInferenceOpWithHandle"} <= registry.ops
        assert {"CudnnRNN", "NcclReduce", "PyFunc"} <= registry.without_cpu_kernel
        assert not {"NoOp", "Assert", "While", "Placeholder"} & registry.without_cpu_kernel
    assert "TfLiteSubgraphExecute" in names["2.18"].ops
    assert "TfLiteSubgraphExecute" not in names["2.19.1"].ops
    assert "SobolSample" in names["2.18"].without_cpu_kernel
    assert "SobolSample" not in names["2.19.1"].without_cpu_kernel


def test_the_newest_release_is_the_tensorflow_that_is_installed_here(tmp_path):
    """So the file cannot be forgotten when TensorFlow is replaced by a newer one."""
    release = history.newest_release()
    assert release == ".".join(tf.__version__.split(".")[:2])
    site = pathlib.Path(tf.__file__).parents[1]
    # Not the registry of this process: the Python package adds ops of its own tests.
    script = [sys.executable, ROOT / "tools" / "op_dump.py", site, tmp_path]
    subprocess.run(script, check=True, capture_output=True, timeout=120)
    ops = op_def_pb2.OpList.FromString((tmp_path / "ops.pb").read_bytes()).op
    kernels = kernel_def_pb2.KernelList.FromString((tmp_path / "kernels.pb").read_bytes()).kernel
    # Ops of the runtime itself, which no model holds, differ between the wheels with and without
    # CUDA; the file is made of the latter.
    names = {op.name for op in ops if not op.name.startswith("_")}
    on_cpus = {kernel.op for kernel in kernels if kernel.device_type in ("CPU", "DEFAULT")}
    known = registry_of(release)
    assert len(names) > 1500
    assert names <= known.ops
    assert names - on_cpus == known.without_cpu_kernel & names


def test_ops_of_xla_in_a_layer_and_in_a_branch_never_taken(tmp_path):
    class Cache(keras.layers.Layer):
        def call(self, x):
            return keras.ops.slice_update(x, [0], x[:1])

    inner = keras.Sequential([Cache(name="cache")], name="decoder")
    inner.build([3])
    spec = tf.TensorSpec([3], tf.float32, name="x")

    def body(x):
        never = tf.constant(False)
        return {"y": tf.cond(never, lambda: inner(x), lambda: x)[None]}

    finding = only(f for f in check(save(tmp_path / "m", body, spec)) if f.op)
    assert finding.op == "XlaDynamicUpdateSlice"
    assert finding.function.startswith("cond_true_")
    assert finding.origin.startswith("signature f > __inference_signature_wrapper")
    assert finding.origin.count(" > ") == 3
    assert "layer scope cond/decoder_1/cache_1" in finding.origin
    assert "XLA compilation disabled" in finding.message
    assert "scatter_update" in finding.fix
    text = str(finding)
    assert all(part in text for part in (finding.op, finding.node, finding.function, finding.fix))


def test_compiled_functions(tmp_path):
    inner = tf.function(lambda x: x + 1, jit_compile=True)
    finding = only(check(save(tmp_path / "m", lambda x: {"y": inner(x)})))
    assert finding.op == "PartitionedCall"
    assert "jit_compile=True" in finding.message
    assert "calls __inference_<lambda>" in finding.message
    assert "leave out jit_compile" in finding.fix


@pytest.mark.parametrize(("call", "op"), [("numpy", "PyFunc"), ("py", "EagerPyFunc")])
def test_python_functions(tmp_path, call, op):
    function = {"numpy": tf.numpy_function, "py": tf.py_function}[call]

    def body(x):
        return {"y": tf.ensure_shape(function(lambda x: x + 1, [x], tf.float32), [None])}

    finding = only(check(save(tmp_path / "m", body)))
    assert finding.op == op
    assert "the server has no Python" in finding.message
    assert "tf.py_function" in finding.fix


@pytest.mark.parametrize("kind", ["mutable", "dense", "static"])
def test_tables(tmp_path, kind):
    keys, values = tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)
    if kind == "static":
        content = tf.lookup.KeyValueTensorInitializer(keys, values)
        table = tf.lookup.StaticHashTable(content, -1)
    elif kind == "mutable":
        table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        table.insert(keys, values)
    else:
        table = tf.lookup.experimental.DenseHashTable(
            tf.string, tf.int64, -1, empty_key="", deleted_key="$"
        )
        table.insert(keys, values)
    folder = save(tmp_path / "m", lambda x: {"y": table.lookup(x)}, STRINGS, tracked=table)
    findings = check(folder)
    if kind == "static":
        assert findings == []
        return
    name = {"mutable": "MutableHashTableV2", "dense": "MutableDenseHashTableV2"}[kind]
    assert {finding.op for finding in findings} == {name}
    assert findings[0].origin == "signature f"
    assert "StaticHashTable" in findings[0].fix


def test_ops_that_only_the_newer_tf_text_has(tmp_path):
    def body(x):
        tokens = tf.RaggedTensor.from_row_splits(x, [0, tf.size(x)])
        trimmed = tensorflow_text.RoundRobinTrimmer(2).trim([tokens])
        bits = tensorflow_text.utf8_binarize(x)
        return {"y": bits, "z": trimmed[0].to_tensor()}

    folder = save(tmp_path / "m", body, STRINGS)
    for version in ("2.16.1", "2.19.1"):
        findings = {f.op: f for f in check(folder, version) if f.op}
        assert {*findings} == {"TFText>RoundRobinTrim", "TFText>Utf8Binarize"}
        trim, bits = findings["TFText>RoundRobinTrim"], findings["TFText>Utf8Binarize"]
        assert "not in TF-Text 2.12.1" in trim.message
        assert "2.20 or newer" in trim.fix
        assert "WaterfallTrimmer" in trim.fix
        assert "utf8_binarize" in bits.message
        assert "RoundRobinTrimmer/trim" in trim.origin
    for version in ("2.20", "2.21.0"):
        assert not [finding for finding in check(folder, version) if finding.op]


@pytest.mark.parametrize(
    ("op", "attributes", "refusing", "taking", "message", "fix"),
    [
        ("CudnnRNNV3", {}, "2.19.1", "", "NVIDIA GPUs alone", "use_cudnn=False"),
        ("SobolSample", {}, "2.18", "2.19.1", "no kernel of it for CPUs", "that run on CPUs"),
        ("MyOwnOp", {}, "2.21", "", "no release", "links the library"),
        ("DecodeJxl", {}, "2.19.1", "2.21", "TensorFlow Serving 2.19, only in 2.21", "DecodeJxl"),
        ("TfLiteSubgraphExecute", {}, "2.21", "2.16.1", "only in 2.16 to 2.18", "one of these"),
        (
            *("Range", {"Tidx": types_pb2.DT_BFLOAT16}, "2.17.1", "2.18.0"),
            *("cannot run it with Tidx=DT_BFLOAT16, a change of 2.18", "cast to another type"),
        ),
    ],
)
def test_ops_and_types_of_other_releases(plain, op, attributes, refusing, taking, message, fix):
    finding = only(check(with_node(plain, op, **attributes), refusing))
    assert (finding.op, finding.blocks, finding.count) == (op, True, 1)
    assert message in finding.message and fix in finding.fix
    if taking:
        assert check(plain, taking) == []
    with_node(with_node(plain, op, **attributes), op, **attributes)
    finding = only(check(plain, refusing))
    assert finding.count == 3
    assert "and 2 more like it" in str(finding)


@pytest.mark.parametrize("policy", ["", "IGNORE"])
def test_attributes_that_came_later(tmp_path, policy):
    def body(x):
        return {"y": tf.raw_ops.GatherNd(params=x, indices=[[9]], bad_indices_policy=policy)}

    folder = save(tmp_path / "m", body)
    edited(folder, lambda graph: graph.signature_def["f"].outputs["y"].tensor_shape.Clear())
    findings = [finding for finding in check(folder, "2.16.1") if finding.op]
    if policy:
        assert only(findings).op == "GatherNd"
        assert "does not know its attribute bad_indices_policy=IGNORE" in findings[0].message
        assert "a change of 2.17" in findings[0].message
    else:  # a default is not written
        assert findings == []
    assert not [finding for finding in check(folder, "2.17.0") if finding.op]


def test_an_attribute_that_came_later_at_its_default_is_harmless(plain):
    """A SavedModel that keeps the defaults, as TensorFlow 1 wrote them."""

    def unstripped(meta_graph):
        meta_graph.meta_info_def.stripped_default_attrs = False

    edited(with_node(plain, "GatherNd", bad_indices_policy=b""), unstripped)
    assert check(plain, "2.16.1") == []
    edited(with_node(plain, "GatherNd", bad_indices_policy=b"ERROR"), unstripped)
    assert only(check(plain, "2.16.1")).op == "GatherNd"


def test_ops_that_touch_files_are_named(tmp_path, capsys):
    def body(x):
        found = tf.io.matching_files(x[0])
        tf.io.write_file(x[0], x[1])
        tf.print(x, output_stream="file:///tmp/printed")
        tf.print(x)
        restored = tf.raw_ops.RestoreV2(
            prefix=x[0], tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.string]
        )
        return {"y": tf.concat([found, tf.io.read_file(x[0])[None], *restored], 0)}

    # What every model is loaded with is no warning: a table from an asset, and variables.
    asset = tmp_path / "words.txt"
    asset.write_text("a\n")
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            *(str(asset), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
            *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
        ),
        1,
    )
    plain = save(
        tmp_path / "plain" / "1",
        lambda x: {"y": table.lookup(x)},
        spec=STRINGS,
        tracked=[table, tf.Variable(1.0)],
    )
    assert check(plain) == []
    folder = save(tmp_path / "m" / "1", body, spec=STRINGS, tracked=tf.Variable(1.0))
    findings = check(folder)
    ops = ["MatchingFiles", "WriteFile", "PrintV2", "RestoreV2", "ReadFile"]
    assert sorted(finding.op for finding in findings) == sorted(ops)
    for finding in findings:
        assert not finding.blocks
        assert "with the rights of the server" in finding.message
    assert main([f"--model_dir={tmp_path / 'm'}"]) == 0
    assert "warning: WriteFile: it reads or writes files" in capsys.readouterr().out


def test_graphs_of_a_form_that_came_later(plain):
    def edit(meta_graph):
        meta_graph.graph_def.versions.min_consumer = 2000

    edited(plain, edit)
    finding = only(check(plain, "2.18.1"))
    assert "must know version 2000 of graphs" in finding.message
    assert "those up to 1994" in finding.message
    assert finding.blocks
    assert check(plain, "2.19.0") == []


def test_a_model_of_a_tensorflow_that_is_not_known_yet(plain):
    def edit(meta_graph):
        meta_graph.meta_info_def.tensorflow_version = "2.99.0"

    finding = only(check(edited(plain, edit), "2.21"))
    assert "TensorFlow 2.99.0 wrote it" in finding.message
    assert "tools/op_history.py" in finding.fix
    assert not finding.blocks


def test_devices(tmp_path):
    def body(x):
        with tf.device("/device:GPU:0"):
            return {"y": tf.exp(x)}

    folder = save(tmp_path / "m", body)
    finding = only(check(folder))
    assert "runs it on a CPU" in finding.message
    assert not finding.blocks
    np.testing.assert_allclose(run_in_a_session(folder, x=[0.0]), [1.0])

    def pin(meta_graph):
        (node,) = (node for node in meta_graph.graph_def.node if node.name == "PartitionedCall")
        node.device = "/device:GPU:0"

    edited(folder, pin)
    finding = check(folder)[0]
    assert (finding.function, finding.node) == ("", "PartitionedCall")
    assert "refuses the requests" in finding.message
    assert finding.blocks
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="assigned to /device:GPU:0"):
            run_in_a_session(folder, x=[0.0])


def test_outputs_and_inputs_that_cannot_be_batched(tmp_path):
    def body(x):
        return {"total": tf.reduce_sum(x), "three": x[:3] + tf.zeros([3]), "y": x}

    findings = check(save(tmp_path / "m", body))
    assert [finding.node for finding in findings] == [
        "output 'three' of signature 'f'",
        "output 'total' of signature 'f'",
    ]
    three, total = findings
    assert "always 3" in three.message
    assert "it is a scalar" in total.message
    assert all(finding.blocks and finding.fix and not finding.op for finding in findings)
    scalar = tf.TensorSpec([], tf.float32, name="x")
    finding = only(check(save(tmp_path / "n", lambda x: {"y": tf.fill([2, 2], x)[0:]}, scalar))[1:])
    assert finding.node == "input 'x' of signature 'f'"
    assert not finding.blocks


def test_defaults_of_signatures(plain):
    def edit(meta_graph):
        defaults = meta_graph.signature_def["f"].defaults
        defaults["x"].CopyFrom(tf.make_tensor_proto([1.0]))

    edited(plain, edit)
    assert check(plain) == []

    def spoil(meta_graph):
        defaults = meta_graph.signature_def["f"].defaults
        defaults["x"].CopyFrom(tf.make_tensor_proto([[1]]))
        defaults["z"].CopyFrom(tf.make_tensor_proto([1.0]))

    messages = [str(finding) for finding in check(edited(plain, spoil))]
    place = "default of input 'x' of signature 'f'"
    assert [message.split("\n")[0] for message in messages] == [
        f"{place}: it is DT_INT32, the input DT_FLOAT",
        f"{place}: its shape is (1, 1), the input's (None,)",
        "default of input 'z' of signature 'f': there is no such input",
    ]


def test_debug_information_names_tokenizer_and_line(tmp_path):
    source = "def encode(x):\n    return xla(x)\n"
    scope = {"xla": lambda x: xla_dynamic_update_slice(x, x, [0])}
    exec(compile(source, "/somewhere/words/tokenizers/blanks.py", "exec"), scope)
    spec = tf.TensorSpec([3], tf.float32, name="x")
    folder = save(tmp_path / "m", lambda x: {"y": scope["encode"](x)[None]}, spec, debug=True)
    finding = only(f for f in check(folder) if f.op)
    assert "tokenizer words/tokenizers/blanks.py:2 encode" in finding.origin
    assert "tests/export/test_op_closure.py:" in finding.origin.rpartition("; ")[2]
    (folder / "debug" / "saved_model_debug_info.pb").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"debug_info\.pb: not readable"):
        check(folder)


def test_every_function_is_looked_at_also_one_that_nothing_calls(plain):
    def edit(meta_graph):
        function = meta_graph.graph_def.library.function.add()
        function.signature.name = "gradient_of_something"
        function.node_def.add(name="odd", op="MyOwnOp")

    finding = only(check(edited(plain, edit)))
    assert finding.function == "gradient_of_something"
    assert finding.origin == "no signature reaches it"


def test_folders_that_are_no_models_for_servers(plain, tmp_path):
    with pytest.raises(ValueError, match=r"nothing/saved_model\.pb: No such file"):
        check(tmp_path / "nothing")
    edited(plain, lambda graph: graph.meta_info_def.tags.append("gpu"))
    with pytest.raises(ValueError, match=r"no graph is tagged \['serve'\].*\['serve', 'gpu'\]"):
        check(plain)
    (plain / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"saved_model\.pb: damaged"):
        check(plain)


def test_the_command(plain, tmp_path, capsys):
    plain.rename(tmp_path / "1")
    model = f"--model_dir={tmp_path}"
    assert main([model]) == 0
    out = capsys.readouterr().out
    assert "/1: runs on TensorFlow Serving 2.19.1 (TensorFlow 2.19, TF-Text 2.12.1)" in out
    with_node(tmp_path / "1", "DecodeJxl")
    assert main([model]) == 1
    out = capsys.readouterr().out
    assert out.startswith("DecodeJxl: it is not in TensorFlow Serving 2.19")
    assert "Findings: 1, warnings: 0" in out
    assert main([model, "--serving_version=2.21"]) == 0
    capsys.readouterr()
    for arguments in ([model, "--serving_version=1.0"], [f"--model_dir={tmp_path / 'no'}"]):
        assert main(arguments) == 2
        assert capsys.readouterr().out.startswith("export.closure: cannot check: ")
    with pytest.raises(SystemExit, match="2"):
        main([model, "--servingversion=2.21"])


def test_the_exporter_refuses_and_leaves_nothing_behind(tmp_path, monkeypatch):
    class Served(tf.Module):
        def __init__(self, _):
            super().__init__()

            def generate(x):
                return {"y": xla_dynamic_update_slice(x, x, [0])[None]}

            spec = tf.TensorSpec([3], tf.float32, name="x")
            function = tf.function(generate, input_signature=[spec], autograph=False)
            self.functions = {"serving_default": function, "generate": function}
            self.methods, self.aliases = {}, {"serving_default": "generate"}
            self.defaults = {}

    monkeypatch.setattr(saved_model, "ServedModule", Served)
    monkeypatch.setattr(saved_model, "make_golden_pairs", lambda _: [])
    with pytest.raises(ExportError) as error:
        export_saved_model(None, tmp_path / "m", serving_version="2.21")
    text = str(error.value)
    assert text.startswith("TensorFlow Serving 2.21 cannot run the model:")
    assert "XlaDynamicUpdateSlice: XLA is linked but switched off" in text
    assert "output 'y' of signature 'generate': its first dimension is always 1" in text
    assert "tests/export/test_op_closure.py:" in text  # the line, from the debug information
    assert "fix: " in text
    assert list((tmp_path / "m").iterdir()) == []
    with pytest.raises(ExportError, match=r"--serving_version must be one of 2\.16\.1"):
        export_saved_model(None, tmp_path / "m", serving_version="2.15")


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"{RECORDED} is not there")
@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("half_plus_two/1", []),
        ("texty/1", []),  # TF-Text in a served model
        ("jit/1", ["PartitionedCall"]),
        ("broken_op/1", ["AdqV2", "AdqV2"]),
        (
            "batchsz/1",
            [
                "output 'total' of signature 'nobatch'",
                "output 'y' of signature 'scal'",
                "input 'x' of signature 'scal'",
            ],
        ),
    ],
)
def test_models_that_a_server_was_asked(model, found):
    """`jit` loads there and fails at its first request, and so does `broken_op`."""
    findings = check(RECORDED / "models" / model, "2.21")
    assert [finding.op or finding.node for finding in findings] == found
