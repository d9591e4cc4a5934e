"""Task name -> what it trains: data, model, loss and metrics."""

from collections.abc import Callable

from trainers.config import TrainConfig
from trainers.tasks.base import Task
from trainers.tasks.chat import ChatTask
from trainers.tasks.lm import LanguageModelTask, MaskedLanguageModelTask
from trainers.tasks.seq2seq import Seq2SeqTask
from trainers.tasks.tables import ClassifyTask, EmbedTask, RegressTask
from trainers.tasks.tokens import SpanTask, TagTask

TASKS: dict[str, Callable[[TrainConfig, str | None], Task]] = {
    "lm": LanguageModelTask,
    "chat": ChatTask,
    "mlm": MaskedLanguageModelTask,
    "classify": ClassifyTask,
    "pair": ClassifyTask,
    "tag": TagTask,
    "span": SpanTask,
    "embed": EmbedTask,
    "regress": RegressTask,
    "translate": Seq2SeqTask,
    "summarize": Seq2SeqTask,
}


def make_task(config: TrainConfig, data_dir: str | None = None) -> Task:
    """The task of a config, with its data read (or ValueError, OSError) and its model built."""
    return TASKS[config.task](config, data_dir)
