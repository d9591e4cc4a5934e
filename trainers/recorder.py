"""What happens between training steps: NaN stop, metrics, checkpoints."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path

import keras
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.finetuning import should_stop
from trainers.metrics import MetricsLog
from trainers.tasks.base import Task, is_better


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class Recorder(keras.callbacks.Callback):
    """Stops on NaN; after each evaluation logs the metrics and writes a checkpoint.

    Args:
        task: Task. checkpoints: Checkpoints. log: MetricsLog.
        progress: Progress to start from.
    """

    def __init__(
        self,
        task: Task,
        checkpoints: Checkpoints,
        log: MetricsLog,
        progress: Progress,
    ):
        super().__init__()
        self.task = task
        self.checkpoints = checkpoints
        self.log = log
        self.progress = progress
        self.first_step = progress.step + 1
        self.step = progress.step
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step == self.first_step:
            _log_first_step(self.step, self._elapsed()[0])
        self._require_finite("loss", float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        metrics = self.task.evaluate(logs)
        for name, value in metrics.items():
            self._require_finite(name, value)
        wall, cpu = self._elapsed()
        before = self.progress.step
        record = {
            "step": self.step,
            "tokens": self.progress.tokens + self.task.trained_tokens(before, self.step),
            **{name: float(value) for name, value in logs.items() if not name.startswith("val_")},
            **metrics,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "tokens_per_second": self.task.trained_tokens(before, self.step) / wall,
            "seconds": self.progress.seconds + wall,
            "cpu_seconds": self.progress.cpu_seconds + cpu,
        }
        # For the callbacks after this one: TensorBoard and the progress line.
        logs.update({k: v for k, v in record.items() if k.startswith("val_")})
        self._save(record)
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        patience = self.task.config.patience
        if patience and should_stop(self.log.read(), *self.task.monitor, patience):
            logging.info("no better %s in %d evaluations: stopped", self.task.monitor[0], patience)
            self.model.stop_training = True

    def _save(self, record: dict[str, float]) -> None:
        """The log before the checkpoint: on resume, lines without a checkpoint are dropped, and a
        checkpoint without its line would leave a hole in the report."""
        name, mode = self.task.monitor
        best = self.progress.best_value
        improved = is_better(record[name], best, mode)
        if improved:
            self.checkpoints.save_best(self.task.model, self.step)
        self.log.append(record)
        self.progress = self.checkpoints.save(
            self.model,
            dataclasses.replace(
                self.progress,
                step=self.step,
                best_step=self.step if improved else self.progress.best_step,
                best_value=record[name] if improved else best,
                tokens=record["tokens"],
                seconds=record["seconds"],
                cpu_seconds=record["cpu_seconds"],
            ),
        )

    def _require_finite(self, name: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the {name} is {loss} at step {self.step}. Nothing after step "
                f"{self.progress.step} was saved. Try a lower --set=optimizer.learning_rate, a "
                "longer --set=optimizer.warmup_steps or --set=optimizer.global_clipnorm=1, in a "
                "new --workdir"
            )

    def _elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


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
