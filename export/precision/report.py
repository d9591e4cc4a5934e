"""What a model exported with `--precision` costs and gives, beside its float32 form."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.closure.history import DEFAULT_SERVING_VERSION
from export.golden.compare import (
    Deviation,
    Examples,
    Send,
    deviations,
    evaluate,
    loosened,
    read_examples,
)
from export.golden.pairs import GoldenPair
from export.golden.replay import ask_servable
from export.golden.requests import make_golden_pairs
from export.model_folder import PRECISION_REPORT_FILE
from export.precision.reduce import may_depend_on_batch, reduce_bundle
from export.server.run.servable import Servable
from zoo.bundle import Bundle
from zoo.output import table

_RUNS = 9
_SECONDS = 10.0  # for each request, after which three runs must do

_PAGE = """\
# {precision} beside float32

{costs}

Medians of requests through a session, taking turns. {machine}

## The task's metric

{metrics}

## Answers to the golden requests

{deviations}

{verdict}
"""


@dataclasses.dataclass(frozen=True)
class PrecisionReport:
    """The figures; two-element tuples hold those of float32 first."""

    precision: str
    variable_bytes: tuple[int, int]  # files of the weights
    total_bytes: tuple[int, int]  # of the whole SavedModel
    load_seconds: tuple[float, float]  # to load the SavedModel into a session
    milliseconds: Mapping[str, tuple[float, float]]  # golden request -> medians
    metrics: Mapping[str, tuple[float, float]]  # of the user's examples; empty without
    examples: int
    deviations: Sequence[Deviation]  # of the golden answers
    machine: str

    @property
    def accepted(self) -> bool:
        """Whether all golden answers are within the tolerance."""
        return all(deviation.passed for deviation in self.deviations)

    def markdown(self) -> str:
        """The report as a page."""
        name = self.precision
        costs = {
            "weights, MB": [size / 1e6 for size in self.variable_bytes],
            "SavedModel, MB": [size / 1e6 for size in self.total_bytes],
            "loading, s": self.load_seconds,
            **{f"{request}, ms": times for request, times in self.milliseconds.items()},
        }
        rows = [
            [cost, f"{old:.2f}", f"{new:.2f}", f"{old / new:.2f}" if new else ""]
            for cost, (old, new) in costs.items()
        ]
        metrics = "No `--eval_data` was given: the task's metric was not measured."
        if self.metrics:
            changes = [
                [metric, f"{old:.5g}", f"{new:.5g}", f"{new - old:+.3g}"]
                for metric, (old, new) in self.metrics.items()
            ]
            header = [f"on {self.examples} examples", "float32", name, "change"]
            metrics = table(header, changes, numbers=[1, 2, 3])
        found = [
            [
                f"`{one.output}`",
                one.measure,
                f"{one.value:.2g}",
                "reported only" if one.tolerance is None else f"{one.tolerance:g}",
            ]
            for one in self.deviations
        ]
        verdict = "**Beyond the tolerance; written because of `--accept_deviation`.**"
        return _PAGE.format(
            precision=name,
            costs=table(["", "float32", name, "float32 / " + name], rows, numbers=[1, 2, 3]),
            machine=self.machine,
            metrics=metrics,
            deviations=table(["output", "measure", "largest", "tolerance"], found, numbers=[2, 3]),
            verdict="Within the tolerance." if self.accepted else verdict,
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is to be served, and how its answers compare."""

    precision: str
    bundle: Bundle  # the one to serve
    float32: Bundle  # the one it was made from
    pairs: list[GoldenPair]  # of the one to serve
    deviations: list[Deviation]  # from the float32 model's answers; none for float32 itself
    examples: Examples | None  # the user's


def prepare(
    bundle: Bundle,
    precision: str = "float32",
    eval_data: str | os.PathLike[str] | None = None,
    accept_deviation: bool = False,
    serving_version: str = DEFAULT_SERVING_VERSION,
) -> Prepared:
    """Reduces a bundle and sends both models the golden requests; writes nothing.

    Raises ValueError where precision or examples are no good, or the answers move past the
    tolerance and that is not accepted.
    """
    reduced = reduce_bundle(bundle, precision, serving_version)
    if precision == "float32":
        if eval_data is not None:
            raise ValueError("--eval_data compares with float32: give --precision, too")
        return Prepared(precision, bundle, bundle, make_golden_pairs(bundle), [], None)
    examples = None if eval_data is None else read_examples(eval_data, bundle)
    before, pairs = make_golden_pairs(bundle), make_golden_pairs(reduced)
    found = deviations(before, pairs)
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
    if may_depend_on_batch(bundle, precision):
        pairs = loosened(before, pairs)
    return Prepared(precision, reduced, bundle, pairs, found, examples)


def measure(prepared: Prepared, float32: Path, reduced: Path) -> PrecisionReport:
    """Compares the two SavedModels: size, speed, and the task's metric."""
    examples = prepared.examples
    load_seconds, servables = [], []
    try:
        for folder in (float32, reduced):
            started = time.perf_counter()
            servables.append(Servable("precision", 0, str(folder)))
            load_seconds.append(time.perf_counter() - started)
        sends = [functools.partial(ask_servable, servable) for servable in servables]
        return PrecisionReport(
            precision=prepared.precision,
            variable_bytes=(_size(float32 / "variables"), _size(reduced / "variables")),
            total_bytes=(_size(float32), _size(reduced)),
            load_seconds=tuple(load_seconds),
            milliseconds=_milliseconds(prepared.pairs, sends),
            metrics=evaluate(examples, sends[1], sends[0]) if examples else {},
            examples=len(next(iter(examples.inputs.values()))) if examples else 0,
            deviations=prepared.deviations,
            machine=_machine(),
        )
    finally:
        for servable in servables:
            servable.close()


def write_report(report: PrecisionReport, folder: Path) -> None:
    """Writes `assets.extra/precision_report.md` and `.json` into a SavedModel's folder."""
    path = folder / PRECISION_REPORT_FILE
    path.write_text(report.markdown(), encoding="utf-8")
    record = {**dataclasses.asdict(report), "accepted": report.accepted}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _milliseconds(
    pairs: Sequence[GoldenPair], sends: Sequence[Send]
) -> dict[str, tuple[float, float]]:
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
        while len(samples[0]) < _RUNS and (len(samples[0]) < 3 or time.perf_counter() < until):
            for send, own in zip(sends, samples):
                started = time.perf_counter()
                send(pair.signature, pair.inputs)
                own.append(1e3 * (time.perf_counter() - started))
        medians[request] = tuple(map(statistics.median, samples))
    return medians


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in found.items()}
    flags = fields.get("flags", "").split()
    native = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    return (
        f"{datetime.date.today()}, {os.cpu_count()} x {fields.get('model name', 'CPU')}, load "
        f"{os.getloadavg()[0]:.1f}; bfloat16 instructions: {', '.join(native) or 'none'}."
    )
