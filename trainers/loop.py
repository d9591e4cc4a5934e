"""The training loop: fit, evaluate, checkpoint, resume, stop on NaN, write the bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from absl import logging

from trainers.checkpoints import Checkpoints, Progress
from trainers.config import CONFIG_FILE, TrainConfig, differing_keys, read_config
from trainers.data.corpus import Corpus
from trainers.metrics import MetricsLog
from trainers.optimizers import make_optimizer
from trainers.report import write_report
from trainers.tasks import LanguageModelTask, ResetValidationState, load_corpus
from zoo import bundle
from zoo.atomic_write import replacing
from zoo.configs import to_dict


class WorkdirError(ValueError):
    """The workdir cannot hold this run."""


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


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
    with _claimed(workdir, config):
        if (workdir / bundle.CONFIG_FILE).is_file():
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
            checkpoints.restore_best(task.model)
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
            recorder,
            keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
        ],
        shuffle=False,  # the dataset has its own order
        # A moving bar for people, a line an evaluation for log files.
        verbose=1 if sys.stdout.isatty() else 2,
    )


class Recorder(keras.callbacks.Callback):
    """Stops on NaN; after each evaluation logs the metrics and writes a checkpoint.

    Args:
        task: LanguageModelTask. checkpoints: Checkpoints. log: MetricsLog.
        progress: Progress to start from.
    """

    def __init__(self, task, checkpoints: Checkpoints, log: MetricsLog, progress: Progress):
        super().__init__()
        self.task = task
        self.checkpoints = checkpoints
        self.log = log
        self.progress = progress
        self.step = progress.step
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss} at step {self.step}. Nothing after step {self.progress.step} "
                "was saved. Try a lower --set=optimizer.learning_rate, a longer "
                "--set=optimizer.warmup_steps or --set=optimizer.global_clipnorm=1, in a new "
                "--workdir"
            )
        if batch == 0 and self.step == self.progress.step + 1 and self.progress.seconds == 0:
            logging.info("first step done %.1f s after training began", self._elapsed()[0])

    def on_epoch_end(self, epoch, logs=None):
        wall, cpu = self._elapsed()
        loss = float(logs["val_loss"])
        if not math.isfinite(loss):
            raise TrainingDiverged(f"the validation loss is {loss} after step {self.step}")
        best = self.progress.best_loss
        improved = best is None or loss < best
        tokens = (self.step - self.progress.step) * self.task.config.batch_size * self.task.length
        record = {
            "step": self.step,
            "tokens": self.step * self.task.config.batch_size * self.task.length,
            "loss": float(logs["loss"]),
            "accuracy": float(logs["accuracy"]),
            "val_loss": loss,
            "val_accuracy": float(logs["val_accuracy"]),
            **self.task.derived_metrics(loss),
            "learning_rate": float(self.model.optimizer.learning_rate),
            "tokens_per_second": tokens / wall,
            "seconds": self.progress.seconds + wall,
            "cpu_seconds": self.progress.cpu_seconds + cpu,
        }
        logs.update({k: v for k, v in record.items() if k.startswith("val_")})
        if improved:
            self.checkpoints.save_best(self.task.model)
        self.progress = self.checkpoints.save(
            self.model,
            dataclasses.replace(
                self.progress,
                step=self.step,
                best_step=self.step if improved else self.progress.best_step,
                best_loss=loss if improved else best,
                seconds=record["seconds"],
                cpu_seconds=record["cpu_seconds"],
            ),
        )
        self.log.append(record)
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def _elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


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


@contextlib.contextmanager
def _claimed(workdir: Path, config: TrainConfig) -> Iterator[None]:
    """The workdir, made and locked, with this config in it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "w")  # noqa: SIM115  closed below, which unlocks
    except OSError as error:
        raise WorkdirError(
            f"--workdir={workdir} cannot be written: {error.strerror}; choose another"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(f"--workdir={workdir}: another process is training there") from None
        _check_config(workdir, config)
        yield


def _check_config(workdir: Path, config: TrainConfig) -> None:
    under_way = read_config(workdir)
    if under_way is not None:
        differing = differing_keys(under_way, config)
        # Before the first checkpoint there is nothing to lose: a mistyped setting may be mended.
        if differing and Checkpoints(workdir).latest() is not None:
            raise WorkdirError(
                f"--workdir={workdir} holds a run with another config:\n  "
                + "\n  ".join(differing)
                + "\nRepeat its settings to go on with it, or choose another --workdir"
            )
    others = [name for name in os.listdir(workdir) if name != ".lock"]
    if under_way is None and others:
        (workdir / ".lock").unlink()
        raise WorkdirError(
            f"--workdir={workdir} is not empty ({', '.join(sorted(others)[:3])}, ...) and holds no "
            "training run: choose another"
        )
    with replacing(workdir / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
