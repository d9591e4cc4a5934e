"""Task name -> what it trains: data, model, loss and metrics."""

from __future__ import annotations

from collections.abc import Callable

from trainers.config import TrainConfig
from trainers.tasks.base import Task
from trainers.tasks.classify import ClassifyTask, RegressTask
from trainers.tasks.embed import EmbedTask
from trainers.tasks.lm import LanguageModelTask
from trainers.tasks.mlm import MaskedLanguageModelTask
from trainers.tasks.span import SpanTask
from trainers.tasks.tag import TagTask

TASKS: dict[str, Callable[[TrainConfig, str | None], Task]] = {
    "lm": LanguageModelTask,
    "mlm": MaskedLanguageModelTask,
    "classify": ClassifyTask,
    "pair": ClassifyTask,
    "tag": TagTask,
    "span": SpanTask,
    "embed": EmbedTask,
    "regress": RegressTask,
}


def make_task(config: TrainConfig, data_dir: str | None = None) -> Task:
    """The task of a config, with its data read and its model built.

    Raises:
        ValueError, OSError: from reading the data; the message names the file and the fix.
    """
    return TASKS[config.task](config, data_dir)
