"""The ops that each TensorFlow Serving release links; `tools/op_history.py` writes the file."""

import dataclasses
import functools
import json
from pathlib import Path

HISTORY_FILE = Path(__file__).with_name("op_history.json")
# The releases, by the versions of tensorflow-serving-api on PyPI.
SERVING_VERSIONS = (
    *("2.16.1", "2.17.0", "2.17.1", "2.18.0", "2.18.1", "2.19.0", "2.19.1", "2.20.0", "2.21.0"),
)
# The last release with the old TF-Text: what it links, its successors link as well.
DEFAULT_SERVING_VERSION = "2.19.1"


@dataclasses.dataclass
class Registry:
    """What one release links."""

    release: str  # its first two numbers
    tensorflow: str  # the versions whose ops it has
    tensorflow_text: str
    graph_def_version: int  # the newest form of graphs that it reads
    ops: set[str] = dataclasses.field(default_factory=set)
    without_cpu_kernel: set[str] = dataclasses.field(default_factory=set)
    # (op, attribute) or (op, attribute, value) -> the release that brought it, or took it away.
    unknown_attributes: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    unknown_values: dict[tuple[str, str, str], str] = dataclasses.field(default_factory=dict)
    releases_with: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # for all ops


@functools.cache
def registry_of(serving_version: str) -> Registry:
    """The registry of a release, "2.19.1" or "2.19"; ValueError for one that is not known."""
    releases = {version: version.rpartition(".")[0] for version in SERVING_VERSIONS}
    release = releases.get(serving_version, serving_version)
    if release not in releases.values():
        raise ValueError(
            f"serving_version must be one of {', '.join(SERVING_VERSIONS)}, or the first two "
            f"numbers of one. Received: {serving_version!r}"
        )
    known = ("tensorflow", "tensorflow_text", "graph_def_version")
    found = Registry(release, *(_history()[release][name] for name in known))
    ops: set[str] = set()
    later = False
    for number, record in _history().items():
        ops = (ops | {*record["added"]}) - {*record["removed"]}
        for name in ops:
            found.releases_with.setdefault(name, []).append(number)
        # What came later is unknown to the release, and so is what was gone before.
        change = "added" if later else "removed"
        for name, attributes in record[f"attributes_{change}"].items():
            for attribute in attributes:
                found.unknown_attributes.setdefault((name, attribute), number)
        for name, changed in record[f"values_{change}"].items():
            for attribute, values in changed.items():
                for value in values:
                    found.unknown_values.setdefault((name, attribute, value), number)
        if not later:
            found.ops = ops
            found.without_cpu_kernel |= {*record["without_cpu_kernel"]}
            found.without_cpu_kernel &= ops
            found.without_cpu_kernel -= {*record["with_cpu_kernel"]}
        later = later or number == release
    return found


def newest_release() -> str:
    """The newest release whose ops are known."""
    return [*_history()][-1]


@functools.cache
def _history() -> dict[str, dict]:
    return json.loads(HISTORY_FILE.read_text(encoding="utf-8"))
