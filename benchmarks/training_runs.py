"""Training runs of ours and of PyTorch, a few steps of one and a few of the other.

`train_gpt` and `train_lstm` say which runs; here is how they are fed, timed and compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from benchmarks.measure import interleaved, pin
from benchmarks.table import Table

REPEATS = 7  # of the measurement of a step
SEGMENT = 100  # steps of one run before it is another's turn
_LARGEST_DIFFERENCE = 1e-4


class KerasRun:
    """A run of `trainers`, in pieces.

    Args:
        config: TrainConfig.

    Attributes:
        step: int, steps done.
    """

    def __init__(self, config):
        import keras

        from trainers.loop import KerasLoop
        from trainers.optim.optimizers import make_optimizer
        from trainers.tasks import make_task

        keras.utils.set_random_seed(config.seed)
        self.config = config
        self.task = make_task(config)
        self.model = self.task.trained_model
        self.task.compile(make_optimizer(config.optimizer, config.steps))
        self.loop = KerasLoop(self.model)
        self.step = 0
        self._batches = self.task.training_data(0)

    def train(self, steps: int) -> float:
        """Does some steps, by `keras.Model.fit`; returns their mean loss."""
        self.loop.fit(self._batches, steps, range(1))
        self.step += steps
        return self.model.history.history["loss"][-1]

    def go_on(self) -> None:
        """Makes the batches of the steps that follow."""
        self._batches = self.task.training_data(self.step)

    def evaluate(self) -> float:
        """Validation loss."""
        from trainers.tasks.lm import ResetValidationState

        data, callbacks = self.task.validation_data[""], [ResetValidationState()]
        return self.model.evaluate(data, callbacks=callbacks, verbose=0)[0]


def main(table: Callable[[str], Table], parts: Mapping[str, Callable], names: Sequence[str]):
    """Runs the parts of a benchmark on TRAIN_THREADS pinned threads, 1 by default.

    Args:
        table: what follows the benchmark's name in the file of results -> Table.
        parts: name -> function that adds lines to a table and returns what to say of them.
        names: of the parts to run; all without any.
    """
    threads = int(os.environ.get("TRAIN_THREADS", "1"))
    pin(threads)
    import torch

    torch.set_num_threads(threads)
    names = names or list(parts)
    suffix = "" if threads == 1 else f"_{threads}_threads"
    if set(names) != set(parts):
        suffix += "".join(f"_{name}" for name in names)
    own = table(suffix)
    notes = [f"{threads} pinned thread(s)", *(parts[name](own) for name in names)]
    own.close("; ".join(notes))


def check_equal(peer, run: KerasRun) -> str:
    """Largest differences of logits, and of the losses of five updates on the same batches.

    Args:
        peer: TorchRun, whose weights `run` has.

    Raises:
        ValueError: they are not the same work.
    """
    import torch

    batches = [batch for batch, _ in zip(run.task.training_data(0).as_numpy_iterator(), range(5))]
    inputs = batches[0][0]
    with torch.no_grad():
        theirs = peer.model(torch.from_numpy(inputs.astype(np.int64))).numpy()
    logits = float(np.abs(run.model.predict_on_batch(inputs) - theirs).max())
    losses = 0.0
    for inputs, targets in batches:
        windows = np.concatenate([inputs, targets[:, -1:]], axis=1).astype(np.int64)
        theirs = peer.update(torch.from_numpy(windows))
        run.model.reset_metrics()
        losses = max(losses, abs(run.model.train_on_batch(inputs, targets)[0] - theirs))
    if max(logits, losses) > _LARGEST_DIFFERENCE:
        raise ValueError(f"not the same work: logits differ by {logits}, losses by {losses}")
    return (
        f"same work: logits differ by {logits:.0e} at most, the losses of five updates by "
        f"{losses:.0e}"
    )


def add_steps(
    table: Table, runs: Mapping[str, object], cases: Mapping[str, str], steps: int, tokens: int
) -> str:
    """Adds tokens a CPU-second of each kind of step; returns what to say of it.

    Args:
        runs: name -> run with `train`; those without a case are peers.
        cases: name of one of our runs -> what the line is called.
        steps: of a measurement. tokens: in that many steps.
    """
    timings = interleaved(
        {name: lambda run=run: run.train(steps) for name, run in runs.items()}, runs=REPEATS
    )
    rates = {name: tokens / timing.cpu for name, timing in timings.items()}
    for name, case in cases.items():
        table.add(
            case,
            rates[name],
            {peer: rate for peer, rate in rates.items() if peer not in cases},
            unit="tokens/CPU-s",
            better="more",
            goal=">= 1x",
            timings=timings,
        )
    each = ", ".join(
        f"{name} {1000 * timing.cpu / steps:.1f} CPU and {1000 * timing.wall / steps:.1f} wall"
        for name, timing in timings.items()
    )
    return f"ms a step: {each}; medians of {REPEATS} times {steps} steps"


def in_turns(
    runs: Mapping[str, object], cpu: dict[str, float]
) -> Iterator[tuple[int, float, float]]:
    """Trains all runs, `SEGMENT` steps of each at a time, until the one called "ours" is done.

    Args:
        runs: name -> run.
        cpu: name -> CPU-seconds so far: filled. Batches and compilation count, evaluations do not.

    Yields:
        After each segment our step, CPU-seconds and validation loss.
    """
    ours = runs["ours"]
    cpu.update(dict.fromkeys(runs, 0.0))
    while ours.step < ours.config.steps:
        ours.go_on()
        for name, run in runs.items():
            started = time.process_time()
            run.train(SEGMENT)
            cpu[name] += time.process_time() - started
        yield ours.step, cpu["ours"], ours.evaluate()
