"""What happens between training steps: NaN stop, metrics, checkpoints, leaving on SIGTERM."""

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
from trainers.config import TrainConfig
from trainers.distribution import Distribution
from trainers.metrics import MetricsLog, is_better, should_stop
from trainers.tasks.base import Task

# To read a metric is to wait for the device. JAX' is given further steps and batches meanwhile, if
# nobody looks; TensorFlow's `fit` waits anyway.
LOOK_EVERY = 10 if keras.backend.backend() == "jax" else 1  # steps


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class Preempted(Exception):
    """The run was asked to stop by SIGTERM, and has saved what it had."""


class Interruption:
    """A context in which SIGTERM is a request that the training loop answers at its next step."""

    def __init__(self, together: bool = False):
        self.together = together  # other workers train with this one, and leave after the same step
        self.requested = False
        # All is saved, as in an evaluation, which may take longer than the machine stays.
        self.may_leave_at_once = False
        self._before = None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other can set one
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self.may_leave_at_once:
            raise Preempted


class Callbacks(keras.callbacks.CallbackList):
    """Gives the metrics of a step as they are on the device; Keras' own makes numbers of them."""

    def on_train_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)


class Bar(keras.callbacks.ProgbarLogger):
    """The bar that moves in a terminal."""

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % LOOK_EVERY == 0:
            super().on_train_batch_end(batch, {k: float(value) for k, value in logs.items()})


class Board(keras.callbacks.TensorBoard):
    """What TensorBoard shows of epochs; Keras' own would read the metrics of each step, too."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch)


class Follower(keras.callbacks.Callback):
    """What a worker that is not the chief does: it writes nothing, and stops where the chief's
    `Recorder` stops, because all workers see the same loss.
    """

    def __init__(
        self,
        config: TrainConfig,
        progress: Progress,
        interruption: Interruption,
        distribution: Distribution,
    ):
        super().__init__()
        self.config, self.distribution = config, distribution
        self.progress = progress  # at the last evaluation, or at the start of this process
        self.interruption = interruption
        self.step = self.evaluated_step = self.saved_step = progress.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        # It is a mean since the last evaluation, which no later step makes finite again.
        leaving = self.interruption.requested  # a signal may come at any time
        looks = self.step % self.config.evaluate_every == 0 or self.step % LOOK_EVERY == 0
        if self.distribution.of_jax_processes:  # all leave after the same step
            leaving = looks and self.distribution.any_worker(leaving)
        if looks or leaving:
            self.require_finite("loss", float(logs["loss"]))
        self.after_step(logs)
        if leaving:
            if self.interruption.together:
                self.model.stop_training = True  # all workers hear of it in their next step
            else:
                self.leave()

    def on_epoch_end(self, epoch, logs=None):
        self.evaluated_step = self.saved_step = self.step

    def on_train_end(self, logs=None):
        stopped = self.interruption.together and self.model.stop_training
        if stopped and self.step != self.evaluated_step:
            self.require_finite("loss", float(logs["loss"]))
            self.leave()

    def after_step(self, logs: dict[str, float]) -> None:
        """What else is done after each step."""

    def leave(self) -> None:
        """Ends the run before its end."""
        raise Preempted

    def require_finite(self, name: str, loss: float) -> None:
        """Raises TrainingDiverged for NaN or infinity."""
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the {name} is {loss} at step {self.step}. Nothing after step {self.saved_step} "
                "was saved. Try a lower --set=optimizer.learning_rate, a longer "
                "--set=optimizer.warmup_steps or --set=optimizer.global_clipnorm=1, in a new "
                "--workdir"
            )


class StopTogether(keras.callbacks.Callback):
    """Ends training on all JAX processes where one has seen enough; it comes last."""

    def __init__(self, distribution: Distribution):
        super().__init__()
        self.distribution = distribution

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = self.distribution.any_worker(self.model.stop_training)


class Recorder(Follower):
    """Stops on NaN, logs the metrics of each evaluation, and writes a checkpoint before it."""

    def __init__(
        self,
        task: Task,
        checkpoints: Checkpoints,
        log: MetricsLog,
        progress: Progress,
        interruption: Interruption,
        distribution: Distribution,
    ):
        super().__init__(task.config, progress, interruption, distribution)
        self.task, self.checkpoints, self.log = task, checkpoints, log
        self._first_step = progress.step + 1
        self._training_seconds = 0.0
        self._start_clocks()

    def on_epoch_begin(self, epoch, logs=None):
        self.interruption.may_leave_at_once = False
        if self.progress.metric_values and self.step == self.evaluated_step:
            # Keras has just set them to 0, but the run was stopped between two evaluations.
            _assign(self.model.metrics_variables, self.progress.metric_values)

    def after_step(self, logs):
        if self.step == self._first_step:
            _log_first_step(self.step, time.perf_counter() - self._wall)
        if self.step % self.config.evaluate_every == 0:
            self._training_seconds = time.perf_counter() - self._wall
            self._checkpoint(training_logs={k: float(value) for k, value in logs.items()})
            # Until the next step nothing can be lost: an evaluation can be done again.
            self.interruption.may_leave_at_once = not self.distribution.of_jax_processes

    def leave(self):
        if self.step != self.saved_step:
            variables = self.model.metrics_variables
            sums = [float(value) for sums in variables for value in sums.numpy().ravel()]
            self._checkpoint(metric_values=tuple(sums))
        super().leave()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in self.progress.training_logs.items():
            logs.setdefault(name, value)  # of an epoch whose evaluation alone was left
        with self.distribution.alone(self.model):
            metrics = self.task.evaluate(logs)
            learning_rate = float(self.model.optimizer.learning_rate)
        for name, value in metrics.items():
            self.require_finite(name, value)
        now = self._now()
        tokens = now.tokens - self.progress.tokens
        record = {
            "step": self.step,
            "tokens": now.tokens,
            **{name: float(value) for name, value in logs.items() if not name.startswith("val_")},
            **metrics,
            "learning_rate": learning_rate,
            "tokens_per_second": tokens / self._training_seconds if tokens else 0.0,
            "seconds": now.seconds,
            "cpu_seconds": now.cpu_seconds,
        }
        # For the callbacks after this one: TensorBoard and the progress line.
        logs.update({k: v for k, v in record.items() if k.startswith("val_")})
        records = (*now.records, record)
        now = dataclasses.replace(now, evaluated_step=self.step, records=records)
        (name, mode), patience = self.task.monitor, self.config.patience
        if is_better(record[name], now.best_value, mode):
            self.checkpoints.save_best(self.task.model, self.step)
            now = dataclasses.replace(now, best_step=self.step, best_value=record[name])
        # The log before the checkpoint: on resume, lines without a checkpoint are dropped, and a
        # checkpoint without its line would leave a hole in the report.
        self.log.append(record)
        self.checkpoints.update(now)
        self.progress = now
        self._start_clocks()
        super().on_epoch_end(epoch, logs)
        if should_stop(records, name, mode, patience):
            logging.info("no better %s in %d evaluations: stopped", name, patience)
            self.model.stop_training = True

    def _checkpoint(self, **left_to_do) -> None:
        self.checkpoints.save(self.model, dataclasses.replace(self._now(), **left_to_do))
        self.saved_step = self.step

    def _now(self) -> Progress:
        """How far the run is, without what only a checkpoint between evaluations needs."""
        before = self.progress
        return dataclasses.replace(
            before,
            step=self.step,
            tokens=before.tokens + self.task.trained_tokens(before.step, self.step),
            seconds=before.seconds + time.perf_counter() - self._wall,
            cpu_seconds=before.cpu_seconds + time.process_time() - self._cpu,
            metric_values=(),
            training_logs={},
            planned_steps=self.config.steps,
        )

    def _start_clocks(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def _assign(variables: Sequence[keras.Variable], values: Sequence[float]) -> None:
    """Sets all to what they were, one value after the other."""
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
    since_start = ""
    if Path("/proc/self/stat").is_file():
        # Fields after the name, which is in parentheses and may hold spaces; see man 5 proc.
        stat = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2]
        started = int(stat.split()[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
        since_start = f"{age:.1f} s after the process started, "  # imports included
    logging.info("step %d done %s%.1f s after training began", step, since_start, training_seconds)
