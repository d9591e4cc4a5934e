"""Writes `export/closure/op_history.json`: the ops that TensorFlow Serving releases link.

A release of TensorFlow Serving links the ops of the TensorFlow of the same number, those of one
TF-Text, and those that run TensorFlow Decision Forests. The wheels of the first two tell what is
in them. Install them, one environment for each, and name them oldest first:

    uv venv /tmp/tf216 && uv pip install --no-deps --python /tmp/tf216/bin/python \
        tensorflow-cpu==2.16.2 tensorflow-text==2.16.1      # likewise tf212, tf217 ... tf221
    site=lib/python3.11/site-packages
    python -m tools.op_history \
        2.16=/tmp/tf216/$site,/tmp/tf212/$site 2.17=/tmp/tf217/$site,/tmp/tf212/$site \
        2.18=/tmp/tf218/$site,/tmp/tf212/$site 2.19=/tmp/tf219/$site,/tmp/tf212/$site \
        2.20=/tmp/tf220/$site,/tmp/tf220/$site 2.21=/tmp/tf221/$site,/tmp/tf220/$site

Before the comma lies TensorFlow, behind it TF-Text beside the TensorFlow that it was built for: the
version that `tensorflow_serving/workspace.bzl` of the release names (2.12.1 up to 2.19, 2.20.0 from
2.20 on). The file holds all ops of the first release, and for each later one what changed, so that
a new release adds a few lines to read.

The model server links no more than the wheel does, but may link less: ops of TPUs or of Python may
be listed that it lacks.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tensorflow.core.framework import attr_value_pb2, kernel_def_pb2, op_def_pb2, types_pb2

from export.closure.history import HISTORY_FILE
from zoo.files import replacing

# From tensorflow_decision_forests/tensorflow/ops/inference/op.cc.
DECISION_FORESTS = (
    "SimpleMLCreateModelResource",
    "SimpleMLInferenceLeafIndexOpWithHandle",
    "SimpleMLInferenceOp",
    "SimpleMLInferenceOpWithHandle",
    "SimpleMLLoadModelFromPath",
    "SimpleMLLoadModelFromPathWithHandle",
)
_CPU = ("CPU", "DEFAULT")  # kernels registered for DEFAULT run on every device
_Values = frozenset[str] | None  # what an attribute may be; None for anything of its type


@dataclasses.dataclass(frozen=True)
class Release:
    """What one release links.

    Attributes:
        versions: "tensorflow" and "tensorflow_text" -> version, "graph_def_version" -> number.
        attributes: op -> attribute -> the values that the op and a CPU kernel of it take.
        without_cpu_kernel: ops that no CPU can run.
    """

    versions: dict[str, str | int]
    attributes: dict[str, dict[str, _Values]]
    without_cpu_kernel: set[str]


def read_release(site: Path, text_site: Path) -> Release:
    """Reads one release from two site-packages: of TensorFlow, and of TF-Text with the TensorFlow
    that it was built for.
    """
    ops, kernels = _dumped(site, text=False)
    before, _ = _dumped(text_site, text=False)
    after, text_kernels = _dumped(text_site, text=True)
    text_ops = {name: op for name, op in after.items() if name not in before}
    allowed = _kernel_values({**text_kernels, **kernels})
    attributes = {
        name: {attr.name: _values(attr, allowed.get(name, {})) for attr in op.attr}
        for name, op in {**ops, **text_ops}.items()
    }
    attributes.update((name, {}) for name in DECISION_FORESTS)
    header = site / "tensorflow" / "include" / "tensorflow" / "core" / "public" / "version.h"
    number = re.search(r"define TF_GRAPH_DEF_VERSION (\d+)", header.read_text(encoding="utf-8"))
    return Release(
        {
            "tensorflow": _version(site, "tensorflow"),
            "tensorflow_text": _version(text_site, "tensorflow_text"),
            "graph_def_version": int(number[1]),
        },
        attributes,
        {name for name in attributes if name not in allowed} - {*DECISION_FORESTS},
    )


def changes(before: Release | None, after: Release) -> dict:
    """What `op_history.json` says of a release, given the one before it."""
    old = before or Release({}, {}, set())
    both = [name for name in after.attributes if name in old.attributes]
    record = {
        **after.versions,
        "added": sorted({*after.attributes} - {*old.attributes}),
        "removed": sorted({*old.attributes} - {*after.attributes}),
        "without_cpu_kernel": sorted(after.without_cpu_kernel - old.without_cpu_kernel),
        # Of ops that are still there.
        "with_cpu_kernel": sorted(
            (old.without_cpu_kernel - after.without_cpu_kernel) & {*after.attributes}
        ),
    }
    for key, one, other in (("added", old, after), ("removed", after, old)):
        attributes, values = {}, defaultdict(dict)
        for name in sorted(both):
            mine, theirs = one.attributes[name], other.attributes[name]
            if {*theirs} - {*mine}:
                attributes[name] = sorted({*theirs} - {*mine})
            for attr in sorted({*theirs} & {*mine}):
                if (theirs[attr] is None) != (mine[attr] is None):
                    raise ValueError(f"{name}.{attr} became, or is no longer, free: not foreseen")
                if theirs[attr] and theirs[attr] - mine[attr]:
                    values[name][attr] = sorted(theirs[attr] - mine[attr])
        record[f"attributes_{key}"] = attributes
        record[f"values_{key}"] = dict(values)
    return record


def _values(attr: op_def_pb2.OpDef.AttrDef, of_kernels: dict[str, set[str]]) -> _Values:
    allowed = frozenset(_listed(attr.allowed_values)) if attr.HasField("allowed_values") else None
    if attr.name not in of_kernels:
        return allowed
    return frozenset(of_kernels[attr.name]) & (allowed or of_kernels[attr.name])


def _kernel_values(kernels: dict[str, list]) -> dict[str, dict[str, set[str]]]:
    """op -> attribute -> types that any CPU kernel takes, of attributes that all of them name."""
    found = {}
    for name, definitions in kernels.items():
        constraints = [
            {
                constraint.name: {*_listed(constraint.allowed_values)}
                for constraint in one.constraint
                if constraint.allowed_values.list.type
            }
            for one in definitions
            if one.device_type in _CPU
        ]
        if constraints:
            common = set.intersection(*({*one} for one in constraints))
            found[name] = {key: set().union(*(one[key] for one in constraints)) for key in common}
    return found


def _listed(value: attr_value_pb2.AttrValue) -> list[str]:
    return [
        *(types_pb2.DataType.Name(number) for number in value.list.type),
        *(text.decode() for text in value.list.s),
    ]


def _dumped(site: Path, text: bool) -> tuple[dict[str, op_def_pb2.OpDef], dict[str, list]]:
    """Ops by name, and kernels by op."""
    script = Path(__file__).with_name("op_dump.py")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(script), str(site), folder, *(["text"] if text else [])]
        ran = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        if ran.returncode != 0:
            raise ValueError(f"{site}: cannot be read: {ran.stderr.strip().splitlines()[-1]}")
        ops = op_def_pb2.OpList.FromString((Path(folder) / "ops.pb").read_bytes())
        listed = kernel_def_pb2.KernelList.FromString((Path(folder) / "kernels.pb").read_bytes())
    kernels = defaultdict(list)
    for kernel in listed.kernel:
        kernels[kernel.op].append(kernel)
    return {op.name: op for op in ops.op}, kernels


def _version(site: Path, package: str) -> str:
    found = sorted(site.glob(f"{package}*.dist-info/METADATA"))
    versions = {
        re.search(r"^Version: (.+)$", path.read_text(encoding="utf-8"), re.M)[1]
        for path in found
        if re.match(rf"{package}(_cpu)?-\d", path.parent.name)
    }
    if len(versions) != 1:
        raise ValueError(f"{site}: {len(versions)} versions of {package} are in it, not one")
    return versions.pop()


def main(arguments: list[str]) -> None:
    """Reads the releases `NUMBER=SITE,TEXT_SITE` and writes the history."""
    history, before = {}, None
    for argument in arguments:
        number, _, sites = argument.partition("=")
        site, _, text_site = sites.partition(",")
        if not (re.fullmatch(r"\d+\.\d+", number) and site and text_site):
            sys.exit(f"op_history: not NUMBER=SITE,TEXT_SITE: {argument}\n\n{__doc__}")
        release = read_release(Path(site), Path(text_site))
        history[number], before = changes(before, release), release
        print(f"{number}: {len(release.attributes)} ops")
    if not history:
        sys.exit(__doc__)
    with replacing(HISTORY_FILE) as path:
        path.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
