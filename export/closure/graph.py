"""A served graph: the functions that its nodes call, and where a node came from."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_debug_info_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from export import DEFAULT_SIGNATURE, INIT_OP
from export.model_folder import DEBUG_INFO_FILE

_LIBRARIES = ("site-packages/", "dist-packages/", "/lib/python3")


def called(node: node_def_pb2.NodeDef) -> list[str]:
    """Names of functions that a node may call; its op is among them, function or not."""
    names = [node.op]  # old graphs call a function by an op of its name
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


class Graph:
    """The nodes and functions of a MetaGraph."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef):
        self.functions = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        self.nodes = {node.name: node for node in meta_graph.graph_def.node}
        # Those that must be compiled, from `tf.function(jit_compile=True)`.
        self.compiled = {name for name, f in self.functions.items() if is_set(f, "_XlaMustCompile")}

    def reached(
        self, tensors: Iterable[str]
    ) -> Iterator[tuple[tuple[str, ...], node_def_pb2.NodeDef]]:
        """(functions that lead to it, node): the graph's own, then functions, nearest first."""
        pending, calls, seen = [node_name(tensor) for tensor in tensors], [], set()
        while pending:
            node = self.nodes.get(pending.pop())
            if node is not None and node.name not in seen:
                seen.add(node.name)
                yield (), node
                calls += [((name,), name) for name in called(node)]
                pending += map(node_name, node.input)
        entered = set()
        for way, name in calls:  # which grows meanwhile
            if name in self.functions and name not in entered:
                entered.add(name)
                for node in self.functions[name].node_def:
                    yield way, node
                    calls += [((*way, callee), callee) for callee in called(node)]


class Origins(Graph):
    """Where the nodes of a MetaGraph came from: the way to them, the layer, the source line."""

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef, folder: Path):
        super().__init__(meta_graph)
        self._chains: dict[tuple[str, str], str] = {}  # (function, node) -> how it is reached
        names = sorted(meta_graph.signature_def, key=lambda name: (name == DEFAULT_SIGNATURE, name))
        for name in names:
            outputs = meta_graph.signature_def[name].outputs.values()
            label = "initialising" if name == INIT_OP else f"signature {name}"
            self._walk(label, [output.name for output in outputs])
        self._walk("restoring", [meta_graph.saver_def.restore_op_name])
        self._walk("saving", [meta_graph.saver_def.save_tensor_name])
        self._info = graph_debug_info_pb2.GraphDebugInfo()
        path = folder / DEBUG_INFO_FILE
        if path.is_file():
            try:
                self._info.ParseFromString(path.read_bytes())
            except DecodeError as error:
                raise ValueError(f"{path}: not readable as debug information: {error}") from error

    def chain(self, function: str, node: str) -> str:
        """How a node is reached, "signature score > __inference_score_3 > while_body_7"."""
        loaded = "" if function else ", but the server loads it"
        return self._chains.get((function, node), f"no signature reaches it{loaded}")

    def of(self, function: str, node: str) -> str:
        """One line: the chain, then layer, tokenizer and source line as far as they are known."""
        parts = [self.chain(function, node)]
        scope = node.rpartition("/")[0]  # Keras opens one around a layer's `call`
        if scope:
            parts.append(f"layer scope {scope}")
        tokenizer, own = "", ""
        for path, line, name in self._frames(f"{node}@{function}"):
            source = f"{'/'.join(PurePath(path).parts[-3:])}:{line} {name}"
            if not tokenizer and "tokenizers" in PurePath(path).parts[:-1]:
                tokenizer = f"tokenizer {source}"
            if not any(part in path for part in _LIBRARIES):
                own = source
        return "; ".join(dict.fromkeys([*parts, *filter(None, (tokenizer, own))]))

    def _walk(self, label: str, tensors: list[str]) -> None:
        """The first label that reaches a node, or a function, counts."""
        for way, node in self.reached(tensors):
            function = way[-1] if way else ""
            self._chains.setdefault((function, node.name), " > ".join((label, *way)))

    def _frames(self, key: str) -> Iterator[tuple[str, int, str]]:
        """The Python calls that made a node, outermost first, if `save_debug_info` kept them."""
        frames = []
        if key in self._info.traces:
            frames = self._info.traces[key].file_line_cols
        elif key in self._info.name_to_trace_id:
            trace = self._info.traces_by_id[self._info.name_to_trace_id[key]]
            frames = trace.file_line_cols or [self._info.frames_by_id[i] for i in trace.frame_id]
        return ((self._info.files[f.file_index], f.line, f.func) for f in frames)
