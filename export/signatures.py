"""What a SavedModel serves: the signatures of each task, strings in and named outputs out.

| task | signature | inputs | outputs |
|---|---|---|---|
| lm | `generate` * | `text`, and with defaults `max_new_tokens`, `temperature`, `top_k`, `top_p`,
  `seed` | `text`, `completion`, `token_count`, `log_probability` |
| lm | `score` | `text` | `log_likelihood`, `token_count`, `perplexity` |
| lm | `next_token` | `text` | `tokens`, `probabilities` |
| mlm | `fill_mask` * | `text` | `tokens`, `probabilities`, `text` |
| classify, pair | `predict` * | `text` (pair: and `text_pair`) | `label`, `scores`, `classes` |
| classify, pair | `classify` | tf.Examples | `classes`, `scores` |
| classify, pair of two classes | `regress` | tf.Examples | `outputs`: the second one's score |
| tag | `tag` * | `text` | `tokens`, `tags`, `start`, `end`, `scores` |
| span | `answer` * | `question`, `context` | `answer`, `start`, `end`, `score` |
| embed | `embed` * | `text` | `embedding` |
| regress | `predict` * | `text` (for pairs: and `text_pair`) | `outputs` |
| regress | `regress` | tf.Examples | `outputs` |

The signature with a * is `serving_default`, too. Signatures of tf.Examples answer the Classify and
Regress requests of TensorFlow Serving; their input `inputs` holds serialized tf.Examples whose
bytes features are named as the text inputs are (a missing feature is an empty text).

`zoo.text.lm.TextLM` and the classes in `zoo.text` document each input and output.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from export import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from export.closure.graph import node_name
from export.model_folder import SAVED_MODEL_FILE, read_saved_model
from zoo.bundle import Bundle
from zoo.text.base import TextEncoder
from zoo.text.models import TEXT_MODELS

_Functions = dict[str, tf.types.experimental.PolymorphicFunction]


class ServedModule(tf.Module):
    """The object that is written as a SavedModel: weights and signatures, nothing of Keras.

    Attributes:
        functions: signature name -> tf.function.
        methods: signature name -> method name, of those that read tf.Examples.
        aliases: "serving_default" -> the signature that it is another name of.
    """

    def __init__(self, bundle: Bundle):
        super().__init__()
        task = bundle.config.task
        # Tracked as plain variables: the Keras object graph is of no use to a server.
        self.model_variables = [variable.value for variable in bundle.model.variables]
        self.methods = {}
        if task == "lm":
            functions = bundle.lm.functions
            self.functions = {DEFAULT_SIGNATURE: functions["generate"], **functions}
        elif task in TEXT_MODELS:
            functions = dict(bundle.text_model.functions)
            default = next(iter(functions.values()))
            examples = _example_signatures(bundle.text_model)
            self.functions = {DEFAULT_SIGNATURE: default, **functions, **examples}
            methods = {"classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}
            self.methods = {name: methods[name] for name in examples}
        else:
            known = ", ".join(["lm", *TEXT_MODELS])
            raise ValueError(f"no signatures for task {task!r}; known: {known}")
        default = self.functions[DEFAULT_SIGNATURE]
        (name,) = (n for n, f in self.functions.items() if f is default and n != DEFAULT_SIGNATURE)
        self.aliases = {DEFAULT_SIGNATURE: name}


def input_names(function: tf.types.experimental.PolymorphicFunction) -> list[str]:
    """The input names of a graph function of strings, in order."""
    return [spec.name for spec in function.input_signature]


def _example_signatures(text_model: TextEncoder) -> _Functions:
    """The signatures that read tf.Examples: for classes `classify`, for a number `regress`.

    A model of two classes has both, as TensorFlow's binary classifiers always had: `regress` is the
    probability of the second class.
    """
    if "predict" not in text_model.functions:
        return {}
    predict = text_model.functions["predict"]
    features = {
        name: tf.io.FixedLenFeature([], tf.string, default_value="")
        for name in input_names(predict)
    }

    def read(outputs_of):
        def answer(inputs):
            parsed = tf.io.parse_example(inputs, features)
            return outputs_of(predict(*(parsed[name] for name in features)))

        inputs = tf.TensorSpec([None], tf.string, name="inputs")
        return tf.function(answer, input_signature=[inputs], autograph=False)

    if not text_model.labels:  # a number
        return {"regress": read(lambda outputs: {"outputs": outputs["outputs"]})}
    signatures = {
        "classify": read(lambda outputs: {name: outputs[name] for name in ("classes", "scores")})
    }
    if len(text_model.labels) == 2:
        signatures["regress"] = read(lambda outputs: {"outputs": outputs["scores"][:, 1]})
    return signatures


def declare(
    folder: Path, methods: Mapping[str, str], aliases: Mapping[str, str] | None = None
) -> None:
    """Writes into a SavedModel what TensorFlow's writer cannot say about signatures.

    `tf.saved_model.save` declares every signature to be of the method `predict`, and gives each a
    placeholder of its own. TensorFlow Serving lets both pass today. But signatures for Classify and
    Regress say so in their method name wherever that is read, and several signatures of one
    MultiInference must read one placeholder in older releases and in TFX's batch inference.

    A signature under two names becomes two calls of one function, too. A session prepares each set
    of fed and fetched tensors by itself, which for `generate` takes seconds: so the second name
    gets the tensors of the first.

    `methods` are by signature name; all these have one input and read the same requests. `aliases`
    are second names of signatures, to the first ones.
    """
    model = read_saved_model(folder)
    for meta_graph in model.meta_graphs:
        for name, method in methods.items():
            signature = _signature(meta_graph, name)
            if len(signature.inputs) != 1:
                inputs = sorted(signature.inputs)
                raise ValueError(f"signature {name} has inputs {inputs}, not one input")
            signature.method_name = method
        first, *others = methods or [""]
        for name in others:
            _share_input(meta_graph, first, name)
        for alias, name in (aliases or {}).items():
            _share_all(meta_graph, name, alias)
    (folder / SAVED_MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
    # Hashes of what was written before. A loader does without, and none is better than a wrong one.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _signature(meta_graph: meta_graph_pb2.MetaGraphDef, name: str) -> meta_graph_pb2.SignatureDef:
    # Looking a key up by [] would add it to the proto's map.
    signature = meta_graph.signature_def.get(name)
    if signature is None:
        known = ", ".join(sorted(meta_graph.signature_def))
        raise ValueError(f"no signature {name} in the SavedModel; it has {known}")
    return signature


def _share_all(meta_graph: meta_graph_pb2.MetaGraphDef, first: str, alias: str) -> None:
    """Lets signature `alias` read and give the tensors of `first`, and removes its own nodes."""
    kept, changed = _signature(meta_graph, first), _signature(meta_graph, alias)
    if {*kept.inputs} != {*changed.inputs} or {*kept.outputs} != {*changed.outputs}:
        raise ValueError(f"signatures {first} and {alias} are not two names of one function")
    unused = _nodes_of(changed) - _nodes_of(kept)
    changed.CopyFrom(kept)
    graph = meta_graph.graph_def
    left = [node for node in graph.node if node.name not in unused]
    for node in left:
        if unused.intersection(map(node_name, node.input)):
            raise ValueError(f"node {node.name} reads those of signature {alias}")
    del graph.node[:]
    graph.node.extend(left)


def _nodes_of(signature: meta_graph_pb2.SignatureDef) -> set[str]:
    tensors = (*signature.inputs.values(), *signature.outputs.values())
    return {node_name(info.name) for info in tensors}


def _share_input(meta_graph: meta_graph_pb2.MetaGraphDef, first: str, other: str) -> None:
    """Lets signature `other` read the placeholder of `first`, and removes its own."""
    (kept,) = _signature(meta_graph, first).inputs.values()
    (changed,) = _signature(meta_graph, other).inputs.values()
    if kept.dtype != changed.dtype:
        raise ValueError(f"signatures {first} and {other} have inputs of different dtypes")
    old, new = node_name(changed.name), node_name(kept.name)
    if old != new:
        graph = meta_graph.graph_def
        for node in graph.node:
            for index, name in enumerate(node.input):
                if node_name(name) == old:
                    node.input[index] = name.replace(old, new, 1)
        (place,) = (index for index, node in enumerate(graph.node) if node.name == old)
        del graph.node[place]
    changed.name = kept.name
