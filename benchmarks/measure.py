"""How we time: one pinned thread, settings interleaved, median of several runs."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians over the runs of one setting, in seconds.

    `cpu` is of this process and of all its threads.
    """

    wall: float
    cpu: float
    runs: int = 1


def pin(threads: int = 1) -> None:
    """Keeps this process on `threads` cores and TensorFlow on as many threads.

    Call it before TensorFlow runs its first operation.
    """
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[-threads:]))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def interleaved(settings: dict[str, Callable[[], None]], runs: int = 5) -> dict[str, Timing]:
    """Runs every setting once, then all again, A/B/A/B: what disturbs one disturbs all.

    Each setting runs once before, untimed.
    """
    for call in settings.values():
        call()
    samples = {name: ([], []) for name in settings}
    for _ in range(runs):
        for name, call in settings.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            samples[name][0].append(time.perf_counter() - wall)
            samples[name][1].append(time.process_time() - cpu)
    return {
        name: Timing(statistics.median(walls), statistics.median(cpus), runs)
        for name, (walls, cpus) in samples.items()
    }


def circumstances() -> str:
    """One line: date, machine, load and versions, to stand under every table."""
    found = versions()
    return (
        f"{datetime.date.today()}, {machine()}, load {load():.1f}, Python "
        f"{platform.python_version()}, TensorFlow {found['tensorflow']}, Keras {found['keras']}"
    )


def machine() -> str:
    """Cores and processor."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}"


def load() -> float:
    """How many processes wanted a core in the last minute."""
    return round(os.getloadavg()[0], 1)


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of what we are made of, and of `packages` (peers), as installed."""
    names = ("tensorflow", "keras", "numpy", *packages)
    return {name: importlib.metadata.version(name) for name in names}


def commit() -> str:
    """The commit that is measured, with "+" if files differ from it; "" outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    here = os.path.dirname(os.path.abspath(__file__))
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()
