"""Does reading keep up with training, and does memory stay flat while it reads?

Generated text is prepared and then read as training reads it, without a model: tokens a second for
batches of two shapes, from shards and from ids in memory; then one epoch over all of it, with the
process's memory as it goes. "anonymous" is memory of its own, "file" is pages of files, which the
system takes back when it needs them. PIPELINE_MB sets the megabytes, 100 by default; the issue asks
for 1000.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.generated_text import write_text
from benchmarks.measure import circumstances, pin
from benchmarks.table import Table

MEGABYTES = float(os.environ.get("PIPELINE_MB", "100"))
SHAPES = ((12, 64), (64, 256))
EPOCH_SHAPE = (64, 1024)
CONSUMED = 17_000  # tokens a second, shakespeare_gpt_cpu
SECONDS = 5.0


def main() -> None:
    """Prints both tables."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        size = write_text(folder / "text.txt", MEGABYTES)
        _prepare(folder)
        (folder / "text.txt").unlink()
        pin(1)
        from trainers.data.prepare.shards import open_prepared

        train = open_prepared(folder / "out").train
        in_memory = np.concatenate([ids for ids, _ in zip(train.chunks(), range(20))])
        table = Table(
            "input_pipeline",
            10,
            "input pipeline against shakespeare_gpt_cpu",
            peers=("training consumes",),
            extra=("tokens a CPU-s",),
        )
        for label, ids in (("memory", in_memory), ("shards", train)):
            for shape in SHAPES:
                wall, cpu = _rates(ids, *shape)
                table.add(
                    f"from {label}, {shape[0]} x {shape[1]}",
                    wall,
                    {"training consumes": CONSUMED},
                    unit="tokens/s",
                    better="more",
                    goal=">= 20x",
                    extra={"tokens a CPU-s": f"{cpu:,.0f}"},
                )
        table.close("One pinned thread")
        del in_memory
        print("\n| share of an epoch | anonymous MB | file MB |\n|---|---|---|")
        _epoch(train)
    print(f"\n{size / 1e6:.0f} MB of text, a token a byte. {circumstances()}; one pinned thread")


def _prepare(folder: Path) -> None:
    command = [sys.executable, "-m", "trainers.data.prepare", f"--source={folder / 'text.txt'}"]
    command += [f"--out={folder / 'out'}", "--tokenizer=byte", "--verbosity=-1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _dataset(ids, rows: int, length: int, steps: int):
    from trainers.data.pipeline import training_windows

    return training_windows(ids, rows, length, seed=0, start_step=0, steps=steps)


def _rates(ids, rows: int, length: int) -> tuple[float, float]:
    """Tokens a second, and a CPU-second, which other jobs on the machine change less."""
    batches = iter(_dataset(ids, rows, length, steps=10**9))
    for _ in range(20):
        next(batches)
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < SECONDS:
        for _ in range(20):
            next(batches)
        count += 20
    tokens = count * rows * length
    return tokens / (time.perf_counter() - began), tokens / (time.process_time() - cpu)


def _epoch(train) -> None:
    rows, length = EPOCH_SHAPE
    steps = len(train) // (rows * length)
    for step, _ in enumerate(_dataset(train, rows, length, steps)):
        if step in {0, steps - 1} or step % max(steps // 8, 1) == 0:
            anonymous, file = _memory()
            print(f"| {(step + 1) / steps:.0%} | {anonymous:.0f} | {file:.0f} |", flush=True)


def _memory() -> tuple[float, float]:
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(int(fields[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile"))
