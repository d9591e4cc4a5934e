"""The training loop: fit, evaluate, resume, write the bundle and the report."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import keras
import numpy as np
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.config import TrainConfig
from trainers.data.corpus import Corpus
from trainers.metrics import MetricsLog
from trainers.optimizers import make_optimizer
from trainers.recorder import Recorder
from trainers.report import REPORT_FILE, write_report
from trainers.tasks import LanguageModelTask, ResetValidationState, load_corpus
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
        task = LanguageModelTask(config, load_corpus(config, data_dir))
        start_id = task.start_id()  # a bad start_text should not wait for the end of training
        task.compile(make_optimizer(config.optimizer, config.steps))
        _describe(task, workdir)
        checkpoints = Checkpoints(workdir, config.keep_checkpoints)
        log = MetricsLog(workdir)
        progress = _resume(task, checkpoints, log, corpus_fingerprint(task.corpus))
        recorder = Recorder(task, checkpoints, log, progress)
        if progress.step < config.steps:
            _fit(task, progress.step, recorder, workdir)
        if config.select == "best":
            checkpoints.restore_best(task.model, recorder.progress.best_step)
        finished = bundle.save(workdir, task.model, task.corpus.tokenizer, start_id)
        write_report(finished, config, log.read(), recorder.progress, task.corpus)
        return finished


def _fit(task: LanguageModelTask, start_step: int, recorder: Recorder, workdir: Path) -> None:
    config = task.config
    task.trained_model.fit(
        # One iterator for the whole run: an "epoch" is the stretch between two evaluations.
        task.training_data(start_step),
        steps_per_epoch=config.evaluate_every,
        initial_epoch=start_step // config.evaluate_every,
        epochs=config.steps // config.evaluate_every,
        validation_data=task.validation.dataset,
        callbacks=[
            ResetValidationState(),
            recorder,  # before TensorBoard, which shows the metrics that it adds
            keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
        ],
        shuffle=False,  # the dataset has its own order
        # A moving bar for people, a line an evaluation for log files.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def corpus_fingerprint(corpus: Corpus) -> str:
    """SHA-256 of both token streams: a resumed run must read the same text."""
    digest = hashlib.sha256()
    for ids in (corpus.train_ids, corpus.validation_ids):
        digest.update(np.int64(len(ids)).tobytes())
        digest.update(np.ascontiguousarray(ids, np.int32).tobytes())
    return digest.hexdigest()


def _resume(
    task: LanguageModelTask, checkpoints: Checkpoints, log: MetricsLog, corpus: str
) -> Progress:
    progress = checkpoints.latest()
    if progress is None:
        log.rewind(0)
        return Progress(corpus=corpus)
    if progress.corpus != corpus:
        raise WorkdirError(
            f"{checkpoints.folder.parent}: the text at {task.config.data.train!r} is not the one "
            "this run began with. Restore it, or start in another --workdir"
        )
    log.rewind(progress.step)
    checkpoints.restore(task.trained_model, progress.step)
    return progress


def _describe(task: LanguageModelTask, workdir: Path) -> None:
    corpus = task.corpus
    logging.info(
        "%s: %s, %d parameters; %d training and %d validation tokens, vocabulary %d",
        workdir,
        task.config.recipe,
        task.model.count_params(),
        len(corpus.train_ids),
        len(corpus.validation_ids),
        corpus.tokenizer.vocabulary_size,
    )
