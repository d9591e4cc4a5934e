"""What a model exported with `--precision` costs and gives, beside its float32 form."""

import dataclasses
import datetime
import json
import os
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from export.golden.compare import Deviation, deviations, loosened
from export.golden.examples import Examples, Send, evaluate
from export.golden.pairs import GoldenPair
from export.golden.replay import Session
from export.golden.requests import make_golden_pairs
from export.model_folder import PRECISION_REPORT_FILE, size_of
from export.precision.language import language_deviations
from export.precision.reduce import may_depend_on_batch
from zoo.bundle import Bundle
from zoo.output import table

_RUNS = 9
_SECONDS = 4.0  # for each request, after which there is no other run
_TEMPLATE = Path(__file__).with_name("report_template.md")


def compare_answers(
    bundle: Bundle, reduced: Bundle, precision: str, accept_deviation: bool
) -> tuple[list[GoldenPair], list[Deviation]]:
    """The reduced bundle's golden pairs, and how far off they are; ValueError where too far."""
    before, pairs = make_golden_pairs(bundle), make_golden_pairs(reduced)
    found = deviations(before, pairs)
    if bundle.config.task == "lm":
        found = [dataclasses.replace(one, tolerance=None) for one in found]
        found = [*language_deviations(bundle, reduced), *found]
    beyond = [
        f"\n  {one.output}: {one.value:.3g} {one.measure}, tolerance {one.tolerance:g}"
        for one in found
        if not one.passed
    ]
    if beyond and not accept_deviation:
        raise ValueError(
            f"with --precision={precision} the golden answers move past the tolerance:"
            + "".join(beyond)
            + "\nUse another --precision, or --accept_deviation to write it all the same."
        )
    return loosened(before, pairs) if may_depend_on_batch(bundle, precision) else pairs, found


def write_report(
    precision: str,
    sessions: Sequence[Session],
    float32_bytes: int,
    pairs: Sequence[GoldenPair],
    found: Sequence[Deviation],
    examples: Examples | None,
) -> None:
    """Writes `precision_report.md` and `.json` of the last session's SavedModel.

    A session before it is of its float32 form, to compare with: it must be there for `examples`.
    Without it nothing is timed, which takes as long as all else.
    """
    folder, sends = sessions[-1].version_folder, [one.send for one in sessions]
    missing = [None] * (2 - len(sessions))
    record = {  # in each list of two the first number is that of float32
        "precision": precision,
        "variable_bytes": [float32_bytes, size_of(folder / "variables")],
        "total_bytes": [*missing, *(size_of(one.version_folder) for one in sessions)],
        "load_seconds": [*missing, *(one.load_seconds for one in sessions)],
        "milliseconds": {} if missing else _milliseconds(pairs, sends),
        "metrics": evaluate(examples, sends[-1], sends[0]) if examples else {},
        "examples": len(examples) if examples else 0,
        "deviations": [dataclasses.asdict(one) for one in found],
        "machine": _machine(),
        "accepted": all(one.passed for one in found),
    }
    path = folder / PRECISION_REPORT_FILE
    path.write_text(_markdown(record), encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _markdown(record: dict) -> str:
    name = record["precision"]
    costs = {  # of float32 first
        "weights, MB": [size / 1e6 for size in record["variable_bytes"]],
        "SavedModel, MB": [size and size / 1e6 for size in record["total_bytes"]],
        "loading, s": record["load_seconds"],
        **{f"{request}, ms": times for request, times in record["milliseconds"].items()},
    }
    costs = [
        [cost, f"{old:.2f}" if old else "", f"{new:.2f}", f"{old / new:.2f}" if old and new else ""]
        for cost, (old, new) in costs.items()
    ]
    metrics = "No `--eval_data` was given: neither the task's metric nor times were measured."
    if record["metrics"]:
        changes = [
            [metric, f"{old:.5g}", f"{new:.5g}", f"{new - old:+.3g}"]
            for metric, (old, new) in record["metrics"].items()
        ]
        header = [f"on {record['examples']} examples", "float32", name, "change"]
        metrics = table(header, changes, numbers=[1, 2, 3])
    found = [
        [
            f"`{one['output']}`",
            one["measure"],
            f"{one['value']:.2g}",
            "reported only" if one["tolerance"] is None else f"{one['tolerance']:g}",
        ]
        for one in record["deviations"]
    ]
    beyond = "**Beyond the tolerance; written because of `--accept_deviation`.**"
    return _TEMPLATE.read_text(encoding="utf-8").format(
        precision=name,
        costs=table(["", "float32", name, "float32 / " + name], costs, numbers=[1, 2, 3]),
        machine=record["machine"],
        metrics=metrics,
        deviations=table(["output", "measure", "largest", "tolerance"], found, numbers=[2, 3]),
        verdict="Within the tolerance." if record["accepted"] else beyond,
    )


def _milliseconds(pairs: Sequence[GoldenPair], sends: Sequence[Send]) -> dict[str, list[float]]:
    """Medians for the first request of each signature of texts and batch size."""
    medians = {}
    for pair in pairs:
        request = f"`{pair.signature}`, {pair.rows} row{'s' * (pair.rows > 1)}"
        if request in medians or "inputs" in pair.inputs:  # tf.Examples run the same graph
            continue
        samples = [[] for _ in sends]
        for send in sends:
            send(pair.signature, pair.inputs)  # the first run prepares the graph
        until = time.perf_counter() + _SECONDS
        while len(samples[0]) < _RUNS and (not samples[0] or time.perf_counter() < until):
            for send, own in zip(sends, samples):
                started = time.perf_counter()
                send(pair.signature, pair.inputs)
                own.append(1e3 * (time.perf_counter() - started))
        medians[request] = [*map(statistics.median, samples)]
    return medians


def _machine() -> str:
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"^model name\s*: (.*)", cpu, re.MULTILINE)
    native = [flag for flag in ("avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", cpu)]
    return (
        f"{datetime.date.today()}, {os.cpu_count()} x {name[1] if name else 'CPU'}, load "
        f"{os.getloadavg()[0]:.1f}; bfloat16 instructions: {', '.join(native) or 'none'}."
    )
