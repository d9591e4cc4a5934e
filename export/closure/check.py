"""Checks a SavedModel, every node of it, against the ops that a TensorFlow Serving release links.

A model with an op that the server lacks is loaded, and fails at its first request.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from export.closure.graph import Origins, called, is_set
from export.closure.history import DEFAULT_SERVING_VERSION, Registry, newest_release, registry_of
from export.model_folder import SAVED_MODEL_FILE, read_saved_model


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong, what to do, and where it is."""

    message: str
    fix: str
    blocks: bool = True  # if not, the model runs with a limit
    node: str = ""  # its name (of the first of `count`), or what else it is about
    op: str = ""  # empty if it is about a signature or the model as a whole
    function: str = ""  # that holds the node; empty for the graph itself
    origin: str = ""  # how a signature comes to it, and layer, tokenizer and source line if known
    count: int = 1  # nodes of the same layer to which the same applies

    def __str__(self) -> str:
        lines = [f"{'' if self.blocks else 'warning: '}{self.op or self.node}: {self.message}"]
        if self.op:
            more = f" and {self.count - 1} more like it" if self.count > 1 else ""
            holder = f"function {self.function}" if self.function else "the graph itself"
            lines.append(f"where: node {self.node}{more}, in {holder}")
        if self.origin:
            lines.append(f"from: {self.origin}")
        return "\n    ".join([*lines, f"fix: {self.fix}"])


def check(folder: Path, serving_version: str = DEFAULT_SERVING_VERSION) -> list[Finding]:
    """What keeps a release, "2.19.1" or "2.19", from running a SavedModel, in the graph's order."""
    registry = registry_of(serving_version)
    meta_graph = _read(Path(folder))
    origins = Origins(meta_graph, Path(folder))
    general = (*_graph_problems(meta_graph, registry), *_signature_problems(meta_graph))
    findings = {(one.node, one.message): one for one in general}
    stripped = meta_graph.meta_info_def.stripped_default_attrs
    library = meta_graph.graph_def.library.function
    nodes = [("", node) for node in meta_graph.graph_def.node]
    nodes += [(f.signature.name, node) for f in library for node in f.node_def]
    for function, node in nodes:
        way = origins.chain(function, node.name)
        found = [*_compilation(node, origins.compiled), *_placement(function, node)]
        if node.op not in origins.functions:
            if _touches_files(node, in_signature=way.startswith("signature ")):
                found.append(_TOUCHES_FILES)
            found += _op_problems(node, registry, stripped)
        for problem in found:
            key = (node.op, function, node.name.rpartition("/")[0], problem.message)
            if key in findings:
                changes = {"count": findings[key].count + 1}
            else:
                findings[key] = problem
                changes = {"node": node.name, "op": node.op, "function": function}
                changes["origin"] = origins.of(function, node.name)
            findings[key] = dataclasses.replace(findings[key], **changes)
    return [*findings.values()]


def _read(folder: Path) -> meta_graph_pb2.MetaGraphDef:
    path = folder / SAVED_MODEL_FILE
    try:
        model = read_saved_model(folder)
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}. Pass the folder of a SavedModel, or a model folder with "
            "versions in it"
        ) from error
    except DecodeError as error:
        raise ValueError(f"{path}: damaged, it is no SavedModel ({error})") from error
    tags = [[*meta_graph.meta_info_def.tags] for meta_graph in model.meta_graphs]
    if ["serve"] not in tags:
        raise ValueError(
            f"{path}: no graph is tagged ['serve'], which servers look for, but {tags}"
        )
    return model.meta_graphs[tags.index(["serve"])]


# --- Nodes

_XLA = (
    "XLA is linked but switched off there: the model loads, and every request that comes by fails "
    'with "XLA compilation disabled"'
)
_TRAPS = {  # pattern of the whole name of an op that fails or misleads on every server
    r"Xla.*": Finding(
        _XLA,
        "write the step without it: keras.ops.slice_update becomes XlaDynamicUpdateSlice, "
        "keras.ops.scatter_update or tf.tensor_scatter_nd_update do the same",
    ),
    r"CudnnRNN.*": Finding(
        "it has a kernel for NVIDIA GPUs alone: on the usual server, of CPUs, every request that "
        "comes by fails",
        "export on a machine without a GPU, or build the layer with use_cudnn=False",
    ),
    r"(Eager)?PyFunc(Stateless)?": Finding(
        "it calls a Python function of the process that made it, and the server has no Python",
        "write the step in TensorFlow operations instead of tf.py_function or tf.numpy_function, "
        "or do it in the client",
    ),
    r"(Anonymous)?Mutable(Dense)?HashTable(OfTensors)?(V2)?": Finding(
        "a table that is filled while it runs is no part of the graph: a server begins with what "
        "the checkpoint holds of it, nothing if it was not tracked, and what requests insert is in "
        "one server alone and gone when that stops",
        "use tf.lookup.StaticHashTable, whose content is in the graph or in an asset",
    ),
}
_TOUCHES_FILES = Finding(
    "it reads or writes files, with the rights of the server: a SavedModel is a program",
    "serve it only if you trust who made it, from an account that may read and write little else; "
    "or do the step in the client",
    blocks=False,
)
_FILE_OPS = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|LoadAndRemapMatrix|RecordInput|DumpTensor|DistributedSave"
    r"|CalibrationStatisticsSaver|CreateSummary(File|Db)Writer|.*Snapshot.*"
    r"|Debug(Identity|NanCount|NumericSummary)(V\d)?|(Experimental)?DatasetToTFRecord"
    r"|(WholeFile|TextLine|TFRecord|FixedLengthRecord|LMDB)Reader(V2)?"
    r"|(Experimental)?(MatchingFiles|TextLine|TFRecord|FixedLengthRecord|LMDB|CSV|Sql|Save|Load"
    r"|Cache)Dataset(V2)?"
)
# Every model is loaded from files by these; in a signature they are suspect.
_LOADING_OPS = re.compile(
    r"(Save|Restore)(V2|Slices?)?|DTensorRestoreV2|MergeV2Checkpoints"
    r"|InitializeTableFromTextFile(V2)?|SimpleMLLoadModelFromPath(WithHandle)?"
)
# Not in the TF-Text of older releases: op -> what it comes from, what to use instead.
_NO_ROUND_ROBIN = "trim with tensorflow_text.WaterfallTrimmer or with plain TensorFlow operations"
_NEW_TEXT_OPS = {
    "TFText>RoundRobinTrim": ("RoundRobinTrimmer.trim", _NO_ROUND_ROBIN),
    "TFText>RoundRobinGenerateMasks": ("RoundRobinTrimmer.generate_mask", _NO_ROUND_ROBIN),
    "TFText>Utf8Binarize": (
        "utf8_binarize",
        "cut the bits with tf.strings.unicode_decode and tf.bitwise",
    ),
}


def _compilation(node: node_def_pb2.NodeDef, compiled: set[str]) -> Iterator[Finding]:
    callees = sorted(compiled.intersection(called(node)))
    if callees or is_set(node, "_XlaMustCompile") or is_set(node, "_XlaCompile"):
        what = f"it calls {', '.join(callees)}, which" if callees else "it"
        yield Finding(
            f"{what} is to be compiled by XLA (jit_compile=True). {_XLA}",
            "leave out jit_compile=True, in tf.function and in model.compile, of the model that "
            "is exported",
        )


def _placement(function: str, node: node_def_pb2.NodeDef) -> Iterator[Finding]:
    kind = next((kind for kind in ("GPU", "TPU") if kind in node.device.upper()), "")
    fix = f"build what is exported outside of tf.device({node.device!r})"
    if kind:
        # Functions are placed softly: where there is no such device, a CPU takes its place.
        soft = f"it asks for {node.device}; a server without a {kind} runs it on a CPU"
        hard = f"it is bound to {node.device}: a server without a {kind} refuses the requests"
        yield Finding(soft if function else hard, fix, blocks=not function)


def _touches_files(node: node_def_pb2.NodeDef, in_signature: bool) -> bool:
    """Whether it touches other files than those that a model is loaded from."""
    if node.op == "PrintV2":
        return "output_stream" in node.attr and node.attr["output_stream"].s.startswith(b"file:")
    loads = in_signature and _LOADING_OPS.fullmatch(node.op)
    return bool(loads or _FILE_OPS.fullmatch(node.op))


def _op_problems(
    node: node_def_pb2.NodeDef, registry: Registry, stripped: bool
) -> Iterator[Finding]:
    """Of a node that calls no function: its op, then its attributes."""
    op = node.op
    trap = next((one for name, one in _TRAPS.items() if re.fullmatch(name, op)), None)
    others = registry.releases_with.get(op, [])
    if trap is not None:
        yield trap
    elif op in registry.ops:
        if op in registry.without_cpu_kernel:
            yield Finding(
                f"TensorFlow {registry.tensorflow} has no kernel of it for CPUs: on a server of "
                "CPUs every request that comes by fails",
                "write the step with operations that run on CPUs",
            )
        yield from _attribute_problems(node, registry, stripped)
    elif op in _NEW_TEXT_OPS:
        source, instead = _NEW_TEXT_OPS[op]
        yield Finding(
            f"it comes from tensorflow_text.{source}, and is not in TF-Text "
            f"{registry.tensorflow_text}, which this release links",
            f"serve with TensorFlow Serving {others[0]} or newer, or {instead}",
        )
    elif others:
        span = others[0] if len(others) == 1 else f"{others[0]} to {others[-1]}"
        yield Finding(
            f"it is not in TensorFlow Serving {registry.release}, only in {span}",
            f"serve with one of these, or write the step without {op}",
        )
    else:
        yield Finding(
            "no release of TensorFlow Serving links it: it comes from a library of its own, or "
            "from a newer TensorFlow",
            "write the step in TensorFlow or TF-Text operations, or build a model server that "
            "links the library",
        )


def _attribute_problems(
    node: node_def_pb2.NodeDef, registry: Registry, stripped: bool
) -> Iterator[Finding]:
    release = f"TensorFlow Serving {registry.release}"
    attributes = {name: sorted(_values(node.attr[name])) for name in sorted(node.attr)}
    for name, values in attributes.items():
        change = registry.unknown_attributes.get((node.op, name))
        if change and (stripped or not _is_default(node, name)):
            text = ", ".join(values) or str(node.attr[name]).strip().partition(": ")[2]
            yield Finding(
                f"{release} does not know its attribute {name}={text}, a change of {change}: it "
                "ignores it, and the answers may be others",
                f"serve with another release, or leave {name} at its default",
            )
    for name, values in attributes.items():
        for value in values:
            if change := registry.unknown_values.get((node.op, name, value)):
                yield Finding(
                    f"{release} cannot run it with {name}={value}, a change of {change}",
                    f"serve with another release, or cast to another type than {value} before it",
                )


def _is_default(node: node_def_pb2.NodeDef, name: str) -> bool:
    """Whether an attribute has the default of the TensorFlow that is installed here."""
    definition = op_def_registry.get(node.op)
    attributes = definition.attr if definition is not None else ()
    return any(one.name == name and one.default_value == node.attr[name] for one in attributes)


def _values(value: attr_value_pb2.AttrValue) -> set[str]:
    kind = value.WhichOneof("value")
    if kind == "s":
        return {value.s.decode("utf-8", "replace")}
    types = {"type": [value.type], "list": value.list.type}.get(kind, [])
    known = types_pb2.DataType.DESCRIPTOR.values_by_number
    return {known[number].name for number in types if number in known}


# --- The graph as a whole, and its signatures


def _graph_problems(
    meta_graph: meta_graph_pb2.MetaGraphDef, registry: Registry
) -> Iterator[Finding]:
    needed = meta_graph.graph_def.versions.min_consumer
    if needed > registry.graph_def_version:
        message = (
            f"its readers must know version {needed} of graphs; TensorFlow Serving "
            f"{registry.release} knows those up to {registry.graph_def_version}, and does not "
            "load it"
        )
        fix = "serve with a newer release, or write the model with an older TensorFlow"
        yield Finding(message, fix, node="the graph")
    writer, newest = meta_graph.meta_info_def.tensorflow_version, newest_release()
    if _number(writer) > _number(newest):
        message = (
            f"TensorFlow {writer} wrote it, and what is known of ops ends with {newest}: "
            "attributes that are new since then were not checked"
        )
        fix = "add the release to op_history.json, see tools/op_history.py"
        yield Finding(message, fix, blocks=False, node="the graph")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _signature_problems(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[Finding]:
    """What keeps a signature from being served, in batches or at all."""
    for name, signature in sorted(meta_graph.signature_def.items()):
        if name.startswith("__"):  # for TensorFlow, as INIT_OP
            continue
        for key, info in sorted(signature.outputs.items()):
            place = f"output {key!r} of signature {name!r}"
            shape = tf.TensorShape(info.tensor_shape)
            if shape.rank == 0:
                yield dataclasses.replace(_SCALAR_OUTPUT, node=place)
            elif shape.rank and shape[0] is not None:
                message = (
                    f"its first dimension is always {shape[0]}, not the number of rows asked for: "
                    "a server that batches refuses it, and so do REST requests of rows"
                )
                yield Finding(message, _BATCH_FIRST, node=place)
        for key, info in sorted(signature.inputs.items()):
            is_scalar = tf.TensorShape(info.tensor_shape).rank == 0
            if is_scalar and info.WhichOneof("encoding") == "name":
                place = f"input {key!r} of signature {name!r}"
                yield dataclasses.replace(_SCALAR_INPUT, node=place)
        for key in sorted(signature.defaults):
            for message in _default_problems(signature, key):
                place = f"default of input {key!r} of signature {name!r}"
                yield Finding(message, _DEFAULT, node=place)


_SCALAR_OUTPUT = Finding(
    "it is a scalar: the answers of a batch cannot be told apart, so a server that batches refuses "
    "it, and so do REST requests of rows",
    "return one value for each row, [batch], for instance with tf.fill or without the reduction "
    "over the batch",
)
_SCALAR_INPUT = Finding(
    "it is a scalar: a server that batches refuses every request of this signature, one that does "
    "not batch answers",
    "give it the batch as first dimension, [None], as the other inputs",
    blocks=False,
)
_BATCH_FIRST = "make the batch its first dimension, with None in the shapes of the input signature"
_DEFAULT = "give the tf.function a default value that fits its input_signature"


def _default_problems(signature: meta_graph_pb2.SignatureDef, key: str) -> Iterator[str]:
    if key not in signature.inputs:
        yield "there is no such input"
        return
    info, default = signature.inputs[key], signature.defaults[key]
    if default.dtype != info.dtype:
        needed, got = (types_pb2.DataType.Name(number) for number in (info.dtype, default.dtype))
        yield f"it is {got}, the input {needed}"
    declared, given = tf.TensorShape(info.tensor_shape), tf.TensorShape(default.tensor_shape)
    if not declared.is_compatible_with(given):
        yield f"its shape is {given}, the input's {declared}"
