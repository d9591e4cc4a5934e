"""The ops that each TensorFlow Serving release links, from `op_history.json`.

`tools/op_history.py` writes the file: all ops of the first release, and for each later one what
changed.
"""

from __future__ import annotations

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


@dataclasses.dataclass(frozen=True)
class Registry:
    """What one release links."""

    release: str  # its first two numbers
    tensorflow: str  # the versions whose ops it has
    tensorflow_text: str
    graph_def_version: int  # the newest form of graphs that it reads
    ops: frozenset[str]
    without_cpu_kernel: frozenset[str]
    # op -> attribute (-> value) -> the release that brought it, or took it away.
    unknown_attributes: dict[str, dict[str, str]]
    unknown_values: dict[str, dict[str, dict[str, str]]]
    releases_with: dict[str, list[str]]  # for all ops of any release


def registry_of(serving_version: str) -> Registry:
    """The registry of a release, "2.19.1" or "2.19"; ValueError for one that is not known."""
    releases = {version: version.rpartition(".")[0] for version in SERVING_VERSIONS}
    if serving_version in releases:
        return _registry(releases[serving_version])
    if serving_version in releases.values():
        return _registry(serving_version)
    raise ValueError(
        f"serving_version must be one of {', '.join(SERVING_VERSIONS)}, or the first two "
        f"numbers of one. Received: {serving_version!r}"
    )


def newest_release() -> str:
    """The newest release whose ops are known."""
    return [*_history()][-1]


@functools.cache
def _history() -> dict[str, dict]:
    return json.loads(HISTORY_FILE.read_text(encoding="utf-8"))


@functools.cache
def _registry(release: str) -> Registry:
    history = _history()
    ops, without_cpu, with_ops = set(), set(), {}
    attributes, values, releases_with = {}, {}, {}
    later = False
    for number, record in history.items():
        with_ops = ({*with_ops} | {*record["added"]}) - {*record["removed"]}
        for name in with_ops:
            releases_with.setdefault(name, []).append(number)
        # What came later is unknown to the release, and so is what was gone before.
        change = "added" if later else "removed"
        for name, changed in record[f"attributes_{change}"].items():
            for attr in changed:
                attributes.setdefault(name, {}).setdefault(attr, number)
        for name, changed in record[f"values_{change}"].items():
            for attr, new in changed.items():
                known = values.setdefault(name, {}).setdefault(attr, {})
                known.update((value, number) for value in new if value not in known)
        if not later:
            ops = {*with_ops}
            without_cpu = (without_cpu | {*record["without_cpu_kernel"]}) & ops
            without_cpu -= {*record["with_cpu_kernel"]}
        later = later or number == release
    record = history[release]
    return Registry(
        release,
        record["tensorflow"],
        record["tensorflow_text"],
        record["graph_def_version"],
        frozenset(ops),
        frozenset(without_cpu),
        attributes,
        values,
        releases_with,
    )
