"""Checks a SavedModel against the ops that a TensorFlow Serving release links, before it is served.

A model with an op that the server lacks is loaded, told to be available, and fails at its first
request. This runs nothing: it looks at every node of the graph and of every function in
`saved_model.pb`, also of those that no request reaches today.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from export.closure.findings import Finding, NodeChecks, graph_problems, signature_problems
from export.closure.graph import Origins
from export.closure.history import DEFAULT_SERVING_VERSION, registry_of
from export.model_folder import SAVED_MODEL_FILE, read_saved_model


def check(folder: Path, serving_version: str = DEFAULT_SERVING_VERSION) -> list[Finding]:
    """Finds what keeps a release from running a SavedModel.

    Args:
        folder: the folder with `saved_model.pb`.
        serving_version: "2.19.1", or "2.19" for any release of that number.

    Returns:
        Findings in the order of the graph, none if the release can run all of it.

    Raises:
        ValueError: no such release is known, or the folder holds no SavedModel for servers.
    """
    registry = registry_of(serving_version)
    meta_graph = _read(Path(folder))
    origins = Origins(meta_graph, Path(folder))
    problems_of = NodeChecks(registry, origins, meta_graph.meta_info_def)
    findings = {
        (place, problem.message): Finding("", "", place, "", *problem)
        for problems in (graph_problems(meta_graph, registry), signature_problems(meta_graph))
        for place, problem in problems
    }
    for function, node in _nodes(meta_graph):
        for problem in problems_of(function, node):
            key = (node.op, function, node.name.rpartition("/")[0], problem.message)
            if key in findings:
                known = findings[key]
                findings[key] = dataclasses.replace(known, count=known.count + 1)
            else:
                origin = origins.of(function, node.name)
                findings[key] = Finding(node.op, function, node.name, origin, *problem)
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
    for meta_graph in model.meta_graphs:
        if [*meta_graph.meta_info_def.tags] == ["serve"]:
            return meta_graph
    tags = [[*meta_graph.meta_info_def.tags] for meta_graph in model.meta_graphs]
    raise ValueError(f"{path}: no graph is tagged ['serve'], which servers look for, but {tags}")


def _nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[tuple[str, node_def_pb2.NodeDef]]:
    """(function, node) for every node; the function is empty for those of the graph itself."""
    graph = meta_graph.graph_def
    yield from (("", node) for node in graph.node)
    for function in graph.library.function:
        yield from ((function.signature.name, node) for node in function.node_def)
