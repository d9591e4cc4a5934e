"""What TensorFlow's writer of SavedModels cannot say about signatures, written afterwards.

`tf.saved_model.save` declares every signature to be of the method `predict`, and gives each a
placeholder of its own. TensorFlow Serving lets both pass today. But signatures for Classify and
Regress say so in their method name wherever that is read, and several signatures asked by one
MultiInference must read one placeholder in older releases and in TFX's batch inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2


def declare_methods(folder: Path, methods: Mapping[str, str]) -> None:
    """Gives signatures of a SavedModel their method names, and all of them one placeholder.

    Args:
        folder: the SavedModel, which no server may be reading.
        methods: signature name -> method name. Each has one input, and reads the same requests.

    Raises:
        ValueError: no such signature, or it has several inputs.

    Example: `declare_methods(folder, {"classify": "tensorflow/serving/classify"})`
    """
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in model.meta_graphs:
        for name, method in methods.items():
            _signature(meta_graph, name).method_name = method
        first, *others = methods
        for name in others:
            _share_input(meta_graph, first, name)
    path.write_bytes(model.SerializeToString(deterministic=True))
    # Hashes of what was written before. A loader does without, and none is better than a wrong one.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _signature(meta_graph: meta_graph_pb2.MetaGraphDef, name: str) -> meta_graph_pb2.SignatureDef:
    # Looking a key up by [] would add it to the proto's map.
    signature = meta_graph.signature_def.get(name)
    if signature is None:
        known = ", ".join(sorted(meta_graph.signature_def))
        raise ValueError(f"no signature {name} in the SavedModel; it has {known}")
    if len(signature.inputs) != 1:
        raise ValueError(f"signature {name} has inputs {sorted(signature.inputs)}, not one input")
    return signature


def _share_input(meta_graph: meta_graph_pb2.MetaGraphDef, first: str, other: str) -> None:
    """Lets signature `other` read the placeholder of `first`, and removes its own."""
    (kept,) = _signature(meta_graph, first).inputs.values()
    (changed,) = _signature(meta_graph, other).inputs.values()
    if kept.dtype != changed.dtype:
        raise ValueError(f"signatures {first} and {other} have inputs of different dtypes")
    old, new = _node(changed.name), _node(kept.name)
    if old != new:
        _rewire(meta_graph.graph_def, old, new)
    changed.name = kept.name


def _rewire(graph: graph_pb2.GraphDef, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if _node(name) == old:
                node.input[index] = name.replace(old, new, 1)
    (place,) = (index for index, node in enumerate(graph.node) if node.name == old)
    del graph.node[place]


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").split(":")[0]
