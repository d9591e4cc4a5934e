"""Ops that are known to fail or to mislead on a server, each with what to do instead."""

from __future__ import annotations

import re

from tensorflow.core.framework import node_def_pb2

from export.closure.op_registry import Registry

XLA_OFF = (
    "XLA is linked but switched off there: the model loads, and every request that comes by fails "
    'with "XLA compilation disabled"'
)
_TABLE = (
    "a table that is filled while it runs is no part of the graph: a server begins with what the "
    "checkpoint holds of it, nothing if it was not tracked, and what requests insert is in one "
    "server alone and gone when that stops"
)
_STATIC_TABLE = "use tf.lookup.StaticHashTable, whose content is in the graph or in an asset"
# Pattern of the op's whole name, message, fix.
_TRAPS = (
    (
        r"Xla.*",
        XLA_OFF,
        "write the step without it: keras.ops.slice_update becomes XlaDynamicUpdateSlice, "
        "keras.ops.scatter_update or tf.tensor_scatter_nd_update do the same",
    ),
    (
        r"CudnnRNN.*",
        "it has a kernel for NVIDIA GPUs alone: on the usual server, of CPUs, every request that "
        "comes by fails",
        "export on a machine without a GPU, or build the layer with use_cudnn=False",
    ),
    (
        r"(Eager)?PyFunc(Stateless)?",
        "it calls a Python function of the process that made it, and the server has no Python",
        "write the step in TensorFlow operations instead of tf.py_function or tf.numpy_function, "
        "or do it in the client",
    ),
    (r"(Anonymous)?Mutable(Dense)?HashTable(OfTensors)?(V2)?", _TABLE, _STATIC_TABLE),
)
# Of an op that touches files: message, fix.
FILE_OP = (
    "it reads or writes files, with the rights of the server: a SavedModel is a program",
    "serve it only if you trust who made it, from an account that may read and write little else; "
    "or do the step in the client",
)
_FILE_OPS = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|LoadAndRemapMatrix|RecordInput|DumpTensor|DistributedSave"
    r"|CalibrationStatisticsSaver|CreateSummary(File|Db)Writer|.*Snapshot.*"
    r"|Debug(Identity|NanCount|NumericSummary)(V\d)?|(Experimental)?DatasetToTFRecord"
    r"|(WholeFile|TextLine|TFRecord|FixedLengthRecord|LMDB)Reader(V2)?"
    r"|(Experimental)?(MatchingFiles|TextLine|TFRecord|FixedLengthRecord|LMDB|CSV|Sql|Save|Load"
    r"|Cache)Dataset(V2)?"
)
# Every model is loaded from files by these; beside them they are suspect.
_LOADING_OPS = re.compile(
    r"(Save|Restore)(V2|Slices?)?|DTensorRestoreV2|MergeV2Checkpoints"
    r"|InitializeTableFromTextFile(V2)?|SimpleMLLoadModelFromPath(WithHandle)?"
)
# Not in the TF-Text of older releases: op -> what it comes from, what to use instead.
_ROUND_ROBIN = "trim with tensorflow_text.WaterfallTrimmer or with plain TensorFlow operations"
_NEW_TEXT_OPS = {
    "TFText>RoundRobinTrim": ("RoundRobinTrimmer.trim", _ROUND_ROBIN),
    "TFText>RoundRobinGenerateMasks": ("RoundRobinTrimmer.generate_mask", _ROUND_ROBIN),
    "TFText>Utf8Binarize": (
        "utf8_binarize",
        "cut the bits with tf.strings.unicode_decode and tf.bitwise",
    ),
}


def trap_of(op: str, registry: Registry) -> tuple[str, str] | None:
    """Message and fix for an op that is a known trap, None for any other.

    Args:
        op: the op's name.
        registry: of the release that is to serve it.
    """
    if op in _NEW_TEXT_OPS and op not in registry.ops:
        source, instead = _NEW_TEXT_OPS[op]
        return (
            f"it comes from tensorflow_text.{source}, and is not in TF-Text "
            f"{registry.tensorflow_text}, which this release links",
            f"serve with TensorFlow Serving {registry.releases_with[op][0]} or newer, or {instead}",
        )
    for pattern, message, fix in _TRAPS:
        if re.fullmatch(pattern, op):
            return message, fix
    return None


def touches_files(node: node_def_pb2.NodeDef, asked: bool) -> bool:
    """Whether a node reads or writes files other than those that a model is loaded from.

    Args:
        node: NodeDef.
        asked: bool. Whether a request may come to it.
    """
    if node.op == "PrintV2":
        return "output_stream" in node.attr and node.attr["output_stream"].s.startswith(b"file:")
    return bool(_FILE_OPS.fullmatch(node.op) or (asked and _LOADING_OPS.fullmatch(node.op)))


def missing(op: str, registry: Registry) -> tuple[str, str] | None:
    """Message and fix for an op that the release does not have, None for one that it has."""
    if op in registry.ops:
        return None
    others = registry.releases_with.get(op, [])
    if not others:
        return (
            "no release of TensorFlow Serving links it: it comes from a library of its own, or "
            "from a newer TensorFlow",
            "write the step in TensorFlow or TF-Text operations, or build a model server that "
            "links the library",
        )
    return (
        f"it is not in TensorFlow Serving {registry.release}, only in {_span(others)}",
        f"serve with one of these, or write the step without {op}",
    )


def _span(releases: list[str]) -> str:
    first, last = releases[0], releases[-1]
    return first if first == last else f"{first} to {last}"
