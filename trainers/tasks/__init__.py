"""Task name -> what it trains: data, model, loss and metrics."""

from __future__ import annotations

from trainers.config import TrainConfig
from trainers.tasks.base import Task
from trainers.tasks.classification import ClassifyTask, RegressTask
from trainers.tasks.embedding import EmbedTask
from trainers.tasks.language_model import LanguageModelTask
from trainers.tasks.masked_language_model import MaskedLanguageModelTask
from trainers.tasks.spans import SpanTask
from trainers.tasks.tagging import TagTask

TASKS: dict[str, type[Task]] = {
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
    return TASKS[config.task].from_config(config, data_dir)
