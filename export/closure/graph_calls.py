"""Which nodes call which functions, and how a signature comes to a function.

A served graph is a GraphDef with a library of functions. Its nodes call functions by name, in any
attribute: `PartitionedCall`, `If`, `While` and others each have attributes of their own for it, and
old graphs call a function by an op of its name.
"""

from __future__ import annotations

from collections.abc import Iterator

from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

_INIT_OP = "__saved_model_init_op"


def called(node: node_def_pb2.NodeDef) -> list[str]:
    """Names of functions that a node may call; its op is among them, function or not."""
    names = [node.op]
    for value in node.attr.values():
        names.extend(f.name for f in (value.func, *value.list.func) if f.name)
    return names


def node_name(tensor: str) -> str:
    """The node that a tensor ("a/b:0") or a control input ("^a/b") comes from."""
    return tensor.removeprefix("^").split(":")[0]


def is_set(proto: node_def_pb2.NodeDef | function_pb2.FunctionDef, attribute: str) -> bool:
    """Whether a boolean attribute is there and true."""
    # Looking a key up by [] would add it to the proto's map.
    return attribute in proto.attr and proto.attr[attribute].b


def is_xla(node: node_def_pb2.NodeDef) -> bool:
    """Whether only XLA can run the node itself, whatever it calls."""
    return node.op.startswith("Xla") or is_set(node, "_XlaMustCompile")


def compiled_functions(functions: dict[str, function_pb2.FunctionDef]) -> set[str]:
    """Names of the functions that must be compiled, from `tf.function(jit_compile=True)`."""
    return {name for name, f in functions.items() if is_set(f, "_XlaMustCompile")}


class CallChains:
    """The ways from signatures, restoring and initialising into the functions of a MetaGraph.

    Args:
        meta_graph: MetaGraphDef.

    Attributes:
        functions: name -> FunctionDef.
    """

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef):
        graph = meta_graph.graph_def
        self.functions = {f.signature.name: f for f in graph.library.function}
        self._nodes = {node.name: node for node in graph.node}
        self._to_node: dict[str, str] = {}
        self._to_function: dict[str, tuple[str, ...]] = {}
        for label, tensors in _roots(meta_graph):
            self._walk(label, tensors)

    def to(self, function: str, node: str) -> str:
        """How a node is reached, "signature score > __inference_score_3 > while_body_7".

        Args:
            function: name of the function that holds the node, empty for the graph itself.
            node: its name.
        """
        if not function:
            return self._to_node.get(node, "no signature reaches it, but the server loads it")
        chain = self._to_function.get(function)
        return " > ".join(chain) if chain else "no signature reaches it"

    def _walk(self, label: str, tensors: list[str]) -> None:
        """Breadth first, so that chains are short; the first label to come to a place counts."""
        pending, seen, calls = [node_name(tensor) for tensor in tensors], set(), []
        while pending:
            name = pending.pop()
            if name in seen or name not in self._nodes:
                continue
            seen.add(name)
            self._to_node.setdefault(name, label)
            calls.extend((callee, (label,)) for callee in self._callees(self._nodes[name]))
            pending.extend(map(node_name, self._nodes[name].input))
        while calls:
            following = []
            for name, chain in calls:
                if name in self._to_function:
                    continue
                self._to_function[name] = (*chain, name)
                for node in self.functions[name].node_def:
                    following += [(callee, (*chain, name)) for callee in self._callees(node)]
            calls = following

    def _callees(self, node: node_def_pb2.NodeDef) -> list[str]:
        return [name for name in called(node) if name in self.functions]


def _roots(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[tuple[str, list[str]]]:
    names = sorted(meta_graph.signature_def, key=lambda name: (name == "serving_default", name))
    for name in names:
        outputs = meta_graph.signature_def[name].outputs.values()
        label = "initialising" if name == _INIT_OP else f"signature {name}"
        yield label, [output.name for output in outputs]
    yield "restoring", [meta_graph.saver_def.restore_op_name]
    yield "saving", [meta_graph.saver_def.save_tensor_name]
