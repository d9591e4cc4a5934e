"""What a SavedModel serves: the signatures of each task, as in the table of `docs/serve.md`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from export import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from export.closure.graph import node_name
from export.model_folder import SAVED_MODEL_FILE, read_saved_model
from zoo.bundle import Bundle
from zoo.generation.options import OPTIONS, PROMPT

_Functions = dict[str, tf.types.experimental.PolymorphicFunction]
_Outputs = dict[str, Any]  # of a function, or its arrays
_METHODS = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}


class ServedModule(tf.Module):
    """The object that is written as a SavedModel: weights and signatures, nothing of Keras."""

    def __init__(self, bundle: Bundle):
        super().__init__()
        # Tracked as plain variables: the Keras object graph is of no use to a server.
        self.model_variables = [variable.value for variable in bundle.model.variables]
        functions = functions_of(bundle)
        default, function = next(iter(functions.items()))
        examples = _example_signatures(bundle)
        functions = {DEFAULT_SIGNATURE: function, **functions, **examples}
        # Traced: a tf.function is traced anew by the writer, which takes longer than all the rest.
        self.functions = {name: one.get_concrete_function() for name, one in functions.items()}
        self.defaults = {
            name: default_inputs(one) for name, one in functions.items()
        }  # of the inputs
        self.methods = {name: _METHODS[name] for name in examples}  # of all but Predict
        self.aliases = {DEFAULT_SIGNATURE: default}  # second name -> first name


def functions_of(bundle: Bundle) -> _Functions:
    """Signature name -> graph function of strings; the first one is the default signature."""
    return bundle.served.functions


def input_names(function: tf.types.experimental.PolymorphicFunction) -> list[str]:
    """The names of a graph function's inputs of text, in order."""
    return [
        spec.name
        for spec in function.input_signature
        if spec.dtype == tf.string and spec.name not in (*OPTIONS, PROMPT)
    ]


def default_inputs(function: tf.types.experimental.PolymorphicFunction) -> dict[str, tf.Tensor]:
    """The inputs of a graph function that a request may leave out, with their values then."""
    parameters = inspect.signature(function.python_function).parameters
    return {k: p.default for k, p in parameters.items() if p.default is not p.empty}


def example_answers(bundle: Bundle) -> dict[str, Callable[[_Outputs], _Outputs]]:
    """Name of a signature that reads tf.Examples -> its answer, from the outputs of `predict`."""
    labels = bundle.config.labels
    if "predict" not in functions_of(bundle):
        return {}
    if not labels:  # a number
        return {"regress": lambda outputs: {"outputs": outputs["outputs"]}}
    answers = {"classify": lambda outputs: {name: outputs[name] for name in ("classes", "scores")}}
    if len(labels) == 2:  # as TensorFlow's binary classifiers always had it
        answers["regress"] = lambda outputs: {"outputs": outputs["scores"][:, 1]}
    return answers


def _example_signatures(bundle: Bundle) -> _Functions:
    def read(outputs_of):
        predict = functions_of(bundle)["predict"]
        # Bytes named as the text inputs are; a missing one is an empty text.
        feature = tf.io.FixedLenFeature([], tf.string, default_value="")
        features = dict.fromkeys(input_names(predict), feature)

        def answer(inputs):
            parsed = tf.io.parse_example(inputs, features)
            return outputs_of(predict(*(parsed[name] for name in features)))

        inputs = tf.TensorSpec([None], tf.string, name="inputs")
        return tf.function(answer, input_signature=[inputs], autograph=False)

    return {name: read(answer) for name, answer in example_answers(bundle).items()}


def declare(
    folder: Path,
    methods: Mapping[str, str],
    aliases: Mapping[str, str],
    defaults: Mapping[str, Mapping[str, tf.Tensor]],
) -> None:
    """Writes into a SavedModel what TensorFlow's writer does not say about signatures."""
    model = read_saved_model(folder)
    for meta_graph in model.meta_graphs:
        signatures, graph = meta_graph.signature_def, meta_graph.graph_def
        for name, method in methods.items():
            signatures[name].method_name = method
        for name, values in defaults.items():
            for key, value in values.items():
                signatures[name].defaults[key].CopyFrom(tf.make_tensor_proto(value))
        inputs = [info for name in methods for info in signatures[name].inputs.values()]
        # Placeholder -> the one that is read in its place: older releases and TFX's batch inference
        # want a single one for all signatures of a MultiInference.
        replaced = {node_name(info.name): node_name(inputs[0].name) for info in inputs[1:]}
        for info in inputs[1:]:
            info.name = inputs[0].name
        unused = {*replaced}
        # A session prepares each set of tensors by itself, which for `generate` takes seconds.
        for alias, name in aliases.items():
            unused |= _nodes_of(signatures[alias]) - _nodes_of(signatures[name])
            signatures[alias].CopyFrom(signatures[name])
            # TensorFlow Serving's REST API fills in no defaults: here the graph does.
            inputs = signatures[alias].inputs
            for key, value in signatures[alias].defaults.items():
                _fill_in(graph, node_name(inputs[key].name), value)
                del inputs[key]
            signatures[alias].ClearField("defaults")
        nodes = [node for node in graph.node if node.name not in unused]
        for node in nodes:
            for index, tensor in enumerate(node.input):
                old = node_name(tensor)
                node.input[index] = tensor.replace(old, replaced.get(old, old), 1)
        del graph.node[:]
        graph.node.extend(nodes)
        for function in graph.library.function:
            _merge_constants(function)
        for nodes in (graph.node, *(one.node_def for one in graph.library.function)):
            _optimize_once(nodes)
    (folder / SAVED_MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    # Hashes of what was written before. A loader does without, and none is better than a wrong one.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _fill_in(graph: GraphDef, placeholder: str, value: TensorProto) -> None:
    """Makes a placeholder have `value` where a session is not given another."""
    (node,) = (node for node in graph.node if node.name == placeholder)
    constant = graph.node.add(name=f"{placeholder}_default", op="Const")
    constant.attr["dtype"].type = value.dtype
    constant.attr["value"].tensor.CopyFrom(value)
    node.op = "PlaceholderWithDefault"
    node.input.append(constant.name)


def _merge_constants(function: FunctionDef) -> None:
    """Leaves one of equal constants: 40 % of the nodes that Keras makes are such.

    A session's graph optimizer would do so too, after most of its work.
    """
    kept: dict[tuple, str] = {}
    renamed = {}
    for node in function.node_def:
        if node.op == "Const" and not node.input and "_class" not in node.attr:
            value = node.attr["value"].SerializeToString(deterministic=True)
            first = kept.setdefault((node.device, value), node.name)
            if first != node.name:
                renamed[node.name] = first
    nodes = [node for node in function.node_def if node.name not in renamed]
    for node in nodes:
        for index, tensor in enumerate(node.input):
            if (old := node_name(tensor)) in renamed:
                node.input[index] = tensor.replace(old, renamed[old], 1)
    for name, tensor in function.ret.items():
        if (old := node_name(tensor)) in renamed:
            function.ret[name] = tensor.replace(old, renamed[old], 1)
    del function.node_def[:]
    function.node_def.extend(nodes)


def _optimize_once(nodes: Iterable[NodeDef]) -> None:
    """A session optimizes a function with its graph, and by default where it is called once more.

    Without the second time, first answers of a model of 30 layers take 20 to 35 % less.
    """
    for node in nodes:
        if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            config = config_pb2.ConfigProto.FromString(node.attr["config_proto"].s)
            config.graph_options.rewrite_options.disable_meta_optimizer = True
            node.attr["config_proto"].s = config.SerializeToString(deterministic=True)


def _nodes_of(signature: SignatureDef) -> set[str]:
    tensors = (*signature.inputs.values(), *signature.outputs.values())
    return {node_name(info.name) for info in tensors}
