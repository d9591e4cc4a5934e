"""How time and memory grow: with parameters, context, batch, vocabulary and with clients.

GPTs of growing size train (a step of AdamW, compiled by XLA) and decode (a token, in TensorFlow's
graph as it is served), each point in a process of its own on one pinned core; a served classifier
answers growing numbers of clients. In each series one thing grows. The exponent is the slope of
log(cost) over log(what grows) through the largest half of the points: 1 doubles with it, 2
quadruples, 0 does not care. What a process holds before there is a model is not in its MB.
Writes `docs/cost_growth.png`. COST_QUICK=1 leaves the largest points out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.cost_point import Point
from benchmarks.measure import circumstances
from benchmarks.server_process import ServerProcess
from benchmarks.serving_load import measure, prepare

PICTURE = Path(__file__).parent.parent / "docs/cost_growth.png"
SHAPES = [(4, 128), (6, 256), (6, 384), (8, 512), (12, 640), (12, 768), (12, 896)]
CLIENTS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
CLIENT_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of which one thing grows.

    Attributes:
        title: what is measured. grows: the name of what grows; values: its values.
        points: Point of each value. theory: what arithmetic alone would say.
    """

    title: str
    grows: str
    values: list[int]
    points: list[Point]
    theory: str


def series() -> list[Series]:
    """All that is measured, in the order of the table."""
    lengths = [64, 128, 256, 512, 1024, 2048, 4096]
    rows = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    words = [64, 256, 1024, 4096, 16384, 65536]
    step, token = "training step", "token of decoding"
    found = []
    for title, kind, theory in (
        (step, "train", "1: 6 FLOPs a parameter and token"),
        (token, "decode", "1: each weight is read once"),
    ):
        points = [Point(kind, layers, width) for layers, width in SHAPES]
        values = [12 * layers * width**2 for layers, width in SHAPES]
        found.append(Series(title, "parameters", values, points, theory))
    found += [
        Series(
            f"{step}, 4096 tokens",
            "context",
            lengths,
            [Point("train", length=n, batch=4096 // n) for n in lengths],
            "0 for products with weights, 1 for attention",
        ),
        Series(
            f"{token}, 4 x 128",
            "context",
            lengths,
            [Point("decode", length=n) for n in lengths],
            "0 for weights, 1 for keys and values",
        ),
        Series(
            f"{step}, 64 tokens a row",
            "batch",
            rows,
            [Point("train", length=64, batch=n) for n in rows],
            "1",
        ),
        Series(
            f"{token} of each row",
            "batch",
            rows,
            [Point("decode", length=64, batch=n) for n in rows],
            "0 while reading weights costs most, then 1",
        ),
        Series(
            f"{step}, 12 x 64 tokens",
            "vocabulary",
            words,
            [Point("train", length=64, batch=12, vocabulary=n) for n in words],
            "1 for logits and embeddings, 0 for the rest",
        ),
        Series(
            token,
            "vocabulary",
            words,
            [Point("decode", length=64, vocabulary=n) for n in words],
            "1 for the logits, 0 for the rest",
        ),
    ]
    return found


def main() -> None:
    """Prints the table and draws the picture."""
    quick = bool(os.environ.get("COST_QUICK"))
    print("| cost of | grows | from - to | ms from - to | exponent | MB from - to | arithmetic |")
    print("|---|---|---|---|---|---|---|")
    drawn = []
    for one in series():
        count = len(one.values) - 2 if quick else len(one.values)
        costs = [_run(point) for point in one.points[:count]]
        values = one.values[:count]
        if one.grows == "parameters":
            values = [cost["parameters"] for cost in costs]
        times = [1000 * cost["wall"] for cost in costs]
        memory = [cost["memory"] for cost in costs]
        drawn.append((one.title, one.grows, values, times, memory))
        print(
            f"| {one.title} | {one.grows} | {values[0]:,} - {values[-1]:,} "
            f"| {times[0]:.3g} - {times[-1]:.4g} | {exponent(values, times):.2f} "
            f"| {memory[0]:.0f} - {memory[-1]:.0f} | {one.theory} |",
            flush=True,
        )
    latencies, rates = _clients(CLIENTS[:-2] if quick else CLIENTS)
    clients = CLIENTS[: len(rates)]
    drawn.append(("answer of a served classifier, p50", "clients", clients, latencies, None))
    print(
        f"| answer of a served classifier, p50 | clients | 1 - {clients[-1]} "
        f"| {latencies[0]:.3g} - {latencies[-1]:.4g} | {exponent(clients, latencies):.2f} | "
        f"| 1: {rates[0]:.0f} - {max(rates):.0f} answers a second |"
    )
    _draw(drawn)
    print(f"\n{circumstances()}; one pinned core, medians of 5")


def exponent(values: list[float], costs: list[float]) -> float:
    """Slope of log(cost) over log(value), by least squares through the largest half.

    Example: `exponent([1, 2, 4, 8], [3, 12, 48, 192])  # 2.0`
    """
    half = len(values) // 2
    x = [math.log(value) for value in values[half:]]
    y = [math.log(cost) for cost in costs[half:]]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def _run(point: Point) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cost_point", json.dumps(dataclasses.asdict(point))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _clients(counts: list[int]) -> tuple[list[float], list[float]]:
    """p50 in ms and answers a second of the batching server, for each number of clients."""
    flags = ["--enable_batching", "--enable_per_model_batching_parameters"]
    latencies, rates = [], []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        answers = prepare(Path(name), 2)
        cores = sorted(os.sched_getaffinity(0))[:1]
        with ServerProcess(name, flags, cores) as server:
            for clients in counts:
                run = measure(server, "gRPC", clients, CLIENT_SECONDS, answers)
                if run["wrong"] or run["lost"] or run["errors"]:
                    raise RuntimeError(f"{clients} clients: answers wrong or lost: {run}")
                latencies.append(run["p50"])
                rates.append(run["rate"])
    return latencies, rates


def _draw(drawn: list[tuple]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(13, 10), layout="constrained")
    for axis, (title, grows, values, times, memory) in zip(axes.flat, drawn):
        axis.loglog(values, times, "o-", color="tab:blue", label="ms")
        axis.set(title=title, xlabel=grows, ylabel="ms")
        axis.grid(alpha=0.3)
        if memory:
            right = axis.twinx()
            right.loglog(values, memory, "s--", color="tab:gray", label="MB")
            right.set_ylabel("MB", color="tab:gray")
        axis.text(0.05, 0.9, f"exponent {exponent(values, times):.2f}", transform=axis.transAxes)
    figure.savefig(PICTURE, dpi=80)
    pyplot.close(figure)
