"""What a model exported with `--precision` costs and gives, beside its float32 form."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from export.closure.history import DEFAULT_SERVING_VERSION
from export.golden.compare import (
    Deviation,
    Examples,
    deviations,
    evaluate,
    loosened,
    read_examples,
)
from export.golden.pairs import GoldenPair
from export.golden.replay import ask_servable
from export.golden.requests import make_golden_pairs
from export.model_folder import PRECISION_REPORT_FILE
from export.precision.precision import may_depend_on_batch, reduce_bundle
from export.server.run.servable import Servable
from zoo.bundle import Bundle
from zoo.markdown import table

_RUNS = 9
_SECONDS = 10.0  # for each request, after which three runs must do


@dataclasses.dataclass(frozen=True)
class PrecisionReport:
    """The figures; two-element tuples hold those of float32 first.

    Attributes:
        precision: str.
        variable_bytes, total_bytes: files of the weights; of the whole SavedModel.
        load_seconds: to load the SavedModel into a session.
        milliseconds: golden request -> medians of runs that took turns.
        metrics: metric of the task -> values, by the user's examples; empty without.
        examples: int, how many those were.
        deviations: of the golden answers.
        machine: str.
    """

    precision: str
    variable_bytes: tuple[int, int]
    total_bytes: tuple[int, int]
    load_seconds: tuple[float, float]
    milliseconds: Mapping[str, tuple[float, float]]
    metrics: Mapping[str, tuple[float, float]]
    examples: int
    deviations: Sequence[Deviation]
    machine: str

    @property
    def accepted(self) -> bool:
        """Whether all golden answers are within the tolerance."""
        return all(deviation.passed for deviation in self.deviations)

    def markdown(self) -> str:
        """The report as a page."""
        name = self.precision
        rows = [
            _row("weights, MB", [size / 1e6 for size in self.variable_bytes], "{:.2f}"),
            _row("SavedModel, MB", [size / 1e6 for size in self.total_bytes], "{:.2f}"),
            _row("loading, s", self.load_seconds, "{:.2f}"),
            *(_row(f"{request}, ms", ms, "{:.2f}") for request, ms in self.milliseconds.items()),
        ]
        measured = "No `--eval_data` was given: the task's metric was not measured."
        if self.metrics:
            header = [f"on {self.examples} examples", "float32", name, "change"]
            changes = [
                [metric, f"{old:.5g}", f"{new:.5g}", f"{new - old:+.3g}"]
                for metric, (old, new) in self.metrics.items()
            ]
            measured = table(header, changes, numbers=[1, 2, 3])
        verdict = "Within the tolerance."
        if not self.accepted:
            verdict = "**Beyond the tolerance; written because of `--accept_deviation`.**"
        return "\n\n".join(
            [
                f"# {name} beside float32",
                table(["", "float32", name, "float32 / " + name], rows, numbers=[1, 2, 3]),
                f"Medians of requests through a session, taking turns. {self.machine}",
                "## The task's metric",
                measured,
                "## Answers to the golden requests",
                table(
                    ["output", "measure", "largest", "tolerance"],
                    [
                        [f"`{one.output}`", one.measure, f"{one.value:.2g}", _limit(one)]
                        for one in self.deviations
                    ],
                    numbers=[2, 3],
                ),
                verdict,
            ]
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is to be served, and how its answers compare.

    Attributes:
        precision: str.
        bundle: the one to serve. float32: the one it was made from.
        pairs: golden pairs of the one to serve.
        deviations: of their answers from the float32 model's; empty for float32 itself.
        examples: the user's, or None.
    """

    precision: str
    bundle: Bundle
    float32: Bundle
    pairs: list[GoldenPair]
    deviations: list[Deviation]
    examples: Examples | None


def prepare(
    bundle: Bundle,
    precision: str = "float32",
    eval_data: str | os.PathLike[str] | None = None,
    accept_deviation: bool = False,
    serving_version: str = DEFAULT_SERVING_VERSION,
) -> Prepared:
    """Reduces a bundle and asks both models the golden requests; writes nothing.

    Raises:
        ValueError: precision or examples are no good (`reduce_bundle`, `read_examples`), or the
            answers move past the tolerance and that is not accepted.

    Example: `prepare(zoo.load("runs/topics"), "int8").deviations`
    """
    reduced = reduce_bundle(bundle, precision, serving_version)
    if precision == "float32":
        if eval_data is not None:
            raise ValueError("--eval_data compares with float32: give --precision, too")
        return Prepared(precision, bundle, bundle, make_golden_pairs(bundle), [], None)
    examples = None if eval_data is None else read_examples(eval_data, bundle)
    before, pairs = make_golden_pairs(bundle), make_golden_pairs(reduced)
    found = deviations(before, pairs)
    beyond = [one for one in found if not one.passed]
    if beyond and not accept_deviation:
        raise ValueError(_refusal(precision, beyond))
    if may_depend_on_batch(bundle, precision):
        pairs = loosened(before, pairs)
    return Prepared(precision, reduced, bundle, pairs, found, examples)


def _refusal(precision: str, beyond: Sequence[Deviation]) -> str:
    lines = [
        f"{one.output}: {one.value:.3g} {one.measure}, tolerance {one.tolerance:g}"
        for one in beyond
    ]
    return (
        f"with --precision={precision} the golden answers move past the tolerance:\n  "
        + "\n  ".join(lines)
        + "\nUse another --precision, or --accept_deviation to write it all the same."
    )


def measure(prepared: Prepared, float32: Path, reduced: Path) -> PrecisionReport:
    """Compares the two SavedModels: size, speed, and the task's metric.

    Args:
        prepared: from `prepare`. float32, reduced: folders of the SavedModels of its bundles.
    """
    examples = prepared.examples
    load_seconds, servables = [], []
    try:
        for folder in (float32, reduced):
            started = time.perf_counter()
            servables.append(Servable("precision", 0, str(folder)))
            load_seconds.append(time.perf_counter() - started)
        asks = [_ask(servable) for servable in servables]
        return PrecisionReport(
            precision=prepared.precision,
            variable_bytes=(_size(float32 / "variables"), _size(reduced / "variables")),
            total_bytes=(_size(float32), _size(reduced)),
            load_seconds=tuple(load_seconds),
            milliseconds=_milliseconds(prepared.pairs, asks),
            metrics=evaluate(examples, asks[1], asks[0]) if examples else {},
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
    path.write_text(report.markdown() + "\n", encoding="utf-8")
    record = {**dataclasses.asdict(report), "accepted": report.accepted}
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _ask(servable: Servable) -> Callable:
    return lambda signature, inputs: ask_servable(servable, signature, inputs)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _milliseconds(
    pairs: Sequence[GoldenPair], asks: Sequence[Callable]
) -> dict[str, tuple[float, float]]:
    """Medians for the first request of each signature of texts and batch size."""
    medians = {}
    for pair in pairs:
        request = f"`{pair.signature}`, {pair.rows} row{'s' * (pair.rows > 1)}"
        if request in medians or "inputs" in pair.inputs:  # tf.Examples run the same graph
            continue
        samples = [[] for _ in asks]
        for ask in asks:
            ask(pair.signature, pair.inputs)  # the first run prepares the graph
        until = time.perf_counter() + _SECONDS
        while len(samples[0]) < _RUNS and (len(samples[0]) < 3 or time.perf_counter() < until):
            for ask, own in zip(asks, samples):
                started = time.perf_counter()
                ask(pair.signature, pair.inputs)
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


def _row(name: str, values: Sequence[float], form: str) -> list[str]:
    old, new = values
    ratio = f"{old / new:.2f}" if new else ""
    return [name, form.format(old), form.format(new), ratio]


def _limit(deviation: Deviation) -> str:
    return "told only" if deviation.tolerance is None else f"{deviation.tolerance:g}"
