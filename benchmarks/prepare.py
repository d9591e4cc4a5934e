"""How fast is `python -m trainers.data.prepare`, and what do more processes give?

Generated text is prepared into shards by 1 and 2 processes, with byte and byte-pair tokenizers, as
one document and with a document a line. Rates are of the whole command less a command with next to
no text, which is Python's and TensorFlow's start. PREPARE_MB sets the megabytes, 100 by default.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.generated_text import write_text
from benchmarks.measure import circumstances

MEGABYTES = float(os.environ.get("PREPARE_MB", "100"))


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_text(folder / "text.txt", MEGABYTES) / 1e6
        write_text(folder / "little.txt", 0.1)
        # A vocabulary is trained once, outside of what is timed.
        _prepare(folder, "text.txt", "bytepair", "files", 1, "trained", ["--set=tokenizer_mb=8"])
        print("| tokenizer | document | processes | s | MB/s | MB a CPU-s |")
        print("|---|---|---|---|---|---|")
        for split, label, tokenizer in (
            ("files", "byte", "byte"),
            ("files", "bytepair", str(folder / "trained")),
            ("lines", "byte", "byte"),
        ):
            for processes in (1, 2):
                little = ["--shard_mb=0.01"]  # a unit for each process, so that all start
                start, start_cpu = _prepare(
                    folder, "little.txt", tokenizer, split, processes, options=little
                )
                wall, cpu = _prepare(folder, "text.txt", tokenizer, split, processes)
                rates = f"{size / (wall - start):.1f} | {size / (cpu - start_cpu):.1f}"
                print(f"| {label} | {split} | {processes} | {wall:.1f} | {rates} |", flush=True)
    print(f"\n{size:.0f} MB of text in shards of 8. {circumstances()}")


def _prepare(
    folder, source, tokenizer, split, processes, out="out", options=()
) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    shutil.rmtree(folder / out, ignore_errors=True)
    command = [sys.executable, "-m", "trainers.data.prepare", f"--source={folder / source}"]
    command += [f"--out={folder / out}", f"--tokenizer={tokenizer}", f"--split={split}"]
    command += [f"--processes={processes}", "--shard_mb=8", "--verbosity=-1", *options]
    wall, cpu = time.perf_counter(), _children_cpu()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - wall, _children_cpu() - cpu


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system
