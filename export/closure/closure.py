"""Checks a SavedModel against the ops that a TensorFlow Serving release links, before it is served.

    python -m export.closure.closure --model_dir=served/writer [--serving_version=2.19.1]

A model with an op that the server lacks is loaded, told to be available, and fails at its first
request. This runs nothing: it looks at every node of the graph and of every function in
`saved_model.pb`, also of those that no request reaches today.

Exit code 0 if the release can run the model, 1 if it cannot (each finding is printed, with its
fix), 2 if the check could not run. Warnings are printed and leave the exit code at 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from export.closure.graph_calls import CallChains
from export.closure.op_origin import Origins
from export.closure.op_problems import NodeProblems
from export.closure.op_registry import (
    DEFAULT_SERVING_VERSION,
    SERVING_VERSIONS,
    Registry,
    newest_release,
    registry_of,
)
from export.closure.signatures import signature_problems
from zoo.output_pipe import outlive_readers


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something in a SavedModel that the server cannot run, or not as it was meant.

    Attributes:
        op: the op's name; empty if it is about a signature or the model as a whole.
        function: name of the function that holds the node; empty for the graph itself.
        node: its name (of the first of `count`), or what else it is about.
        origin: how a signature comes to it, and the layer, tokenizer and source line as far as
            the SavedModel tells.
        message: what is wrong.
        fix: what to do.
        blocks: False for a warning: the model runs, within the limits that the message tells.
        count: number of nodes of the same layer to which the same applies.
    """

    op: str
    function: str
    node: str
    origin: str
    message: str
    fix: str
    blocks: bool = True
    count: int = 1

    def __str__(self) -> str:
        where = f"node {self.node}" if self.op else self.node
        if self.count > 1:
            where += f" and {self.count - 1} more like it"
        if self.op:
            where += f", in {f'function {self.function}' if self.function else 'the graph itself'}"
        lines = [
            f"{'' if self.blocks else 'warning: '}{self.op or self.node}: {self.message}",
            *([f"where: {where}"] if self.op else []),
            *([f"from: {self.origin}"] if self.origin else []),
            f"fix: {self.fix}",
        ]
        return "\n    ".join(lines)


def check(folder: Path, serving_version: str = DEFAULT_SERVING_VERSION) -> list[Finding]:
    """Finds what keeps a release from running a SavedModel.

    Args:
        folder: the folder with `saved_model.pb`.
        serving_version: "2.19.1", or "2.19" for any release of that number.

    Returns:
        Findings in the order of the graph, none if the release can run all of it.

    Raises:
        ValueError: no such release is known, or the folder holds no SavedModel for servers.

    Example: `check(Path("served/writer/1"), "2.21")`
    """
    registry = registry_of(serving_version)
    meta_graph = _read(Path(folder))
    chains = CallChains(meta_graph)
    origins = Origins(Path(folder), chains)
    problems = NodeProblems(registry, chains, meta_graph.meta_info_def)
    findings = {
        # About signatures and the model as a whole.
        place: Finding("", "", place, "", message, fix, blocks)
        for place, message, fix, blocks in (
            *_of_the_model(meta_graph, registry),
            *signature_problems(meta_graph),
        )
    }
    for function, node in _nodes(meta_graph):
        for message, fix, blocks in problems(function, node):
            key = (node.op, function, node.name.rpartition("/")[0], message)
            if key in findings:
                known = findings[key]
                findings[key] = dataclasses.replace(known, count=known.count + 1)
            else:
                origin = origins.of(function, node.name)
                found = Finding(node.op, function, node.name, origin, message, fix, blocks)
                findings[key] = found
    return [*findings.values()]


def _read(folder: Path) -> meta_graph_pb2.MetaGraphDef:
    path = folder / "saved_model.pb"
    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
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


def _of_the_model(
    meta_graph: meta_graph_pb2.MetaGraphDef, registry: Registry
) -> Iterator[tuple[str, str, str, bool]]:
    needed = meta_graph.graph_def.versions.min_consumer
    if needed > registry.graph_def_version:
        yield (
            "the graph",
            f"its readers must know version {needed} of graphs; TensorFlow Serving "
            f"{registry.release} knows those up to {registry.graph_def_version}, and does not "
            "load it",
            "serve with a newer release, or write the model with an older TensorFlow",
            True,
        )
    writer = meta_graph.meta_info_def.tensorflow_version
    if _number(writer) > _number(newest_release()):
        yield (
            "the graph",
            f"TensorFlow {writer} wrote it, and what is known of ops ends with "
            f"{newest_release()}: attributes that are new since then were not checked",
            "add the release to export/op_history.json, see export/closure/op_history.py",
            False,
        )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def main(arguments: list[str] | None = None) -> int:
    """Prints the findings and a summary; returns the exit code."""
    # Not absl's flags: those of a process are all one set, and `export.verify` has --model_dir.
    parser = argparse.ArgumentParser(
        "python -m export.closure.closure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model_dir", required=True, help="Folder of the model, or of one version")
    parser.add_argument(
        "--serving_version",
        default=DEFAULT_SERVING_VERSION,
        help=f"Release of TensorFlow Serving, one of {', '.join(SERVING_VERSIONS)}",
    )
    values = parser.parse_args(arguments)
    from export.verify import newest_version  # here, so that --help and a mistyped flag are quick

    try:
        registry = registry_of(values.serving_version)
        folder = newest_version(Path(values.model_dir))
        findings = check(folder, values.serving_version)
    except (OSError, ValueError) as error:
        print(f"export.closure.closure: cannot check: {error}")
        return 2
    for finding in findings:
        print(finding)
    blocking = sum(finding.blocks for finding in findings)
    print(
        f"{folder}: {'not all of it runs' if blocking else 'runs'} on TensorFlow Serving "
        f"{values.serving_version} (TensorFlow {registry.release}, TF-Text "
        f"{registry.tensorflow_text}). Findings: {blocking}, warnings: {len(findings) - blocking}"
    )
    return 1 if blocking else 0


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
