"""How we time: one pinned thread, settings interleaved, median of several runs."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians over the runs of one setting, in seconds."""

    wall: float
    cpu: float


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
        name: Timing(statistics.median(walls), statistics.median(cpus))
        for name, (walls, cpus) in samples.items()
    }


def circumstances() -> str:
    """One line: date, machine, load and versions, to stand under every table."""
    import keras
    import tensorflow as tf

    machine = f"{os.cpu_count()} x {_processor()}, load {os.getloadavg()[0]:.1f}"
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    return f"{datetime.date.today()}, {machine}, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
