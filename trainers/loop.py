"""The training loop: fit, evaluate, resume, write the bundle and the report."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.config import TrainConfig
from trainers.finetuning import should_stop
from trainers.metrics import MetricsLog
from trainers.optimizers import make_optimizer
from trainers.recorder import Recorder
from trainers.report import REPORT_FILE, write_report
from trainers.tasks import Task, make_task
from trainers.tasks.carried_state import ResetValidationState
from trainers.workdir import WorkdirError, claimed
from zoo import bundle


def train(config: TrainConfig, workdir: Path, data_dir: str | None = None) -> bundle.Bundle:
    """Trains to the end, from wherever the run in `workdir` is, and writes the bundle.

    Args:
        config: TrainConfig. workdir: created if missing; one run each.
        data_dir: where named corpora lie; see `trainers.data.sources`.

    Returns:
        The finished bundle. A run that was finished before is only loaded.

    Raises:
        WorkdirError: not writable, holds another run, or is in use.
        TrainingDiverged: the loss is not finite; the last checkpoint stays.
        ValueError, OSError: the corpus; the message names the file and the fix.

    Example: `train(recipes.shakespeare_gpt_cpu(), Path("runs/shakespeare"))`
    """
    with claimed(workdir, config):
        # The report is written last: a run killed just before it has that left to do.
        if (workdir / bundle.CONFIG_FILE).is_file() and (workdir / REPORT_FILE).is_file():
            logging.info("%s: this run is finished; nothing to do", workdir)
            return bundle.load(workdir)
        keras.utils.set_random_seed(config.seed)
        keras.config.set_dtype_policy(config.precision)
        task = make_task(config, data_dir)
        task.compile(make_optimizer(config.optimizer, config.steps))
        _describe(task, workdir)
        checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        log = MetricsLog(workdir)
        progress = _resume(task, checkpoints, log, task.fingerprint())
        recorder = Recorder(task, checkpoints, log, progress)
        if progress.step < config.steps and not stopped_early(task, log):
            _fit(task, progress.step, recorder, workdir)
        if config.select == "best":
            checkpoints.restore_best(task.model, recorder.progress.best_step)
        finished = task.save(workdir)
        write_report(finished, task, log.read(), recorder.progress)
        return finished


def _fit(task: Task, start_step: int, recorder: Recorder, workdir: Path) -> None:
    config = task.config
    task.trained_model.fit(
        # One iterator for the whole run: an "epoch" is the stretch between two evaluations.
        task.training_data(start_step),
        steps_per_epoch=config.evaluate_every,
        initial_epoch=start_step // config.evaluate_every,
        epochs=config.steps // config.evaluate_every,
        validation_data=task.validation_data,
        callbacks=[
            ResetValidationState(),
            recorder,  # before TensorBoard, which shows the metrics that it adds
            keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
        ],
        shuffle=False,  # the dataset has its own order
        # A moving bar for people, a line an evaluation for log files.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def stopped_early(task: Task, log: MetricsLog) -> bool:
    """Whether the log says that `config.patience` was used up."""
    patience = task.config.patience
    return patience is not None and should_stop(log.read(), *task.monitor, patience)


def _resume(task: Task, checkpoints: Checkpoints, log: MetricsLog, fingerprint: str) -> Progress:
    progress = checkpoints.latest()
    if progress is None:
        log.rewind(0)
        return Progress(corpus=fingerprint)
    if progress.corpus != fingerprint:
        raise WorkdirError(
            f"{checkpoints.folder.parent}: the data at {task.config.data.train!r} are not those "
            "this run began with. Restore it, or start in another --workdir"
        )
    log.rewind(progress.step)
    checkpoints.restore(task.trained_model, progress.step)
    return progress


def _describe(task: Task, workdir: Path) -> None:
    logging.info(
        "%s: %s, %d parameters; %s",
        workdir,
        task.config.recipe,
        task.model.count_params(),
        task.data_summary(),
    )
