"""A process of its own for the tests of training on JAX: a whole run, and what its step needs.

python jax_run.py TEXT FOLDER  trains a tiny GPT as on a terminal and prints JSON: the steps after
which a value was read from the device, and the memory that is predicted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax
from distribution_runs import configs
from jax._src.array import ArrayImpl

from trainers.compile.steps import AbstractRun
from trainers.loop import train
from trainers.recorder import Recorder


def main(text: str, folder: str) -> None:
    """Trains 40 steps, with an evaluation after 20."""
    config = configs(text)["gpt"]
    model = {**config.model, "hidden_dim": 64, "num_layers": 2, "context_length": 64}
    config = dataclasses.replace(
        config, model=model, steps=40, evaluate_every=20, sample_prompts=(), batch_size=16
    )
    [predicted] = [
        step.memory.total
        for run in [AbstractRun(config, jax.devices(), "cpu")]
        for step in [run.train_step(next(run.training_shapes()))]
    ]
    step, reads = 0, set()
    value, on_train_batch_end = ArrayImpl._value, Recorder.on_train_batch_end

    def noted(self):
        reads.add(step)
        return value.fget(self)

    def counted(self, batch, logs=None):
        nonlocal step
        step = self.step + 1  # what follows until the next step is of this one
        if not isinstance(logs["loss"], jax.Array):  # Keras made a number of it
            reads.add(step)
        on_train_batch_end(self, batch, logs)

    ArrayImpl._value, Recorder.on_train_batch_end = property(noted), counted
    sys.stdout.isatty = lambda: True  # Keras' moving bar, too
    train(config, Path(folder))
    print("\n" + json.dumps({"reads": sorted(reads), "predicted": predicted}))


if __name__ == "__main__":
    main(*sys.argv[1:])
