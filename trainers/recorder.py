"""What happens between training steps: NaN stop, metrics, checkpoints, leaving on SIGTERM."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import keras
import numpy as np
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.metrics import MetricsLog, should_stop
from trainers.tasks.base import Task, is_better


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class Preempted(Exception):
    """The run was asked to stop by SIGTERM, and has saved what it had."""


class Interruption:
    """A context that turns SIGTERM into a request that the training loop answers at its next step.

    Clusters and notebooks take a machine back by SIGTERM. In a thread that is not the main one,
    signals are left as they are.

    Args:
        together: bool. Whether other workers train with this one: they leave after the same step.

    Attributes:
        requested: bool. Whether the signal came.
        may_leave_at_once: bool, set by the loop where all is saved, as in an evaluation, which may
            take longer than the machine stays: there the signal raises `Preempted` where it comes.
    """

    def __init__(self, together: bool = False):
        self.together = together
        self.requested = False
        self.may_leave_at_once = False
        self._before = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self.may_leave_at_once:
            raise Preempted


class Recorder(keras.callbacks.Callback):
    """Stops on NaN; logs the metrics of each evaluation; writes checkpoints.

    A checkpoint is written before each evaluation, and when `interruption` asks for it: after that
    step the run ends with `Preempted`.

    Args:
        task: Task. checkpoints: Checkpoints. log: MetricsLog.
        progress: Progress to start from.
        interruption: Interruption. Defaults to one that never comes.

    Attributes:
        progress: Progress, at the last evaluation, or at the start of this process.
        step: int, steps done.
    """

    def __init__(
        self,
        task: Task,
        checkpoints: Checkpoints,
        log: MetricsLog,
        progress: Progress,
        interruption: Interruption | None = None,
    ):
        super().__init__()
        self.task = task
        self.checkpoints = checkpoints
        self.log = log
        self.progress = progress
        self.interruption = interruption or Interruption()
        self.step = progress.step
        self._first_step = progress.step + 1
        self._saved_step = progress.step
        self._training_seconds = 0.0
        self._start_clocks()

    def on_epoch_begin(self, epoch, logs=None):
        self.interruption.may_leave_at_once = False
        if self.progress.metric_values and not self._has_unevaluated_steps():
            # Keras has just set them to 0, but the run was stopped between two evaluations.
            _assign(self.model.metrics_variables, self.progress.metric_values)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step == self._first_step:
            _log_first_step(self.step, self._elapsed()[0])
        self._require_finite("loss", float(logs["loss"]))
        if self.step % self.task.config.evaluate_every == 0:
            self._training_seconds = self._elapsed()[0]
            self._checkpoint(training_logs={k: float(value) for k, value in logs.items()})
            # Until the next step nothing can be lost: an evaluation can be done again.
            self.interruption.may_leave_at_once = True
        if self.interruption.requested:
            if self.interruption.together:
                self.model.stop_training = True  # all workers hear of it in their next step
            else:
                self._leave()

    def on_train_end(self, logs=None):
        together = self.interruption.together
        if together and self.model.stop_training and self._has_unevaluated_steps():
            self._leave()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in self.progress.training_logs.items():
            logs.setdefault(name, value)  # of an epoch whose evaluation alone was left
        metrics = self.task.evaluate(logs)
        for name, value in metrics.items():
            self._require_finite(name, value)
        now = self._now()
        tokens = now.tokens - self.progress.tokens
        record = {
            "step": self.step,
            "tokens": now.tokens,
            **{name: float(value) for name, value in logs.items() if not name.startswith("val_")},
            **metrics,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "tokens_per_second": tokens / self._training_seconds if tokens else 0.0,
            "seconds": now.seconds,
            "cpu_seconds": now.cpu_seconds,
        }
        # For the callbacks after this one: TensorBoard and the progress line.
        logs.update({k: v for k, v in record.items() if k.startswith("val_")})
        self._save(record, now)
        patience = self.task.config.patience
        if patience and should_stop(self.progress.records, *self.task.monitor, patience):
            logging.info("no better %s in %d evaluations: stopped", self.task.monitor[0], patience)
            self.model.stop_training = True

    def _has_unevaluated_steps(self) -> bool:
        return self.step != self.progress.step

    def _leave(self) -> None:
        if self.step != self._saved_step:
            self._checkpoint(metric_values=_flat(self.model.metrics_variables))
        raise Preempted

    def _checkpoint(self, **left_to_do) -> None:
        self.checkpoints.save(self.model, dataclasses.replace(self._now(), **left_to_do))
        self._saved_step = self.step

    def _save(self, record: dict[str, float], now: Progress) -> None:
        """The log before the checkpoint: on resume, lines without a checkpoint are dropped, and a
        checkpoint without its line would leave a hole in the report."""
        name, mode = self.task.monitor
        records = (*now.records, record)
        now = dataclasses.replace(now, evaluated_step=self.step, records=records)
        if is_better(record[name], now.best_value, mode):
            self.checkpoints.save_best(self.task.model, self.step)
            now = dataclasses.replace(now, best_step=self.step, best_value=record[name])
        self.log.append(record)
        self.checkpoints.update(now)
        self.progress = now
        self._start_clocks()

    def _now(self) -> Progress:
        """How far the run is, without what only a checkpoint between evaluations needs."""
        wall, cpu = self._elapsed()
        before = self.progress
        return dataclasses.replace(
            before,
            step=self.step,
            tokens=before.tokens + self.task.trained_tokens(before.step, self.step),
            seconds=before.seconds + wall,
            cpu_seconds=before.cpu_seconds + cpu,
            metric_values=(),
            training_logs={},
            planned_steps=self.task.config.steps,
        )

    def _start_clocks(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def _require_finite(self, name: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the {name} is {loss} at step {self.step}. Nothing after step "
                f"{self._saved_step} was saved. Try a lower --set=optimizer.learning_rate, a "
                "longer --set=optimizer.warmup_steps or --set=optimizer.global_clipnorm=1, in a "
                "new --workdir"
            )

    def _elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


class Follower(keras.callbacks.Callback):
    """What a worker that is not the chief does: it writes nothing, and stops where the chief's
    `Recorder` stops, because all workers see the same loss.

    Args:
        step: int, steps done before.
        interruption: Interruption. Any worker that is asked to stop stops all of them.
    """

    def __init__(self, step: int, interruption: Interruption):
        super().__init__()
        self.step = step
        self.interruption = interruption
        self._evaluated_step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged(
                f"the loss is {logs['loss']} at step {self.step}; the chief says what to try"
            )
        if self.interruption.requested:
            self.model.stop_training = True  # all workers hear of it in their next step

    def on_epoch_end(self, epoch, logs=None):
        self._evaluated_step = self.step

    def on_train_end(self, logs=None):
        if self.model.stop_training and self.step != self._evaluated_step:
            raise Preempted


def _flat(variables: Sequence[keras.Variable]) -> tuple[float, ...]:
    """The values of all, one after the other."""
    return tuple(float(value) for variable in variables for value in variable.numpy().ravel())


def _assign(variables: Sequence[keras.Variable], values: Sequence[float]) -> None:
    """Sets what `_flat` gave."""
    sizes = [math.prod(variable.shape) for variable in variables]
    if sum(sizes) != len(values):
        raise ValueError(
            f"the checkpoint has {len(values)} values of metrics, this release {sum(sizes)}: go on "
            "with the release it is from"
        )
    parts = np.split(np.asarray(values), np.cumsum(sizes)[:-1])
    for variable, part in zip(variables, parts):
        variable.assign(part.reshape(variable.shape).astype(variable.dtype))


def _log_first_step(step: int, training_seconds: float) -> None:
    age = process_age()
    since_start = "" if age is None else f"{age:.1f} s after the process started, "
    logging.info("step %d done %s%.1f s after training began", step, since_start, training_seconds)


def process_age() -> float | None:
    """Seconds since this process started, imports included; None where /proc is missing."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    # Fields after the name, which is in parentheses and may hold spaces; see man 5 proc.
    start_ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")
