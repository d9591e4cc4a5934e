"""Ours against the peers: one Markdown table for each benchmark, and the same as JSON.

A benchmark makes a `Table`, adds a line for each thing it measured, and closes it:

    table = Table("bert_forward", 8, "BERT-base forward, 1 x 128", peers=("torch", "onnxruntime"))
    timings = interleaved({"ours": run_ours, "torch": run_torch, "onnxruntime": run_onnx})
    table.add(
        "float32",
        ours=1000 * timings["ours"].cpu,
        peers={name: 1000 * timings[name].cpu for name in ("torch", "onnxruntime")},
        unit="CPU-ms",
        goal=">= 1x",
        timings=timings,
    )
    table.close("outputs equal to 1e-4; one pinned thread")

`add` prints the line at once, `close` prints what stands under the table and writes
`benchmarks/results/NAME.json` (BENCH_OUT names another folder). `python -m benchmarks table` makes
one table of all JSON files: of every line that has a goal.

A ratio tells how many times as good as a peer we are, so above 1 is ahead, whether the numbers are
times (`better="less"`, the default) or rates (`better="more"`).

A goal is one of
    ">= 1.3x"           at least 1.3 times as good as the best peer of the line
    ">= 1.3x torch"     ... as the peer of that name
    "<= 5" or ">= 25"   ours, in the line's unit
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Timing, circumstances, commit, load, machine, versions
from zoo.files import replacing

RESULTS = Path(__file__).parent / "results"
_GOAL = re.compile(r"(?P<sign><=|>=) (?P<limit>\d+(?:\.\d+)?)(?P<ratio>x(?: (?P<peer>.+))?)?")
_FORMAT = 1


class Table:
    """The lines of one benchmark.

    Args:
        name: str. The benchmark's module; the JSON file is called so.
        row: int. Of the table of goals (1 to 10); 0 for a benchmark that has none there.
        work: str. What is measured, in a few words.
        peers: names of all peers, in the order of the columns.
        extra: names of further columns.
        packages: distributions whose versions are recorded beside TensorFlow, Keras and NumPy.
    """

    def __init__(
        self,
        name: str,
        row: int,
        work: str,
        peers: Sequence[str] = (),
        extra: Sequence[str] = (),
        packages: Sequence[str] = (),
    ):
        self._columns = (*peers, *extra)
        self._peers, self._extra = tuple(peers), tuple(extra)
        self._packages = tuple(packages)
        self._lines: list[dict] = []
        self._record = {
            "format": _FORMAT,
            "benchmark": name,
            "row": row,
            "work": work,
            "date": datetime.datetime.now().isoformat(timespec="seconds"),
            "machine": machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load": [load()],
            "commit": commit(),
            "versions": versions(packages),
            "lines": self._lines,
        }

    def add(
        self,
        case: str,
        ours: float,
        peers: Mapping[str, float] | None = None,
        *,
        unit: str,
        better: str = "less",
        goal: str | None = None,
        extra: Mapping[str, object] | None = None,
        timings: Mapping[str, Timing] | None = None,
    ) -> None:
        """Prints and records one line.

        Args:
            case: what was run, as "float32" or the name of a text.
            ours: our number.
            peers: name -> its number; a peer without one has "-" in the table.
            unit: of the numbers.
            better: "less" (times) or "more" (rates).
            goal: see the top of this file; `None` for a line that is told only.
            extra: column -> anything to print there; recorded too.
            timings: name -> Timing, as `interleaved` returns them, for the JSON.

        Raises:
            ValueError: a peer or column that the table was not made with, a goal that cannot be
                read or is about a peer without a number, a number that is not above 0.
        """
        peers, extra = dict(peers or {}), dict(extra or {})
        for name in (*peers, *extra):
            if name not in self._columns:
                raise ValueError(f"no column {name!r}; the table has {', '.join(self._columns)}")
        if better not in ("less", "more"):
            raise ValueError(f"better must be 'less' or 'more'. Received: {better!r}")
        for name, value in {"ours": ours, **peers}.items():
            if not value > 0:
                raise ValueError(f"{case}: {name} must be above 0. Received: {value}")
        ratios = {n: v / ours if better == "less" else ours / v for n, v in peers.items()}
        best = min(ratios, key=ratios.get, default=None)
        line = {
            "case": case,
            "unit": unit,
            "better": better,
            "ours": float(ours),
            "peers": {name: float(value) for name, value in peers.items()},
            "ratios": ratios,
            "best_peer": best,
            "goal": goal,
            "met": None if goal is None else is_met(goal, ours, ratios),
            "extra": {name: str(value) for name, value in extra.items()},
            "timings": {n: dataclasses.asdict(timing) for n, timing in (timings or {}).items()},
        }
        if not self._lines:
            print(_head("case", "unit", "ours", *self._columns, "ratio", "goal"), flush=True)
        self._lines.append(line)
        cells = [_number(peers[name]) if name in peers else "-" for name in self._peers]
        cells += [line["extra"].get(name, "") for name in self._extra]
        print(_row(case, unit, _number(ours), *cells, _ratio(line), _verdict(line)), flush=True)

    def close(self, note: str = "") -> Path:
        """Prints what stands under the table, and writes the JSON file.

        Args:
            note: what else one must know: settings, what was checked before timing.

        Returns:
            Path of the JSON file.
        """
        self._record["load"].append(load())
        self._record["note"] = note
        path = results_folder() / f"{self._record['benchmark']}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self._record, indent=1) + "\n", encoding="utf-8")
        peers = "".join(f", {name} {self._record['versions'][name]}" for name in self._packages)
        print(f"\n{note + '. ' if note else ''}{circumstances()}{peers}.")
        print(f"Ratio: times as good as the best peer. Written: {path}", flush=True)
        return path


def results_folder() -> Path:
    """BENCH_OUT, or `benchmarks/results`."""
    return Path(os.environ.get("BENCH_OUT") or RESULTS)


def is_met(goal: str, ours: float, ratios: Mapping[str, float]) -> bool:
    """Whether a line reaches its goal.

    Raises:
        ValueError: the goal cannot be read, or is about a peer that has no number.

    Example: `is_met(">= 1.3x torch", 20.0, {"torch": 1.4})  # True`
    """
    match = _GOAL.fullmatch(goal)
    if match is None:
        raise ValueError(f"a goal is like '>= 1.3x', '>= 1x torch', '<= 5'. Received: {goal!r}")
    value = ours
    if match["ratio"]:
        if match["peer"] and match["peer"] not in ratios:
            raise ValueError(f"goal {goal!r}: no number of {match['peer']!r} to compare with")
        if not ratios:
            raise ValueError(f"goal {goal!r}: no peer to compare with")
        value = ratios[match["peer"]] if match["peer"] else min(ratios.values())
    limit = float(match["limit"])
    return value <= limit if match["sign"] == "<=" else value >= limit


def gather(folder: str | os.PathLike[str] | None = None) -> str:
    """One Markdown table of all results: the lines that have a goal, and where they were measured.

    Args:
        folder: with the JSON files. Defaults to `results_folder()`.

    Raises:
        ValueError: there are none, or a file is not what `Table.close` writes.

    Example: `print(gather())`
    """
    folder = results_folder() if folder is None else Path(folder)
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise ValueError(f"no results in {folder}: run `make bench` or `python -m benchmarks NAME`")
    records.sort(key=lambda record: (record["row"], record["benchmark"]))
    text = [_head("row", "work", "unit", "ours", "best peer", "ratio", "goal", "measured")]
    places = {}
    for record in records:
        day, place = record["date"][:10], record["machine"]
        mark = places.setdefault(place, chr(ord("a") + len(places)))
        for line in record["lines"]:
            if line["goal"] is None:
                continue
            best = line["best_peer"]
            text.append(
                _row(
                    record["row"] or "",
                    f"{record['work']}: {line['case']}",
                    line["unit"],
                    _number(line["ours"]),
                    f"{best} {_number(line['peers'][best])}" if best else "-",
                    _ratio(line, named=False),
                    _verdict(line),
                    f"{day} {mark}",
                )
            )
    text.append("")
    text += [f"{mark}: {place}" for place, mark in places.items()]
    return "\n".join(text)


def main() -> None:
    """Prints `gather()`."""
    print(gather())


def _read(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']}, not {_FORMAT}")
        for name in ("row", "benchmark", "work", "date", "machine", "lines"):
            record[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no result of a benchmark ({error}): remove it and run the benchmark again"
        ) from error
    return record


def _number(value: float) -> str:
    # Four digits: losses of 1.4872 and 1.4697 are far apart.
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _ratio(line: dict, named: bool = True) -> str:
    best = line["best_peer"]
    if best is None:
        return "-"
    name = f" ({best})" if named and len(line["ratios"]) > 1 else ""
    return f"{line['ratios'][best]:.2f}x{name}"


def _verdict(line: dict) -> str:
    if line["goal"] is None:
        return ""
    return f"{line['goal']}: {'met' if line['met'] else 'NOT met'}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _head(*cells: str) -> str:
    return f"{_row(*cells)}\n{'|---' * len(cells)}|"
