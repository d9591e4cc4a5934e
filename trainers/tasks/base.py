"""What the training loop needs of a task, and where its weights start; the loop knows no more."""

import abc
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import keras
import tensorflow as tf
from absl import logging

from trainers.config import TrainConfig
from trainers.data.config import SEQ2SEQ_TASKS
from trainers.distribution.hardware import compiles
from trainers.optim.finetune import apply_freezing, load_initial
from trainers.report.sections import Comparison
from zoo import bundle
from zoo.config import ConfigError, from_dict, to_dict
from zoo.loading import load, outline
from zoo.models.build import build
from zoo.models.lora import merge_lora
from zoo.tokenizers import Tokenizer
from zoo.weights.huggingface.adapters import write_adapter

# Task -> what it trains, where that is no encoder.
_KINDS = {
    **dict.fromkeys(("lm", "chat"), "a language model"),
    **dict.fromkeys(SEQ2SEQ_TASKS, "an encoder-decoder"),
}


class Task(abc.ABC):
    """Data, model, loss and metrics of a training run."""

    # Name -> "min" or "max", which way is better; the first one chooses the best evaluation, unless
    # `config.monitor` names another.
    metrics: ClassVar[dict[str, str]]
    loss_unit: ClassVar[str] = ""  # of the validation loss, "" where that says nothing
    config: TrainConfig
    tokenizer: Tokenizer
    model: keras.Model  # what the bundle will hold
    bundle_options: dict[str, Any]  # what else it holds, see `bundle.save`
    trained_model: keras.Model  # what `fit` runs: `model`, or `model` with something around it
    # Scores of what is saved, as `evaluate` names them, where `finish` changed them.
    finished_scores: Mapping[str, float] = MappingProxyType({})
    # What `fit` validates on by name, each by itself ("val_loss/NAME"), a single one without a
    # name; none where `evaluate` does it all.
    validation_data: Mapping[str, tf.data.Dataset] = MappingProxyType({})

    @abc.abstractmethod
    def training_data(self, start_step: int, host: int = 0, num_hosts: int = 1) -> tf.data.Dataset:
        """Batches from `start_step` to the end of the run; of several hosts, one's rows of each."""

    @abc.abstractmethod
    def losses(self) -> dict[str, Any]:
        """Loss and metrics of `trained_model`, as `keras.Model.compile` takes them."""

    @abc.abstractmethod
    def evaluate(self, logs: dict[str, float]) -> dict[str, float]:
        """All validation metrics, as "val_NAME", from what `fit` logged or by the model itself."""

    @abc.abstractmethod
    def trained_tokens(self, start_step: int, stop_step: int) -> int:
        """Tokens read by those steps, padding not counted."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Digest of the data: a resumed run must read the same."""

    def check_data(self) -> None:  # noqa: B027  few data need it
        """Raises ValueError, naming the file, after reading the data failed with DataLossError."""

    @abc.abstractmethod
    def data_summary(self) -> str:
        """How much data there is, in one line."""

    @abc.abstractmethod
    def report(
        self, saved: bundle.Bundle, validation: dict[str, float], steps: int
    ) -> tuple[Comparison, list[str]]:
        """Model against baseline, and Markdown sections, after `steps`; `validation` has the scores
        of the saved weights. May write pictures into the folder.
        """

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Sets optimizer, loss and metrics on `trained_model`."""
        jit = compiles(self.config.jit_compile)
        self.trained_model.compile(optimizer=optimizer, jit_compile=jit, **self.losses())

    def finish(self) -> None:  # noqa: B027  few tasks need it
        """What is left to do to `model`, which has its last weights, before it is saved."""

    def save(self, workdir: Path) -> bundle.Bundle:
        """Writes the bundle, low-rank factors merged into plain weights, and an adapter of them."""
        start = self.config.finetune
        if start.lora_rank is not None and start.init_from is not None:
            try:
                write_adapter(workdir / "adapter", self.model, self.tokenizer.kind, start.init_from)
            except ValueError as error:
                logging.info("no %s/adapter for PEFT: %s", workdir, error)
        merge_lora(self.model)
        self.finish()
        return bundle.save(workdir, self.model, self.tokenizer, **self.bundle_options)

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that chooses the best evaluation, and "min" or "max"."""
        name = self.config.monitor or next(iter(self.metrics))
        if name not in self.metrics:
            raise ConfigError(
                f"monitor={name!r}: task {self.config.task!r} has {', '.join(self.metrics)}"
            )
        return name, self.metrics[name]


def read_initial(config: TrainConfig) -> bundle.Bundle | None:
    """The bundle that `finetune.init_from` names, or None; of the task's kind of model."""
    start = config.finetune.init_from
    if start is None:
        return None
    found, _ = outline(start)
    kind = _KINDS.get(found, "an encoder")
    if kind != _KINDS.get(config.task, "an encoder"):
        raise ConfigError(f"finetune.init_from={start!r} holds {kind}: no start for {config.task}")
    writes = found in SEQ2SEQ_TASKS  # for each of these tasks there may be a prefix
    return load(start, task=config.task if writes else None)


def build_model(
    config: TrainConfig,
    tokenizer: Tokenizer,
    initial: bundle.Bundle | None,
    head: dict[str, Any] | None = None,
) -> keras.Model:
    """The model of `config.task`; with `initial`'s shape and weights, some of them frozen."""
    if initial is None:
        return build(config.model_config(tokenizer.vocabulary_size), task=config.task, head=head)
    shape, finetune = initial.model.backbone.config, config.finetune
    values = to_dict(shape) | {"num_layers": shape.num_layers - finetune.drop_layers} | config.model
    model_config = from_dict(type(shape), values, where="finetune.init_from")
    model = build(model_config, task=config.task, head=head)
    load_initial(model, initial.model, finetune.drop_layers)
    apply_freezing(model, finetune)
    return model
