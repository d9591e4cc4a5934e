"""What keeps one node from running on a release: its op, its attributes, its device, XLA."""

from __future__ import annotations

from collections.abc import Iterator

from tensorflow.core.framework import attr_value_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from export.closure.graph_calls import CallChains, called, compiled_functions, is_set
from export.closure.op_registry import Registry
from export.closure.op_traps import FILE_OP, XLA_OFF, missing, touches_files, trap_of

Problem = tuple[str, str, bool]


class NodeProblems:
    """Judges the nodes of one MetaGraph.

    Args:
        registry: of the release that is to serve it.
        chains: CallChains of the MetaGraph.
        info: MetaInfoDef of the MetaGraph.
    """

    def __init__(
        self,
        registry: Registry,
        chains: CallChains,
        info: meta_graph_pb2.MetaGraphDef.MetaInfoDef,
    ):
        self._registry = registry
        self._chains = chains
        self._functions = chains.functions
        self._compiled = compiled_functions(chains.functions)
        self._stripped = info.stripped_default_attrs

    def __call__(self, function: str, node: node_def_pb2.NodeDef) -> Iterator[Problem]:
        """Yields (message, fix, whether it blocks) for each thing that is wrong with a node.

        Args:
            function: name of the function that holds the node, empty for the graph itself.
            node: NodeDef.
        """
        yield from self._compilation(node)
        yield from _placement(function, node)
        if node.op in self._functions:
            return
        if touches_files(node, self._chains.to(function, node.name).startswith("signature ")):
            yield (*FILE_OP, False)
        known = trap_of(node.op, self._registry) or missing(node.op, self._registry)
        if known:
            yield (*known, True)
            return
        if node.op in self._registry.without_cpu_kernel:
            yield (
                f"TensorFlow {self._registry.tensorflow} has no kernel of it for CPUs: on a server "
                "of CPUs every request that comes by fails",
                "write the step with operations that run on CPUs",
                True,
            )
        yield from self._attributes(node)

    def _compilation(self, node: node_def_pb2.NodeDef) -> Iterator[Problem]:
        callees = sorted(self._compiled.intersection(called(node)))
        if callees or is_set(node, "_XlaMustCompile") or is_set(node, "_XlaCompile"):
            what = f"it calls {', '.join(callees)}, which" if callees else "it"
            yield (
                f"{what} is to be compiled by XLA (jit_compile=True). {XLA_OFF}",
                "leave out jit_compile=True, in tf.function and in model.compile, of the model "
                "that is exported",
                True,
            )

    def _attributes(self, node: node_def_pb2.NodeDef) -> Iterator[Problem]:
        unknown = self._registry.unknown_attributes.get(node.op, {})
        for name in sorted(unknown.keys() & node.attr.keys()):
            if self._stripped or not _is_default(node, name):
                yield (
                    f"TensorFlow Serving {self._registry.release} does not know its attribute "
                    f"{name}={_text(node.attr[name])}, a change of {unknown[name]}: it ignores it, "
                    "and the answers may be others",
                    f"serve with another release, or leave {name} at its default",
                    True,
                )
        for name, values in self._registry.unknown_values.get(node.op, {}).items():
            if name not in node.attr:
                continue
            for value in sorted(values.keys() & _values(node.attr[name])):
                yield (
                    f"TensorFlow Serving {self._registry.release} cannot run it with "
                    f"{name}={value}, a change of {values[value]}",
                    f"serve with another release, or cast to another type than {value} before it",
                    True,
                )


def _placement(function: str, node: node_def_pb2.NodeDef) -> Iterator[Problem]:
    kind = next((kind for kind in ("GPU", "TPU") if kind in node.device.upper()), "")
    if not kind:
        return
    fix = f"build what is exported outside of tf.device({node.device!r})"
    if function:
        # Functions are placed softly: where there is no such device, a CPU takes its place.
        message = f"it asks for {node.device}; a server without a {kind} runs it on a CPU"
        yield message, fix, False
    else:
        message = f"it is bound to {node.device}: a server without a {kind} refuses the requests"
        yield message, fix, True


def _is_default(node: node_def_pb2.NodeDef, name: str) -> bool:
    """Whether an attribute has the default of the TensorFlow that is installed here."""
    definition = op_def_registry.get(node.op)
    for attr in definition.attr if definition is not None else ():
        if attr.name == name:
            return attr.default_value == node.attr[name]
    return False


def _values(value: attr_value_pb2.AttrValue) -> set[str]:
    kind = value.WhichOneof("value")
    if kind == "type":
        return {types_pb2.DataType.Name(value.type)}
    if kind == "s":
        return {value.s.decode("utf-8", "replace")}
    if kind == "list":
        return {types_pb2.DataType.Name(number) for number in value.list.type}
    return set()


def _text(value: attr_value_pb2.AttrValue) -> str:
    values = _values(value)
    return ", ".join(sorted(values)) if values else str(value).strip().partition(": ")[2]
