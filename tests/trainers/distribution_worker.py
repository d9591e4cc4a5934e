"""A worker of the tests: trains a tiny GPT in a workdir that all workers share.

python distribution_worker.py TEXT WORKDIR OUT [KILL_STEP]  TF_CONFIG says which worker it is; OUT
gets its losses, and at KILL_STEP it dies without a word. Ends as `python -m trainers` does: 1 with
a message, 75 if it was told to stop.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from absl import logging
from distribution_runs import configs

from trainers import loop, recorder
from trainers.distribution import make_distribution
from trainers.recorder import Preempted


def main(text: str, workdir: str, out: str, kill_step: str = "0") -> None:
    """Trains; counts steps where `Recorder` and `Follower` do."""
    logging.set_verbosity(logging.INFO)
    losses = []
    for kind in (recorder.Recorder, recorder.Follower):

        def on_train_batch_end(self, batch, logs=None, original=kind.on_train_batch_end):
            losses.append(float(logs["loss"]))
            original(self, batch, logs)
            print(f"step {self.step}", flush=True)
            if self.step == int(kill_step):
                os.kill(os.getpid(), signal.SIGKILL)

        kind.on_train_batch_end = on_train_batch_end
    config = dataclasses.replace(configs(text)["gpt"], evaluate_every=10, sample_prompts=())
    try:
        place = workdir if "://" in workdir else Path(workdir)
        loop.train(config, place, None, make_distribution("auto"))
    except Preempted:
        sys.exit(75)
    except (ValueError, OSError) as error:
        sys.exit(f"trainers: {error}")
    Path(out).write_text(json.dumps(losses), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
