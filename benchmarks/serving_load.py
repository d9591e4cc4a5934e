"""Does the server hold many clients at one time, without an error, a lost or a mixed-up answer?

Text classifiers (BERTs of 2 and of 12 layers x 128, random weights, WordPiece in the graph; raw
string to label and scores) are served by `python -m export.server` on one core, without and with
batching (as the `batching_params.pbtxt` says that the export writes). 1, 32 and 256 clients on
another core, each with a connection of its own, ask as fast as they are answered. A text is asked
by one client at a time, and every answer is compared with what a session says of that text; "wrong"
counts those that are not its own. The rows without and with batching are run in turn. LOAD_SECONDS
sets the seconds of each row, 60 by default; LOAD_ROUNDS how often all are run, 1 by default: then
the numbers are medians.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import circumstances, pin
from benchmarks.served_classifier import answers_of, export_classifier, make_texts
from benchmarks.server_process import ServerProcess
from benchmarks.table import Table

SECONDS = float(os.environ.get("LOAD_SECONDS", "60"))
ROUNDS = int(os.environ.get("LOAD_ROUNDS", "1"))
# Layers of the model -> who asks it.
PLAN = {
    2: [("gRPC", 1), ("gRPC", 32), ("gRPC", 256), ("REST", 32)],
    12: [("gRPC", 32)],
}
TEXTS = 10_000
MODES = {"no": (), "yes": ("--enable_batching", "--enable_per_model_batching_parameters")}
HEAD = (
    "| layers | API | clients | batching | requests/s | p50 ms | p99 ms | max ms "
    "| server CPU ms a request | server MB before | after | answers | errors | wrong | lost |"
)


def main() -> None:
    """Prints a row for each run, then what batching gives."""
    cores = sorted(os.sched_getaffinity(0))
    pin(1)
    print(f"{HEAD}\n{'|---' * (HEAD.count('|') - 1)}|", flush=True)
    rates: dict[tuple, dict[str, float]] = {}
    for layers, plan in PLAN.items():
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
            folder = Path(name)
            answers = prepare(folder, layers)
            with contextlib.ExitStack() as stack:
                servers = {
                    mode: stack.enter_context(ServerProcess(folder, flags, cores[:1], rest=True))
                    for mode, flags in MODES.items()
                }
                rates |= _print_rows(layers, plan, servers, answers)
    print(f"\n{circumstances()}; {ROUNDS} x {SECONDS:g} s a row, server and clients on a core each")
    table = Table(
        "serving_load", 9, "batching, a classifier of width 128", ("no batching",), (), ("grpcio",)
    )
    print()
    for (layers, api, clients), rate in rates.items():
        table.add(
            f"{layers} layers, {api}, {clients} clients",
            rate["yes"],
            {"no batching": rate["no"]},
            unit="requests/s",
            better="more",
            goal=">= 3x" if clients == 32 else None,
        )
    table.close(f"{ROUNDS} x {SECONDS:g} s each, server and clients on a core each")


def prepare(folder: Path, layers: int) -> Path:
    """Exports the classifier into `folder`; returns a file with texts and their right answers."""
    version, texts = export_classifier(folder, layers), make_texts(TEXTS)
    labels, scores = answers_of(version, texts)
    path = folder / "answers.npz"
    np.savez(path, texts=np.array(texts, bytes), labels=labels.astype(bytes), scores=scores)
    return path


def _print_rows(
    layers: int, plan: list, servers: dict[str, ServerProcess], answers: Path
) -> dict[tuple, dict[str, float]]:
    """Requests a second by (layers, API, clients) and mode."""
    rates: dict[tuple, dict[str, float]] = {}
    found: dict[tuple, list[dict]] = {(*who, mode): [] for who in plan for mode in servers}
    for _ in range(ROUNDS):
        for (api, clients, mode), runs in found.items():
            runs.append(measure(servers[mode], api, clients, SECONDS, answers))
    for (api, clients, mode), runs in found.items():
        names = ("rate", "p50", "p99", "max", "cpu", "before", "after")
        middle = {name: statistics.median(run[name] for run in runs) for name in names}
        total = {name: sum(run[name] for run in runs) for name in ("answered", "wrong", "lost")}
        errors = [f"{code} {count}" for run in runs for code, count in run["errors"].items()]
        print(
            f"| {layers} | {api} | {clients} | {mode} | {middle['rate']:.0f} "
            f"| {middle['p50']:.1f} | {middle['p99']:.1f} | {middle['max']:.0f} "
            f"| {middle['cpu']:.2f} | {middle['before']:.0f} | {middle['after']:.0f} "
            f"| {total['answered']} | {', '.join(errors) or '0'} | {total['wrong']} "
            f"| {total['lost']} |",
            flush=True,
        )
        rates.setdefault((layers, api, clients), {})[mode] = middle["rate"]
    return rates


def measure(
    server: ServerProcess, api: str, clients: int, seconds: float, answers: Path
) -> dict[str, float]:
    """One run of clients, in a process of their own: what they saw, and what the server took."""
    settings = {
        "answers": str(answers),
        "grpc": server.address,
        "rest": server.rest_port if api == "REST" else None,
        "clients": clients,
        "seconds": seconds,
    }
    before, cpu = server.memory(), server.cpu()
    command = [sys.executable, "-m", "benchmarks.load_clients"]
    done = subprocess.run(
        command, input=json.dumps(settings), stdout=subprocess.PIPE, text=True, check=True
    )
    result = json.loads(done.stdout)
    asked = result["answered"] + result["warm"] + sum(result["errors"].values())
    result["cpu"] = 1000 * (server.cpu() - cpu) / max(asked, 1)
    result.update(before=before, after=server.memory())
    return result
