"""What the training loop needs of a task; the loop knows nothing else of it."""

from __future__ import annotations

import abc
import math
from pathlib import Path
from typing import ClassVar

import keras
import tensorflow as tf

from trainers.config import TrainConfig
from trainers.distribution.hardware import compiles
from zoo.bundle import Bundle
from zoo.config import ConfigError
from zoo.tokenizers import Tokenizer


class Task(abc.ABC):
    """Data, model, loss and metrics of a training run.

    Attributes:
        config: TrainConfig.
        tokenizer: Tokenizer.
        model: what the bundle will hold.
        trained_model: what `fit` runs: `model`, or `model` with something around it.
        validation_data: what `fit` validates on, or several such by name, each of which it
            validates on by itself ("val_loss/NAME"); None where `evaluate` does it all.
        reads_rows: whether `training_data` can give one host's rows, or every so many-th step;
            see `RunningTextTask`.
        metrics: metric name -> "min" or "max", which way is better; the first one chooses the
            best evaluation unless `config.monitor` names another.
        loss_unit: what the validation loss is measured in, "" where that says nothing.
    """

    metrics: ClassVar[dict[str, str]]
    loss_unit: ClassVar[str] = ""
    reads_rows: ClassVar[bool] = False

    config: TrainConfig
    tokenizer: Tokenizer
    model: keras.Model
    trained_model: keras.Model
    validation_data: tf.data.Dataset | dict[str, tf.data.Dataset] | None = None

    @abc.abstractmethod
    def training_data(self, start_step: int) -> tf.data.Dataset:
        """Batches of the steps from `start_step` to the end of the run."""

    @abc.abstractmethod
    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Sets optimizer, loss and metrics on `trained_model`."""

    @abc.abstractmethod
    def evaluate(self, logs: dict[str, float]) -> dict[str, float]:
        """All validation metrics, names beginning with "val_", the monitored one among them.

        Args:
            logs: what `fit` logged, with its own validation if there is `validation_data`.
        """

    @abc.abstractmethod
    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        """Tokens read by those steps, padding not counted."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Digest of the data: a resumed run must read the same."""

    def check_data(self) -> None:  # noqa: B027  few data need it
        """Looks for what is wrong with the data, after reading them failed with DataLossError.

        Raises:
            ValueError: what was found; the message names the file.
        """

    @abc.abstractmethod
    def data_summary(self) -> str:
        """How much data there is, in one line."""

    @abc.abstractmethod
    def save(self, workdir: Path) -> Bundle:
        """Writes the bundle."""

    @abc.abstractmethod
    def report_sections(self, bundle: Bundle) -> list[str]:
        """What the report shows beside the metrics: Markdown. May write pictures beside it."""

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that chooses the best evaluation, and "min" or "max".

        Raises:
            ConfigError: `config.monitor` is none of the task's metrics.
        """
        name = self.config.monitor or next(iter(self.metrics))
        if name not in self.metrics:
            raise ConfigError(
                f"monitor={name!r}: task {self.config.task!r} has {', '.join(self.metrics)}"
            )
        return name, self.metrics[name]

    def jit_compile(self) -> bool:
        """Whether XLA compiles the training step."""
        return compiles(self.config.jit_compile)


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether `value` beats `best` (None: nothing yet) where "min" or "max" is better."""
    if best is None or math.isnan(best):
        return True
    return value < best if mode == "min" else value > best
