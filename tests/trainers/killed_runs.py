"""Runs of one workdir that are killed at random moments, each a fork of this process.

python tests/trainers/killed_runs.py CONFIG.json FOLDER SEED MOMENT [MOMENT ...]

A moment is where a run ends: "kill" or "term" (SIGKILL, SIGTERM at a random time after the first
step), "between" (SIGTERM at the end of its seventh step), or "write", "progress", "log", "best",
"update" (SIGKILL in the middle of that write). The last run in FOLDER/run goes to its end, and so
does one in FOLDER/whole. Prints a line a run: moment, exit code, newest checkpoint. Forks save the
seconds that importing TensorFlow takes; its runtime starts in the children only.
"""

import json
import os
import random
import signal
import sys
import threading
import traceback
from pathlib import Path

import numpy as np

from trainers import checkpoints, loop, recorder
from trainers.config import TrainConfig
from trainers.metrics import MetricsLog
from trainers.recorder import Preempted
from zoo.config import from_dict

PREEMPTED = 75


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment, chance):
    """Has this process end at a moment; `chance` chooses which one of its kind."""
    countdown = chance.randrange(1, 3)

    def nth_time(owner, name, half=None):
        original = getattr(owner, name)
        calls = iter(range(1, 1000))

        def call(*args, **kwargs):
            if next(calls) == countdown:
                if half is not None:
                    half(*args, **kwargs)
                die()
            return original(*args, **kwargs)

        setattr(owner, name, call)

    def half_of_the_values(path, values):
        with open(path, "wb") as file:
            for value in values[: len(values) // 2]:
                np.lib.format.write_array(file, value)

    def half_a_line(self, record):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record)[:-9])

    def at_some_time(number):
        timer = threading.Timer(chance.uniform(0, 0.8), lambda: os.kill(os.getpid(), number))
        original = recorder._log_first_step

        def first_step(*args):
            original(*args)
            timer.start()

        recorder._log_first_step = first_step

    def at_step(number):
        original = recorder.Recorder.on_train_batch_end
        calls = iter(range(1, 1000))

        def step_ends(*args, **kwargs):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        recorder.Recorder.on_train_batch_end = step_ends

    {
        "between": lambda: at_step(7),
        "kill": lambda: at_some_time(signal.SIGKILL),
        "term": lambda: at_some_time(signal.SIGTERM),
        "write": lambda: nth_time(checkpoints, "write_values", half_of_the_values),
        "progress": lambda: nth_time(checkpoints, "write_progress"),
        "log": lambda: nth_time(MetricsLog, "append", half_a_line),
        "best": lambda: nth_time(checkpoints.Checkpoints, "save_best"),
        "update": lambda: nth_time(checkpoints.Checkpoints, "update"),
        "end": lambda: None,
    }[moment]()


def run(config, workdir, moment, chance):
    """One run in a child process; returns its exit code, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        arm(moment, chance)
        loop.train(config, workdir)
        code = 0
    except Preempted:
        code = PREEMPTED
    except Exception:  # noqa: BLE001  told on stderr, with exit code 1
        traceback.print_exc()  # os._exit would not
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(config_file, folder, seed, *moments):
    config = from_dict(TrainConfig, json.loads(Path(config_file).read_text()))
    for number, moment in enumerate([*moments, "end", "end"]):
        workdir = Path(folder) / ("run" if number <= len(moments) else "whole")
        code = run(config, workdir, moment, random.Random(f"{seed} {number}"))
        written = sorted((workdir / "checkpoints").glob("step-*.json"))
        print(moment, code, written[-1].stem if written else "none", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
